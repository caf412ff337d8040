"""Folders of images, one folder per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from bitsmith.data.readers import Labeled, Raw, carve_test
from bitsmith.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
_MODES = {1: "L", 3: "RGB"}


def read_folder(folder: Path, shape: tuple[int, int, int]) -> Raw:
    """Read images, resized to `shape` by bilinear interpolation without regard to their aspect ratio.

    Layouts: folder/train/CLASS/image with folder/test/CLASS/image, or folder/val in the place of folder/test; where
    both are there, val is the validation split. Or folder/CLASS/image: then 20 % of the images become the test split,
    always the same ones. Files with other suffixes and hidden ones are passed over; of an animation the first frame
    is taken; transparency is dropped.

    Args:
        shape: (C, H, W); C = 1 reads in grey, C = 3 in color.

    Raises:
        DataError: no such folder, no classes, a class without images, classes that differ between the splits, a
            damaged or 16-bit image (named), C other than 1 or 3.
    """
    if shape[0] not in _MODES:
        raise DataError(f"images are read with 1 (grey) or 3 (color) channels, not {shape[0]}")
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    name = f"folder:{folder.resolve().name}"
    if not _folders(folder / "train"):
        classes = _classes(folder)
        whole = _read(folder, classes, shape)
        train, test = carve_test(whole.images, whole.labels)
        return Raw(name=name, train=train, test=test, classes=classes)

    classes = _classes(folder / "train")
    parts = {"train": _read(folder / "train", classes, shape)}
    for part in ("test", "val"):
        if not (folder / part).is_dir():
            continue
        if _classes(folder / part) != classes:
            odd = sorted(set(classes) ^ set(_classes(folder / part)))
            raise DataError(f"{folder}: the classes of train and {part} differ: {', '.join(odd)} in one of them alone")
        parts[part] = _read(folder / part, classes, shape)
    if "test" in parts:
        return Raw(name=name, train=parts["train"], test=parts["test"], classes=classes, validation=parts.get("val"))
    if "val" in parts:
        return Raw(name=name, train=parts["train"], test=parts["val"], classes=classes)
    train, test = carve_test(parts["train"].images, parts["train"].labels)
    return Raw(name=name, train=train, test=test, classes=classes)


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _classes(folder: Path) -> tuple[str, ...]:
    found = tuple(entry.name for entry in _folders(folder))
    if not found:
        raise DataError(f"{folder} holds no class folders; put the images of each class into a folder of its own")
    return found


def _read(folder: Path, classes: tuple[str, ...], shape: tuple[int, int, int]) -> Labeled:
    files, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(
            path
            for path in (folder / name).iterdir()
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
        )
        if not found:
            raise DataError(f"the class folder {folder / name} holds no image ({' '.join(sorted(SUFFIXES))})")
        files += found
        labels += [label] * len(found)
    images = torch.empty((len(files), *shape), dtype=torch.uint8)
    for index, path in enumerate(files):
        images[index] = torch.from_numpy(_pixels(path, shape))
    return Labeled(images=images, labels=torch.tensor(labels, dtype=torch.int64))


def _pixels(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """One image as uint8 (C, H, W)."""
    C, H, W = shape
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{path} has pixels of more than 8 bits (mode {image.mode}); convert it to 8 bits")
            upright = ImageOps.exif_transpose(image)
            if upright.mode == "P":  # a palette with transparency converts cleanly only by way of RGBA
                upright = upright.convert("RGBA")
            array = np.array(upright.convert(_MODES[C]).resize((W, H), Image.Resampling.BILINEAR))
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise all kinds of exceptions on damaged files
        raise DataError(
            f"the image {path} can't be read ({type(error).__name__}: {error}); remove or repair it"
        ) from error
    return array.reshape(H, W, C).transpose(2, 0, 1)
