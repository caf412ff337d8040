"""One part of a data set: a source of labeled batches."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np
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
        self, *, batch_size: int, seed: int | None = None, augment: Augment | None = None, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over the split.

        Args:
            batch_size: samples per batch.
            seed: None: fixed order, every sample. A number: shuffled by it; a last batch of a single sample is
                dropped where batch_size > 1, since BatchNorm can't train on it.
            augment: random changes of the images, drawn by the same seed; give each epoch a seed of its own.
            start: leave out so many batches at the beginning. The others are the same as in the whole pass: what is
                drawn for a batch depends on the seed and its number alone.

        Raises:
            DataError: a batch size below 1, a negative start, an augmentation without a seed.
        """

    @abstractmethod
    def steps(self, *, batch_size: int, shuffled: bool = True) -> int:
        """How many batches one whole pass yields, with a seed or (shuffled=False) without."""

    @abstractmethod
    def raw(self, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """What exported files take, of the first `limit` samples: uint8 or float32 (N, C, H, W); and their labels."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Text that other samples change: what a checkpoint keeps to know the data that it was made with."""


class PixelSplit(Split):
    """Raw uint8 pixels, from memory or from files; batches come normalized, step by step in float32:

        x = (pixel / 255 - mean) / std

    A subclass has the fields `labels`, int64 (N,), and `contract`: kind "uint8", mean and std per channel in units of
    the pixel range 0..1.
    """

    contract: InputContract

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""

    @abstractmethod
    def take(self, indices: Tensor) -> Self:
        """The samples at `indices`, int64, in that order."""

    @abstractmethod
    def joined(self, other: Self) -> Self:
        """These samples, then those of `other`."""

    @abstractmethod
    def pixels(
        self, picks: Mapping[int, Tensor], seed: int | None = None, augment: Augment | None = None
    ) -> Iterator[Tensor]:
        """uint8 (N, C, H, W) for each step -> indices of its samples; augmented by draws from (seed, step)."""

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, *, batch_size: int, seed: int | None = None, augment: Augment | None = None, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        check_pass(batch_size, seed, augment, start)
        if seed is None:
            order = torch.arange(len(self))
        else:
            order = torch.randperm(len(self), generator=torch_generator(seed, "batches"))
        steps = range(start, self.steps(batch_size=batch_size, shuffled=seed is not None))
        picks = {step: order[step * batch_size : (step + 1) * batch_size] for step in steps}
        found = zip(picks.values(), self.pixels(picks, seed, augment), strict=True)
        return ((self._normalized(images), self.labels[picked]) for picked, images in found)

    def steps(self, *, batch_size: int, shuffled: bool = True) -> int:
        full, rest = divmod(len(self), batch_size)
        return full + (rest > 1 if shuffled else rest > 0)

    def subset(self, n: int, seed: int) -> Self:
        """At most n samples by a seeded draw that keeps the shares of the classes, in their order here."""
        if n < 1:
            raise DataError(f"a subset needs at least one sample, got {n}")
        drawn, _ = stratified_draw(self.labels, min(n, len(self)), seed, "subset")
        return self.take(drawn)

    def _normalized(self, images: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (self.contract.mean, self.contract.std)
        )
        return images.to(torch.float32).div_(255).sub_(mean).div_(std)


def check_pass(batch_size: int, seed: int | None, augment: Augment | None, start: int) -> None:
    """Refuse arguments of `batches` that contradict each other, with a DataError."""
    if batch_size < 1:
        raise DataError(f"the batch size must be at least 1, got {batch_size}")
    if start < 0:
        raise DataError(f"a pass can't start at batch {start}; the first one is 0")
    if seed is None and augment is not None:
        raise DataError("augmentation draws at random: give batches() a seed, or no augmentation")


def check_samples(labels: Tensor, count: int, channels: int, contract: InputContract) -> None:
    """Refuse labels or a contract that don't fit `count` images of `channels` channels, with a DataError."""
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise DataError(f"labels must be int64 (N,), got {labels.dtype} {tuple(labels.shape)}")
    if count != len(labels):
        raise DataError(f"there are {count} images but {len(labels)} labels")
    if not count:
        raise DataError("a split needs at least one image")
    if labels.min() < 0:
        raise DataError(f"labels count from 0, got {labels.min().item()}")
    mean, std = contract.mean, contract.std
    if contract.kind != "uint8" or len(mean) != channels or len(std) != channels:
        raise DataError(
            f"images of {channels} channels need a contract of kind 'uint8' with {channels} means and deviations, "
            f"got kind {contract.kind!r} with {len(mean)} and {len(std)}"
        )
    if not all(value > 0 for value in std):
        raise DataError(f"the deviations of an input contract must be positive, got {std}")


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorSplit(PixelSplit):
    """Pixels in memory.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,), from 0.
        contract: kind "uint8", mean and std per channel in units of the pixel range 0..1.

    Raises:
        DataError: a wrong dtype, shape or length; no image; a std that is not positive.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    contract: InputContract

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise DataError(f"images must be uint8 (N, C, H, W), got {self.images.dtype} {tuple(self.images.shape)}")
        check_samples(self.labels, len(self.images), self.images.shape[1], self.contract)

    @property
    def shape(self) -> tuple[int, int, int]:
        _, C, H, W = self.images.shape
        return C, H, W

    def pixels(
        self, picks: Mapping[int, Tensor], seed: int | None = None, augment: Augment | None = None
    ) -> Iterator[Tensor]:
        for step, picked in picks.items():
            images = self.images[picked]
            if augment is not None:
                assert seed is not None
                images = augment(images, torch_generator(seed, "augment", step))
            yield images

    def take(self, indices: Tensor) -> TensorSplit:
        return TensorSplit(images=self.images[indices], labels=self.labels[indices], contract=self.contract)

    def joined(self, other: TensorSplit) -> TensorSplit:
        return TensorSplit(
            images=torch.cat([self.images, other.images]),
            labels=torch.cat([self.labels, other.labels]),
            contract=self.contract,
        )

    def raw(self, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        return self.images[:limit].numpy(), self.labels[:limit].numpy()

    def fingerprint(self) -> str:
        return hashed(self.labels.numpy(), self.images.numpy())


@dataclass(frozen=True, kw_only=True, eq=False)
class JoinedSplit(Split):
    """Several splits one after the other; the batches of one never mix with those of the next."""

    parts: tuple[Split, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def labels(self) -> Tensor:
        return torch.cat([part.labels for part in self.parts])

    def steps(self, *, batch_size: int, shuffled: bool = True) -> int:
        return sum(part.steps(batch_size=batch_size, shuffled=shuffled) for part in self.parts)

    def batches(
        self, *, batch_size: int, seed: int | None = None, augment: Augment | None = None, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for part in self.parts:
            here = min(start, part.steps(batch_size=batch_size, shuffled=seed is not None)) if start else 0
            yield from part.batches(batch_size=batch_size, seed=seed, augment=augment, start=here)
            start -= here

    def raw(self, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        found = [part.raw(limit) for part in self.parts]
        inputs, labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return inputs[:limit], labels[:limit]

    def fingerprint(self) -> str:
        return "+".join(part.fingerprint() for part in self.parts)


def hashed(*arrays: np.ndarray) -> str:
    """16 hexadecimal digits of the arrays' shapes and bytes."""
    found = hashlib.blake2b(digest_size=8)
    for array in arrays:
        found.update(repr((array.shape, array.dtype.str)).encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
