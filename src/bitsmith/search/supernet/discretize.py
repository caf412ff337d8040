"""Discretize: the network of a mobile space that loses least inside all budgets, exactly.

    min sum over decisions that are made of penalty[option]  subject to  every budget

An integer program over paths. Widths and numbers of blocks couple neighboring blocks; everything else is a block's own:

- a stage's state is (blocks, width), one 0/1 variable each, and neighboring stages have a variable per pair of states;
- a block chooses one of its own forms (expansion, kernel, squeeze-and-excitation, activation, bits) per width that it
  reads and writes, its forms' sum equal to the states' marginal there. Forms that another beats or equals in every cost
  and in penalty are left out beforehand, which changes no optimum: of some thousand a few dozen stay;
- a budget on RAM forbids forms in which more bytes are live at some step (`peaks`);
- the choice found is priced exactly; where a budget fails all the same, it is forbidden and the program solved again.
  Where it is the arena that has gaps, all choices of the same tensors are forbidden at once, and forms are told apart
  by their tensors from then on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import final

import numpy as np

from bitsmith.blueprint import Blueprint, Budget
from bitsmith.cost import exact, fits
from bitsmith.errors import BudgetError
from bitsmith.search.supernet.factors import CostFactors
from bitsmith.search.supernet.peaks import PEAKED, price_peaks
from bitsmith.search.supernet.pricing import parts_of, price_factors
from bitsmith.search.supernet.program import BudgetRow, Ceiling, Program
from bitsmith.space import Mobile

_CUTS = 50  # choices forbidden one by one, before giving up
_LESS_RAM = " (a stem of fewer channels or with stride 2, narrower early stages and smaller expansions take less)"


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
        sums = [budget for budget in budgets if budget.cost != PEAKED]
        self._priced = _price(space, sums)
        self._rows = [_row(budget, self._priced) for budget in sums] or [_nothing(space)]
        limits = [budget.limit for budget in budgets if budget.cost == PEAKED]
        self._ceiling = Ceiling(peaks=price_peaks(space), limit=min(limits)) if limits else None

    def extreme(self, budget: int, *, greatest: bool = False) -> Blueprint:
        """A network with the least or the greatest value of a budget's cost, whatever its limit.

        avg_bits is a root of a ratio of two sums; the ratio's optimum is found by Dinkelbach's iteration ("On nonlinear
        fractional programming", 1967): the optimum of bitops - r MACs at the last network's own r, until none is
        better.

        Args:
            budget: which, by its place.
        """
        cost = self.budgets[budget].cost
        if cost == PEAKED:
            return _most_ram(self.space) if greatest else _least_ram(self.space)
        sign = -1.0 if greatest else 1.0
        row, blueprint, value = _row(self.budgets[budget], self._priced), None, math.inf
        while True:
            indices = Program(self.space, _no_penalties(self.space), [row.times(sign)]).solve(objective_row=0)
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
            f"{b.describe(b.limit, exact=True)}{_LESS_RAM if b.cost == PEAKED else ''}"
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
        program, ceiling = Program(self.space, penalties, self._rows, self._ceiling), self._ceiling
        for _ in range(_CUTS):
            indices = program.solve()
            if indices is None:
                break
            blueprint = self.space.decode(indices)
            if fits(blueprint.graph, blueprint.bits, self.budgets, self.space.costs):
                return blueprint
            gaps = ceiling is not None and _ram(self.space, blueprint) > ceiling.limit
            if gaps and not program.apart:
                program = Program(self.space, penalties, self._rows, ceiling, apart=True)
            else:
                program.forbid(alike=gaps)
        names = " and ".join(map(str, self.budgets))
        raise BudgetError(
            f"no network of this space meets {names} together, though each can be met alone; raise one of them"
        )


def _ram(space: Mobile, blueprint: Blueprint) -> float:
    return exact(PEAKED, blueprint.graph, blueprint.bits, space.costs)


def _least_ram(space: Mobile) -> Blueprint:
    """The network with the least arena; where gaps leave many to look at, the least of the first `_CUTS`."""
    peaks = price_peaks(space)
    row = BudgetRow(fixed=0, factors={f.decisions: f for f in peaks.factors}, limit=math.inf)
    limit, best = peaks.least(space.description.stages), None
    while True:
        program = Program(space, _no_penalties(space), [row], Ceiling(peaks=peaks, limit=limit), apart=True)
        for _ in range(_CUTS):
            indices = program.solve(objective_row=0)
            if indices is None:
                break
            found = space.decode(indices)
            best = found if best is None or _ram(space, found) < _ram(space, best) else best
            if _ram(space, best) <= peaks.least(space.description.stages):
                return best
            program.forbid(alike=True)
        assert best is not None, "some network has the least peak"
        if limit >= _ram(space, best) - 1:
            return best
        limit = _ram(space, best) - 1


def _most_ram(space: Mobile) -> Blueprint:
    """The network with the greatest peak, all else at its last option; gaps of other arenas are not looked for."""
    indices = space.sizes - 1
    factor, at = price_peaks(space).largest()
    for name, option in zip(factor.decisions, at, strict=True):
        indices[space.decisions.index[name]] = option
    return space.decode(indices)


def _nothing(space: Mobile) -> BudgetRow:
    """A row that holds whatever is chosen, so that a program has all decisions where no sum is limited."""
    factors = price_factors(space, ["weights"])["weights"].factors
    blank = {f.decisions: replace(f, entries=0 * f.entries) for f in factors}
    return BudgetRow(fixed=0, factors=blank, limit=math.inf)


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
