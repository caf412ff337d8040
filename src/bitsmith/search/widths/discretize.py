"""From widths that are drawn to one network inside every budget.

All log-odds are shifted alike, alpha + t, as far up as the network of the likeliest widths is inside: its widths rise
with t, so that bisection finds the last one. What room is left goes to single channels, the likeliest first, until none
of any group fits any more. Every price is that of the narrower graph itself. Costs rise with widths, but for RAM, whose
plan may take less for a wider group: there a group that didn't fit is tried again when another has grown, and a network
that is wider in several groups at once may still be inside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import final

import numpy as np

from bitsmith.blueprint import Budget, format_cost
from bitsmith.cost import exact, fits
from bitsmith.errors import BudgetError
from bitsmith.search.widths.groups import WidthGroups, Widths
from bitsmith.space import Precision

_FAR = 40.0  # a shift that decides everything
_MOST = 30.0  # log-odds beyond are cut to this
_HALVINGS = 60


@final
class WidthDiscretizer:
    """Turns log-odds into widths.

    Args:
        space: of one pair of bits per layer.
        budgets: hard limits.
    """

    def __init__(self, space: Precision, groups: WidthGroups, budgets: Sequence[Budget]) -> None:
        self.space, self.groups, self.budgets = space, groups, tuple(budgets)
        self._bits = space.uniform(8, 8).bits
        self._known: dict[Widths, bool] = {}

    def check(self) -> None:
        """Refuse budgets that not even one channel in every group meets.

        Raises:
            BudgetError: says what is reachable there and what binds.
        """
        narrow = [1] * len(self.groups.groups)
        least = [(budget, self.cost(budget.cost, narrow)) for budget in self.budgets]
        missed = [
            f"{b.cost} is at least {format_cost(b.cost, value)}, the budget is {format_cost(b.cost, b.limit)}"
            for b, value in least
            if value > b.limit
        ]
        if missed:
            raise BudgetError(
                f"with one channel wherever widths can be chosen, {'; '.join(missed)}; give a larger budget, fewer "
                "bits, a smaller input or another network"
            )

    def fits(self, widths: Widths) -> bool:
        """Whether the network at some widths is inside every budget."""
        if widths not in self._known:
            graph = self.groups.network(widths)
            self._known[widths] = fits(graph, self._bits, self.budgets, self.space.costs)
        return self._known[widths]

    def cost(self, name: str, widths: Sequence[int]) -> float:
        """What a network costs, exactly."""
        return exact(name, self.groups.network(widths), self._bits, self.space.costs)

    def discretize(self, logits: np.ndarray) -> Widths:
        """The widths inside every budget that these log-odds stand for; no group can be a channel wider.

        Args:
            logits: [groups].

        Raises:
            BudgetError: as `check`.
        """
        self.check()
        low, high = -_FAR - _MOST, _FAR + _MOST
        if self.fits(self.likeliest(logits, high)):
            return self.likeliest(logits, high)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.fits(self.likeliest(logits, middle)) else (low, middle)
        return self._fill(self.likeliest(logits, low), logits + low)

    def likeliest(self, logits: np.ndarray, shift: float = 0.0) -> Widths:
        """The mode of 1 + Binomial(C - 1, sigmoid(alpha + shift)) in every group: 1 + floor(C p), at most C."""
        p = 1 / (1 + np.exp(-np.clip(logits, -_MOST, _MOST) - shift))
        return tuple(min(c, 1 + math.floor(c * q)) for c, q in zip(self.groups.channels, p.tolist(), strict=True))

    def _fill(self, widths: Widths, logits: np.ndarray) -> Widths:
        again = any(budget.cost == "ram" for budget in self.budgets)
        growing = self._narrow(widths)
        while growing:
            d = max(growing, key=lambda d: self._gain(widths, logits, d))
            wider = (*widths[:d], widths[d] + 1, *widths[d + 1 :])
            if self.fits(wider):
                widths = wider
                growing = [e for e in self._narrow(widths) if again or e in growing]
            else:
                growing.remove(d)
        return widths

    def _narrow(self, widths: Widths) -> list[int]:
        return [d for d, c in enumerate(self.groups.channels) if widths[d] < c]

    def _gain(self, widths: Widths, logits: np.ndarray, d: int) -> float:
        """log P(w + 1) - log P(w): of Binomial(n, p), log((n - k) / (k + 1)) + alpha with k = w - 1."""
        return math.log((self.groups.channels[d] - widths[d]) / widths[d]) + float(logits[d])


def as_details(groups: WidthGroups, widths: Sequence[int], expected: Sequence[float]) -> list[Mapping[str, object]]:
    """Each group with what it was given, JSON-able."""
    return [
        {"layers": list(group.layers), "channels": group.channels, "kept": int(width), "expected": round(mean, 4)}
        for group, width, mean in zip(groups.groups, widths, expected, strict=True)
    ]
