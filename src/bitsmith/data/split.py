"""One part of a data set: a source of labeled batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bitsmith.blueprint import InputContract
from bitsmith.data.augment import Augment
from bitsmith.data.stratify import stratified_draw
from bitsmith.errors import DataError
from bitsmith.seeding import torch_generator


class Split(ABC):
    """A source of batches (x, y): float32 (N, C, H, W) as the network takes it, int64 (N,) labels.

    Attributes:
        labels: the label of every sample, int64 (len(self),), for class counts and stratified draws.
    """

    labels: Tensor

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def batches(
        self, *, batch_size: int, seed: int | None = None, augment: Augment | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over the split.

        Args:
            batch_size: samples per batch.
            seed: None: fixed order, every sample. A number: shuffled by it; a last batch of a single sample is
                dropped where batch_size > 1, since BatchNorm can't train on it.
            augment: random changes of the images, drawn by the same seed; give each epoch a seed of its own.
        """

    @abstractmethod
    def steps(self, *, batch_size: int) -> int:
        """How many batches one shuffled pass yields."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorSplit(Split):
    """Raw pixels in memory; batches come normalized: x = (pixel / 255 - mean) / std, step by step in float32.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,), from 0.
        contract: kind "uint8", mean and std per channel in units of the pixel range 0..1.

    Raises:
        DataError: a wrong dtype, shape or length; no image; a std that is not positive.
    """

    images: Tensor
    labels: Tensor
    contract: InputContract

    def __post_init__(self) -> None:
        _check_images(self.images, self.labels)
        C = self.images.shape[1]
        mean, std = self.contract.mean, self.contract.std
        if self.contract.kind != "uint8" or len(mean) != C or len(std) != C:
            raise DataError(
                f"images of {C} channels need a contract of kind 'uint8' with {C} means and deviations, "
                f"got kind {self.contract.kind!r} with {len(mean)} and {len(std)}"
            )
        if not all(value > 0 for value in std):
            raise DataError(f"the deviations of an input contract must be positive, got {std}")

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, *, batch_size: int, seed: int | None = None, augment: Augment | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        if batch_size < 1:
            raise DataError(f"the batch size must be at least 1, got {batch_size}")
        if seed is None:
            if augment is not None:
                raise DataError("augmentation draws at random: give batches() a seed, or no augmentation")
            return self._in_order(batch_size)
        return self._shuffled(batch_size, seed, augment)

    def _in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self), batch_size):
            stop = start + batch_size
            yield self._normalized(self.images[start:stop]), self.labels[start:stop]

    def _shuffled(self, batch_size: int, seed: int, augment: Augment | None) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch_generator(seed, "batches")
        order = torch.randperm(len(self), generator=generator)
        for step in range(self.steps(batch_size=batch_size)):
            picked = order[step * batch_size : (step + 1) * batch_size]
            images = self.images[picked]
            if augment is not None:
                images = augment(images, generator)
            yield self._normalized(images), self.labels[picked]

    def steps(self, *, batch_size: int) -> int:
        full, rest = divmod(len(self), batch_size)
        return full + (rest > 1)

    def _normalized(self, images: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (self.contract.mean, self.contract.std)
        )
        return images.to(torch.float32).div_(255).sub_(mean).div_(std)

    def take(self, indices: Tensor) -> TensorSplit:
        """The samples at `indices`, int64, in that order."""
        return TensorSplit(images=self.images[indices], labels=self.labels[indices], contract=self.contract)

    def subset(self, n: int, seed: int) -> TensorSplit:
        """At most n samples by a seeded draw that keeps the shares of the classes, in their order here."""
        if n < 1:
            raise DataError(f"a subset needs at least one sample, got {n}")
        drawn, _ = stratified_draw(self.labels, min(n, len(self)), seed, "subset")
        return self.take(drawn)


def _check_images(images: Tensor, labels: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise DataError(f"images must be uint8 (N, C, H, W), got {images.dtype} {tuple(images.shape)}")
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise DataError(f"labels must be int64 (N,), got {labels.dtype} {tuple(labels.shape)}")
    if len(images) != len(labels):
        raise DataError(f"there are {len(images)} images but {len(labels)} labels")
    if not len(images):
        raise DataError("a split needs at least one image")
    if labels.min() < 0:
        raise DataError(f"labels count from 0, got {labels.min().item()}")


@dataclass(frozen=True, kw_only=True, eq=False)
class LoaderSplit(Split):
    """The user's own DataLoader, or anything that can be iterated again and again over (x, y).

    Batch size and order are the loader's: batches() ignores batch_size and seed, and takes no augmentation.
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

    @property
    def labels(self) -> Tensor:
        return self._one_pass[0]

    def steps(self, *, batch_size: int) -> int:
        return self._one_pass[1]

    @cached_property
    def _one_pass(self) -> tuple[Tensor, int]:
        read = [y for _, y in self._checked()]
        return torch.cat(read), len(read)

    def batches(
        self, *, batch_size: int, seed: int | None = None, augment: Augment | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        if augment is not None:
            raise DataError(
                f"the {self.name} loader is your own: augment inside it, bitsmith's augmentation can't be used"
            )
        return self._checked()

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


@dataclass(frozen=True, kw_only=True, eq=False)
class JoinedSplit(Split):
    """Several splits one after the other; the batches of one never mix with those of the next."""

    parts: tuple[Split, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def labels(self) -> Tensor:
        return torch.cat([part.labels for part in self.parts])

    def steps(self, *, batch_size: int) -> int:
        return sum(part.steps(batch_size=batch_size) for part in self.parts)

    def batches(
        self, *, batch_size: int, seed: int | None = None, augment: Augment | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for part in self.parts:
            yield from part.batches(batch_size=batch_size, seed=seed, augment=augment)
