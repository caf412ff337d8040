"""Can a network fit a target at all: the least and the most that each cost can be over a space, against the limits.

Of a mobile space each of these is the optimum of an integer program, found in seconds; so only costs with budgets and
`size` are looked at there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitsmith.blueprint import Budget
from bitsmith.cost import Target
from bitsmith.errors import BitsmithError
from bitsmith.pipeline.verbs import check_target
from bitsmith.search import Filters, Method, WidthSearch, reachable, some_inside
from bitsmith.space import Mobile, Precision, Sequences, Space


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What one cost can be over all blueprints of a space, by itself.

    Args:
        least, most: its values.
        decided: whether any choice changes it.
        budget: its limit, or None.
    """

    cost: str
    least: float
    most: float
    decided: bool
    budget: Budget | None = None

    @property
    def state(self) -> str:
        """What the budget does, "" without one."""
        if self.budget is None:
            return ""
        if self.least > self.budget.limit:
            return "out of reach"
        return "binds" if self.most > self.budget.limit else "always met"


def reach(space: Space, budgets: Sequence[Budget], method: Method | None = None) -> list[Reach]:
    """How far the costs of a space go: those with budgets first, once per budget, then the others.

    Args:
        method: that removes filters goes further down than the space of bits alone.

    Raises:
        BudgetError: a budget on a cost that can't be led inside one in this space.
    """
    limited: list[tuple[str, Budget | None]] = [(budget.cost, budget) for budget in dict.fromkeys(budgets)]
    others = ("size",) if isinstance(space, Mobile | Sequences) else tuple(space.costs)
    free = [(cost, None) for cost in others if cost not in {name for name, _ in limited}]
    names = list(dict.fromkeys(cost for cost, _ in limited + free))
    found = reachable(space, names)
    if isinstance(method, Filters | WidthSearch) and isinstance(space, Precision):  # it refuses any other
        least = reachable(method.narrowest(space), names)
        found = {cost: (least[cost][0], most) for cost, (_, most) in found.items()}
    return [
        Reach(cost=cost, least=found[cost][0], most=found[cost][1], decided=len(set(found[cost])) > 1, budget=budget)
        for cost, budget in limited + free
    ]


def problem_of(space: Space, target: Target, budgets: Sequence[Budget]) -> str:
    """Why no network of a space can run on a target inside all budgets, or ""; all of its costs are known."""
    try:
        check_target(space, target)
        some_inside(space, budgets)
    except BitsmithError as error:
        return str(error)
    return ""
