"""CIFAR and STL-10 from small archives in the layout that torchvision reads, and without any."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from torchvision import datasets

from bitsmith.data import TensorSplit, open_data
from bitsmith.errors import DataError


def _md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def _cifar(root, kind, monkeypatch, per_file=120):
    """Files whose first pixel counts images and whose second one is the label."""
    made = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[kind]
    classes = {"cifar10": 10, "cifar100": 100}[kind]
    key = {"cifar10": "labels", "cifar100": "fine_labels"}[kind]
    folder = root / made.base_folder
    folder.mkdir(parents=True)
    lists = {}
    for name in ("train_list", "test_list"):
        lists[name] = []
        for part, _ in getattr(made, name):
            count = per_file if kind == "cifar10" else 10 * per_file
            pixels = np.zeros((count, 3, 32, 32), np.uint8)
            labels = [i % classes for i in range(count)]
            pixels[:, 0, 0, 1] = labels
            pixels[:, 1, 2, 3] = 200  # green, row 2, column 3
            pixels[:, 2] = np.arange(count)[:, None, None] % 256
            (folder / part).write_bytes(pickle.dumps({"data": pixels.reshape(count, -1), key: labels}))
            lists[name].append([part, _md5(folder / part)])
    meta = dict(made.meta)
    names = [f"{kind} class {i}" for i in range(classes)]
    (folder / meta["filename"]).write_bytes(pickle.dumps({meta["key"]: names}))
    meta["md5"] = _md5(folder / meta["filename"])
    for name, value in (*lists.items(), ("meta", meta)):
        monkeypatch.setattr(made, name, value)
    return folder


@pytest.mark.parametrize(("kind", "count", "test"), [("cifar10", 600, 120), ("cifar100", 1200, 1200)])
def test_cifar(tmp_path, monkeypatch, kind, count, test):
    folder = _cifar(tmp_path, kind, monkeypatch)
    for path in (tmp_path, folder):  # the folder above or torchvision's own
        data = open_data(f"{kind}:{path}", shape=(3, 32, 32))
        assert data.name == kind
        assert data.shape == (3, 32, 32)
        assert data.classes[9] == f"{kind} class 9"
        assert len(data.training) + len(data.validation) == count
        assert len(data.test) == test
        for split in (data.training, data.validation, data.test):
            assert isinstance(split, TensorSplit)
            assert torch.equal(split.images[:, 0, 0, 1].long(), split.labels)
            assert (split.images[:, 1, 2, 3] == 200).all()


def test_the_cache_folder_is_where_cifar_lies_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _cifar(tmp_path / "bitsmith", "cifar10", monkeypatch)
    assert len(open_data("cifar10").test) == 120


def test_stl10(tmp_path, monkeypatch):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    generator = np.random.default_rng(0)
    pixels = {part: generator.integers(0, 256, (n, 3, 96, 96), np.uint8) for part, n in (("train", 200), ("test", 60))}
    lists = {"train_list": [], "test_list": []}
    for part, images in pixels.items():
        images.transpose(0, 1, 3, 2).tofile(folder / f"{part}_X.bin")  # columns first, as published
        (np.arange(len(images)) % 10 + 1).astype(np.uint8).tofile(folder / f"{part}_y.bin")  # from 1, as published
        lists[f"{part}_list"] = [[f"{part}_{x}.bin", _md5(folder / f"{part}_{x}.bin")] for x in "Xy"]
    (folder / "unlabeled_X.bin").write_bytes(b"")
    lists["train_list"].append(["unlabeled_X.bin", _md5(folder / "unlabeled_X.bin")])
    (folder / "class_names.txt").write_text("\n".join(f"class {i}" for i in range(10)) + "\n")
    for name, value in lists.items():
        monkeypatch.setattr(datasets.STL10, name, value)
    data = open_data(f"stl10:{tmp_path}")
    assert data.shape == (3, 96, 96)
    assert data.classes[3] == "class 3"
    assert len(data.training) + len(data.validation) == 200
    assert np.array_equal(data.test.images.numpy(), pixels["test"])
    assert data.test.labels.tolist() == [i % 10 for i in range(60)]


@pytest.mark.parametrize("kind", ["cifar10", "cifar100", "stl10"])
class TestMissing:
    def test_nothing_is_downloaded_unless_asked(self, tmp_path, monkeypatch, kind):
        def never(*_, **__):
            raise AssertionError("the network was used")

        for module in (datasets.cifar, datasets.stl10):
            monkeypatch.setattr(module, "download_and_extract_archive", never)
        message = rf"{kind} is not in .*downloaded only on request \(--download\).*say where it is: {kind}:PATH"
        with pytest.raises(DataError, match=message):
            open_data(f"{kind}:{tmp_path}")
        assert not list(tmp_path.iterdir())

    def test_without_a_network_the_message_says_where_to_get_it(self, tmp_path, monkeypatch, kind):
        def offline(*_, **__):
            raise OSError("no route to host")

        for module in (datasets.cifar, datasets.stl10):
            monkeypatch.setattr(module, "download_and_extract_archive", offline)
        message = rf"{kind} is not in .*can't be downloaded \(no route to host\); unpack the archive of https://"
        with pytest.raises(DataError, match=message):
            open_data(f"{kind}:{tmp_path / 'new'}", download=True)


def test_files_with_another_checksum_are_never_unpickled(tmp_path, monkeypatch):
    folder = _cifar(tmp_path, "cifar10", monkeypatch)

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    (folder / "data_batch_3").write_bytes(pickle.dumps({"data": Bomb(), "labels": []}))
    with pytest.raises(DataError, match="or its files are damaged"):
        open_data(f"cifar10:{tmp_path}")
    assert not (tmp_path / "executed").exists()
