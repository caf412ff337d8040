"""Networks to learn from and networks that are never learned from, for sure: by a hash of the sequence."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bitsmith.errors import RecipeError
from bitsmith.seeding import torch_generator
from bitsmith.space import Sequences

RADII = (0.3, 0.6, 1.0, 1.5, 2.5)  # of steps from codes that are good; mean edit distances from 0.1 to 2
HELD_OUT = 16  # one network of so many, whatever the seed
_TRIES = 100
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: Fibonacci hashing


def hashes(sequences: np.ndarray) -> np.ndarray:
    """A number for each sequence, the same on every machine: uint64 [n] of int64 [n, length]."""
    found = np.zeros(len(sequences), dtype=np.uint64)
    for column in sequences.T:
        found = (found ^ column.astype(np.uint64)) * _MULTIPLIER
        found ^= found >> np.uint64(29)
    return found


def is_held_out(sequences: np.ndarray) -> np.ndarray:
    """Whether each network is one of those that no training sees: bool [n] of int64 [n, length]."""
    return (hashes(sequences) >> np.uint64(32)) % np.uint64(HELD_OUT) == 0


def draw_even(space: Sequences, n: int, generator: np.random.Generator, *, held_out: bool = False) -> np.ndarray:
    """`n` networks even over log MACs, all held out or none, int64 [n, length].

    Raises:
        RecipeError: the space is too small.
    """
    return _draw(space, lambda k: space.additive.stratified(k, generator), n, held_out)


def draw_uniform(space: Sequences, n: int, generator: np.random.Generator, *, held_out: bool = False) -> np.ndarray:
    """`n` networks drawn uniformly, all held out or none, int64 [n, length].

    Raises:
        RecipeError: the space is too small.
    """
    return _draw(space, lambda k: space.automaton.draw(k, generator), n, held_out)


def draw_codes(n: int, centers: Tensor, seed: int) -> Tensor:
    """`n` codes, float32 [n, d]: half of the prior, half around the centers in turn, at RADII in turn.

    Args:
        centers: [k, d].
    """
    generator = torch_generator(seed, "codes")
    drawn = torch.randn(n, centers.shape[1], generator=generator)
    near = torch.arange(n // 2)
    radii = torch.tensor(RADII)[near // len(centers) % len(RADII)]
    steps = drawn[near] * (radii / drawn[near].norm(dim=1))[:, None]
    return torch.cat([drawn[n // 2 :], centers[near % len(centers)] + steps])


def _draw(space: Sequences, draw: Callable[[int], np.ndarray], n: int, held_out: bool) -> np.ndarray:
    more = HELD_OUT * 1.1 if held_out else 1.1
    found: list[np.ndarray] = []
    for _ in range(_TRIES):
        drawn = draw(int(n * more) + 1)
        found.append(drawn[is_held_out(drawn) == held_out])
        if sum(map(len, found)) >= n:
            return np.concatenate(found)[:n]
    raise RecipeError(
        f"one network of {HELD_OUT} is held out, and of this space's {space.count():,} that leaves too few "
        f"{'held out' if held_out else 'to learn from'}; allow more options"
    )
