"""Blueprints without a search: the largest uniform one, one filled up to the budgets, random ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitsmith.blueprint import Blueprint, Budget
from bitsmith.cost import exact, fits
from bitsmith.search.allocate import allocate
from bitsmith.search.feasible import Limit, inside, limits_of, some_inside
from bitsmith.space import Precision, Space


def largest_uniform(space: Space, budgets: Sequence[Budget]) -> Blueprint | None:
    """The largest of `space.uniforms()` inside every budget: one (weight, activation) bit-width wherever it may be.

    Largest is the most bitops; then the most packed weights; then the last. Pinned layers keep their bits. Of a mobile
    space these are networks scaled by one number. None if no uniform blueprint fits.

    Example:
        ResNet-8, ends pinned to 8 bits, weights=30kB: all inner layers at 3 bits (29,680 B).
    """
    return _largest([b for b in space.uniforms() if fits(b.graph, b.bits, budgets, space.costs)])


def _largest(found: Sequence[Blueprint]) -> Blueprint | None:
    def size(at: int) -> tuple[float, float, int]:
        bitops, weights = (exact(cost, found[at].graph, found[at].bits) for cost in ("bitops", "weights"))
        return bitops, weights, at

    return found[max(range(len(found)), key=size)] if found else None


def fill(space: Space, blueprint: Blueprint, budgets: Sequence[Budget]) -> Blueprint:
    """Raise bits greedily until no raise of one decision by one step stays inside every budget; the network stays.

    Each time the cheapest raise is taken: the one that uses the least share of the remaining room of the budget that
    it strains most, max_k delta_k / (limit_k - cost_k). Of equal ones the first layer goes first, weights before
    activations. Deterministic.

    Args:
        blueprint: where to start; inside every budget. Where layers may be float or not, sums over layers only bound
            `ram` (`bitsmith.cost.additive`), and a blueprint can be inside by its exact value alone: then the start is
            the largest uniform one inside by the bound, or, where none is, some other.
    """
    limits = limits_of(space, budgets)
    indices = space.encode(blueprint)
    if not inside(limits, indices):
        bounded = _largest([b for b in space.uniforms() if inside(limits, space.encode(b))])
        indices = space.encode(bounded or some_inside(space, budgets))
    while raises := [moved for moved in space.raised(indices) if inside(limits, moved)]:
        indices = min(raises, key=lambda moved: _strain(limits, indices, moved))
    return space.decode(indices)


def random_inside(
    space: Precision, budgets: Sequence[Budget], generator: np.random.Generator, tries: int = 1000
) -> Blueprint:
    """Random bits inside every budget.

    Uniform among all such blueprints if one of `tries` uniform draws is inside. Otherwise a repaired one, which is not
    uniform: one more draw, lowered by one step of a random decision at a time until it is inside (where lowering alone
    doesn't get there, since a narrowing table costs bytes: the `allocate` of random penalties instead), then raised
    by random single steps until none fits.

    Raises:
        BudgetError: no blueprint of the space meets the budgets.
    """
    limits = limits_of(space, budgets)
    for _ in range(tries):
        indices = space.encode(space.sample(generator))
        if inside(limits, indices):
            return space.decode(indices)
    indices = space.encode(space.sample(generator))
    while not inside(limits, indices):
        lower = [indices - step for step in _unit_steps(indices) if np.all(indices - step >= 0)]
        if not lower:
            penalty = {
                name: generator.random((len(options.weight), len(options.activation)))
                for name, options in space.options.items()
            }
            indices = space.encode(allocate(space, penalty, budgets))
            break
        indices = lower[generator.integers(len(lower))]
    while raises := [moved for moved in space.raised(indices) if inside(limits, moved)]:
        indices = raises[generator.integers(len(raises))]
    return space.decode(indices)


def _unit_steps(indices: np.ndarray) -> list[np.ndarray]:
    steps = []
    for decision in np.ndindex(*indices.shape):
        step = np.zeros_like(indices)
        step[decision] = 1
        steps.append(step)
    return steps


def _strain(limits: Sequence[Limit], indices: np.ndarray, moved: np.ndarray) -> float:
    strain = 0.0
    for limit in limits:
        now = limit.total(indices)
        delta = limit.total(moved) - now
        if delta > 0:  # then there is room, as `moved` is inside
            strain = max(strain, delta / (limit.limit - now))
    return strain
