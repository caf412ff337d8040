"""How many units of each kind a narrower network keeps.

Units that occur equally often in every node are **alike**: the 16 channels of a residual stream, the 32 filters of a
convolution that only concatenations read. Of n alike units a network of width w keeps

    n' = min(n, max(d, d floor(w n / d + 1/2)))        d: the divisor; never less than one

and the first ones of them. Where channels are shuffled, the counts before and behind must be equal and a multiple of
the shuffle's groups; there the counts nearest to these are found by an integer program, filters before what only hands
channels on. The whole network meets all of these conditions, so there is always an answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from bitsmith.blueprint import PRICED, Coupling

# A filter more or less than wanted counts as much as so many channels that a shuffle makes.
_FILTER = 1000.0


def kept_units(coupling: Coupling, sets: Sequence[np.ndarray], width: float, *, divisor: int = 1) -> np.ndarray:
    """The units that a network of a width keeps, bool [units].

    Args:
        sets: of `Coupling.alike`.
        width: 0 < width <= 1.
    """
    free = np.array([not coupling.pinned[units[0]] for units in sets])
    sizes = np.array([len(units) for units in sets])
    counts = np.array([_scaled(n, width, divisor) if is_free else n for n, is_free in zip(sizes, free, strict=True)])
    if coupling.shuffled.any():
        counts = _even(coupling, sets, counts, free)
    kept = np.zeros(len(coupling.pinned), bool)
    for units, count in zip(sets, counts, strict=True):
        kept[units[:count]] = True
    return kept


def _scaled(n: int, width: float, divisor: int) -> int:
    return min(n, max(divisor, divisor * math.floor(width * n / divisor + 0.5)))


def _even(coupling: Coupling, sets: Sequence[np.ndarray], wanted: np.ndarray, free: np.ndarray) -> np.ndarray:
    """The counts nearest to the wanted ones with which every shuffle is one.

    minimize sum_s f_s e_s    where    |x_s - wanted_s| <= e_s
                              and, for every shuffle,  before(x) = behind(x) = groups k,  k whole
    """
    shuffles = [node for node in coupling.graph.nodes if node.op == "shuffle"]
    layers = [node for node in coupling.graph.nodes if node.op in PRICED]
    n, made = len(sets), np.zeros(len(coupling.pinned), bool)
    for layer in layers:
        made[coupling.units[layer.name]] = True
    # Variables: the counts x, their distances e, the multiples k.
    objective = np.zeros(2 * n + len(shuffles))
    objective[n : 2 * n] = [_FILTER if made[units[0]] else 1.0 for units in sets]
    near = np.eye(n, 2 * n + len(shuffles))
    distance = np.eye(n, 2 * n + len(shuffles), k=n)
    rows = [
        LinearConstraint(near - distance, -np.inf, wanted),  # pyright: ignore[reportArgumentType]
        LinearConstraint(near + distance, wanted, np.inf),  # pyright: ignore[reportArgumentType]
    ]
    for index, node in enumerate(shuffles):
        before, behind = (_occurrences(coupling, sets, name) for name in (node.inputs[0], node.name))
        row = np.zeros((2, 2 * n + len(shuffles)))
        row[:, :n] = before, behind
        row[:, 2 * n + index] = -node.groups
        rows.append(LinearConstraint(row, 0, 0))
    sizes = np.array([len(units) for units in sets])
    low = np.concatenate([np.where(free, 1, sizes), np.zeros(n + len(shuffles))])
    high = np.concatenate([sizes, np.full(n + len(shuffles), np.inf)])
    integrality = np.concatenate([np.ones(n), np.zeros(n), np.ones(len(shuffles))])
    solved = milp(objective, constraints=rows, bounds=Bounds(low, high), integrality=integrality)  # pyright: ignore[reportArgumentType]
    assert solved.success, solved.message  # the sizes themselves are a solution
    return np.rint(solved.x[:n]).astype(np.int64)


def _occurrences(coupling: Coupling, sets: Sequence[np.ndarray], node: str) -> np.ndarray:
    """How often each unit of a set is a channel of a node."""
    counts = np.bincount(coupling.units[node], minlength=len(coupling.pinned))
    return counts[[units[0] for units in sets]]
