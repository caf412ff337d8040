"""open_data: from a short text to a data set with its four splits."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bitsmith.blueprint import InputContract
from bitsmith.data.dataset import DataSet
from bitsmith.data.folder import read_folder
from bitsmith.data.readers import Labeled, Raw, read_digits, read_fashion_mnist, read_npy
from bitsmith.data.split import TensorSplit
from bitsmith.data.stratify import stratified_draw
from bitsmith.errors import DataError


def open_data(
    spec: str,
    *,
    shape: tuple[int, int, int] | None = None,
    seed: int = 0,
    limit: int | None = None,
    validation: float = 0.1,
    search: float = 0.2,
) -> DataSet:
    """Open a data set and carve validation and search out of its training images, stratified by class.

    Of N training images (after `limit`), round(validation N) become the validation split; of the others a part of
    `search` becomes the search split, the rest is train. Mean and standard deviation are those of train and search
    together, per channel, over all pixels.

    Args:
        spec: "fashion-mnist", "digits", "folder:PATH" (one folder per class) or "npy:FOLDER"
            (train_images.npy, train_labels.npy, test_images.npy, test_labels.npy).
        shape: (C, H, W). Folders need it and are resized to it; elsewhere it is only checked.
        seed: of the carving; the test split does not depend on it.
        limit: use at most so many training images, by a stratified draw; the test split stays whole.
        validation, search: parts between 0 and 1; `validation` is not used where a folder brings its own.

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
    raw = _read(spec, shape)
    found = tuple(raw.train.images.shape[1:])
    if shape is not None and tuple(shape) != found:
        raise DataError(f"{spec} holds images of shape {found} (C, H, W), not {tuple(shape)}; only folders are resized")

    parts = _carve(raw, seed=seed, limit=limit, validation=validation, search=search)
    for name, part in parts.items():
        _require_classes(part.labels, raw.classes, name, len(raw.train.labels), limit)
    contract = _contract(parts["train"].images, parts["search"].images)
    splits = {k: TensorSplit(images=p.images, labels=p.labels, contract=contract) for k, p in parts.items()}
    C, H, W = found
    return DataSet(name=raw.name, classes=raw.classes, input=contract, shape=(C, H, W), **splits)


def _read(spec: str, shape: tuple[int, int, int] | None) -> Raw:
    kind, _, path = spec.partition(":")
    if spec == "fashion-mnist":
        return read_fashion_mnist()
    if spec == "digits":
        return read_digits()
    if kind == "npy" and path:
        return read_npy(Path(path).expanduser())
    if kind == "folder" and path:
        if shape is None:
            raise DataError(
                f"{spec} needs a shape to resize its images to, for example 3,64,64 (channels, height, width)"
            )
        return read_folder(Path(path).expanduser(), shape)
    raise DataError(f"unknown data {spec!r}; known are fashion-mnist, digits, folder:PATH and npy:FOLDER")


def _carve(raw: Raw, *, seed: int, limit: int | None, validation: float, search: float) -> dict[str, Labeled]:
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
        parts["validation"], left = _take(raw.train, left[drawn]), left[rest]
    drawn, rest = stratified_draw(labels[left], round(search * len(left)), seed, "search")
    parts["search"], parts["train"] = _take(raw.train, left[drawn]), _take(raw.train, left[rest])
    return parts


def _take(part: Labeled, indices: Tensor) -> Labeled:
    return Labeled(images=part.images[indices], labels=part.labels[indices])


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
