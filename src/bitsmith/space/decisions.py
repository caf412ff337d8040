"""Decisions: what a space chooses, where some choices exist only after others.

A decision has a list of options. It may hang on one other decision, its parent: it is *active* only while the parent is
active and stands at one of certain options (the kernel of a stage's third block, while the stage has three blocks). So
the decisions are a forest, and what is wanted of a space follows by recursion over it, exactly, in whole numbers:

    ways(decision) = sum over its options of the product of ways(child) over the children active at that option

An encoding holds one option index per decision. Where the inactive ones stand at 0 it is *canonical*: different
canonical encodings are different choices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

from bitsmith.errors import RecipeError

Option = int | float | str | bool


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """One choice among options.

    Args:
        name: unique; "stage2.block1.kernel".
        options: what may be chosen, in the order in which one is next to the other.
        parent: the decision that it hangs on, or "".
        when: indices of the parent's options at which it is made.
    """

    name: str
    options: tuple[Option, ...]
    parent: str = ""
    when: frozenset[int] = frozenset()


@final
@dataclass(frozen=True, kw_only=True)
class Decisions:
    """A forest of decisions, parents before their children.

    Example:
        Blocks (1, 2) and, where there are two, the second one's kernel (3, 5): 3 choices, [0, 0], [1, 0] and [1, 1].
    """

    decisions: tuple[Decision, ...]

    def __post_init__(self) -> None:
        assert len(self.index) == len(self.decisions), "two decisions of one name"
        for i, decision in enumerate(self.decisions):
            assert decision.options, decision
            assert not decision.parent or self.index[decision.parent] < i, decision

    @cached_property
    def index(self) -> dict[str, int]:
        """Place of each decision in an encoding, by name."""
        return {decision.name: i for i, decision in enumerate(self.decisions)}

    @cached_property
    def sizes(self) -> np.ndarray:
        """Number of options of each decision, int64 [decisions]."""
        return np.array([len(decision.options) for decision in self.decisions], dtype=np.int64)

    def count(self) -> int:
        """How many canonical encodings there are, exactly."""
        return math.prod(self._ways[root] for root in self._roots)

    def at(self, number: int) -> np.ndarray:
        """The canonical encoding of a number 0 .. count - 1, int64 [decisions]; a bijection.

        Raises:
            IndexError: a number outside.
        """
        if not 0 <= number < self.count():
            raise IndexError(f"choice {number} of {self.count()}")
        indices = np.zeros(len(self.decisions), dtype=np.int64)
        self._unrank(self._roots, number, indices)
        return indices

    def sample(self, generator: np.random.Generator) -> np.ndarray:
        """A canonical encoding drawn uniformly from all."""
        return self.at(below(self.count(), generator))

    def active(self, indices: np.ndarray) -> np.ndarray:
        """Which decisions are made, bool [decisions]."""
        found = np.zeros(len(self.decisions), dtype=bool)
        for i, decision in enumerate(self.decisions):
            parent = self._parents[i]
            found[i] = parent is None or (found[parent] and int(indices[parent]) in decision.when)
        return found

    def canonical(self, indices: np.ndarray) -> np.ndarray:
        """The encoding with every inactive decision at 0."""
        return np.where(self.active(indices), indices, 0)

    def mutate(self, indices: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """One active decision, drawn uniformly, at another option, drawn uniformly; what that activates is drawn too.

        Args:
            indices: canonical.

        Raises:
            RecipeError: no active decision has a second option.
        """
        free = np.flatnonzero(self.active(indices) & (self.sizes > 1))
        if not len(free):
            raise RecipeError("every decision has one option; nothing can be mutated: allow more options")
        chosen = int(free[generator.integers(len(free))])
        before = int(indices[chosen])
        after = int((before + generator.integers(1, self.sizes[chosen])) % self.sizes[chosen])
        moved = indices.copy()
        moved[chosen] = after
        for child in self._children[chosen][after]:
            if child not in self._children[chosen][before]:
                self._unrank([child], below(self._ways[child], generator), moved)
        return self.canonical(moved)

    def neighbors(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """All canonical encodings at distance 1 in the sum of absolute differences, in order of decisions.

        So one decision moves by one option, and a step that activates or deactivates others is there only while those
        stand at their first option: a block comes and goes in its first form. The relation is symmetric.

        Args:
            indices: canonical.
        """
        for i in np.flatnonzero(self.active(indices)):
            for step in (-1, 1):
                moved = indices.copy()
                moved[i] += step
                if 0 <= moved[i] < self.sizes[i] and np.array_equal(self.canonical(moved), moved):
                    yield moved

    def options(self, indices: np.ndarray) -> dict[str, Option]:
        """The chosen option of every active decision, by name."""
        return {
            decision.name: decision.options[at]
            for decision, at, active in zip(self.decisions, indices, self.active(indices), strict=True)
            if active
        }

    @cached_property
    def _parents(self) -> list[int | None]:
        return [self.index[decision.parent] if decision.parent else None for decision in self.decisions]

    @cached_property
    def _roots(self) -> list[int]:
        return [i for i, parent in enumerate(self._parents) if parent is None]

    @cached_property
    def _children(self) -> list[list[list[int]]]:
        """[decision][option] -> the children active there."""
        found: list[list[list[int]]] = [[[] for _ in decision.options] for decision in self.decisions]
        for i, (decision, parent) in enumerate(zip(self.decisions, self._parents, strict=True)):
            if parent is not None:
                for option in decision.when:
                    found[parent][option].append(i)
        return found

    @cached_property
    def _ways_at(self) -> list[list[int]]:
        """[decision][option] -> number of choices with it."""
        found: list[list[int]] = [[] for _ in self.decisions]
        for i in reversed(range(len(self.decisions))):
            found[i] = [math.prod(sum(found[child]) for child in children) for children in self._children[i]]
        return found

    @cached_property
    def _ways(self) -> list[int]:
        return [sum(ways) for ways in self._ways_at]

    def _unrank(self, decisions: Sequence[int], number: int, into: np.ndarray) -> None:
        for i in reversed(decisions):
            number, rest = divmod(number, self._ways[i])
            option = 0
            while rest >= self._ways_at[i][option]:
                rest -= self._ways_at[i][option]
                option += 1
            into[i] = option
            self._unrank(self._children[i][option], rest, into)


def below(limit: int, generator: np.random.Generator) -> int:
    """A whole number 0 .. limit - 1, drawn uniformly, however large."""
    bits = (limit - 1).bit_length()
    while True:
        drawn = int.from_bytes(generator.bytes(-(-bits // 8)), "little") >> (-bits % 8)
        if drawn < limit:
            return drawn
