"""The baselines without which no claim counts: the same bits everywhere, and bits drawn at random."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from bitsmith.blueprint import Budget
from bitsmith.errors import BudgetError
from bitsmith.search.allocate import some_inside
from bitsmith.search.baselines import fill, largest_uniform, random_inside
from bitsmith.search.problem import Found, Problem
from bitsmith.seeding import numpy_generator
from bitsmith.space import Precision


@final
@dataclass(frozen=True, kw_only=True)
class Uniform:
    """The largest uniform (weight, activation) bits inside every budget.

    Args:
        fill: raise single layers greedily afterwards, until nothing more fits. Where no uniform bits fit, start from
            some blueprint that does.
    """

    fill: bool = False

    @property
    def name(self) -> str:
        return "uniform+fill" if self.fill else "uniform"

    @property
    def epochs(self) -> float:
        return 0

    def check(self, space: Precision, budgets: Sequence[Budget], *, trained: bool) -> None:
        """Refuse budgets that no bits meet; whether uniform ones do, `search` tells, which costs nothing."""
        some_inside(space, budgets)

    def search(self, problem: Problem) -> Found:
        started = time.monotonic()
        best = largest_uniform(problem.space, problem.budgets)
        if best is None:
            best = some_inside(problem.space, problem.budgets)  # raises where no bits at all fit
            if not self.fill:
                raise BudgetError(f"no uniform bits meet {' and '.join(map(str, problem.budgets))}; mixed bits do")
        if self.fill:
            best = fill(problem.space, best, problem.budgets)
        return Found(best=best, method=self.name, seconds=time.monotonic() - started)


@final
@dataclass(frozen=True, kw_only=True)
class Random:
    """A blueprint drawn uniformly from those inside every budget, then filled.

    Args:
        tries: draws before one outside is repaired.
    """

    tries: int = 10_000

    @property
    def name(self) -> str:
        return "random"

    @property
    def epochs(self) -> float:
        return 0

    def check(self, space: Precision, budgets: Sequence[Budget], *, trained: bool) -> None:
        """Refuse budgets that can't be met."""
        some_inside(space, budgets)

    def search(self, problem: Problem) -> Found:
        started = time.monotonic()
        generator = numpy_generator(problem.seed, "random search")
        drawn = random_inside(problem.space, problem.budgets, generator, tries=self.tries)
        best = fill(problem.space, drawn, problem.budgets)
        return Found(best=best, method=self.name, seconds=time.monotonic() - started)
