"""DataSet: four separate splits and what is known about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import torch

from bitsmith.blueprint import InputContract
from bitsmith.data.augment import Augment
from bitsmith.data.split import JoinedSplit, LoaderSplit, Split, TensorSplit, check_batch, check_loader
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
    """

    name: str
    train: Split
    search: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    input: InputContract
    shape: tuple[int, int, int]

    @cached_property
    def training(self) -> Split:
        """Train and search together: what a final network learns from. Where search is train, simply train."""
        parts = (self.train, self.search)
        if self.search is self.train:
            return self.train
        if isinstance(self.train, TensorSplit) and isinstance(self.search, TensorSplit):
            return TensorSplit(
                images=torch.cat([self.train.images, self.search.images]),
                labels=torch.cat([self.train.labels, self.search.labels]),
                contract=self.train.contract,
            )
        return JoinedSplit(parts=parts)

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


def default_augment(dataset: DataSet) -> Augment | None:
    """The augmentation that suits a data set, or None.

    Fashion-MNIST: crop 2, flip. Color images of 32x32 pixels: crop 4, flip (He et al. 2016). Folders of images:
    crop H // 8, flip. None for digits, which a flip would turn into other signs, for the user's own loaders, which
    augment themselves, and wherever nothing is known.
    """
    C, H, W = dataset.shape
    if dataset.input.kind != "uint8" or dataset.name == "digits":
        return None
    if dataset.name == "fashion-mnist":
        return Augment(crop=2, flip=True)
    if (C, H, W) == (3, 32, 32):
        return Augment(crop=4, flip=True)
    if dataset.name.startswith("folder:"):
        return Augment(crop=H // 8, flip=True)
    return None
