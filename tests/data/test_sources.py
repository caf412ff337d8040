"""open_data: sizes, stratification, no leak between the splits, every source and every message."""

import gzip
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from bitsmith.data import open_data, readers
from bitsmith.data.raw import Request
from bitsmith.errors import DataError

PARTS = ("train", "search", "validation", "test")


def _pictures(split):
    return [image.numpy().tobytes() for image in split.images]


def _save(path, color, size=(12, 10), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)


def _folder(root, per_class=20, classes=("cat", "dog"), parts=("",)):
    for p, part in enumerate(parts):
        for k, name in enumerate(classes):
            for i in range(per_class):
                _save(root / part / name / f"{i:03}.png", (10 * i, 100 * k, 100 * p + i))  # class and part can be told
    return root


def _npy(root, *, n=60, test=20, classes=4, channels=3, size=6, **change):
    generator = np.random.default_rng(0)
    shape = (size, size, channels) if channels else (size, size)
    arrays = {
        "train_images": generator.integers(0, 256, (n, *shape), dtype=np.uint8),
        "train_labels": np.arange(n) % classes,
        "test_images": generator.integers(0, 256, (test, *shape), dtype=np.uint8),
        "test_labels": np.arange(test) % classes,
        **change,
    }
    root.mkdir(exist_ok=True)
    for name, array in arrays.items():
        if array is not None:
            np.save(root / f"{name}.npy", array)
    return f"npy:{root}"


class TestDigits:
    def test_sizes_shape_and_classes(self):
        data = open_data("digits")
        assert [len(getattr(data, part)) for part in PARTS] == [1035, 259, 144, 359]
        assert data.shape == (1, 8, 8)
        assert data.classes == tuple("0123456789")

    def test_images_are_scikit_learns_stretched(self):
        data = open_data("digits")
        bunch = load_digits()
        stretched = {
            np.array([round(v * 255 / 16) for v in row], dtype=np.uint8).tobytes(): label
            for row, label in zip(bunch["data"], bunch["target"], strict=True)
        }
        seen = 0
        for part in PARTS:
            split = getattr(data, part)
            assert [stretched[p] for p in _pictures(split)] == split.labels.tolist()
            seen += len(split)
        assert seen == 1797

    def test_no_image_is_in_two_splits(self):
        data = open_data("digits", seed=3)
        pictures = [p for part in PARTS for p in _pictures(getattr(data, part))]
        assert len(set(pictures)) == len(pictures) == 1797

    def test_splits_keep_the_shares_of_the_classes(self):
        data = open_data("digits", seed=1)
        whole = np.bincount(load_digits()["target"]) / 1797
        for part in PARTS:
            split = getattr(data, part)
            counts = torch.bincount(split.labels, minlength=10).numpy()
            # Each of at most three draws rounds by less than one sample.
            assert np.abs(counts - whole * len(split)).max() < 3

    def test_the_seed_moves_every_split_but_test(self):
        first, same, other = (open_data("digits", seed=s) for s in (0, 0, 1))
        for part in PARTS:
            assert torch.equal(getattr(first, part).images, getattr(same, part).images)
        assert torch.equal(first.test.images, other.test.images)
        for part in PARTS[:3]:
            a, b = getattr(first, part).images, getattr(other, part).images
            assert a.shape == b.shape
            assert not torch.equal(a, b)

    def test_mean_and_deviation_are_those_of_train_and_search(self):
        data = open_data("digits")
        pixels = np.concatenate([data.train.images.numpy(), data.search.images.numpy()]) / 255
        assert data.input.mean == pytest.approx((pixels.mean(),), abs=1e-12)
        assert data.input.std == pytest.approx((pixels.std(),), abs=1e-12)
        x = torch.cat([x for x, _ in data.training.batches(batch_size=64)])
        assert x.mean().abs() < 1e-5
        assert x.std(correction=0).item() == pytest.approx(1, abs=1e-5)

    def test_a_limit_holds_for_training_images_and_spares_test(self):
        data, whole = open_data("digits", limit=200), open_data("digits")
        assert [len(getattr(data, part)) for part in PARTS] == [144, 36, 20, 359]
        assert torch.equal(data.test.images, whole.test.images)
        assert torch.bincount(data.training.labels).min() >= 17
        huge = open_data("digits", limit=10**9)
        assert torch.equal(huge.train.images, whole.train.images)

    def test_parts_can_be_chosen(self):
        data = open_data("digits", validation=0.5, search=0.5)
        assert [len(getattr(data, part)) for part in PARTS] == [359, 360, 719, 359]


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("mnist", {}, "unknown data 'mnist'; known are digits, fashion-mnist, cifar10.:PATH."),
        ("folder:", {"shape": (1, 8, 8)}, "unknown data 'folder:'"),
        ("digits:x", {}, "unknown data 'digits:x'"),
        ("digits", {"shape": (3, 8, 8)}, r"shape \(1, 8, 8\) \(C, H, W\), not \(3, 8, 8\); only folders are resized"),
        ("digits", {"shape": (8, 8)}, r"three positive numbers \(channels, height, width\), got \(8, 8\)"),
        ("digits", {"limit": 0}, "at least 1, got 0"),
        ("digits", {"limit": 15}, "class '0' has no image left for the .* split; raise the limit of 15 images"),
        ("digits", {"validation": 0.0}, "validation must be a part between 0 and 1, got 0"),
        ("digits", {"search": 1.0}, "search must be a part between 0 and 1, got 1"),
        ("digits", {"search": float("nan")}, "between 0 and 1, got nan"),
        ("folder:photos", {}, "folder:photos needs a shape"),
        ("folder:no/such", {"shape": (1, 8, 8)}, "no/such is not a folder"),
        ("folder:no/such", {"shape": (2, 8, 8)}, r"1 \(grey\) or 3 \(color\) channels, not 2"),
    ],
)
def test_wrong_options_are_refused(spec, options, message):
    with pytest.raises(DataError, match=message):
        open_data(spec, **options)


class TestNpy:
    @pytest.mark.parametrize(("channels", "shape"), [(3, (3, 6, 6)), (0, (1, 6, 6)), (1, (1, 6, 6))])
    def test_layout(self, tmp_path, channels, shape):
        spec = _npy(tmp_path / "set", channels=channels)
        data = open_data(spec, shape=shape)
        assert data.name == "npy:set"
        assert data.shape == shape
        assert data.classes == ("0", "1", "2", "3")
        stored = np.load(tmp_path / "set" / "test_images.npy")
        back = data.test.images.permute(0, 2, 3, 1).numpy().reshape(stored.shape)
        assert np.array_equal(back, stored)
        assert data.test.labels.tolist() == (np.arange(20) % 4).tolist()
        assert sum(len(getattr(data, part)) for part in PARTS[:3]) == 60

    def test_mean_and_deviation_per_channel(self, tmp_path):
        data = open_data(_npy(tmp_path / "set"))
        pixels = np.concatenate([data.train.images.numpy(), data.search.images.numpy()]) / 255
        assert data.input.mean == pytest.approx(tuple(pixels.mean((0, 2, 3))), abs=1e-12)
        assert data.input.std == pytest.approx(tuple(pixels.std((0, 2, 3))), abs=1e-12)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"test_labels": None}, "test_labels.npy is missing"),
            ({"train_images": np.zeros((60, 6, 6, 3))}, "train_images.npy must be uint8 .* got float64"),
            ({"train_images": np.zeros((60, 6), np.uint8)}, r"got uint8 \(60, 6\)"),
            ({"train_labels": np.zeros(60)}, r"train_labels.npy must be integers \(N,\), got float64"),
            ({"train_labels": np.zeros((60, 1), int)}, r"got int64 \(60, 1\)"),
            ({"train_labels": np.arange(59) % 4}, r"holds 60 images, but .*train_labels.npy 59 labels"),
            ({"train_labels": np.arange(60) % 4 - 1}, "train_labels.npy: label -1 is outside 0..2"),
            ({"test_labels": np.arange(20) % 5}, "test_labels.npy: label 4 is outside 0..3"),
            (
                {"train_labels": np.arange(60) % 4 + 1, "test_labels": np.arange(20) % 4 + 1},
                "class '0' has no image left",
            ),
            ({"test_labels": np.zeros(20, int)}, "class '1' has no image left for the test split"),
            (
                {"test_images": np.zeros((20, 7, 6, 3), np.uint8)},
                r"training images are \(3, 6, 6\).*test images \(3, 7, 6\)",
            ),
            ({"train_images": np.zeros((60, 6, 6, 3), np.uint8)}, "channel 0 has the same value in all"),
            ({"train_images": np.zeros((0, 6, 6, 3), np.uint8), "train_labels": np.zeros(0, int)}, "holds no image"),
            ({"train_labels": np.array([{}] * 60)}, "train_labels.npy can't be read as a plain .npy array"),
        ],
    )
    def test_damage_is_named(self, tmp_path, change, message):
        with pytest.raises(DataError, match=message):
            open_data(_npy(tmp_path / "set", **change))

    def test_a_cut_off_file_is_named(self, tmp_path):
        spec = _npy(tmp_path / "set")
        file = tmp_path / "set" / "train_images.npy"
        file.write_bytes(file.read_bytes()[:-7])
        with pytest.raises(DataError, match=r"train_images\.npy can't be read"):
            open_data(spec)

    def test_an_archive_is_refused(self, tmp_path):
        spec = _npy(tmp_path / "set")
        with (tmp_path / "set" / "train_images.npy").open("wb") as file:
            np.savez(file, a=np.zeros(3))
        with pytest.raises(DataError, match="is an archive of arrays"):
            open_data(spec)

    def test_a_class_with_too_few_images_is_named(self, tmp_path):
        labels = np.array([0] * 58 + [1] * 2)
        with pytest.raises(DataError, match="class '1' has no image left for the train split; add images of it"):
            open_data(_npy(tmp_path / "set", train_labels=labels, test_labels=np.arange(20) % 2))


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
        pictures = [p for part in PARTS for p in _pictures(getattr(first, part))]
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


def _idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


def _fashion(n, seed):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (n, 28, 28), dtype=np.uint8), (np.arange(n) % 10).astype(np.uint8)


class TestFashionMnist:
    """On small files of its format; on the real ones where they are installed."""

    FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

    @pytest.fixture
    def arrays(self):
        return (*_fashion(200, 0), *_fashion(50, 1))

    @pytest.fixture
    def debian(self, tmp_path, monkeypatch, arrays):
        folder = tmp_path / "debian"
        folder.mkdir()
        for name, array in zip(self.FILES, arrays, strict=True):
            (folder / f"{name}.gz").write_bytes(gzip.compress(_idx(array)))
        monkeypatch.setattr(readers, "DEBIAN_FASHION_MNIST", folder)
        return folder

    @pytest.fixture
    def cache(self, tmp_path, monkeypatch):
        """No Debian package, an empty cache, no network."""
        from torchvision.datasets import FashionMNIST

        monkeypatch.setattr(readers, "DEBIAN_FASHION_MNIST", tmp_path / "nothing")
        monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        return tmp_path / "bitsmith" / "FashionMNIST" / "raw"

    def test_the_debian_files_are_read(self, debian, arrays):
        data = open_data("fashion-mnist", shape=(1, 28, 28))
        assert [len(getattr(data, part)) for part in PARTS] == [144, 36, 20, 50]
        assert np.array_equal(data.test.images[:, 0].numpy(), arrays[2])
        assert data.test.labels.tolist() == arrays[3].tolist()
        assert data.classes[9] == "Ankle boot"

    def test_torchvisions_files_in_the_cache_are_read(self, cache, arrays):
        cache.mkdir(parents=True)
        for name, array in zip(self.FILES, arrays, strict=True):
            (cache / name).write_bytes(_idx(array))
        data = open_data("fashion-mnist")
        assert np.array_equal(data.test.images[:, 0].numpy(), arrays[2])
        assert [len(getattr(data, part)) for part in PARTS] == [144, 36, 20, 50]

    @pytest.mark.parametrize(
        ("download", "message"), [(False, "downloaded only if --download is given"), (True, "can't be downloaded")]
    )
    def test_without_any_copy_the_message_says_how_to_get_one(self, cache, download, message):
        with pytest.raises(DataError, match=rf"{message}.*apt install dataset-fashion-mnist`, or use --data digits"):
            open_data("fashion-mnist", download=download)

    def test_damage_is_named(self, debian):
        file = debian / "t10k-images-idx3-ubyte.gz"
        whole = file.read_bytes()
        for bad, message in [
            (b"no gzip", "t10k-images-idx3-ubyte.gz can't be read"),
            (whole[:-20], "t10k-images-idx3-ubyte.gz can't be read"),
            (
                gzip.compress(gzip.decompress(whole)[:-1]),
                "is not an idx file of unsigned bytes and rank 3, or it is cut",
            ),
            (gzip.compress(b"\0\0"), "is not an idx file"),
        ]:
            file.write_bytes(bad)
            with pytest.raises(DataError, match=message):
                open_data("fashion-mnist")
        file.unlink()
        with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz is missing; reinstall"):
            open_data("fashion-mnist")

    @pytest.mark.skipif(not readers.DEBIAN_FASHION_MNIST.is_dir(), reason="dataset-fashion-mnist is not installed")
    def test_the_real_one_has_its_published_statistics(self):
        raw = readers.read_fashion_mnist(Request(text="fashion-mnist"))
        assert raw.train.images.shape == (60000, 1, 28, 28)
        assert raw.test.images.shape == (10000, 1, 28, 28)
        assert torch.bincount(raw.train.labels).tolist() == [6000] * 10
        pixels = raw.train.images.numpy() / np.float32(255)
        assert pixels.mean(dtype=np.float64) == pytest.approx(0.28604, abs=1e-5)
        assert pixels.std(dtype=np.float64) == pytest.approx(0.35302, abs=1e-5)
