"""open_data on digits and Fashion-MNIST: sizes, stratification, no leak between the splits; options it refuses."""

import gzip
import struct

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from splits import PARTS, bytes_of

from bitsmith.data import open_data, readers
from bitsmith.data.raw import Request
from bitsmith.errors import DataError


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
            assert [stretched[p] for p in bytes_of(split)] == split.labels.tolist()
            seen += len(split)
        assert seen == 1797

    def test_no_image_is_in_two_splits(self):
        data = open_data("digits", seed=3)
        pictures = [p for part in PARTS for p in bytes_of(getattr(data, part))]
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
        ("folder:.", {}, r"folder:\. needs a shape"),
        ("folder:no/such", {"shape": (1, 8, 8)}, "no/such is not a folder"),
        ("folder:.", {"shape": (2, 8, 8)}, r"1 \(grey\) or 3 \(color\) channels, not 2"),
    ],
)
def test_wrong_options_are_refused(spec, options, message):
    with pytest.raises(DataError, match=message):
        open_data(spec, **options)


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
