"""Discretize: the network of a mobile space that loses least inside all budgets, exactly.

    min sum over decisions that are made of penalty[option]  subject to  every budget

An integer program over paths. Widths and numbers of blocks couple neighboring blocks; everything else is a block's own:

- a stage's state is (blocks, width), one 0/1 variable each, and neighboring stages have a variable per pair of states;
- a block chooses one of its own forms (expansion, kernel, squeeze-and-excitation, activation, bits) per width that it
  reads and writes, its forms' sum equal to the states' marginal there. Forms that another beats or equals in every cost
  and in penalty are left out beforehand, which changes no optimum: of some thousand a few dozen stay;
- the choice found is priced exactly; where a budget fails all the same, it is forbidden and the program solved again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from scipy.optimize import LinearConstraint
from scipy.sparse import csr_array

from bitsmith.blueprint import Blueprint, Budget
from bitsmith.cost import exact, fits
from bitsmith.errors import BudgetError
from bitsmith.search.allocate import OBJECTIVE_EXPONENT, at_most, solve_program
from bitsmith.search.supernet.factors import CostFactors, Factor
from bitsmith.search.supernet.forms import Forms, unit_forms
from bitsmith.search.supernet.pricing import parts_of, price_factors
from bitsmith.space import Mobile
from bitsmith.space.decisions import Decisions

_CUTS = 50  # choices forbidden one by one, before giving up


@final
class Discretizer:
    """The integer program of a space under budgets; its tables are made once.

    Args:
        budgets: hard limits.

    Raises:
        BudgetError: a cost that is no sum over blocks.
    """

    def __init__(self, space: Mobile, budgets: Sequence[Budget]) -> None:
        self.space, self.budgets = space, tuple(budgets)
        self._priced = _price(space, budgets)
        self._rows = [_row(budget, self._priced) for budget in budgets]

    def extreme(self, budget: int, *, greatest: bool = False) -> Blueprint:
        """A network with the least or the greatest value of a budget's cost, whatever its limit.

        avg_bits is a root of a ratio of two sums; the ratio's optimum is found by Dinkelbach's iteration ("On nonlinear
        fractional programming", 1967): the optimum of bitops - r MACs at the last network's own r, until none is
        better.

        Args:
            budget: which, by its place.
        """
        cost = self.budgets[budget].cost
        sign = -1.0 if greatest else 1.0
        row, blueprint, value = self._rows[budget], None, math.inf
        while True:
            indices = _Program(self.space, _no_penalties(self.space), [row.times(sign)]).solve(objective_row=0)
            assert indices is not None, "without budgets there is always a network"
            found = self.space.decode(indices)
            reached = sign * exact(cost, found.graph, found.bits, self.space.costs)
            if blueprint is not None and reached >= value:
                return blueprint
            blueprint, value = found, reached
            if cost != "avg_bits":
                return blueprint
            row = _row(Budget(cost=cost, limit=sign * value), self._priced)

    def least(self) -> list[float]:
        """Per budget the least value of its cost that any network of the space has."""
        found = [self.extreme(k) for k in range(len(self.budgets))]
        return [
            exact(budget.cost, blueprint.graph, blueprint.bits, self.space.costs)
            for budget, blueprint in zip(self.budgets, found, strict=True)
        ]

    def check(self) -> Blueprint:
        """Some network inside all budgets.

        Raises:
            BudgetError: there is none, saying what is reachable.
        """
        over = [
            f"{b.cost} is at least {b.describe(least, exact=True)} in this space, the budget is "
            f"{b.describe(b.limit, exact=True)}"
            for b, least in zip(self.budgets, self.least(), strict=True)
            if least > b.limit
        ]
        if over:
            raise BudgetError("the budgets can't be met: " + "; ".join(over))
        return self.best(_no_penalties(self.space))

    def best(self, penalties: Mapping[str, np.ndarray]) -> Blueprint:
        """The network with the least sum of penalties inside every budget.

        Args:
            penalties: decision -> one finite number per option.

        Raises:
            BudgetError: there is none.
        """
        program = _Program(self.space, penalties, self._rows)
        for _ in range(_CUTS):
            indices = program.solve()
            if indices is None:
                break
            blueprint = self.space.decode(indices)
            if fits(blueprint.graph, blueprint.bits, self.budgets, self.space.costs):
                return blueprint
            program.forbid()
        names = " and ".join(map(str, self.budgets))
        raise BudgetError(
            f"no network of this space meets {names} together, though each can be met alone; raise one of them"
        )


@final
@dataclass(frozen=True, kw_only=True)
class BudgetRow:
    """One budget as fixed + sum of factors <= limit."""

    fixed: float
    factors: Mapping[tuple[str, ...], Factor]
    limit: float

    def total(self, decisions: Decisions, indices: np.ndarray) -> float:
        """The left side at option indices [decisions]."""
        return self.fixed + sum(factor.at(decisions, indices) for factor in self.factors.values())

    def times(self, sign: float) -> BudgetRow:
        """The row times 1 or -1, without a limit that means anything."""
        factors = {name: replace(f, entries=sign * f.entries) for name, f in self.factors.items()}
        return BudgetRow(fixed=sign * self.fixed, factors=factors, limit=math.inf)


def budget_rows(space: Mobile, budgets: Sequence[Budget]) -> list[BudgetRow]:
    """The budgets over the encodings of a space.

    Raises:
        BudgetError: a cost that is no sum over blocks.
    """
    priced = _price(space, budgets)
    return [_row(budget, priced) for budget in budgets]


def _price(space: Mobile, budgets: Sequence[Budget]) -> dict[str, CostFactors]:
    return price_factors(space, [part for budget in budgets for part in parts_of(budget.cost)])


def _row(budget: Budget, priced: Mapping[str, CostFactors]) -> BudgetRow:
    if budget.cost == "avg_bits":  # bitops <= avg_bits^2 MACs
        bitops, macs = priced["bitops"], priced["macs"]
        square = budget.limit**2
        factors = {
            b.decisions: replace(b, entries=b.entries - square * m.entries)
            for b, m in zip(bitops.factors, macs.factors, strict=True)
        }
        return BudgetRow(fixed=bitops.fixed - square * macs.fixed, factors=factors, limit=1e-6)
    cost = priced[budget.cost]
    limit = math.floor(cost.cost.total_limit(cost.graph, budget.limit))
    while cost.cost.value(cost.graph, limit + 1) <= budget.limit:  # floats may be a few units off
        limit += 1
    while cost.cost.value(cost.graph, limit) > budget.limit:
        limit -= 1
    return BudgetRow(fixed=cost.fixed, factors={f.decisions: f for f in cost.factors}, limit=limit)


def _no_penalties(space: Mobile) -> dict[str, np.ndarray]:
    return {d.name: np.zeros(len(d.options)) for d in space.decisions.decisions}


class _Program:
    """Variables, equations and rows; solved by HiGHS."""

    def __init__(self, space: Mobile, penalties: Mapping[str, np.ndarray], rows: Sequence[BudgetRow]) -> None:
        self._space = space
        self._penalties = {name: np.asarray(values, dtype=np.float64) for name, values in penalties.items()}
        self._limits = np.array([row.limit - row.fixed for row in rows])
        self._numbers: list[np.ndarray] = []  # per variable (penalty, rows...)
        self._meaning: list[dict[str, int]] = []  # per variable, decision -> option
        self._equations: list[tuple[dict[int, float], float]] = []  # coefficient by variable; right side
        self._cuts: list[np.ndarray] = []
        self._chosen = np.zeros(0, dtype=bool)
        self._states = [self._add_states(s, len(rows)) for s in range(1, len(space.description.stages) + 1)]
        for decisions in dict.fromkeys(_unit(factor) for row in rows for factor in row.factors.values()):
            of_unit = [[f for f in row.factors.values() if _unit(f) == decisions] for row in rows]
            self._add_unit(of_unit)

    def forbid(self) -> None:
        """Not the last solution again."""
        self._cuts.append(self._chosen)

    def solve(self, objective_row: int | None = None) -> np.ndarray | None:
        """Option indices of the best choice; None where there is none.

        Args:
            objective_row: minimize this row instead, without limits.
        """
        numbers = np.array(self._numbers)
        n = len(numbers)
        objective = numbers[:, 0 if objective_row is None else 1 + objective_row]
        if (largest := np.abs(objective).max()) > 0:
            objective = np.ldexp(objective, OBJECTIVE_EXPONENT - math.frexp(largest)[1])
        matrix, right = self._equality(n)
        constraints = [_equal(matrix, right)]
        if objective_row is None:
            constraints += [
                at_most(row[None] / unit, [limit / unit])
                for row, limit in zip(numbers[:, 1:].T, self._limits, strict=True)
                if (unit := _unit_of(row))
            ]
            constraints += [at_most(cut[None].astype(np.float64), [cut.sum() - 1]) for cut in self._cuts]
        solution = solve_program(objective, constraints, np.ones(n), n)
        if solution is None:
            return None
        self._chosen = solution > 0.5
        chosen: dict[str, int] = {}
        for variable in np.flatnonzero(self._chosen):
            chosen |= self._meaning[variable]
        decisions = self._space.decisions
        return decisions.canonical(np.array([chosen.get(d.name, 0) for d in decisions.decisions]))

    def _equality(self, n: int) -> tuple[csr_array, np.ndarray]:
        rows = [r for r, (coefficients, _) in enumerate(self._equations) for _ in coefficients]
        columns = [v for coefficients, _ in self._equations for v in coefficients]
        values = [c for coefficients, _ in self._equations for c in coefficients.values()]
        matrix = csr_array((values, (rows, columns)), shape=(len(self._equations), n))
        return matrix, np.array([right for _, right in self._equations])

    def _variable(self, meaning: dict[str, int], numbers: np.ndarray) -> int:
        self._meaning.append(meaning)
        self._numbers.append(numbers)
        return len(self._numbers) - 1

    def _add_states(self, s: int, rows: int) -> dict[tuple[int, int], int]:
        """(blocks, width) of a stage -> its variable; one of them is chosen."""
        blocks, channels = f"stage{s}.blocks", f"stage{s}.channels"
        found = {}
        for d, few in enumerate(self._penalties[blocks]):
            for c, wide in enumerate(self._penalties[channels]):
                numbers = np.concatenate([[few + wide], np.zeros(rows)])
                found[d, c] = self._variable({blocks: d, channels: c}, numbers)
        self._equations.append((dict.fromkeys(found.values(), 1.0), 1.0))
        return found

    def _add_unit(self, factors: Sequence[Sequence[Factor]]) -> None:
        """A block or the head: one form per options of what it shares; the sums meet those of the states."""
        forms = unit_forms(self._space.decisions, factors, self._penalties)
        when = factors[0][0].when
        sums: dict[tuple[tuple[str, int], ...], list[int]] = {}
        for shared, own, numbers in _each(forms):
            variable = self._variable(shared | own, numbers)
            for stage in range(1, len(self._states) + 1):
                blocks, channels = f"stage{stage}.blocks", f"stage{stage}.channels"
                key = tuple((name, shared[name]) for name in (blocks, channels) if name in shared)
                if key:
                    sums.setdefault(key, []).append(variable)
        for key, variables in sums.items():
            options = dict(key)
            stage = int(key[0][0].split(".")[0].removeprefix("stage"))
            first = when[1] if when is not None else 0
            equation = dict.fromkeys(variables, 1.0)
            for (d, c), state in self._states[stage - 1].items():
                there = options.get(f"stage{stage}.blocks", d) == d and options[f"stage{stage}.channels"] == c
                if there and d >= first:
                    equation[state] = -1.0
            self._equations.append((equation, 0.0))


def _equal(matrix: csr_array, right: Any) -> LinearConstraint:
    # Any, as scipy's own annotations know scalars alone.
    return LinearConstraint(matrix, right, right)


def _unit(factor: Factor) -> tuple[str, ...]:
    """What all factors of one block have in common."""
    owner = ".".join(factor.decisions[-1].split(".")[:2])
    return (owner if owner.startswith("stage") else owner.split(".")[0],)


def _each(forms: Forms) -> Iterator[tuple[dict[str, int], dict[str, int], np.ndarray]]:
    for at, (own, numbers) in forms.choices.items():
        shared = dict(zip(forms.shared, at, strict=True))
        for options, row in zip(own, numbers, strict=True):
            yield shared, dict(zip(forms.own, map(int, options), strict=True)), row


def _unit_of(row: np.ndarray) -> float:
    """What to divide a row by: the common divisor of whole entries, and more where they are still large; 0 for none."""
    if not row.any():
        return 0.0
    whole = np.array_equal(row, np.rint(row))
    unit = float(np.gcd.reduce(np.abs(row).astype(np.int64))) if whole else 1.0
    return unit * max(1.0, 2.0 ** (math.frexp(np.abs(row).max() / unit)[1] - 30))
