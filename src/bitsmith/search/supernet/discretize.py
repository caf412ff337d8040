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
  by their tensors from then on. Where so many have gaps that these tries run out, only the blocks around the gap are
  forbidden together, and at last fewer bytes may live at any step, by what the arena is too large, until one fits:
  inside, but no longer the best for certain, since the same blocks may pack elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import final

import numpy as np

from bitsmith.blueprint import Blueprint, Budget, NetworkGraph
from bitsmith.cost import exact, fits
from bitsmith.cost.additive import planned
from bitsmith.cost.memory import live_tensors, plan_arena
from bitsmith.errors import BudgetError
from bitsmith.search.supernet.factors import CostFactors
from bitsmith.search.supernet.peaks import PEAKED, price_peaks
from bitsmith.search.supernet.pricing import parts_of, price_factors
from bitsmith.search.supernet.program import BudgetRow, Ceiling, Program
from bitsmith.space import Mobile

_CUTS = 50  # tries of each kind, before giving up
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

        Of RAM the greatest is that of the largest peak, which another network's arena may exceed by its gaps; the least
        is proven unless networks of the least peaks nearly all have gaps.

        avg_bits is a root of a ratio of two sums; the ratio's optimum is found by Dinkelbach's iteration ("On nonlinear
        fractional programming", 1967): the optimum of bitops - r MACs at the last network's own r, until none is
        better.

        Args:
            budget: which, by its place.
        """
        cost = self.budgets[budget].cost
        if cost == PEAKED:
            return _most_ram(self.space) if greatest else _least_ram(self.space)[0]
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
        """Per budget what its cost is at least in any network of the space: reached, but for RAM that isn't proven."""
        found = []
        for k, budget in enumerate(self.budgets):
            if budget.cost == PEAKED:
                found.append(_least_ram(self.space)[1])
            else:
                blueprint = self.extreme(k)
                found.append(exact(budget.cost, blueprint.graph, blueprint.bits, self.space.costs))
        return found

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

        Where nearly all arenas have gaps (see above), one that is inside.

        Args:
            penalties: decision -> one finite number per option.

        Raises:
            BudgetError: there is none, or none was found; the message says which.
        """
        program, ceiling = Program(self.space, penalties, self._rows, self._ceiling), self._ceiling
        names = " and ".join(map(str, self.budgets))
        gaps = False
        for _ in range(_CUTS):
            indices = program.solve()
            if indices is None:
                how = f"{names} together, though each can be met alone" if len(self.budgets) > 1 else names
                raise BudgetError(f"no network of this space meets {how}; raise {_one_of(self.budgets)}")
            blueprint = self.space.decode(indices)
            if self._fits(blueprint):
                return blueprint
            gaps = ceiling is not None and _ram(self.space, blueprint) > ceiling.limit
            if gaps and not program.apart:
                program = Program(self.space, penalties, self._rows, ceiling, apart=True)
            else:
                program.forbid(alike=gaps)
        if gaps and ceiling is not None:
            found = self._around(program, ceiling.limit) or self._lower(penalties, ceiling)
            if found is not None:
                return found
        enough = [
            f" (alone, {b.cost} of {b.describe(_ram(self.space, _least_ram(self.space)[0]), exact=True)} is enough)"
            for b in self.budgets
            if b.cost == PEAKED
        ]
        raise BudgetError(
            f"no network that meets {names} was found in many tries, which doesn't prove that there is none; "
            f"raise {_one_of(self.budgets)}{''.join(enough[:1])}"
        )

    def _fits(self, blueprint: Blueprint) -> bool:
        return fits(blueprint.graph, blueprint.bits, self.budgets, self.space.costs)

    def _around(self, program: Program, limit: float) -> Blueprint | None:
        """A network inside by forbidding, after each one that isn't, its blocks around the gap."""
        for _ in range(_CUTS):
            indices = program.solve()
            if indices is None:
                return None
            blueprint = self.space.decode(indices)
            if self._fits(blueprint):
                return blueprint
            parts = _enclosing(blueprint.graph, limit)
            program.forbid(alike=True, parts=parts or None)
        return None

    def _lower(self, penalties: Mapping[str, np.ndarray], ceiling: Ceiling) -> Blueprint | None:
        """A network inside by a lower ceiling: gaps take no more than what is left below the budget."""
        limit, lower = ceiling.limit, ceiling
        for _ in range(_CUTS):
            indices = Program(self.space, penalties, self._rows, lower, apart=True).solve()
            if indices is None:
                break
            blueprint = self.space.decode(indices)
            if self._fits(blueprint):
                return blueprint
            lower = replace(lower, limit=lower.limit - max(1.0, _ram(self.space, blueprint) - limit))
        least, _ = _least_ram(self.space)
        return least if self._fits(least) else None


def _one_of(budgets: Sequence[Budget]) -> str:
    return "one of them" if len(budgets) > 1 else "it"


def _ram(space: Mobile, blueprint: Blueprint) -> float:
    return exact(PEAKED, blueprint.graph, blueprint.bits, space.costs)


def _enclosing(graph: NetworkGraph, limit: float) -> set[str]:
    """The blocks (or the head) of the tensors that live beside one that ends above the limit."""
    plan, tensors = plan_arena(graph), live_tensors(graph, planned(graph))
    above = [t for t in tensors if plan.offsets[t.name] + t.size > limit]
    owners = (t.name.split(".") for t in tensors if any(t.meets(other) for other in above))
    return {".".join(owner[:2]) if owner[0].startswith("stage") else owner[0] for owner in owners}


@lru_cache(maxsize=8)
def _least_ram(space: Mobile) -> tuple[Blueprint, float]:
    """A network of little RAM, and what no network is below.

    Both are the same, its arena, unless so many networks of the least peaks have gaps that not all can be looked at:
    then the second is the least peak.
    """
    peaks = price_peaks(space)
    row = BudgetRow(fixed=0, factors={f.decisions: f for f in peaks.factors}, limit=math.inf)
    bound = peaks.least(space.description.stages)
    limit, best = bound, None
    while True:
        program, proven = (
            Program(space, _no_penalties(space), [row], Ceiling(peaks=peaks, limit=limit), apart=True),
            False,
        )
        for _ in range(_CUTS):
            indices = program.solve(objective_row=0)
            if indices is None:
                proven = True
                break
            found = space.decode(indices)
            best = found if best is None or _ram(space, found) < _ram(space, best) else best
            if _ram(space, best) <= bound:
                return best, bound
            program.forbid(alike=True)
        assert best is not None, "some network has the least peak"
        if limit >= _ram(space, best) - 1:
            return best, _ram(space, best) if proven else bound
        limit = _ram(space, best) - 1


def _most_ram(space: Mobile) -> Blueprint:
    """The network with the greatest peak, all else at its last option.

    Its arena is a lower bound of the greatest: gaps of other arenas, which may be larger, are not looked for.
    """
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
