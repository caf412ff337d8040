"""DataSet: four separate splits and what is known about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NoReturn

from bitsmith.blueprint import InputContract
from bitsmith.data.augment import Augment
from bitsmith.data.loader import LoaderSplit, check_batch, check_loader
from bitsmith.data.split import JoinedSplit, PixelSplit, Split
from bitsmith.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class DataSet:
    """A labeled data set in four parts.

    Args:
        train: the weights learn from it.
        search: the architecture parameters learn from it; carved out of the training images.
        validation: candidates are compared on it.
        test: for the final evaluation alone; searches get `without_test()`.
        classes: names of the classes; label i is classes[i].
        input: what the network's input means.
        shape: (C, H, W) of one input.
        name: "digits", "folder:photos", ...
        notes: what the user must know: a licence, images left out.
    """

    name: str
    train: Split = field(repr=False)
    search: Split = field(repr=False)
    validation: Split = field(repr=False)
    test: Split = field(repr=False)
    classes: tuple[str, ...]
    input: InputContract
    shape: tuple[int, int, int]
    notes: tuple[str, ...] = ()

    @cached_property
    def training(self) -> Split:
        """Train and search together: what a final network learns from. Where search is train, simply train."""
        train, search = self.train, self.search
        if search is train:
            return train
        if isinstance(train, PixelSplit) and isinstance(search, type(train)):
            return train.joined(search)
        return JoinedSplit(parts=(train, search))

    def without_test(self) -> DataSet:
        """The same data set, except that reading `.test` raises a DataError: what a search gets."""
        bare = copy(self)
        bare.__dict__.pop("test", None)  # so that reading it ends in __getattr__
        return bare

    def __getattr__(self, name: str) -> NoReturn:
        if name == "test":
            raise DataError("the test split is only for the final evaluation; searches compare on the validation split")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def from_loaders(
    *,
    train: Iterable[Any],
    validation: Iterable[Any],
    test: Iterable[Any],
    classes: Sequence[str],
    search: Iterable[Any] | None = None,
    name: str = "user",
) -> DataSet:
    """A data set of the user's own DataLoaders, which do the shuffling, the augmentation and the normalization.

    The input contract is "float": exported files take the same float tensors. The shape is read from the first batch
    of `train`.

    Args:
        train, validation, test: loaders of (x float (N, C, H, W), y int (N,)).
        classes: names of the classes; label i is classes[i].
        search: loader for the architecture parameters. None: train serves for both, so that architecture and
            weights learn from the same samples, which favors larger bit-widths; give one if there is data to spare.

    Raises:
        DataError: a loader that can be read only once or is empty, a first batch of the wrong structure, no classes.
    """
    if isinstance(classes, str) or not classes:
        raise DataError(f"classes must be a sequence of at least one class name, got {classes!r}")
    loaders = {"train": train, "search": search, "validation": validation, "test": test}
    loaders = {key: loader for key, loader in loaders.items() if loader is not None}
    for key, loader in loaders.items():
        check_loader(loader, key)
    shape = _first_shape(train, len(classes))
    splits = {
        key: LoaderSplit(loader=loader, classes=len(classes), shape=shape, name=key) for key, loader in loaders.items()
    }
    return DataSet(
        name=name,
        train=splits["train"],
        search=splits.get("search", splits["train"]),
        validation=splits["validation"],
        test=splits["test"],
        classes=tuple(classes),
        input=InputContract(),
        shape=shape,
    )


def _first_shape(loader: Iterable[Any], classes: int) -> tuple[int, int, int]:
    for batch in loader:
        x, _ = check_batch(batch, classes, None, "batch 0 of the train loader")
        _, C, H, W = x.shape
        return C, H, W
    raise DataError("the train loader yields no batch")


AUGMENTATIONS = ("default", "none", "crop", "flip", "crop+flip")


def choose_augment(dataset: DataSet, words: str = "default") -> Augment | None:
    """The augmentation that the words of a recipe mean for a data set, or None.

    Args:
        words: "default": `default_augment`. "none". "crop": the crop that the default has, or of H // 8 pixels where
            the default has none. "flip": mirror images. "crop+flip": both.

    Raises:
        DataError: other words; anything but "default" or "none" for the user's own loaders.
    """
    if words not in AUGMENTATIONS:
        raise DataError(f"unknown augmentation {words!r}; known are {', '.join(AUGMENTATIONS)}")
    default = default_augment(dataset)
    if words in ("default", "none"):
        return default if words == "default" else None
    if dataset.input.kind != "uint8":
        raise DataError("your own loaders augment by themselves: take the augmentation 'none' or 'default' for them")
    cropped = replace(default, flip=False) if default is not None else Augment()
    if not cropped.crop and cropped.resized is None:
        cropped = Augment(crop=max(1, dataset.shape[1] // 8))
    return replace(cropped if "crop" in words else Augment(), flip="flip" in words)


def default_augment(dataset: DataSet) -> Augment | None:
    """The augmentation that suits a data set, or None.

    Fashion-MNIST: crop 2, flip. Color images of 32x32 pixels: crop 4, flip (He et al. 2016). STL-10: crop 12, flip
    (DeVries and Taylor 2017, arXiv 1708.04552, section 4.1). ImageNet: a resized crop of 8 to 100 % of the area, flip.
    Solar cells: crop H // 16, flip. Other folders of images: crop H // 8, flip. None for digits, which a flip would
    turn into other signs, for the user's own loaders, which augment themselves, and wherever nothing is known.
    """
    shape, name = dataset.shape, dataset.name
    if dataset.input.kind != "uint8" or name == "digits":
        return None
    if name == "fashion-mnist":
        return Augment(crop=2, flip=True)
    if name.startswith("imagenet:"):
        return Augment(resized=(0.08, 1.0), flip=True)
    if name == "stl10":
        return Augment(crop=12, flip=True)
    if name == "elpv":
        return Augment(crop=shape[1] // 16, flip=True)
    if shape == (3, 32, 32):
        return Augment(crop=4, flip=True)
    if name.startswith("folder:"):
        return Augment(crop=shape[1] // 8, flip=True)
    return None
