"""Sequences inside budgets: the least and the most of a cost, some network inside all, random ones.

`params`, `weights`, `macs` and `bitops` are sums along a walk, so their extremes are exact (`SequenceCosts.extreme`).
Other costs hang on neighbors and on a plan of the memory; there, descent from edit to edit finds small networks, and a
message that none is inside says that none was found.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from bitsmith.blueprint import Blueprint, Budget
from bitsmith.cost import exact, fits
from bitsmith.errors import BudgetError
from bitsmith.space import ADDITIVE, Sequences

_DRAWN = 500  # networks at a time


def extreme_sequence(space: Sequences, cost: str, *, greatest: bool = False) -> Blueprint:
    """A network with the least or the greatest value of a cost; of costs that are no sums, one that no neighbor beats.

    Raises:
        BudgetError: a cost that the space doesn't know.
    """
    if cost in ADDITIVE:
        return space.decode(space.additive.extreme(cost, greatest=greatest)[0])
    sign = -1 if greatest else 1
    starts = [space.decode(space.additive.extreme(name, greatest=greatest)[0]) for name in ("weights", "macs")]
    return min((_descend(space, start, cost, sign) for start in starts), key=lambda b: sign * _value(space, b, cost))


def some_sequence(space: Sequences, budgets: Sequence[Budget]) -> Blueprint:
    """Some network inside every budget: one with the least of some cost, or one that edits from there lead to.

    Raises:
        BudgetError: none was found; the message says what each cost can be.
    """
    names = list(dict.fromkeys(budget.cost for budget in budgets))
    smallest = {name: extreme_sequence(space, name) for name in names}
    for blueprint in smallest.values():
        if fits(blueprint.graph, blueprint.bits, budgets, space.costs):
            return blueprint
    over = [
        f"{b.cost} is {'at least' if b.cost in ADDITIVE else 'not found below'} {b.describe(least, exact=True)} in "
        f"this space, the budget is {b.describe(b.limit, exact=True)}"
        for b in budgets
        if (least := _value(space, smallest[b.cost], b.cost)) > b.limit
    ]
    if over:
        raise BudgetError("the budgets can't be met: " + "; ".join(over))
    for start in smallest.values():  # each budget alone can be met
        found = _toward(space, start, budgets)
        if fits(found.graph, found.bits, budgets, space.costs):
            return found
    raise BudgetError(
        f"no network of this space was found that meets {' and '.join(map(str, budgets))} together, though each can be "
        "met alone; raise one of them"
    )


def random_sequence(
    space: Sequences, budgets: Sequence[Budget], generator: np.random.Generator, tries: int = 10_000
) -> Blueprint:
    """A random network inside every budget, of those drawn evenly over log MACs (`SequenceCosts.stratified`).

    Where none of `tries` draws is inside, `some_sequence`.

    Raises:
        BudgetError: none was found.
    """
    row = drawn_inside(space, budgets, generator, tries=tries)
    return some_sequence(space, budgets) if row is None else space.decode(row)


def drawn_inside(
    space: Sequences,
    budgets: Sequence[Budget],
    generator: np.random.Generator,
    *,
    tries: int = 10_000,
    known: Collection[bytes] = (),
) -> np.ndarray | None:
    """The first of `tries` draws, even over log MACs, that is inside every budget, int64 [length]; None where none is.

    Args:
        known: bytes of sequences that are left out.
    """
    additive = [(ADDITIVE.index(b.cost), b.limit) for b in budgets if b.cost in ADDITIVE]
    for _ in range(-(-tries // _DRAWN)):
        drawn = space.additive.stratified(_DRAWN, generator)
        costs = space.additive.of(drawn)
        inside = np.all([costs[:, k] <= limit for k, limit in additive], axis=0) if additive else np.full(_DRAWN, True)
        for row in drawn[inside]:
            if row.tobytes() not in known:
                blueprint = space.decode(row)
                if fits(blueprint.graph, blueprint.bits, budgets, space.costs):
                    return row
    return None


def _value(space: Sequences, blueprint: Blueprint, cost: str) -> float:
    return exact(cost, blueprint.graph, blueprint.bits, space.costs)


def _descend(space: Sequences, start: Blueprint, cost: str, sign: int) -> Blueprint:
    """Neighbor by neighbor to one that none of its own beats."""
    best, value = start, sign * _value(space, start, cost)
    while True:
        near = [(sign * _value(space, other, cost), i, other) for i, other in enumerate(space.neighbors(best))]
        if not near or min(near)[0] >= value:
            return best
        value, _, best = min(near)


def _toward(space: Sequences, start: Blueprint, budgets: Sequence[Budget]) -> Blueprint:
    """Neighbor by neighbor down the greatest share by which a budget is passed, until none is or nothing falls."""

    def passed(blueprint: Blueprint) -> float:
        return max(_value(space, blueprint, budget.cost) / budget.limit for budget in budgets)

    best, value = start, passed(start)
    while value > 1:
        near = [(passed(other), i, other) for i, other in enumerate(space.neighbors(best))]
        if not near or min(near)[0] >= value:
            break
        value, _, best = min(near)
    return best
