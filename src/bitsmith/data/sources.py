"""open_data: from a short text to a data set with its four splits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from bitsmith.blueprint import InputContract
from bitsmith.data.arrays import read_npy, read_npz
from bitsmith.data.dataset import DataSet
from bitsmith.data.downloaded import read_downloaded
from bitsmith.data.folder import read_folder, read_imagenet
from bitsmith.data.raw import Part, Raw, Reader, Request
from bitsmith.data.readers import read_digits, read_elpv, read_fashion_mnist
from bitsmith.data.stratify import stratified_draw
from bitsmith.errors import DataError

# Name -> (its reader, what stands behind the colon: nothing, a path, or a path if one likes).
SOURCES: Mapping[str, tuple[Reader, Literal["", "PATH", "[PATH]"]]] = {
    "digits": (read_digits, ""),
    "fashion-mnist": (read_fashion_mnist, ""),
    "cifar10": (read_downloaded, "[PATH]"),
    "cifar100": (read_downloaded, "[PATH]"),
    "stl10": (read_downloaded, "[PATH]"),
    "elpv": (read_elpv, ""),
    "folder": (read_folder, "PATH"),
    "imagenet": (read_imagenet, "PATH"),
    "npy": (read_npy, "PATH"),
    "npz": (read_npz, "PATH"),
}


def open_data(
    spec: str,
    *,
    shape: tuple[int, int, int] | None = None,
    seed: int = 0,
    limit: int | None = None,
    validation: float = 0.1,
    search: float = 0.2,
    download: bool = False,
    skip_bad: bool = False,
) -> DataSet:
    """Open a data set and carve validation and search out of its training images, stratified by class.

    Of N training images (after `limit`), round(validation N) become the validation split; of the others a part of
    `search` becomes the search split, the rest is train. Mean and standard deviation are those of train and search
    together, per channel, over all pixels.

    Args:
        spec: "digits", "fashion-mnist"; "cifar10", "cifar100", "stl10", with ":PATH" where they don't lie in the cache
            folder; "elpv"; "folder:PATH" (one folder per class), "imagenet:PATH" (the same in train/ and val/);
            "npy:FOLDER" (train_images.npy, train_labels.npy, test_images.npy, test_labels.npy), "npz:FILE".
        shape: (C, H, W). Folders need it and are resized to it; imagenet (3, 224, 224) and elpv (1, 64, 64) are
            resized to it; elsewhere it is only checked.
        seed: of the carving; the test split does not depend on it.
        limit: use at most so many training images, by a stratified draw; the test split stays whole.
        validation, search: parts between 0 and 1; `validation` is not used where a source brings its own.
        download: whether what is missing may be downloaded.
        skip_bad: leave out images that can't be read, and say in `notes` how many, rather than raise.

    Raises:
        DataError: an unknown or unreadable source, a shape that differs, a part outside 0..1, a class that a split
            would lack (named).

    Example:
        >>> data = open_data("digits")
        >>> len(data.train), len(data.search), len(data.validation), len(data.test), data.shape
        (1035, 259, 144, 359, (1, 8, 8))
    """
    for what, part in (("validation", validation), ("search", search)):
        if not 0 < part < 1:
            raise DataError(f"{what} must be a part between 0 and 1, got {part:g}")
    if limit is not None and limit < 1:
        raise DataError(f"the limit of training images must be at least 1, got {limit}")
    if shape is not None and (len(shape) != 3 or min(shape) < 1):
        raise DataError(f"a shape is three positive numbers (channels, height, width), got {shape}")
    request = Request(text=spec, path=_path(spec), shape=shape, download=download, skip_bad=skip_bad)
    raw = SOURCES[spec.partition(":")[0]][0](request)
    found = raw.train.shape
    if shape is not None and tuple(shape) != found:
        raise DataError(f"{spec} holds images of shape {found} (C, H, W), not {tuple(shape)}; only folders are resized")

    parts = _carve(raw, seed=seed, limit=limit, validation=validation, search=search)
    for name, part in parts.items():
        _require_classes(part.labels, raw.classes, name, len(raw.train.labels), limit)
    contract = raw.contract or _contract(parts["train"].sample(), parts["search"].sample())
    splits = {name: part.split(contract) for name, part in parts.items()}
    return DataSet(name=raw.name, classes=raw.classes, input=contract, shape=found, notes=raw.notes, **splits)


def absolute(spec: str) -> str:
    """The same data whatever the current directory is: a path in `spec` made absolute.

    Example:
        >>> absolute("digits"), absolute("folder:/data/../photos")
        ('digits', 'folder:/photos')
    """
    kind, colon, path = spec.partition(":")
    return f"{kind}:{Path(path).expanduser().resolve()}" if colon and path else spec


def _path(spec: str) -> Path | None:
    """What stands behind the colon of `spec`, or a DataError where there must be, or can't be, something."""
    kind, _, path = spec.partition(":")
    takes = SOURCES[kind][1] if kind in SOURCES else None
    if takes is None or (takes == "PATH" and not path) or (not takes and spec != kind):
        known = ", ".join(
            f"{name}:{path}" if path == "PATH" else f"{name}[:PATH]" if path else name
            for name, (_, path) in SOURCES.items()
        )
        raise DataError(f"unknown data {spec!r}; known are {known}")
    return Path(path).expanduser() if path else None


def _carve(raw: Raw, *, seed: int, limit: int | None, validation: float, search: float) -> dict[str, Part]:
    """The four parts by name; indices always point into raw.train."""
    labels = raw.train.labels
    left = torch.arange(len(labels))
    if limit is not None and limit < len(labels):
        left, _ = stratified_draw(labels, limit, seed, "limit")
    parts = {"test": raw.test}
    if raw.validation is not None:
        parts["validation"] = raw.validation
    else:
        drawn, rest = stratified_draw(labels[left], round(validation * len(left)), seed, "validation")
        parts["validation"], left = raw.train.take(left[drawn]), left[rest]
    drawn, rest = stratified_draw(labels[left], round(search * len(left)), seed, "search")
    parts["search"], parts["train"] = raw.train.take(left[drawn]), raw.train.take(left[rest])
    return parts


def _require_classes(labels: Tensor, classes: tuple[str, ...], split: str, available: int, limit: int | None) -> None:
    counts = torch.bincount(labels, minlength=len(classes))
    if counts.all():
        return
    name = classes[int((counts == 0).nonzero()[0])]
    way_out = "add images of it" if limit is None or limit >= available else f"raise the limit of {limit} images"
    raise DataError(f"class {name!r} has no image left for the {split} split; {way_out}, or change the parts")


def _contract(*images: Tensor) -> InputContract:
    """Mean and standard deviation per channel, exactly, from a histogram of the 256 pixel values."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(images[0].shape[1]):
        counts = torch.stack([torch.bincount(part[:, channel].flatten(), minlength=256) for part in images]).sum(0)
        weights = counts.double() / counts.sum()
        center = (weights * levels).sum()
        mean.append(float(center))
        std.append(float((weights * (levels - center) ** 2).sum().sqrt()))
        if not std[-1]:
            raise DataError(f"channel {channel} has the same value in all training images; leave that channel out")
    return InputContract(kind="uint8", mean=tuple(mean), std=tuple(std))
