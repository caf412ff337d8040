"""Allocate: the bits of every layer that lose least inside all budgets, exactly.

A multiple-choice integer program: one 0/1 variable per layer and pair of (weight bits, activation bits), one equation
per layer (exactly one pair), one row per budget, solved by HiGHS with no gap. What makes it exact:

- Costs are whole numbers. A row is shifted by each layer's least entry and divided by the entries' common divisor, its
  limit is rounded down: a tolerance of the solver is then far below one unit.
- The choice found is priced again with `bitsmith.cost.exact`; should it pass a limit all the same, that one choice
  is forbidden (a no-good cut) and the program is solved again.
- Penalties are scaled by a power of two, which is lossless, to lie far above the solver's absolute gap.

Rejected: Lagrangian relaxation and greedy ratios leave budget unused; dynamic programming needs one axis per budget.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from bitsmith.blueprint import Blueprint, Budget
from bitsmith.cost import fits, tabulate
from bitsmith.errors import BudgetError, TrainingError
from bitsmith.space.precision import Precision

_OPTIMAL, _INFEASIBLE = 0, 2
OBJECTIVE_EXPONENT = 20  # the largest penalty is scaled to 2^19..2^20; HiGHS stops at an absolute gap of 1e-6


@dataclass(frozen=True, kw_only=True)
class _Choices:
    """The variables: each is one (weight, activation) pair of one layer; layers in execution order, pairs by row."""

    layer: np.ndarray  # [variables] index of the layer
    pair: np.ndarray  # [variables, 2] option indices
    allowed: np.ndarray  # [variables] bool
    penalty: np.ndarray  # [variables], 0 where not allowed
    layers: int

    def least(self, values: np.ndarray) -> np.ndarray:
        """Per layer the least value [layers] of its allowed variables."""
        least = np.full(self.layers, np.inf)
        np.minimum.at(least, self.layer[self.allowed], values[self.allowed])
        return least

    def greatest(self, values: np.ndarray) -> np.ndarray:
        """Per layer the greatest value of its allowed variables."""
        return -self.least(-values)


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One budget as `entries . x <= limit` in whole units above the least that is reachable."""

    budget: Budget
    entries: np.ndarray  # float64 [variables], whole, >= 0, 0 where not allowed
    limit: int
    unit: int  # the common divisor of the entries, in units of the cost's additive total
    least_value: float
    total_limit: int
    decided: bool


def allocate(space: Precision, penalty: Mapping[str, np.ndarray], budgets: Sequence[Budget]) -> Blueprint:
    """The blueprint with the least sum of penalties among those that meet every budget; exact and deterministic.

    min sum_l penalty_l[w_l, a_l]  subject to  cost_k(w, a) <= limit_k for every budget k

    Args:
        penalty: for every priced layer [n weight bits, n activation bits]; +inf forbids a pair.
        budgets: hard limits; a cost equal to its limit is inside.

    Raises:
        BudgetError: no blueprint meets the budgets; the message says what is reachable and what binds.
        TrainingError: a penalty is NaN or -inf, or all pairs of a layer are forbidden.

    Example:
        Two layers of 8 and 16 weights at 2 or 4 bits (2 or 4, and 4 or 8 bytes), penalties [3, 0] and [1, 0]: inside
        weights=8B the first layer gets 4 bits and the second 2 (8 bytes, penalty 1).
    """
    choices = _choices(space, penalty)
    rows = [_row(space, choices, budget) for budget in budgets]
    _refuse_alone(rows)
    cuts: list[np.ndarray] = []
    while (chosen := _solve(choices, choices.penalty, rows, cuts)) is not None:
        indices = np.zeros((choices.layers, 2), dtype=np.int64)
        indices[choices.layer[chosen]] = choices.pair[chosen]
        blueprint = space.decode(indices)
        if fits(blueprint.graph, blueprint.bits, budgets, space.costs):
            return blueprint
        cuts.append(chosen)
    raise BudgetError(_conflict(choices, rows))


def _choices(space: Precision, penalty: Mapping[str, np.ndarray]) -> _Choices:
    assert set(penalty) == set(space.options), (sorted(penalty), sorted(space.options))
    layer, pair, values = [], [], []
    for index, (name, options) in enumerate(space.options.items()):
        matrix = np.asarray(penalty[name], dtype=np.float64)
        assert matrix.shape == (len(options.weight), len(options.activation)), (name, matrix.shape)
        for w, a in np.argwhere(np.isnan(matrix) | np.isneginf(matrix)):
            at = f"w{options.weight[w]}a{options.activation[a]}"
            raise TrainingError(
                f"the penalty of layer {name!r} at {at} is {matrix[w, a]}: its measurement failed; "
                "measure again, or forbid the option with +inf"
            )
        if np.isposinf(matrix).all():
            raise TrainingError(f"every option of layer {name!r} is forbidden (penalty +inf); allow at least one")
        for at in np.ndindex(*matrix.shape):
            layer.append(index)
            pair.append(at)
            values.append(matrix[at])
    flat = np.array(values)
    allowed = np.isfinite(flat)
    return _Choices(
        layer=np.array(layer),
        pair=np.array(pair),
        allowed=allowed,
        penalty=np.where(allowed, flat, 0.0),
        layers=len(space.options),
    )


def _row(space: Precision, choices: _Choices, budget: Budget) -> _Row:
    tables = tabulate(budget.cost, space.template.graph, space.options, space.costs)
    entries = np.concatenate([entry.ravel() for entry in tables.entries.values()])
    assert np.array_equal(entries, np.rint(entries)), f"{budget.cost} is not counted in whole numbers"
    least = choices.least(entries)
    above = np.where(choices.allowed, entries - least[choices.layer], 0.0)
    unit = int(np.gcd.reduce(above.astype(np.int64))) or 1
    least_total = int(tables.fixed + least.sum())
    total_limit = tables.whole_limit(budget.limit)
    return _Row(
        budget=budget,
        entries=above / unit,
        limit=(total_limit - least_total) // unit,
        unit=unit,
        least_value=tables.value(least_total),
        total_limit=total_limit,
        decided=bool(above.any()),
    )


def _solve(
    choices: _Choices, objective: np.ndarray, rows: Sequence[_Row], cuts: Sequence[np.ndarray]
) -> np.ndarray | None:
    """The best choice [layers] as indices of variables, or None where there is none."""
    objective = np.where(choices.allowed, objective - choices.least(objective)[choices.layer], 0.0)
    if objective.max() > 0:
        objective = np.ldexp(objective, OBJECTIVE_EXPONENT - math.frexp(objective.max())[1])
    one_each = np.equal.outer(np.arange(choices.layers), choices.layer).astype(np.float64)
    constraints = [LinearConstraint(one_each, 1, 1)]
    # A row that even the greatest choice meets is left out.
    tight = [row for row in rows if choices.greatest(row.entries).sum() > row.limit]
    if tight:
        constraints.append(at_most(np.array([row.entries for row in tight]), [row.limit for row in tight]))
    for cut in cuts:
        constraints.append(at_most(_indicator(cut, len(objective)), choices.layers - 1))
    return _chosen(choices, solve_program(objective, constraints, choices.allowed.astype(np.float64), len(objective)))


def at_most(matrix: np.ndarray, limits: Any) -> LinearConstraint:
    # Any, as scipy's own annotations know scalars alone; the same of `upper` below.
    return LinearConstraint(matrix, ub=limits)


def solve_program(
    objective: np.ndarray, constraints: list[LinearConstraint], upper: Any, whole: int
) -> np.ndarray | None:
    """The optimum of an integer program whose first `whole` variables are integers; None if infeasible."""
    with _quiet_stdout():
        result = milp(
            objective,
            integrality=np.arange(len(objective)) < whole,
            bounds=Bounds(0, upper),
            constraints=constraints,
            options={"mip_rel_gap": 0.0},
        )
    assert result.status in (_OPTIMAL, _INFEASIBLE), result.message
    return result.x if result.status == _OPTIMAL else None


@contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Keep standard output clean: HiGHS prints stray lines from C++ whatever its options say."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(nowhere)
        os.close(kept)


def _chosen(choices: _Choices, solution: np.ndarray | None) -> np.ndarray | None:
    if solution is None:
        return None
    chosen = np.flatnonzero(solution[: len(choices.layer)] > 0.5)
    assert np.array_equal(choices.layer[chosen], np.arange(choices.layers)), solution
    return chosen


def _indicator(chosen: np.ndarray, length: int) -> np.ndarray:
    row = np.zeros(length)
    row[chosen] = 1
    return row


def _refuse_alone(rows: Sequence[_Row]) -> None:
    """Raise where a budget is out of reach even by itself."""
    problems = []
    for row in rows:
        if row.limit >= 0:
            continue
        least, limit = _readable(row.budget, row.least_value)
        if row.decided:
            problems.append(f"{row.budget.cost} is at least {least} in this space, the budget is {limit}")
        else:
            problems.append(
                f"{row.budget.cost} is {least} whatever the bits are, the budget is {limit}; "
                "narrower layers, a smaller input or another network would change it, no choice of bits does"
            )
    if problems:
        raise BudgetError("the budgets can't be met: " + "; ".join(problems))


def _conflict(choices: _Choices, rows: Sequence[_Row]) -> str:
    """Why budgets that can each be met alone can't be met together."""
    binding = list(rows)
    for row in rows:  # drop what isn't needed for the conflict: what stays is an irreducible set
        others = [other for other in binding if other is not row]
        if _solve(choices, np.zeros(len(choices.layer)), others, ()) is None:
            binding = others
    names = " and ".join(str(row.budget) for row in binding)
    over = []
    for row, excess in zip(rows, _elastic(choices, rows), strict=True):
        if excess > 0:
            over.append(f"{row.budget.cost} {100 * excess / row.total_limit:.3g} % over its limit")
    return (
        f"no blueprint of this space meets {names} together, though each can be met alone; "
        f"the least violation of all budgets leaves {' and '.join(over)}: raise these, or allow more bit-widths"
    )


def _elastic(choices: _Choices, rows: Sequence[_Row]) -> list[float]:
    """Per budget the excess of its additive total, where the sum of relative excesses is least.

    min sum_k s_k  subject to  entries_k . x - limit_k <= s_k (limit of the total)_k / unit_k,  s >= 0
    """
    n, k = len(choices.layer), len(rows)
    one_each = np.equal.outer(np.arange(choices.layers), choices.layer).astype(np.float64)
    slack = -np.diag([row.total_limit / row.unit for row in rows])
    constraints = [
        LinearConstraint(np.hstack([one_each, np.zeros((choices.layers, k))]), 1, 1),
        at_most(np.hstack([np.array([row.entries for row in rows]), slack]), [row.limit for row in rows]),
    ]
    upper = np.concatenate([choices.allowed.astype(np.float64), np.full(k, np.inf)])
    objective = np.concatenate([np.zeros(n), np.full(k, 2.0**OBJECTIVE_EXPONENT)])
    chosen = _chosen(choices, solve_program(objective, constraints, upper, n))
    assert chosen is not None, "the elastic program always has a solution"
    return [max(0.0, (row.entries[chosen].sum() - row.limit) * row.unit) for row in rows]


def _readable(budget: Budget, least: float) -> tuple[str, str]:
    """A value and the limit as text, exact where rounding would make them look the same."""
    short = budget.describe(least), budget.describe(budget.limit)
    if short[0] != short[1]:
        return short
    return budget.describe(least, exact=True), budget.describe(budget.limit, exact=True)
