"""The front: networks that no other one beats in accuracy and cost at once."""

from __future__ import annotations

from collections.abc import Sequence

from bitsmith.blueprint import Budget
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


def front_cost(rows: Sequence[Row]) -> str:
    """The cost to draw a front over: the first budgeted one that differs between networks, else size."""
    costs = [Budget.parse(text).cost for row in rows for text in row.meets]
    tested = [row for row in rows if row.kind != "float"]
    return next((cost for cost in costs if len({row.costs[cost] for row in tested}) > 1), "size")
