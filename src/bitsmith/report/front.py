"""The front: networks that no other one beats in accuracy and cost at once."""

from __future__ import annotations

from collections.abc import Sequence

from bitsmith.blueprint import UNITS, Budget
from bitsmith.report.parts import Row


def on_front(rows: Sequence[Row], cost: str) -> list[bool]:
    """Whether each row is non-dominated: no other costs at most as much and tests at least as well, one of them better.

    The float network and rows without a test result are never on the front. Equal rows are on it together.

    Example:
        Sizes 10, 12 and 15 kB with 90, 89 and 91 % give True, False, True.
    """

    def rank(row: Row) -> tuple[float, float] | None:
        return None if row.kind == "float" or row.test is None else (row.costs[cost], -row.test)

    ranks = [rank(row) for row in rows]
    known = [other for other in ranks if other is not None]
    return [
        own is not None and not any(other != own and other[0] <= own[0] and other[1] <= own[1] for other in known)
        for own in ranks
    ]


def limited_costs(rows: Sequence[Row]) -> list[str]:
    """The budgeted costs, in the order of `bitsmith.blueprint.UNITS`; each has a figure with a front of its own."""
    budgeted = {Budget.parse(text).cost for row in rows for text in row.meets}
    return [cost for cost in UNITS if cost in budgeted]


def front_cost(rows: Sequence[Row]) -> str:
    """The cost of the front that tables mark: of the budgeted ones the first that differs between networks, or the
    first of all, so that a figure shows the same front; size where there is no budget.
    """
    made, costs = [row for row in rows if row.kind != "float"], limited_costs(rows)
    differing = [cost for cost in costs if len({row.costs[cost] for row in made}) > 1]
    return next(iter([*differing, *costs]), "size")
