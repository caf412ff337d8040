"""Arrays of pixels and labels: folders of .npy files, single .npz files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bitsmith.data.raw import Labeled, Raw, Request
from bitsmith.errors import DataError
from bitsmith.files import check_unpacked

# Part -> the names that its arrays go by in an .npz file: Keras' and MedMNIST's.
_IMAGES = {part: (f"x_{part}", f"{part}_images", f"images_{part}") for part in ("train", "val", "test")}
_LABELS = {part: (f"y_{part}", f"{part}_labels", f"labels_{part}") for part in ("train", "val", "test")}


def read_npy(request: Request) -> Raw:
    """A folder of train_images.npy, train_labels.npy, test_images.npy, test_labels.npy.

    Images are uint8 (N, H, W, C) or (N, H, W), labels integers (N,) from 0; the highest training label tells the
    number of classes.

    Raises:
        DataError: a file is missing or not a plain array; wrong dtype, rank or length; a label outside the classes;
            train and test images of different sizes.
    """
    folder = request.path
    if folder is None:
        raise DataError("npy needs the path of a folder, as npy:arrays")
    train, test = (_read_npy_part(folder, part) for part in ("train", "test"))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"{folder}: training images are {tuple(train.images.shape[1:])} (C, H, W), "
            f"test images {tuple(test.images.shape[1:])}"
        )
    classes = _count_classes(train.labels, str(folder / "train_labels.npy"))
    for part, labels in (("train", train.labels), ("test", test.labels)):
        wrong = labels[(labels < 0) | (labels >= classes)]
        if len(wrong):
            raise DataError(f"{folder / f'{part}_labels.npy'}: label {int(wrong[0])} is outside 0..{classes - 1}")
    name = f"npy:{folder.resolve().name}"
    return Raw(name=name, train=train, test=test, classes=tuple(map(str, range(classes))))


def _read_npy_part(folder: Path, part: str) -> Labeled:
    images_file, labels_file = folder / f"{part}_images.npy", folder / f"{part}_labels.npy"
    images, labels = _load_array(images_file), _load_array(labels_file)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(f"{images_file} must be uint8 (N, H, W) or (N, H, W, C), got {images.dtype} {images.shape}")
    _check_labels(images, labels, str(images_file), str(labels_file))
    pixels = torch.from_numpy(images)
    pixels = pixels[:, None] if images.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return Labeled(images=pixels, labels=torch.from_numpy(labels.astype(np.int64)))


def _load_array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; an npy folder holds {{train,test}}_{{images,labels}}.npy") from error
    except Exception as error:  # of a damaged header numpy's reader raises nearly anything
        raise DataError(f"{path} can't be read as a plain .npy array: {error}") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} is an archive of arrays, not a plain .npy array")
    return array


def read_npz(request: Request) -> Raw:
    """An .npz file of x_train, y_train, x_test, y_test, and x_val, y_val and classes where it has them.

    train_images, train_labels or images_train, labels_train and so on do as well. Images are uint8 (N, H, W),
    (N, H, W, C) or (N, C, H, W); where the sizes leave open which, the shape asked for decides. Labels are integers
    (N,) or (N, 1) from 0; `classes` are texts, by default the highest training label tells their number.

    Raises:
        DataError: the file or an array is missing or damaged, holds Python objects, has a wrong dtype, rank or
            length; a label outside the classes; parts of different image sizes.
    """
    file = request.path
    if file is None:
        raise DataError("npz needs the path of a file, as npz:photos.npz")
    arrays = _load_archive(file)
    train, test = (_read_npz_part(file, arrays, part, request.shape) for part in ("train", "test"))
    if train is None or test is None:
        part = "train" if train is None else "test"
        raise DataError(
            f"{file} lacks {_IMAGES[part][0]} or {_LABELS[part][0]}; it holds {', '.join(arrays) or 'nothing'}"
        )
    validation = _read_npz_part(file, arrays, "val", request.shape)
    parts = {"train": train, "test": test} | ({"val": validation} if validation is not None else {})
    for name, part in parts.items():
        if part.shape != train.shape:
            raise DataError(f"{file}: training images are {train.shape} (C, H, W), {name} images {part.shape}")
    if "classes" in arrays:
        if arrays["classes"].dtype.kind != "U" or arrays["classes"].ndim != 1:
            raise DataError(f"{file}: classes must be texts (K,), got {arrays['classes'].dtype}")
        classes = tuple(map(str, arrays["classes"]))
    else:
        classes = tuple(map(str, range(_count_classes(train.labels, f"{file}: train labels"))))
    for name, part in parts.items():
        wrong = part.labels[(part.labels < 0) | (part.labels >= len(classes))]
        if len(wrong):
            raise DataError(f"{file}: {name} label {int(wrong[0])} is outside 0..{len(classes) - 1}")
    name = f"npz:{file.resolve().name}"
    return Raw(name=name, train=train, test=test, classes=classes, validation=validation)


def _load_archive(file: Path) -> dict[str, np.ndarray]:
    try:
        with file.open("rb") as handle:
            check_unpacked(file, times=200)
            archive = np.load(handle, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise DataError(f"{file} is a single array, not an .npz archive; for .npy files use npy:FOLDER")
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise DataError(f"{file} is missing") from error
    except Exception as error:  # as above
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} can't be read as an .npz archive of plain arrays: {error}") from error


def _read_npz_part(
    file: Path, arrays: Mapping[str, np.ndarray], part: str, shape: tuple[int, int, int] | None
) -> Labeled | None:
    """One part, or None where neither its images nor its labels are there."""
    images_name = next((name for name in _IMAGES[part] if name in arrays), None)
    labels_name = next((name for name in _LABELS[part] if name in arrays), None)
    if images_name is None and labels_name is None:
        return None
    if images_name is None or labels_name is None:
        there, lacking = images_name or labels_name, (_IMAGES if images_name is None else _LABELS)[part][0]
        raise DataError(f"{file} holds {there}, but lacks {lacking}; it holds {', '.join(arrays)}")
    images, labels = arrays[images_name], arrays[labels_name]
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(
            f"{file}: {images_name} must be uint8 (N, H, W), (N, H, W, C) or (N, C, H, W), "
            f"got {images.dtype} {images.shape}"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:  # MedMNIST
        labels = labels[:, 0]
    _check_labels(images, labels, f"{file}: {images_name}", f"{file}: {labels_name}")
    pixels = _channels_first(torch.from_numpy(images), shape, f"{file}: {images_name}")
    return Labeled(images=pixels, labels=torch.from_numpy(labels.astype(np.int64)))


def _check_labels(images: np.ndarray, labels: np.ndarray, images_name: str, labels_name: str) -> None:
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise DataError(f"{labels_name} must be integers (N,), got {labels.dtype} {labels.shape}")
    if len(images) != len(labels):
        raise DataError(f"{images_name} holds {len(images)} images, but {labels_name} {len(labels)} labels")
    if not images.size:
        raise DataError(f"{images_name} holds no image")


def _count_classes(labels: Tensor, where: str) -> int:
    """The highest label tells how many classes there are; each has an image, so that a stray one is told from it."""
    count = int(labels.max()) + 1
    if count > len(labels):
        raise DataError(
            f"{where}: label {count - 1} would make {count:,} classes of {len(labels):,} images; labels count classes "
            "from 0"
        )
    return count


def _channels_first(images: Tensor, shape: tuple[int, int, int] | None, where: str) -> Tensor:
    if images.ndim == 3:
        return images[:, None]
    last = images.permute(0, 3, 1, 2)
    if shape is not None and tuple(images.shape[1:]) != tuple(last.shape[1:]):
        fits = [tuple(found.shape[1:]) == shape for found in (images, last)]
    else:
        fits = [found.shape[1] in (1, 3) for found in (images, last)]
    if sum(fits) != 1:
        raise DataError(
            f"{where} of shape {tuple(images.shape)}: can't tell whether the channels come first or last; "
            "give the shape, as 3x64x64 (channels, height, width)"
        )
    return (images if fits[0] else last).contiguous()
