"""open_data on folders of images: splits, formats, sizes, and every damage by name."""

import numpy as np
import pytest
import torch
from PIL import Image
from splits import PARTS, bytes_of

from bitsmith.data import open_data
from bitsmith.errors import DataError


def _save(path, color, size=(12, 10), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)


def _folder(root, per_class=20, classes=("cat", "dog"), parts=("",)):
    for p, part in enumerate(parts):
        for k, name in enumerate(classes):
            for i in range(per_class):
                _save(root / part / name / f"{i:03}.png", (10 * i, 100 * k, 100 * p + i))  # class and part can be told
    return root


class TestFolder:
    def test_a_plain_folder_gets_a_test_split_that_no_seed_moves(self, tmp_path):
        root = _folder(tmp_path / "pets")
        (root / "cat" / "notes.txt").write_text("not an image")
        (root / ".hidden").mkdir()
        first, other = (open_data(f"folder:{root}", shape=(3, 8, 8), seed=s) for s in (0, 1))
        assert first.name == "folder:pets"
        assert first.classes == ("cat", "dog")
        assert [len(getattr(first, part)) for part in PARTS] == [23, 6, 3, 8]
        assert torch.equal(first.test.images, other.test.images)
        assert not torch.equal(first.train.images, other.train.images)
        pictures = [p for part in PARTS for p in bytes_of(getattr(first, part))]
        assert len(set(pictures)) == 40
        for part in PARTS:  # green tells the class
            split = getattr(first, part)
            assert torch.equal(split.images[:, 1, 0, 0].long(), 100 * split.labels)

    @pytest.mark.parametrize(
        ("parts", "part_of_test", "part_of_validation"),
        [
            (("train", "test"), 1, 0),
            (("train", "val"), 1, 0),
            (("train", "test", "val"), 1, 2),
            (("train",), 0, 0),
        ],
    )
    def test_train_test_and_val_folders(self, tmp_path, parts, part_of_test, part_of_validation):
        root = _folder(tmp_path, parts=parts)
        data = open_data(f"folder:{root}", shape=(3, 8, 8))
        assert set((data.train.images[:, 2] // 100).unique().tolist()) == {0}
        assert set((data.test.images[:, 2] // 100).unique().tolist()) == {part_of_test}
        assert set((data.validation.images[:, 2] // 100).unique().tolist()) == {part_of_validation}
        assert len(data.test) == (8 if parts == ("train",) else 40)

    def test_grey_and_resize(self, tmp_path):
        for name in ("a", "b"):
            for i in range(10):
                array = np.full((10, 20, 3), 20 * i, np.uint8)
                array[:, 10:] = 255
                (tmp_path / name).mkdir(exist_ok=True)
                Image.fromarray(array).save(tmp_path / name / f"{i}.png")
        data = open_data(f"folder:{tmp_path}", shape=(1, 5, 4))
        assert data.shape == (1, 5, 4)
        assert (data.train.images[..., 3] == 255).all()  # the right half stays on the right: (H, W), not (W, H)
        assert set(data.train.images[..., 0].unique().tolist()) <= {20 * i for i in range(10)}

    def test_every_suffix_is_read(self, tmp_path):
        suffixes = ["png", "jpg", "jpeg", "bmp", "webp", "gif", "tif", "tiff", "ppm", "pgm", "PNG", "JPG"]
        for name in ("a", "b"):
            for i, suffix in enumerate(suffixes):
                _save(tmp_path / name / f"x{i}.{suffix}", 20 * i, mode="L")
        data = open_data(f"folder:{tmp_path}", shape=(1, 4, 4), validation=0.2, search=0.3)
        assert sum(len(getattr(data, part)) for part in PARTS) == 2 * len(suffixes)
        values = {int(i[0, 0, 0]) for part in PARTS for i in getattr(data, part).images}
        assert len(values) == len(suffixes)

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "CMYK"])
    def test_other_modes_are_converted(self, tmp_path, mode):
        _folder(tmp_path)
        image = Image.new("RGB", (5, 5), (255, 255, 255))
        if mode == "P":
            image.quantize(4).save(tmp_path / "cat" / "odd.png", transparency=b"\x00\x80")
        else:
            image.convert(mode).save(tmp_path / "cat" / ("odd.tif" if mode == "CMYK" else "odd.png"))
        data = open_data(f"folder:{tmp_path}", shape=(3, 4, 4))
        whites = [i for part in PARTS for i in getattr(data, part).images if (i == 255).all()]
        assert len(whites) == 1

    def test_photos_are_turned_upright(self, tmp_path):
        _folder(tmp_path)
        array = np.zeros((8, 8, 3), np.uint8)
        array[:4] = 255  # bright on top as stored; orientation 3 says: turn by 180 degrees
        exif = Image.Exif()
        exif[0x0112] = 3
        Image.fromarray(array).save(tmp_path / "cat" / "turned.png", exif=exif)
        data = open_data(f"folder:{tmp_path}", shape=(3, 8, 8))
        turned = [i for part in PARTS for i in getattr(data, part).images if i.max() == 255]
        assert len(turned) == 1
        assert (turned[0][:, 4:] == 255).all()
        assert (turned[0][:, :4] == 0).all()

    @pytest.mark.parametrize("damage", ["text", "cut", "empty"])
    def test_a_damaged_image_is_named(self, tmp_path, damage):
        _folder(tmp_path)
        file = tmp_path / "dog" / "007.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file)
        whole = file.read_bytes()
        file.write_bytes({"text": b"hello", "cut": whole[: len(whole) // 2], "empty": b""}[damage])
        with pytest.raises(
            DataError, match=r"image .*dog/007\.png can't be read .*; remove or repair it, .* --skip-bad"
        ):
            open_data(f"folder:{tmp_path}", shape=(3, 8, 8))

    def test_sixteen_bits_are_refused(self, tmp_path):
        _folder(tmp_path)
        Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "dog" / "deep.png")
        with pytest.raises(DataError, match=r"dog/deep\.png has pixels of more than 8 bits"):
            open_data(f"folder:{tmp_path}", shape=(1, 8, 8))

    def test_folders_that_are_no_classes(self, tmp_path):
        with pytest.raises(DataError, match="holds no class folders"):
            open_data(f"folder:{tmp_path}", shape=(3, 8, 8))
        _folder(tmp_path)
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match=r"class folder .*empty holds no image"):
            open_data(f"folder:{tmp_path}", shape=(3, 8, 8))

    def test_classes_of_train_and_test_must_agree(self, tmp_path):
        _folder(tmp_path, parts=("train", "test"))
        _folder(tmp_path, parts=("test",), classes=("cow",))
        with pytest.raises(DataError, match="the classes of train and test differ: cow in one of them alone"):
            open_data(f"folder:{tmp_path}", shape=(3, 8, 8))


def test_folders_within_a_class_folder_belong_to_it(tmp_path):
    _folder(tmp_path, per_class=10)
    _save(tmp_path / "cat" / "indoors" / "night" / "a.png", (1, 2, 3))
    _save(tmp_path / "cat" / ".thumbnails" / "b.png", (1, 2, 3))
    data = open_data(f"folder:{tmp_path}", shape=(3, 8, 8))
    assert sum(len(split) for split in (data.train, data.search, data.validation, data.test)) == 21
