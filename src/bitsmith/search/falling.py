"""Budgets that fall: how a search by gradients is led inside its budgets.

    penalty = sum_k lambda_k v_k + square relu(v_k)^2,    v_k = (expected cost_k - limit_k) / budget_k,
    lambda_k <- max(0, lambda_k + step v_k)

with limits that fall linearly from the first expected cost to the budget, then stay; where the first cost is inside
already, the limit is the budget from the beginning, so that what costs more may be chosen. A dual ascent against the
budget itself overshoots from the full cost and collapses all layers to the fewest bits (measured).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from bitsmith.blueprint import Budget


@final
class FallingBudgets:
    """Limits and multipliers of a search.

    Args:
        first: per budget the expected cost that the search starts from.
        lead: steps before the limits begin to fall.
        span: steps in which they fall.
        multiplier_step: step of the multipliers on the relative violation.
        square: weight of the squared relative violation.
    """

    def __init__(
        self,
        budgets: Sequence[Budget],
        first: Sequence[float],
        *,
        lead: float,
        span: float,
        multiplier_step: float,
        square: float,
    ) -> None:
        self._budgets, self._lead, self._span = tuple(budgets), lead, max(1.0, span)
        self._multiplier_step, self._square = multiplier_step, square
        self.first, self.multipliers = list(first), [0.0] * len(budgets)

    def limits(self, step: int) -> list[float]:
        """Each budget's present limit."""
        share = min(1.0, max(0.0, (step - self._lead) / self._span))
        return [
            max(budget.limit, first + (budget.limit - first) * share)
            for first, budget in zip(self.first, self._budgets, strict=True)
        ]

    def penalty(self, expected: Sequence[Tensor], step: int, device: torch.device) -> Tensor:
        """The penalty on expected costs, float64; moves the multipliers."""
        penalty = torch.tensor(0.0, dtype=torch.float64, device=device)
        for k, (cost, budget, limit) in enumerate(zip(expected, self._budgets, self.limits(step), strict=True)):
            violation = (cost - limit) / budget.limit
            self.multipliers[k] = max(0.0, self.multipliers[k] + self._multiplier_step * violation.item())
            penalty = penalty + self.multipliers[k] * violation + self._square * violation.relu().square()
        return penalty

    def figures(self, expected: Sequence[float], step: int) -> dict[str, float]:
        """For the curves of an epoch."""
        found: dict[str, float] = {}
        for cost, budget, limit, multiplier in zip(
            expected, self._budgets, self.limits(step), self.multipliers, strict=True
        ):
            found[f"expected {budget.cost}"] = cost
            found[f"limit {budget.cost}"] = limit
            found[f"multiplier {budget.cost}"] = multiplier
        return found

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {"multipliers": self.multipliers, "first_costs": self.first}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.multipliers, self.first = list(state["multipliers"]), list(state["first_costs"])
