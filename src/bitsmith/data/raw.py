"""A data set as read, before anything is carved out of its training images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from bitsmith.blueprint import InputContract
from bitsmith.data.files import FileSplit, chunked, decode
from bitsmith.data.image import Decoder
from bitsmith.data.split import PixelSplit, TensorSplit
from bitsmith.data.stratify import stratified_draw
from bitsmith.errors import DataError
from bitsmith.seeding import torch_generator

_SAMPLE = 2048  # files that stand for all of them in mean and deviation


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a reader is asked for.

    Args:
        text: as the user wrote it, for messages.
        path: what stands behind the colon, or None.
        shape: (C, H, W) wanted, or None.
        download: whether the network may be used.
        skip_bad: whether images that can't be read are left out and counted, rather than an error.
    """

    text: str
    path: Path | None = None
    shape: tuple[int, int, int] | None = None
    download: bool = False
    skip_bad: bool = False


class Part(ABC):
    """Labeled images of one source; `labels` int64 (N,)."""

    labels: Tensor

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""

    @abstractmethod
    def take(self, indices: Tensor) -> Self:
        """The samples at `indices`."""

    @abstractmethod
    def sample(self) -> Tensor:
        """Images uint8 (n, C, H, W) to compute mean and deviation from."""

    @abstractmethod
    def split(self, contract: InputContract) -> PixelSplit:
        """A split of these samples."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Labeled(Part):
    """Images uint8 (N, C, H, W) in memory and their labels."""

    images: Tensor
    labels: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        _, C, H, W = self.images.shape
        return C, H, W

    def take(self, indices: Tensor) -> Labeled:
        return Labeled(images=self.images[indices], labels=self.labels[indices])

    def sample(self) -> Tensor:
        return self.images

    def split(self, contract: InputContract) -> TensorSplit:
        return TensorSplit(images=self.images, labels=self.labels, contract=contract)


@dataclass(frozen=True, kw_only=True, eq=False)
class Listed(Part):
    """Image files and their labels; see FileSplit."""

    root: Path
    names: np.ndarray
    labels: Tensor
    decoder: Decoder

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.decoder.shape

    def take(self, indices: Tensor) -> Listed:
        return replace(self, names=self.names[indices.numpy()], labels=self.labels[indices])

    def sample(self) -> Tensor:
        """At most 2,048 images, always the same ones."""
        drawn = torch.randperm(len(self.labels), generator=torch_generator(0, "statistics"))[:_SAMPLE]
        parts = []
        for part in decode(self.root, chunked(self.names[drawn.sort().values.numpy()]), self.decoder):
            if part.bad:
                raise DataError(next(iter(part.bad.values())))
            parts.append(part.images)
        return torch.cat(parts)

    def split(self, contract: InputContract) -> FileSplit:
        return FileSplit(root=self.root, names=self.names, labels=self.labels, decoder=self.decoder, contract=contract)


@dataclass(frozen=True, kw_only=True, eq=False)
class Raw:
    """A data set as read.

    Args:
        validation: where the source itself has one.
        contract: where mean and deviation are published ones; None: computed from the training images.
        notes: what the user must know: a licence, images left out.
    """

    name: str
    train: Part
    test: Part
    classes: tuple[str, ...]
    validation: Part | None = None
    contract: InputContract | None = None
    notes: tuple[str, ...] = ()


Reader = Callable[[Request], Raw]


def carve_test(whole: Part) -> tuple[Part, Part]:
    """(train, test): set 20 % aside as test, stratified, by a fixed seed: the same images whatever the user's is."""
    test, train = stratified_draw(whole.labels, round(0.2 * len(whole.labels)), 0, "fixed test split")
    return whole.take(train), whole.take(test)
