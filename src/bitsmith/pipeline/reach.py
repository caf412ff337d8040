"""Can a network fit a target at all: the least and the most that each cost can be over a space, against the limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitsmith.blueprint import Budget
from bitsmith.cost import Target, tabulate
from bitsmith.errors import BitsmithError
from bitsmith.pipeline.verbs import check_target
from bitsmith.search import some_inside
from bitsmith.space import Precision


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What one cost can be over all choices of bits, by itself.

    Args:
        least, most: its values.
        decided: whether any choice of bits changes it.
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


def reach(space: Precision, budgets: Sequence[Budget]) -> list[Reach]:
    """How far every cost of a space goes: those with budgets first, once per budget, then the others."""
    limited: list[tuple[str, Budget | None]] = [(budget.cost, budget) for budget in dict.fromkeys(budgets)]
    free = [(cost, None) for cost in space.costs if cost not in {name for name, _ in limited}]
    rows = []
    for cost, budget in limited + free:
        tables = tabulate(cost, space.template.graph, space.options, space.costs)
        rows.append(
            Reach(cost=cost, least=tables.least(), most=tables.greatest(), decided=tables.decided, budget=budget)
        )
    return rows


def problem_of(space: Precision, target: Target, budgets: Sequence[Budget]) -> str:
    """Why no network of a space can run on a target inside all budgets, or ""; all of its costs are known."""
    try:
        check_target(space, target)
        some_inside(space, budgets)
    except BitsmithError as error:
        return str(error)
    return ""
