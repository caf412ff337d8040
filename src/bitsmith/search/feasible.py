"""What can be met at all: the least and greatest value of a cost in a space, and some blueprint inside budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bitsmith.blueprint import Blueprint, Budget
from bitsmith.cost import exact, tabulate
from bitsmith.search.allocate import allocate
from bitsmith.search.sequence_inside import extreme_sequence, some_sequence
from bitsmith.search.supernet.discretize import Discretizer, budget_rows
from bitsmith.search.supernet.peaks import PEAKED, SHAPELESS, price_peaks
from bitsmith.space import Mobile, Precision, Sequences, Space


def some_inside(space: Space, budgets: Sequence[Budget]) -> Blueprint:
    """Some blueprint inside every budget: whether there is one, before anything is trained.

    Raises:
        BudgetError: there is none; the message says what is reachable and what binds.
    """
    if isinstance(space, Mobile):
        return Discretizer(space, budgets).check()
    if isinstance(space, Sequences):
        return some_sequence(space, budgets)
    assert isinstance(space, Precision), space
    free = {name: np.zeros((len(o.weight), len(o.activation))) for name, o in space.options.items()}
    return allocate(space, free, budgets)


def least(space: Space, cost: str) -> Blueprint:
    """A blueprint with the least value of a cost; of a Precision with the lowest bits of equal ones, weights first.

    Raises:
        BudgetError: a cost that the space doesn't know.
    """
    if isinstance(space, Mobile):
        return Discretizer(space, [_any_limit(cost)]).extreme(0)
    if isinstance(space, Sequences):
        return extreme_sequence(space, cost)
    assert isinstance(space, Precision), space
    tables = tabulate(cost, space.template.graph, space.options, space.costs)
    return space.decode(np.array([np.unravel_index(entry.argmin(), entry.shape) for entry in tables.entries.values()]))


def reachable(space: Space, costs: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The least and the greatest value of every cost over all blueprints of the space, each cost by itself.

    Of RAM in a mobile space the greatest is the arena of the network with the largest peak, a lower bound: where
    tensors leave gaps, another arena may be larger. The least is that of the best network looked at, see `extreme`.
    """
    if isinstance(space, Mobile):
        discretizer = Discretizer(space, [_any_limit(cost) for cost in costs])
        found = {}
        for k, cost in enumerate(costs):
            ends = [discretizer.extreme(k, greatest=greatest) for greatest in (False, True)]
            low, high = (exact(cost, end.graph, end.bits, space.costs) for end in ends)
            found[cost] = (low, high)
        return found
    if isinstance(space, Sequences):
        found = {}
        for cost in costs:
            ends = [extreme_sequence(space, cost, greatest=greatest) for greatest in (False, True)]
            low, high = (exact(cost, end.graph, end.bits, space.costs) for end in ends)
            found[cost] = (low, high)
        return found
    assert isinstance(space, Precision), space
    tables = {cost: tabulate(cost, space.template.graph, space.options, space.costs) for cost in costs}
    return {cost: (t.least(), t.greatest()) for cost, t in tables.items()}


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One budget over encodings: inside where `total(indices) <= limit`.

    Args:
        total: what the budget limits, in units of its additive total.
    """

    total: Callable[[np.ndarray], float]
    limit: float


def limits_of(space: Space, budgets: Sequence[Budget]) -> list[Limit]:
    """The budgets over the encodings of a space; tables are made once, so that many encodings can be looked at."""
    if isinstance(space, Mobile):
        decisions = space.decisions
        sums = [budget for budget in budgets if budget.cost != PEAKED]
        return [
            Limit(total=lambda indices, row=row: row.total(decisions, indices), limit=row.limit)
            for row in budget_rows(space, sums)
        ] + [_arena(space, budget.limit) for budget in budgets if budget.cost == PEAKED]
    if isinstance(space, Sequences):
        return [Limit(total=partial(_exact_at, space, budget.cost), limit=budget.limit) for budget in budgets]
    assert isinstance(space, Precision), space
    tables = [tabulate(budget.cost, space.template.graph, space.options, space.costs) for budget in budgets]
    return [Limit(total=t.total, limit=t.whole_limit(b.limit)) for t, b in zip(tables, budgets, strict=True)]


def _arena(space: Mobile, limit: float) -> Limit:
    """A budget on RAM; where a block's peak alone is beyond it, that peak is told in place of the arena."""
    peaks, decisions = price_peaks(space), space.decisions
    shaping = np.array([d.name.rpartition(".")[2] not in SHAPELESS for d in decisions.decisions])
    known: dict[bytes, float] = {}

    def total(indices: np.ndarray) -> float:
        peak = peaks.total(decisions, indices)
        if peak > limit:
            return peak
        key = np.where(shaping, indices, 0).tobytes()
        if key not in known:
            blueprint = space.decode(indices)
            known[key] = exact(PEAKED, blueprint.graph, blueprint.bits, space.costs)
        return known[key]

    return Limit(total=total, limit=limit)


def inside(limits: Sequence[Limit], indices: np.ndarray) -> bool:
    """Whether an encoding meets every limit."""
    return all(limit.total(indices) <= limit.limit for limit in limits)


def _exact_at(space: Sequences, cost: str, indices: np.ndarray) -> float:
    blueprint = space.decode(indices)
    return exact(cost, blueprint.graph, blueprint.bits, space.costs)


def _any_limit(cost: str) -> Budget:
    return Budget(cost=cost, limit=1)
