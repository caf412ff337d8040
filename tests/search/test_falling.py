"""Limits fall to the budgets, and never keep a search below them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.blueprint import Budget
from bitsmith.search.falling import FallingBudgets


def falling(first: float, limit: float, *, lead: float = 10, span: float = 100) -> FallingBudgets:
    """One budget on size, from a first expected cost."""
    budget = Budget(cost="size", limit=limit)
    return FallingBudgets([budget], [first], lead=lead, span=span, multiplier_step=0.1, square=2.0)


def test_a_limit_falls_linearly_from_the_first_cost_to_the_budget() -> None:
    """From 300 to 100 bytes in 100 steps behind a lead of 10."""
    limits = [falling(300, 100).limits(step)[0] for step in (0, 10, 60, 110, 500)]
    assert limits == pytest.approx([300, 300, 200, 100, 100])


@given(st.floats(1, 1e6), st.floats(1, 1e6), st.integers(0, 300))
def test_no_limit_is_below_its_budget(first: float, limit: float, step: int) -> None:
    """Nor above both the first cost and the budget."""
    present = falling(first, limit).limits(step)[0]
    assert limit <= present <= max(first, limit) * (1 + 1e-12)


def test_a_search_that_begins_inside_may_choose_what_costs_more() -> None:
    """Expected costs that rise from 50 bytes to a budget of 100 are not punished; beyond it they are."""
    budgets, device = falling(50, 100), torch.device("cpu")
    for step, cost in enumerate((50.0, 80.0, 99.0)):
        expected = torch.tensor(cost, dtype=torch.float64, requires_grad=True)
        assert budgets.penalty([expected], step, device).item() == 0
    expected = torch.tensor(110.0, dtype=torch.float64, requires_grad=True)
    penalty = budgets.penalty([expected], 3, device)
    penalty.backward()
    assert penalty.item() > 0
    assert expected.grad is not None
    assert expected.grad.item() > 0
