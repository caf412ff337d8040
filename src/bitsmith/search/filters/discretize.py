"""From shares to one network inside every budget.

Every filter starts at its most likely bits, every unit whose gate is open stays. What is then over a budget is brought
down by the moves that lose least log-likelihood for what they save: fewer bits for a filter or for what a layer reads,
or no unit. A unit weighs the more, the fewer of its kind are left: equal gates would else empty whichever layer saves
most, down to its last channel. What a move saves is the slope of the relaxed costs, taken anew after every few moves;
the result is priced exactly, and brought down further where the relaxed costs were too kind. The last resort is the
least network of all, so that whenever that one fits, something is found. Room that is left is filled
(`bitsmith.search.filters.filling`).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import final

import numpy as np

from bitsmith.blueprint import Budget, Coupling, Pruned
from bitsmith.errors import BudgetError
from bitsmith.search.feasible import some_inside
from bitsmith.search.filters.choices import LEAST_LOSS, Choice, Move, Odds, log_odds
from bitsmith.search.filters.fewest import can_go, channels_of, fewest_filters
from bitsmith.search.filters.filling import fill
from bitsmith.search.filters.pricing import Pricing
from bitsmith.search.filters.soft import Shares
from bitsmith.space import Precision

_AT_ONCE = 0.25  # of the excess that moves take off before slopes are taken anew
_TIGHTER = 0.998


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Discretized:
    """A network inside every budget.

    Args:
        fell_back: whether moves from what the shares say didn't lead inside, so that it is the least network, filled.
    """

    pruned: Pruned
    fell_back: bool


@final
class FilterDiscretizer:
    """Turns shares into networks.

    Args:
        removable: units that may go, bool [units].
        budgets: hard limits; those on costs that `RelaxedCosts` doesn't know are only looked at, they lead nothing.
    """

    def __init__(self, space: Precision, coupling: Coupling, removable: np.ndarray, budgets: Sequence[Budget]) -> None:
        self.space, self.coupling, self.removable = space, coupling, removable
        self._pricing = Pricing(space, coupling, budgets)
        self._nodes = channels_of(coupling)

    def least(self) -> Pruned:
        """A network inside the budgets with as few units as can be (`fewest_filters`), at the fewest weight bits.

        Raises:
            BudgetError: there is none; says what is reachable there and what binds.
        """
        return self._pricing.network(self._least())

    def discretize(self, shares: Shares) -> Discretized:
        """The network that the shares stand for, inside every budget.

        Room is left for nothing: no network stays inside that differs from it by more bits for a single filter or for
        what a single layer reads, or by a single removed unit more, at the bits that its filters had when it went (in
        large networks as far as `filling` looks).

        Raises:
            BudgetError: as `least`.
        """
        least = self._least()
        odds = log_odds(shares, self.coupling.units, self.removable, self._nodes)
        choice = self._inside(self._likeliest(shares), odds)
        filled = fill(least if choice is None else choice, odds, self._pricing)
        return Discretized(pruned=self._pricing.network(filled), fell_back=choice is None)

    def _least(self) -> Choice:
        fewest = fewest_filters(self.space, self.coupling, self.removable)
        try:
            found = some_inside(replace(self.space, template=fewest.blueprint), self._pricing.budgets)
        except BudgetError as error:
            where = "with as few filters as there can be, " if self.removable.any() else ""
            raise BudgetError(f"{where}{error}") from error
        # No cost rises as weight bits fall.
        weight = {layer.name: np.zeros(layer.out_channels, np.int64) for layer in self.space.template.graph.layers}
        activation = {name: o.activation.index(found.bits[name].activation) for name, o in self.space.options.items()}
        return Choice(weight=weight, activation=activation, kept=fewest.kept)

    def _likeliest(self, shares: Shares) -> Choice:
        gates = shares.kept.detach().cpu().numpy()
        kept = (gates >= 0.5) | ~self.removable
        for counts in self._nodes:
            if not (counts * kept).any():  # the likeliest channel of a node stays
                kept[np.argmax(np.where(counts > 0, gates, -1))] = True
        return Choice(
            weight={name: p.detach().argmax(1).cpu().numpy() for name, p in shares.weight.items()},
            activation={name: int(q.argmax()) for name, q in shares.activation.items()},
            kept=kept,
        )

    def _inside(self, choice: Choice, odds: Odds) -> Choice | None:
        """A choice brought down until it is inside every budget; None where that leads nowhere."""
        limits = [float(budget.limit) for budget in self._pricing.led]
        while self._shrink(choice, odds, limits):
            over = False
            for k, (budget, value) in enumerate(zip(self._pricing.led, self._pricing.exact(choice), strict=True)):
                if value > budget.limit:
                    limits[k] *= _TIGHTER * budget.limit / value
                    over = True
            if not over:
                return choice if self._pricing.fits(choice) else None
        return None

    def _shrink(self, choice: Choice, odds: Odds, limits: Sequence[float]) -> bool:
        """Take moves down until the relaxed costs are inside; False where none is left before."""
        while True:
            over, slopes = self._pricing.over(choice, limits)
            if not over:
                return True
            saved, taken = 0.0, 0
            order, left = count(), odds.left(choice)
            moves = [(ratio, next(order), move, saving) for ratio, move, saving in _downward(choice, odds, slopes)]
            heapq.heapify(moves)
            while moves and not (taken and saved >= _AT_ONCE * over):
                _, _, move, saving = heapq.heappop(moves)
                if not move.layer:
                    if not can_go(self._nodes, left, move.place):
                        continue
                    # Units that went since have made this one scarcer: it waits for its new turn.
                    now = odds.removal(left, move.place)
                    if now.loss > move.loss:
                        heapq.heappush(moves, (now.loss / saving, next(order), now, saving))
                        continue
                    left -= self._nodes[:, move.place]
                choice.take(move)
                saved, taken = saved + saving, taken + 1
            if not taken:
                return False


def _downward(choice: Choice, odds: Odds, slopes: Shares) -> list[tuple[float, Move, float]]:
    """The best move down of every filter, layer's activations and unit: its loss by its saving, it, its saving."""
    best: dict[tuple[str, int], tuple[float, Move, float]] = {}
    for move in odds.downward(choice):
        saving = -move.difference(choice, slopes)
        if saving > 0:
            ratio = max(move.loss, LEAST_LOSS) / saving
            if move.of not in best or ratio < best[move.of][0]:
                best[move.of] = ratio, move, saving
    return list(best.values())
