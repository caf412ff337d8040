"""Draws that keep the shares of the classes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bitsmith.seeding import torch_generator


def allot(counts: np.ndarray, n: int) -> np.ndarray:
    """How many of `n` draws each class gets: its share of `counts`, rounded by largest remainder.

    Where n is at least the number of classes with a sample, each of them gets at least one.

    Args:
        counts: samples per class, int (K,).
        n: draws in all, at most counts.sum().

    Example:
        >>> allot(np.array([50, 30, 20]), 7).tolist(), allot(np.array([98, 1, 1]), 10).tolist()
        ([4, 2, 1], [8, 1, 1])
    """
    assert 0 <= n <= counts.sum()
    quota = counts * n / max(counts.sum(), 1)
    given = np.floor(quota).astype(np.int64)
    if n >= np.count_nonzero(counts):
        given = np.maximum(given, counts > 0)
    while given.sum() < n:
        given[np.argmax(np.where(given < counts, quota - given, -np.inf))] += 1
    while given.sum() > n:
        given[np.argmax(np.where(given > 1, given - quota, -np.inf))] -= 1
    return given


def stratified_draw(labels: Tensor, n: int, seed: int, *names: str | int) -> tuple[Tensor, Tensor]:
    """Split the indices of `labels` into n drawn ones and the rest, class by class, each in rising order.

    Args:
        labels: int64 (N,).
        n: how many to draw, at most N.
        seed, names: the random stream (see seeding.derive).

    Returns:
        (drawn, rest), int64 index tensors.
    """
    given = allot(np.bincount(labels.numpy()), n)
    order = torch.randperm(len(labels), generator=torch_generator(seed, *names))
    drawn = torch.zeros(len(labels), dtype=torch.bool)
    for label, count in enumerate(given.tolist()):
        drawn[order[labels[order] == label][:count]] = True
    return drawn.nonzero().flatten(), (~drawn).nonzero().flatten()
