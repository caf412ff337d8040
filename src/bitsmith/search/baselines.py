"""Blueprints without a search: the largest uniform one, one filled up to the budgets, random ones, the least one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitsmith.blueprint import Blueprint, Budget
from bitsmith.cost import CostTables, exact, fits, tabulate
from bitsmith.search.allocate import allocate
from bitsmith.space.precision import Precision


def largest_uniform(space: Precision, budgets: Sequence[Budget]) -> Blueprint | None:
    """The largest blueprint inside every budget that has one (weight, activation) bit-width wherever it may.

    Largest is the most bitops; then the most packed weights; then the higher weight bits. Pinned layers keep their
    bits. None if no uniform blueprint fits.

    Example:
        ResNet-8, ends pinned to 8 bits, weights=30kB: all inner layers at 3 bits (29,680 B).
    """
    weights = sorted({bits for options in space.options.values() for bits in options.weight})
    activations = sorted({bits for options in space.options.values() for bits in options.activation})
    found = [((w, a), space.uniform(w, a)) for w in weights for a in activations]
    inside = [(at, blueprint) for at, blueprint in found if fits(blueprint.graph, blueprint.bits, budgets, space.costs)]
    if not inside:
        return None

    def size(candidate: tuple[tuple[int, int], Blueprint]) -> tuple[float, float, tuple[int, int]]:
        at, blueprint = candidate
        bitops, weights = (exact(cost, blueprint.graph, blueprint.bits) for cost in ("bitops", "weights"))
        return bitops, weights, at

    return max(inside, key=size)[1]


def fill(space: Precision, blueprint: Blueprint, budgets: Sequence[Budget]) -> Blueprint:
    """Raise bits greedily until no raise of one decision by one step stays inside every budget.

    Each time the cheapest raise is taken: the one that uses the least share of the remaining room of the budget that
    it strains most, max_k delta_k / (limit_k - cost_k). Of equal ones the first layer goes first, weights before
    activations. Deterministic.

    Args:
        blueprint: where to start; inside every budget.
    """
    rows = _rows(space, budgets)
    indices = space.encode(blueprint)
    assert _inside(rows, indices), "fill starts from a blueprint inside the budgets"
    while raises := _raises(space, rows, indices):
        indices = min(raises, key=lambda moved: _strain(rows, indices, moved))
    return space.decode(indices)


def random_inside(
    space: Precision, budgets: Sequence[Budget], generator: np.random.Generator, tries: int = 1000
) -> Blueprint:
    """A random blueprint inside every budget.

    Uniform among all such blueprints if one of `tries` uniform draws is inside. Otherwise a repaired one, which is not
    uniform: one more draw, lowered by one step of a random decision at a time until it is inside (where lowering alone
    doesn't get there, since a narrowing table costs bytes: the `allocate` of random penalties instead), then raised
    by random single steps until none fits.

    Raises:
        BudgetError: no blueprint of the space meets the budgets.
    """
    rows = _rows(space, budgets)
    for _ in range(tries):
        indices = space.encode(space.sample(generator))
        if _inside(rows, indices):
            return space.decode(indices)
    indices = space.encode(space.sample(generator))
    while not _inside(rows, indices):
        lower = [indices - step for step in _unit_steps(indices) if np.all(indices - step >= 0)]
        if not lower:
            penalty = {
                name: generator.random((len(options.weight), len(options.activation)))
                for name, options in space.options.items()
            }
            indices = space.encode(allocate(space, penalty, budgets))
            break
        indices = lower[generator.integers(len(lower))]
    while raises := _raises(space, rows, indices):
        indices = raises[generator.integers(len(raises))]
    return space.decode(indices)


def least(space: Precision, cost: str) -> Blueprint:
    """The blueprint with the least value of a cost; of equal options a layer takes the lowest bits, weights first."""
    tables = tabulate(cost, space.template.graph, space.options, space.costs)
    return space.decode(np.array([np.unravel_index(entry.argmin(), entry.shape) for entry in tables.entries.values()]))


@dataclass(frozen=True, kw_only=True)
class _Row:
    tables: CostTables
    limit: int  # on the additive total


def _rows(space: Precision, budgets: Sequence[Budget]) -> list[_Row]:
    tables = [tabulate(budget.cost, space.template.graph, space.options, space.costs) for budget in budgets]
    return [_Row(tables=t, limit=t.whole_limit(b.limit)) for t, b in zip(tables, budgets, strict=True)]


def _inside(rows: Sequence[_Row], indices: np.ndarray) -> bool:
    return all(row.tables.total(indices) <= row.limit for row in rows)


def _unit_steps(indices: np.ndarray) -> list[np.ndarray]:
    steps = []
    for decision in np.ndindex(*indices.shape):
        step = np.zeros_like(indices)
        step[decision] = 1
        steps.append(step)
    return steps


def _raises(space: Precision, rows: Sequence[_Row], indices: np.ndarray) -> list[np.ndarray]:
    moved = [indices + step for step in _unit_steps(indices)]
    return [m for m in moved if np.all(m < space.sizes) and _inside(rows, m)]


def _strain(rows: Sequence[_Row], indices: np.ndarray, moved: np.ndarray) -> float:
    strain = 0.0
    for row in rows:
        now = row.tables.total(indices)
        delta = row.tables.total(moved) - now
        if delta > 0:  # then there is room, as `moved` is inside
            strain = max(strain, delta / (row.limit - now))
    return strain
