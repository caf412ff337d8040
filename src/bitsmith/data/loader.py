"""The user's own loaders as splits; every batch is checked as it is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitsmith.blueprint import InputContract
from bitsmith.data.augment import Augment
from bitsmith.data.split import Split, hashed
from bitsmith.errors import DataError
from bitsmith.seeding import torch_generator


@dataclass(frozen=True, kw_only=True, eq=False)
class LoaderSplit(Split):
    """The user's own DataLoader, or anything that can be iterated again and again over (x, y).

    Batch size and order are the loader's: batches() ignores batch_size, and takes no augmentation. What the loader
    draws from torch's global generator (its order, its workers' seeds, augmentation in this process) comes from a
    stream of its own, by `seed`; so a pass with a `start`, which reads the batches that it leaves out, gives the others
    as the whole pass does. A loader that draws from elsewhere gives what it gives.
    Every batch is checked as it is used. `len`, `labels` and `steps` read the loader once through; where it shuffles,
    the labels are in the order of that pass.

    Args:
        loader: yields x float (N, C, H, W) and y int (N,), as tensors.
        classes: number of classes; labels are 0..classes - 1.
        shape: (C, H, W).
        name: for messages ("train").

    Raises:
        DataError: the loader can be read only once; on use: a batch that is not such a pair, holds NaN or infinity,
            another shape, or a label outside the classes; no batch at all.
    """

    loader: Iterable[Any]
    classes: int
    shape: tuple[int, int, int]
    name: str
    contract: InputContract = field(default_factory=InputContract, init=False)

    def __post_init__(self) -> None:
        check_loader(self.loader, self.name)

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """Of the number of samples in each class, which shuffling doesn't change."""
        return hashed(torch.bincount(self.labels, minlength=self.classes).numpy())

    @property
    def labels(self) -> Tensor:
        return self._one_pass[0]

    def steps(self, *, batch_size: int, shuffled: bool = True) -> int:
        return self._one_pass[1]

    @cached_property
    def _one_pass(self) -> tuple[Tensor, int]:
        read = [y for _, y in self._checked()]
        return torch.cat(read), len(read)

    def batches(
        self, *, batch_size: int, seed: int | None = None, augment: Augment | None = None, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        if augment is not None:
            raise DataError(
                f"the {self.name} loader is your own: augment inside it, bitsmith's augmentation can't be used"
            )
        if start < 0:
            raise DataError(f"a pass can't start at batch {start}; the first one is 0")
        return islice(self._checked() if seed is None else self._drawn(seed), start, None)

    def raw(self, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        inputs, labels, seen = [], [], 0
        for x, y in self._checked():
            inputs.append(x.numpy())
            labels.append(y.numpy())
            seen += len(y)
            if limit is not None and seen >= limit:
                break
        return np.concatenate(inputs)[:limit], np.concatenate(labels)[:limit]

    def _drawn(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        batches, state = self._checked(), torch_generator(seed, "loader").get_state()
        while True:
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(state)
                batch = next(batches, None)
                state = torch.get_rng_state()
            if batch is None:
                return
            yield batch

    def _checked(self) -> Iterator[tuple[Tensor, Tensor]]:
        index = -1
        for index, batch in enumerate(self.loader):
            yield check_batch(batch, self.classes, self.shape, f"batch {index} of the {self.name} loader")
        if index < 0:
            raise DataError(f"the {self.name} loader yields no batch")


def check_loader(loader: object, name: str) -> None:
    """Refuse what can't be iterated again and again, with a DataError."""
    if not isinstance(loader, Iterable) or isinstance(loader, Iterator):
        raise DataError(
            f"the {name} loader is a {type(loader).__name__}, which can't be read several times; "
            "give a DataLoader or a list of batches"
        )


def check_batch(batch: object, classes: int, shape: tuple[int, ...] | None, where: str) -> tuple[Tensor, Tensor]:
    """A loader's batch as (x float32, y int64), or a DataError that says what is wrong with it."""
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not all(isinstance(part, Tensor) for part in batch):
        raise DataError(f"{where} must be a pair (x, y) of tensors, got {_describe(batch)}")
    x, y = batch
    if not x.is_floating_point():
        raise DataError(f"{where}: x must be float, got {x.dtype}; convert it in the loader (ToTensor does)")
    if x.ndim != 4 or (shape is not None and tuple(x.shape[1:]) != shape):
        wanted = "(N, C, H, W)" if shape is None else f"(N, {', '.join(map(str, shape))})"
        raise DataError(f"{where}: x must have the shape {wanted}, got {tuple(x.shape)}")
    if not x.isfinite().all():
        raise DataError(f"{where}: x holds NaN or infinity")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise DataError(f"{where}: labels must be integers, got {y.dtype}")
    if y.shape != x.shape[:1]:
        raise DataError(f"{where}: labels must have the shape ({len(x)},), got {tuple(y.shape)}")
    if len(y) and (y.min() < 0 or y.max() >= classes):
        wrong = y.min().item() if y.min() < 0 else y.max().item()
        raise DataError(f"{where}: label {wrong} is outside 0..{classes - 1} ({classes} classes)")
    return x.to(torch.float32), y.to(torch.int64)


def _describe(batch: object) -> str:
    if isinstance(batch, tuple | list):
        return f"a {type(batch).__name__} of ({', '.join(type(part).__name__ for part in batch)})"
    return f"a {type(batch).__name__}"
