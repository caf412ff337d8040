"""The baselines without which no claim counts: the same bits everywhere, and what is drawn at random."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from bitsmith.blueprint import Budget
from bitsmith.errors import BudgetError, RecipeError
from bitsmith.search.baselines import fill, largest_uniform, random_inside
from bitsmith.search.feasible import some_inside
from bitsmith.search.mobile_random import random_network
from bitsmith.search.problem import Found, Problem
from bitsmith.search.sequence_inside import random_sequence
from bitsmith.seeding import numpy_generator
from bitsmith.space import Mobile, Sequences, Space


@final
@dataclass(frozen=True, kw_only=True)
class Uniform:
    """The largest uniform (weight, activation) bits inside every budget.

    Of a mobile space, the network of one scale and one pair of bits (`Mobile.uniforms`) with the most bitops.

    Args:
        fill: raise bits of single layers (or blocks) greedily afterwards, until nothing more fits. Where nothing
            uniform fits, start from some blueprint that does.
    """

    fill: bool = False

    @property
    def name(self) -> str:
        return "uniform+fill" if self.fill else "uniform"

    @property
    def epochs(self) -> float:
        return 0

    def check(self, space: Space, budgets: Sequence[Budget], *, trained: bool) -> None:
        """Refuse budgets that no bits meet; whether uniform ones do, `search` tells, which costs nothing."""
        some_inside(space, budgets)

    def search(self, problem: Problem) -> Found:
        started = time.monotonic()
        best = largest_uniform(problem.space, problem.budgets)
        if best is None:
            best = some_inside(problem.space, problem.budgets)  # raises where no bits at all fit
            if not self.fill:
                raise BudgetError(no_uniform(problem.budgets))
        if self.fill:
            best = fill(problem.space, best, problem.budgets)
        return Found(best=best, method=self.name, seconds=time.monotonic() - started)


def no_uniform(budgets: Sequence[Budget]) -> str:
    """What to say where only mixed bits are inside budgets."""
    return f"no uniform bits meet {' and '.join(map(str, budgets))}; mixed bits do"


@final
@dataclass(frozen=True, kw_only=True)
class Random:
    """A blueprint drawn from those inside every budget, then filled.

    Bits are drawn uniformly (`random_inside`), whole networks of a mobile space by depth and size (`random_network`),
    sequences evenly over log MACs (`random_sequence`).

    Args:
        tries: draws before one outside is repaired.
        index: which of several independent draws of a seed.
    """

    tries: int = 10_000
    index: int = 0

    def __post_init__(self) -> None:
        for name, least in (("tries", 0), ("index", 0)):
            if getattr(self, name) < least:
                raise RecipeError(f"{name} of random must be at least {least}, got {getattr(self, name)}")

    @property
    def name(self) -> str:
        return drawn_name(self.index)

    @property
    def epochs(self) -> float:
        return 0

    def check(self, space: Space, budgets: Sequence[Budget], *, trained: bool) -> None:
        """Refuse budgets that can't be met."""
        some_inside(space, budgets)

    def search(self, problem: Problem) -> Found:
        started = time.monotonic()
        stream = "random search" if self.index == 0 else f"random search {self.index}"
        generator = numpy_generator(problem.seed, stream)
        space, budgets = problem.space, problem.budgets
        if isinstance(space, Mobile):
            best = random_network(space, budgets, generator, tries=self.tries)
        elif isinstance(space, Sequences):
            best = fill(space, random_sequence(space, budgets, generator, tries=self.tries), budgets)
        else:
            best = fill(space, random_inside(space, budgets, generator, tries=self.tries), budgets)
        return Found(best=best, method=self.name, seconds=time.monotonic() - started)


def drawn_name(index: int) -> str:
    """What the random draw of an index is called.

    Example:
        >>> drawn_name(0), drawn_name(2)
        ('random', 'random (3)')
    """
    return "random" if index == 0 else f"random ({index + 1})"
