"""From probabilities to one partition of the filters inside every budget, pairs kept.

It starts at the counts nearest to N p. What is over a budget is brought inside by moving filters of a layer from one
pair to another, one or all that are at it, those first that lose least log-likelihood,

    log P(n) - log P(n') = m (log p_k - log p_j) + log(n_j + m)! (n_k - m)! / (n_j! n_k!)    for m of pair k to pair j,

for what they save; all costs are exact at every step. One filter alone may save nothing: the table of a bit-width stays
until no map has it. Room that is left is filled by moves to pairs with more bits, those first that gain most, or lose
least, for what they cost, until none fits. Where no move saves and budgets are still passed, the last resort is the
likeliest that is inside of partitions with all filters of a layer alike, and it is told.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import final

import numpy as np
from torch import Tensor

from bitsmith.blueprint import Bits, Budget, format_cost
from bitsmith.cost import find_cost
from bitsmith.cost.additive import planned
from bitsmith.errors import BudgetError
from bitsmith.search.feasible import some_inside
from bitsmith.search.filters.partitions import Counts, Partitions
from bitsmith.space import Precision

_AT_ONCE = 0.25  # of the excess that moves take off before savings are taken anew
_LEAST_LOSS = 1e-3  # nats; moves that lose less are alike

_LEAST_SAVING = 1e-12  # relative to a limit; less is rounding

_Move = tuple[str, int, int, bool]  # layer, from choice, to choice, all filters of it or one


@final
@dataclass(frozen=True, kw_only=True)
class Settled:
    """A partition inside every budget.

    Args:
        fell_back: whether moves from what the probabilities say didn't lead inside, so that all filters of a layer
            became alike.
    """

    counts: Counts
    fell_back: bool


@final
class Settler:
    """Finds partitions inside budgets.

    Args:
        budgets: hard limits; any cost of the space.
    """

    def __init__(self, partitions: Partitions, budgets: Sequence[Budget]) -> None:
        self.partitions, self.budgets = partitions, tuple(budgets)
        space = partitions.space
        self._graph = space.template.graph
        self._plan = planned(self._graph)
        self._costs = [find_cost(budget.cost, space.costs) for budget in self.budgets]
        self._fixed = [cost.fixed(self._graph, self._plan) for cost in self._costs]
        self._known: dict[tuple[str, Bits], np.ndarray] = {}

    def least(self) -> Counts:
        """Some partition inside the budgets, all filters of a layer alike; found before any training.

        It goes from one pair everywhere, layer by layer to the pair that takes most off what is over.

        Raises:
            BudgetError: none was found; says what is reachable, or how near it came.
        """
        partitions, space = self.partitions, self.partitions.space
        some_inside(Precision(template=space.template, options=partitions.used, costs=space.costs), self.budgets)
        best: tuple[float, Counts] | None = None
        for pair in range(len(partitions.pairs)):
            counts = partitions.homogeneous(pair)
            over = self.over(counts)
            while over > 0:
                trials = [self._whole(counts, name, k) for name in partitions.free for k in self._others(counts, name)]
                nearest = min(trials, key=self.over)
                if self.over(nearest) >= over:
                    break
                counts, over = nearest, self.over(nearest)
            if over == 0:
                return counts
            if best is None or over < best[0]:
                best = over, counts
        assert best is not None
        values = self._values(self._totals(best[1]))
        near = ", ".join(format_cost(b.cost, value) for b, value in zip(self.budgets, values, strict=True))
        raise BudgetError(
            f"no filters at these pairs were found inside {', '.join(map(str, self.budgets))}; the nearest take "
            f"{near}: give pairs with fewer bits, or larger budgets"
        )

    def over(self, counts: Counts) -> float:
        """By how much budgets are passed, relative to each limit, summed."""
        return self._over(self._totals(counts))

    def settle(self, p: Mapping[str, Tensor]) -> Settled:
        """The partition that probabilities stand for, inside every budget.

        Args:
            p: of the free layers, [choices].

        Raises:
            BudgetError: as `least`, where moves don't lead inside.
        """
        log_p = {name: q.detach().double().clamp_min(1e-30).log().numpy() for name, q in p.items()}
        counts = self.partitions.nearest(p)
        fell_back = not self._shrink(counts, log_p)
        if fell_back:
            counts = self._likeliest_alike(log_p)
        while self._fill(counts, log_p):
            pass
        return Settled(counts=counts, fell_back=fell_back)

    def _likeliest_alike(self, log_p: Mapping[str, np.ndarray]) -> Counts:
        """The likeliest inside of the partitions at one pair everywhere, and what `least` finds."""
        pairs = (self.partitions.homogeneous(pair) for pair in range(len(self.partitions.pairs)))
        inside = [self.least(), *(counts for counts in pairs if self.over(counts) == 0)]
        return max(inside, key=lambda counts: sum(float(counts[name] @ q) for name, q in log_p.items()))

    def _shrink(self, counts: Counts, log_p: Mapping[str, np.ndarray]) -> bool:
        """Moves down until all budgets are met; False where none is left before."""
        totals = self._totals(counts)
        while (over := self._over(totals)) > 0:
            savings: dict[_Move, float] = {}
            for move in self._moves(counts):
                saving = over - self._over(totals + self._difference(counts, move))
                if saving > _LEAST_SAVING:
                    savings[move] = saving
            if not savings:
                return False
            before = {name: n.copy() for name, n in counts.items()}
            self._take_cheapest(counts, log_p, savings, enough=_AT_ONCE * over)
            if self._over(self._totals(counts)) >= over:  # what each saves alone, they don't save together
                counts.update(before)
                self._take_cheapest(counts, log_p, savings, enough=0.0)
            totals = self._totals(counts)
        return True

    def _take_cheapest(
        self, counts: Counts, log_p: Mapping[str, np.ndarray], savings: Mapping[_Move, float], *, enough: float
    ) -> None:
        """Take moves by what they lose for what they save until that is enough, at least one; one of all filters of a
        choice only by itself."""
        order = count()
        heap = [(max(_loss(counts, log_p, m), _LEAST_LOSS) / saved, next(order), m) for m, saved in savings.items()]
        heapq.heapify(heap)
        saved, taken = 0.0, 0
        while heap and not (taken and saved >= enough):
            _, _, move = heapq.heappop(heap)
            name, source, _, whole = move
            if whole:
                if not taken:
                    _apply(counts, move)
                    return
                continue
            if not counts[name][source]:  # others took the last one
                continue
            _apply(counts, move)
            saved, taken = saved + savings[move], taken + 1
            if counts[name][source]:  # the next filter loses more
                ratio = max(_loss(counts, log_p, move), _LEAST_LOSS) / savings[move]
                heapq.heappush(heap, (ratio, next(order), move))

    def _fill(self, counts: Counts, log_p: Mapping[str, np.ndarray]) -> bool:
        """Moves to pairs with no fewer bits, as long as they fit: those first that gain most for what they cost, then
        those that lose least for it.

        What is refused once may fit later: a bit-width that all maps leave takes its table with it, and one that a map
        came to costs no table any more. So it is called until it finds nothing.

        Returns:
            Whether there was one.
        """
        order, totals, found = count(), self._totals(counts), False
        limits = np.array([budget.limit for budget in self.budgets], dtype=np.float64)

        def worth(move: _Move) -> float:
            return _loss(counts, log_p, move) / max(
                float((self._difference(counts, move) / limits).clip(0).sum()), 1e-12
            )

        heap = [(worth(move), next(order), move) for move in self._moves(counts) if self._rises(move)]
        heapq.heapify(heap)
        refused: set[_Move] = set()
        while heap:
            _, _, move = heapq.heappop(heap)
            name, source, target, whole = move
            if move in refused or not counts[name][source]:
                continue
            trial = totals + self._difference(counts, move)
            if self._over(trial) > 0:
                refused.add(move)
                continue
            _apply(counts, move)
            totals, found = trial, True
            steps = [move, *((name, target, k, each) for k in range(len(counts[name])) for each in (False, whole))]
            for again in dict.fromkeys(steps):
                if again not in refused and counts[name][again[1]] and self._rises(again):
                    heapq.heappush(heap, (worth(again), next(order), again))
        return found

    def _rises(self, move: _Move) -> bool:
        name, source, target, _ = move
        choices = self.partitions.choices[name]
        return source != target and all(a <= b for a, b in zip(choices[source], choices[target], strict=True))

    def _moves(self, counts: Counts) -> list[_Move]:
        """Of one filter each, and of all of a layer's choice."""
        return [
            (name, k, j, whole)
            for name in self.partitions.free
            for k in np.flatnonzero(counts[name]).tolist()
            for j in range(len(counts[name]))
            for whole in ((False, True) if counts[name][k] > 1 else (False,))
            if j != k
        ]

    def _others(self, counts: Counts, name: str) -> list[int]:
        return [k for k in range(len(counts[name])) if not counts[name][k]]

    def _whole(self, counts: Counts, name: str, choice: int) -> Counts:
        """All filters of a layer at one choice."""
        found = counts | {name: np.zeros_like(counts[name])}
        found[name][choice] = counts[name].sum()
        return found

    def _difference(self, counts: Counts, move: _Move) -> np.ndarray:
        """What a move adds to the totals of the budgets' costs."""
        moved = counts | {move[0]: counts[move[0]].copy()}
        _apply(moved, move)
        touched = {move[0], *self.partitions.readers[move[0]]}
        before, after = (sum(self._entries(name, c) for name in touched) for c in (counts, moved))
        return np.asarray(after) - np.asarray(before)

    def _totals(self, counts: Counts) -> np.ndarray:
        return np.array(self._fixed, dtype=np.float64) + sum(self._entries(name, counts) for name in counts)

    def _entries(self, name: str, counts: Counts) -> np.ndarray:
        """What a layer adds to each budget's cost."""
        key = name, self.partitions.bits(name, counts)
        if key not in self._known:
            layer = self.partitions.layers[name]
            entries = [cost.entry(self._graph, self._plan, layer, key[1]) for cost in self._costs]
            self._known[key] = np.array(entries, dtype=np.float64)
        return self._known[key]

    def _values(self, totals: np.ndarray) -> list[float]:
        return [cost.value(self._graph, total) for cost, total in zip(self._costs, totals.tolist(), strict=True)]

    def _over(self, totals: np.ndarray) -> float:
        pairs = zip(self._values(totals), self.budgets, strict=True)
        return sum(max(0.0, value / budget.limit - 1) for value, budget in pairs if value > budget.limit)


def _loss(counts: Counts, log_p: Mapping[str, np.ndarray], move: _Move) -> float:
    """The log-likelihood that a move loses."""
    name, k, j, _ = move
    n, q, m = counts[name].tolist(), log_p[name], _many(counts, move)
    ways = math.lgamma(n[j] + m + 1) - math.lgamma(n[j] + 1) + math.lgamma(n[k] - m + 1) - math.lgamma(n[k] + 1)
    return m * float(q[k] - q[j]) + ways


def _many(counts: Counts, move: _Move) -> int:
    """How many filters a move takes."""
    return int(counts[move[0]][move[1]]) if move[3] else 1


def _apply(counts: Counts, move: _Move) -> None:
    name, k, j, _ = move
    many = _many(counts, move)
    counts[name][k] -= many
    counts[name][j] += many
