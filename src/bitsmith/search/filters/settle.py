"""From probabilities to one partition of the filters inside every budget, pairs kept.

It starts at the counts nearest to N p. What is over a budget is brought inside by moving single filters of a layer from
one pair to another, those first that lose least log-likelihood,

    log P(n) - log P(n') = log p_k - log p_j + log((n_j + 1) / n_k)    for a filter that goes from pair k to pair j,

for what they save; all costs are exact at every step. Room that is left is filled by moves to pairs with more bits. The
last resort is the partition that `least` found before the search.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
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

_Move = tuple[str, int, int]  # layer, from choice, to choice


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

    def settle(self, p: Mapping[str, Tensor]) -> Counts:
        """The partition that probabilities stand for, inside every budget.

        Args:
            p: of the free layers, [choices].

        Raises:
            BudgetError: as `least`.
        """
        least = self.least()
        log_p = {name: q.detach().double().clamp_min(1e-30).log().numpy() for name, q in p.items()}
        counts = self.partitions.nearest(p)
        if not self._shrink(counts, log_p):
            counts = least
        self._fill(counts, log_p)
        return counts

    def _shrink(self, counts: Counts, log_p: Mapping[str, np.ndarray]) -> bool:
        """Moves down until all budgets are met; False where none is left before."""
        totals = self._totals(counts)
        while (over := self._over(totals)) > 0:
            savings: dict[_Move, float] = {}
            for move in self._moves(counts):
                saving = over - self._over(totals + self._difference(counts, move))
                if saving > 0:
                    savings[move] = saving
            taken = self._take_cheapest(counts, log_p, savings, enough=_AT_ONCE * over)
            if not taken:
                return False
            totals = self._totals(counts)
        return True

    def _take_cheapest(
        self, counts: Counts, log_p: Mapping[str, np.ndarray], savings: Mapping[_Move, float], *, enough: float
    ) -> int:
        """Take moves by what they lose for what they save until that is enough; how many."""
        order = count()
        heap = [(max(_loss(counts, log_p, m), _LEAST_LOSS) / saved, next(order), m) for m, saved in savings.items()]
        heapq.heapify(heap)
        saved, taken = 0.0, 0
        while heap and not (taken and saved >= enough):
            _, _, move = heapq.heappop(heap)
            if not counts[move[0]][move[1]]:  # others took the last one
                continue
            _apply(counts, move)
            saved, taken = saved + savings[move], taken + 1
            if counts[move[0]][move[1]]:  # the next filter loses more
                ratio = max(_loss(counts, log_p, move), _LEAST_LOSS) / savings[move]
                heapq.heappush(heap, (ratio, next(order), move))
        return taken

    def _fill(self, counts: Counts, log_p: Mapping[str, np.ndarray]) -> None:
        """Moves to pairs with no fewer bits, those that gain most for their cost first, as long as they fit."""
        order, totals = count(), self._totals(counts)
        limits = np.array([budget.limit for budget in self.budgets], dtype=np.float64)

        def worth(move: _Move) -> float:
            loss = _loss(counts, log_p, move)
            cost = max(float((self._difference(counts, move) / limits).clip(0).sum()), 1e-12)
            return loss * cost if loss > 0 else loss / cost

        heap = [(worth(move), next(order), move) for move in self._moves(counts) if self._rises(move)]
        heapq.heapify(heap)
        refused: set[_Move] = set()
        while heap:
            _, _, move = heapq.heappop(heap)
            name, source, target = move
            if move in refused or not counts[name][source]:
                continue
            trial = totals + self._difference(counts, move)
            if self._over(trial) > 0:
                refused.add(move)
                continue
            _apply(counts, move)
            totals = trial
            steps = [move, *((name, target, k) for k in range(len(counts[name])))]
            for again in steps:
                if again not in refused and counts[name][again[1]] and self._rises(again):
                    heapq.heappush(heap, (worth(again), next(order), again))

    def _rises(self, move: _Move) -> bool:
        name, source, target = move
        choices = self.partitions.choices[name]
        return source != target and all(a <= b for a, b in zip(choices[source], choices[target], strict=True))

    def _moves(self, counts: Counts) -> list[_Move]:
        """Of one filter each."""
        return [
            (name, k, j)
            for name in self.partitions.free
            for k in np.flatnonzero(counts[name]).tolist()
            for j in range(len(counts[name]))
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
    """The log-likelihood that a move of one filter loses."""
    name, k, j = move
    n, q = counts[name], log_p[name]
    return float(q[k] - q[j] + np.log((n[j] + 1) / n[k]))


def _apply(counts: Counts, move: _Move) -> None:
    name, k, j = move
    counts[name][k] -= 1
    counts[name][j] += 1
