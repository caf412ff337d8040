"""FileSplit: images that stay in their files until they are used, decoded by worker processes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bitsmith.blueprint import InputContract
from bitsmith.data.augment import Augment
from bitsmith.data.image import Decoder
from bitsmith.data.split import PixelSplit, check_samples, hashed
from bitsmith.errors import DataError
from bitsmith.seeding import torch_generator

IN_MEMORY = 10**9  # bytes of pixels that may be kept in memory; more stays in files
_CHUNK = 32  # images that a worker hands over at once; memory is bounded by chunks, not by batches


@dataclass(frozen=True, kw_only=True, eq=False)
class FileSplit(PixelSplit):
    """Image files, decoded anew in every pass. Memory is bounded: four chunks of 32 images per worker process.

    Pixels depend on the files, the seed and the step alone, not on the number of workers.

    Args:
        root: the folder that the names start from.
        names: paths below root as bytes (os.fsencode), numpy (N,) of kind S; one array instead of N objects, which
            worker processes would copy.
        labels: int64 (N,), from 0.
        decoder: shape and fit; an augmentation's resized crop takes the place of the fit.
        contract: kind "uint8", mean and std per channel in units of the pixel range 0..1.
        workers: processes that decode; 0 decodes in this one. None: one per core, at most 8.

    Raises:
        DataError: labels or contract that don't fit; on use: an image that can't be read, by name.
    """

    root: Path
    names: np.ndarray
    labels: Tensor
    decoder: Decoder
    contract: InputContract
    workers: int | None = None

    def __post_init__(self) -> None:
        check_samples(self.labels, len(self.names), self.decoder.shape[0], self.contract)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.decoder.shape

    def fingerprint(self) -> str:
        """Of names and labels: the files themselves are not read for it."""
        return hashed(self.labels.numpy(), self.names)

    def take(self, indices: Tensor) -> FileSplit:
        return replace(self, names=self.names[indices.numpy()], labels=self.labels[indices])

    def joined(self, other: FileSplit) -> FileSplit:
        if (other.root, other.decoder) != (self.root, self.decoder):
            raise DataError(f"images of {self.root} and of {other.root} can't be joined into one split")
        names = np.concatenate([self.names, other.names])
        return replace(self, names=names, labels=torch.cat([self.labels, other.labels]))

    def pixels(
        self, picks: Mapping[int, Tensor], seed: int | None = None, augment: Augment | None = None
    ) -> Iterator[Tensor]:
        chunks = [
            _Chunk(names=self.names[picked[place : place + _CHUNK].numpy()], step=step, place=place)
            for step, picked in picks.items()
            for place in range(0, len(picked), _CHUNK)
        ]
        decoded = decode(self.root, chunks, self.decoder, seed=seed, augment=augment, workers=self.workers)
        for picked in picks.values():
            parts = [next(decoded) for _ in range(0, len(picked), _CHUNK)]
            yield torch.cat([_pixels_of(part) for part in parts])

    def raw(self, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """As every split; more than a gigabyte lies in a temporary file, which goes when the array does."""
        count = len(self) if limit is None else min(limit, len(self))
        size = (count, *self.shape)
        if np.prod(size) > IN_MEMORY:
            with tempfile.TemporaryFile() as file:
                images = np.memmap(file, dtype=np.uint8, mode="w+", shape=size)
        else:
            images = np.empty(size, np.uint8)
        picks = {step: torch.arange(count)[step * 256 : (step + 1) * 256] for step in range(-(-count // 256))}
        for picked, pixels in zip(picks.values(), self.pixels(picks), strict=True):
            images[picked[0] : picked[-1] + 1] = pixels.numpy()
        return images, self.labels[:count].numpy()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chunk:
    """Files that are decoded together: names, and the step and the place in its batch for the draws."""

    names: np.ndarray
    step: int
    place: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """What became of a chunk.

    Args:
        images: uint8 (n, C, H, W); black where the file is bad.
        bad: place in the chunk -> why.
        animated: places of files with further frames.
    """

    images: Tensor
    bad: dict[int, str]
    animated: list[int]


class _Chunks(Dataset):
    """What a worker process does, one chunk per item."""

    def __init__(
        self, root: Path, chunks: list[_Chunk], decoder: Decoder, seed: int | None, augment: Augment | None
    ) -> None:
        self.root, self.chunks, self.decoder, self.seed, self.augment = root, chunks, decoder, seed, augment

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> Decoded:
        chunk = self.chunks[index]
        draws = None if self.seed is None else torch_generator(self.seed, "augment", chunk.step, chunk.place)
        images = torch.zeros((len(chunk.names), *self.decoder.shape), dtype=torch.uint8)
        bad, animated = {}, []
        for i, name in enumerate(chunk.names):
            try:
                pixels, more = self.decoder.read(self.root / os.fsdecode(name), self.augment, draws)
            except DataError as error:  # handed over as text: an exception would arrive with the worker's traceback
                bad[i] = str(error)
                continue
            images[i] = torch.from_numpy(pixels)
            if more:
                animated.append(i)
        if self.augment is not None:
            assert draws is not None
            images = self.augment.shift(images, draws)
        return Decoded(images=images, bad=bad, animated=animated)


def decode(
    root: Path,
    chunks: list[_Chunk],
    decoder: Decoder,
    *,
    seed: int | None = None,
    augment: Augment | None = None,
    workers: int | None = None,
) -> Iterator[Decoded]:
    """Decode chunks of files in order, ahead of their use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, 8) if workers is None else workers
    # batch_size None: an item is a chunk. A generator of its own, since a DataLoader draws from the global one.
    loader = DataLoader(
        _Chunks(root, chunks, decoder, seed, augment),
        batch_size=None,
        num_workers=min(workers, len(chunks)),
        generator=torch.Generator().manual_seed(0),
    )
    yield from loader


def _pixels_of(part: Decoded) -> Tensor:
    if part.bad:
        raise DataError(next(iter(part.bad.values())))
    return part.images


def chunked(names: np.ndarray) -> list[_Chunk]:
    """All of `names` in order, for a single pass without draws."""
    return [_Chunk(names=names[i : i + _CHUNK], step=0, place=i) for i in range(0, len(names), _CHUNK)]
