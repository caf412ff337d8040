"""npz: files: every layout and every message."""

import numpy as np
import pytest

from bitsmith.data import open_data
from bitsmith.errors import DataError


def _arrays(shape=(6, 7, 3), n=60, test=20):
    generator = np.random.default_rng(0)
    return {
        "x_train": generator.integers(0, 256, (n, *shape), dtype=np.uint8),
        "y_train": np.arange(n) % 4,
        "x_test": generator.integers(0, 256, (test, *shape), dtype=np.uint8),
        "y_test": np.arange(test) % 4,
    }


def _saved(folder, arrays):
    np.savez(folder / "set.npz", **{name: array for name, array in arrays.items() if array is not None})
    return f"npz:{folder / 'set.npz'}"


@pytest.mark.parametrize(
    ("stored", "order", "shape"),
    [
        ((6, 7, 3), (2, 0, 1), None),
        ((3, 6, 7), (0, 1, 2), None),
        ((6, 7, 1), (2, 0, 1), None),
        ((1, 6, 7), (0, 1, 2), None),
        ((6, 7), (None, 0, 1), None),
        ((3, 6, 3), (2, 0, 1), (3, 3, 6)),  # only the shape asked for tells
        ((3, 6, 3), (0, 1, 2), (3, 6, 3)),
        ((6, 7, 4), (2, 0, 1), (4, 6, 7)),
    ],
)
def test_channels_come_first_wherever_they_were(tmp_path, stored, order, shape):
    arrays = _arrays(stored)
    data = open_data(_saved(tmp_path, arrays), shape=shape)
    wanted = arrays["x_test"]
    wanted = wanted[:, None] if len(stored) == 2 else wanted.transpose(0, *(axis + 1 for axis in order))
    assert np.array_equal(data.test.images.numpy(), wanted)
    assert data.shape == wanted.shape[1:]
    assert data.test.labels.tolist() == arrays["y_test"].tolist()
    assert data.name == "npz:set.npz"
    assert data.classes == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    "names",
    [
        {"x_train": "train_images", "y_train": "train_labels", "x_test": "test_images", "y_test": "test_labels"},
        {"x_train": "images_train", "y_train": "labels_train", "x_test": "images_test", "y_test": "labels_test"},
    ],
)
def test_other_names_and_columns_of_labels(tmp_path, names):
    arrays = _arrays()
    renamed = {names[name]: array[:, None] if name[0] == "y" else array for name, array in arrays.items()}
    data = open_data(_saved(tmp_path, renamed))
    assert data.test.labels.tolist() == arrays["y_test"].tolist()


def test_validation_and_classes_of_its_own(tmp_path):
    arrays = _arrays() | {"x_val": np.full((8, 6, 7, 3), 9, np.uint8), "y_val": np.arange(8) % 4}
    data = open_data(_saved(tmp_path, arrays | {"classes": np.array(["ant", "bee", "cow", "dog"])}))
    assert data.classes == ("ant", "bee", "cow", "dog")
    assert (data.validation.images == 9).all()
    assert len(data.training) == 60


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_test": None}, r"set.npz holds y_test, but lacks x_test; it holds x_train, y_train, y_test"),
        ({"y_train": None}, "holds x_train, but lacks y_train"),
        ({"x_test": None, "y_test": None}, "lacks x_test or y_test; it holds x_train, y_train"),
        ({"x_train": np.zeros((60, 6, 7, 3), np.float32)}, r"x_train must be uint8 .* got float32 \(60, 6, 7, 3\)"),
        ({"x_train": np.zeros((60, 6), np.uint8)}, r"got uint8 \(60, 6\)"),
        ({"y_train": np.zeros(60)}, r"y_train must be integers \(N,\), got float64"),
        ({"y_train": np.zeros((60, 2), int)}, r"got int64 \(60, 2\)"),
        ({"y_train": np.arange(59) % 4}, r"x_train holds 60 images, but .*y_train 59 labels"),
        ({"y_train": np.arange(60) % 4 - 1}, "train label -1 is outside 0..2"),
        ({"y_test": np.arange(20) % 5}, "test label 4 is outside 0..3"),
        ({"classes": np.array(["a", "b"])}, "train label 2 is outside 0..1"),
        ({"classes": np.arange(4)}, "classes must be texts"),
        ({"x_test": np.zeros((20, 7, 6, 3), np.uint8)}, r"training images are \(3, 6, 7\).*test images \(3, 7, 6\)"),
        ({"x_train": np.zeros((60, 3, 6, 3), np.uint8)}, "can't tell whether the channels come first or last; give"),
        ({"x_train": np.zeros((60, 5, 6, 4), np.uint8)}, "can't tell whether the channels come first or last"),
        ({"x_train": np.zeros((0, 6, 7, 3), np.uint8), "y_train": np.zeros(0, int)}, "x_train holds no image"),
        ({"y_train": np.array([{}] * 60)}, "can't be read as an .npz archive of plain arrays: Object arrays"),
    ],
)
def test_damage_is_named(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        open_data(_saved(tmp_path, _arrays() | change))


def test_files_that_are_no_archives(tmp_path):
    spec, file = _saved(tmp_path, _arrays()), tmp_path / "set.npz"
    whole = file.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], whole[:200] + bytes(200) + whole[400:]):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"set\.npz can't be read as an \.npz archive"):
            open_data(spec)
    with file.open("wb") as handle:
        np.save(handle, np.zeros(3))
    with pytest.raises(DataError, match=r"is a single array, not an \.npz archive; for \.npy files use npy:FOLDER"):
        open_data(spec)
    file.unlink()
    with pytest.raises(DataError, match=r"set\.npz is missing"):
        open_data(spec)
