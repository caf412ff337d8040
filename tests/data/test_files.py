"""FileSplit: the same as the pixels in memory, whatever the number of workers; bounded; damage is named or left out."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from bitsmith.blueprint import InputContract
from bitsmith.data import Augment, FileSplit, TensorSplit, files, open_data
from bitsmith.data.image import Decoder
from bitsmith.errors import DataError

CONTRACT = InputContract(kind="uint8", mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
COUNT = 75


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """75 images of three classes, each of its own size."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for i in range(COUNT):
        part = folder / "abc"[i % 3]
        part.mkdir(exist_ok=True)
        size = generator.integers(10, 30, 2)
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(part / f"ü{i:03}.png")
    return folder


def _split(root, workers=0, fit="stretch"):
    names = sorted(os.fsencode(path.relative_to(root)) for path in root.glob("*/*.png"))
    labels = torch.tensor(["abc".index(name.decode()[0]) for name in names])
    decoder = Decoder(shape=(3, 12, 16), fit=fit)
    return FileSplit(
        root=root, names=np.array(names), labels=labels, decoder=decoder, contract=CONTRACT, workers=workers
    )


@pytest.fixture(scope="module")
def memory(root):
    split = _split(root)
    paths = [root / os.fsdecode(bytes(name)) for name in split.names]
    images = np.stack([split.decoder.read(path)[0] for path in paths])
    return TensorSplit(images=torch.from_numpy(images), labels=split.labels, contract=CONTRACT)


def _same(first, second):
    first, second = list(first), list(second)
    assert len(first) == len(second)
    for (x, y), (other_x, other_y) in zip(first, second, strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("batch_size", [1, 37, 74, 100])
def test_without_augmentation_a_pass_is_that_of_the_pixels_in_memory(root, memory, batch_size, seed):
    lazy = _split(root)
    _same(lazy.batches(batch_size=batch_size, seed=seed), memory.batches(batch_size=batch_size, seed=seed))
    for shuffled in (True, False):
        assert lazy.steps(batch_size=batch_size, shuffled=shuffled) == memory.steps(
            batch_size=batch_size, shuffled=shuffled
        )


@pytest.mark.parametrize("augment", [Augment(resized=(0.2, 0.9), flip=True), Augment(crop=2, flip=True)])
def test_pixels_depend_on_seed_and_step_and_not_on_the_workers(root, augment):
    passes = [list(_split(root, workers).batches(batch_size=36, seed=5, augment=augment)) for workers in (0, 1, 2)]
    _same(passes[0], passes[1])
    _same(passes[0], passes[2])
    _same(passes[0][1:], _split(root, 2).batches(batch_size=36, seed=5, augment=augment, start=1))
    other = list(_split(root).batches(batch_size=36, seed=6, augment=augment))
    assert not torch.equal(passes[0][0][0], other[0][0])
    plain = list(_split(root).batches(batch_size=36, seed=5))
    assert [y.tolist() for _, y in plain] == [y.tolist() for _, y in passes[0]]
    assert not torch.equal(passes[0][0][0], plain[0][0])


def test_a_pass_leaves_the_global_random_state_alone(root):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    list(_split(root, 2).batches(batch_size=20, seed=5, augment=Augment(resized=(0.2, 0.9), flip=True)))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_pass_that_is_left_early_ends(root):
    batches = _split(root, 2).batches(batch_size=8, seed=1)
    x, _ = next(batches)
    assert x.shape == (8, 3, 12, 16)
    del batches


def test_start_decodes_nothing_of_what_it_leaves_out(root, monkeypatch):
    read = []
    real = Decoder.read
    monkeypatch.setattr(Decoder, "read", lambda self, path, *rest: read.append(path) or real(self, path, *rest))
    list(_split(root).batches(batch_size=20, seed=1, start=3))
    assert len(read) == 15


def test_take_join_and_raw(root, memory, monkeypatch):
    lazy = _split(root)
    part, rest = lazy.take(torch.tensor([5, 2])), lazy.take(torch.tensor([9]))
    _same(part.batches(batch_size=9), memory.take(torch.tensor([5, 2])).batches(batch_size=9))
    _same(part.joined(rest).batches(batch_size=9), memory.take(torch.tensor([5, 2, 9])).batches(batch_size=9))
    assert lazy.subset(9, seed=1).labels.tolist() == memory.subset(9, seed=1).labels.tolist()
    for limit in (None, 7, 1000):
        images, labels = lazy.raw(limit)
        assert np.array_equal(images, memory.images[:limit].numpy())
        assert np.array_equal(labels, memory.labels[:limit].numpy())
        assert not isinstance(images, np.memmap)
    monkeypatch.setattr(files, "IN_MEMORY", 1000)
    images, _ = lazy.raw()
    assert isinstance(images, np.memmap)
    assert np.array_equal(images, memory.images.numpy())
    with pytest.raises(DataError, match="can't be joined"):
        lazy.joined(_split(root, fit="center"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named_without_a_workers_traceback(root, tmp_path, workers):
    (tmp_path / "a.png").write_bytes((root / "a" / "ü000.png").read_bytes())
    (tmp_path / "b.png").write_bytes(b"no image")
    split = FileSplit(
        root=tmp_path,
        names=np.array([b"a.png", b"b.png"]),
        labels=torch.tensor([0, 1]),
        decoder=Decoder(shape=(3, 8, 8)),
        contract=CONTRACT,
        workers=workers,
    )
    with pytest.raises(DataError, match=r"b\.png can't be read") as caught:
        list(split.batches(batch_size=2))
    assert "Traceback" not in str(caught.value)


def _copy(root, to, *, parts=("",)):
    for part in parts:
        for path in root.glob("*/*.png"):
            target = to / part / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return to


class TestLargeFolder:
    """folder: beyond what may be kept in memory."""

    @pytest.fixture
    def large(self, monkeypatch, tmp_path):
        monkeypatch.setattr(files, "IN_MEMORY", 1000)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    @pytest.mark.parametrize("parts", [("",), ("train", "test"), ("train", "val", "test")])
    def test_it_is_the_same_data_set(self, root, tmp_path, monkeypatch, parts):
        folder = _copy(root, tmp_path / "copy", parts=parts)
        options = {"shape": (3, 8, 8), "limit": 40, "seed": 2}
        memory = open_data(f"folder:{folder}", **options)
        monkeypatch.setattr(files, "IN_MEMORY", 1000)
        lazy = open_data(f"folder:{folder}", **options)
        assert lazy.input == memory.input  # all fewer than 2,048 images count
        assert (lazy.name, lazy.classes, lazy.shape) == (memory.name, memory.classes, memory.shape)
        for part in ("train", "search", "validation", "test", "training"):
            found, wanted = getattr(lazy, part), getattr(memory, part)
            assert isinstance(found, FileSplit)
            assert isinstance(wanted, TensorSplit)
            _same(found.batches(batch_size=16, seed=1), wanted.batches(batch_size=16, seed=1))

    @pytest.mark.usefixtures("large")
    def test_bad_images_are_found_once_left_out_and_counted(self, root, tmp_path, monkeypatch):
        folder = _copy(root, tmp_path / "copy")
        bad = [folder / "a" / "ü003.png", folder / "b" / "ü004.png"]
        for path in bad:
            path.write_bytes(path.read_bytes()[:60])
        with pytest.raises(DataError, match=r"ü00\d\.png can't be read"):  # for mean and deviation all are read
            open_data(f"folder:{folder}", shape=(3, 8, 8))
        data = open_data(f"folder:{folder}", shape=(3, 8, 8), skip_bad=True)
        assert data.notes == (f"2 of 75 images are left out, since they can't be read; the first: {_reason(bad[0])}",)
        assert len(data.training) + len(data.validation) + len(data.test) == 73
        list(data.training.batches(batch_size=50))

        # What was found is remembered, until a file changes.
        calls = []
        real = Decoder.read
        monkeypatch.setattr(files, "IN_MEMORY", 1000)
        monkeypatch.setattr(Decoder, "read", lambda self, path, *rest: calls.append(path) or real(self, path, *rest))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set())  # no workers, whose calls we would not see
        monkeypatch.setattr("bitsmith.data.raw._SAMPLE", 1)
        assert open_data(f"folder:{folder}", shape=(3, 8, 8), skip_bad=True).notes == data.notes
        assert not set(calls) & set(bad)
        bad[0].write_bytes((root / "a" / "ü003.png").read_bytes())
        again = open_data(f"folder:{folder}", shape=(3, 8, 8), skip_bad=True)
        assert again.notes[0].startswith("1 of 75 images are left out")


def _reason(path):
    with pytest.raises(DataError) as caught:
        Decoder(shape=(3, 8, 8)).read(path)
    return str(caught.value).split("; remove")[0]


class TestImageNet:
    @pytest.fixture
    def folder(self, root, tmp_path):
        return _copy(root, tmp_path / "imagenet", parts=("train", "val"))

    def test_layout_sizes_and_contract(self, folder):
        data = open_data(f"imagenet:{folder}", shape=(3, 14, 14))
        assert data.name == "imagenet:imagenet"
        assert data.classes == ("a", "b", "c")
        assert len(data.training) + len(data.validation) == len(data.test) == COUNT
        assert isinstance(data.training, FileSplit)
        assert data.input.mean == (0.485, 0.456, 0.406)
        assert data.training.decoder.fit == "center"

    def test_the_usual_shape_is_224(self, folder):
        data = open_data(f"imagenet:{folder}", limit=30)
        assert data.shape == (3, 224, 224)
        x, _ = next(data.test.batches(batch_size=2))
        assert x.shape == (2, 3, 224, 224)

    def test_another_layout_is_explained(self, folder, tmp_path):
        (folder / "val").rename(folder / "valid")
        with pytest.raises(DataError, match=r"val with class folders is missing \(there: train, valid\); sort the"):
            open_data(f"imagenet:{folder}")
        with pytest.raises(DataError, match=r"train and val with class folders is missing \(there: no such folder\)"):
            open_data(f"imagenet:{tmp_path / 'nothing'}")
        with pytest.raises(DataError, match="unknown data 'imagenet'"):
            open_data("imagenet")
        (folder / "valid").rename(folder / "val")
        with pytest.raises(DataError, match="read in color: give 3 channels, not 1"):
            open_data(f"imagenet:{folder}", shape=(1, 8, 8))
