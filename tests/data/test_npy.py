"""open_data on a folder of .npy arrays: layouts, and every damage by name."""

import numpy as np
import pytest
from splits import PARTS

from bitsmith.data import open_data
from bitsmith.errors import DataError


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
