"""From shares to one network inside every budget.

Every filter starts at its most likely bits, every unit whose gate is open stays. What is then over a budget is brought
down by the moves that lose least log-likelihood for what they save: fewer bits for a filter or for what a layer reads,
or no unit. A unit weighs the more, the fewer of its kind are left: equal gates would else empty whichever layer saves
most, down to its last channel. What a move saves is the slope of the relaxed costs, taken anew after every few moves;
the result is priced exactly, and brought down further where the relaxed costs were too kind. Room that is left is
filled by the moves upward that gain most. The last resort is the least network of all, so that whenever that one fits,
something is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from bitsmith.blueprint import Bits, Blueprint, Budget, Coupling, Pruned, format_cost, prune
from bitsmith.cost import exact, fits
from bitsmith.errors import BudgetError
from bitsmith.search.filters.costs import RelaxedCosts, excess
from bitsmith.search.filters.soft import Shares
from bitsmith.space import Precision

_AT_ONCE = 0.25  # of the excess that moves take off before slopes are taken anew
_TIGHTER = 0.998
_ROUNDS = 12  # of filling
_LEAST_LOSS = 1e-3  # nats; moves that lose less are alike


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """One network: option indices of each filter [filters] and each layer's activations, units that stay [units]."""

    weight: dict[str, np.ndarray]
    activation: dict[str, int]
    kept: np.ndarray

    def copy(self) -> _Choice:
        weight = {name: indices.copy() for name, indices in self.weight.items()}
        return _Choice(weight=weight, activation=dict(self.activation), kept=self.kept.copy())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Move:
    """A filter, a layer's activations (place -1) or a unit (layer "") at another option, and the log-odds it loses."""

    layer: str
    place: int
    option: int
    loss: float


@final
class FilterDiscretizer:
    """Turns shares into networks.

    Args:
        removable: units that may go, bool [units].
        budgets: hard limits, on costs that `RelaxedCosts` knows.
    """

    def __init__(self, space: Precision, coupling: Coupling, removable: np.ndarray, budgets: Sequence[Budget]) -> None:
        self.space, self.coupling, self.removable, self.budgets = space, coupling, removable, tuple(budgets)
        self._relaxed = RelaxedCosts(space, coupling, [budget.cost for budget in budgets])
        # Units must leave every node a channel: how many each node has of each unit.
        self._nodes = np.unique(
            [np.bincount(units, minlength=len(removable)) for units in coupling.units.values()], axis=0
        )

    def least(self) -> Pruned:
        """A network inside the budgets that nothing can be taken away from: as few units as can be, the fewest bits.

        Raises:
            BudgetError: it is outside; says what each cost is at least.
        """
        missed: list[str] = []
        for highest in (False, True):  # few activation bits can cost a narrowing table, many cost operations
            pruned = self._network(self._least(highest=highest))
            found = pruned.blueprint
            costs = {b: exact(b.cost, found.graph, found.bits, self.space.costs) for b in self.budgets}
            over = {budget: value for budget, value in costs.items() if value > budget.limit}
            if not over:
                return pruned
            missed = missed or [
                f"{b.cost} is at least {format_cost(b.cost, v)} there, more than {b}" for b, v in over.items()
            ]
        raise BudgetError(
            f"not even the least network, with as few filters and bits as there can be, is inside: {'; '.join(missed)}"
        )

    def discretize(self, shares: Shares) -> Pruned:
        """The network that the shares stand for, inside every budget.

        Raises:
            BudgetError: as `least`.
        """
        least = self.least()
        odds = _log_odds(shares)
        choice = self._likeliest(shares)
        limits = [float(budget.limit) for budget in self.budgets]
        while True:
            if not self._shrink(choice, odds, limits):
                return least
            if self._fits(choice):
                break
            found = self._network(choice).blueprint
            for k, budget in enumerate(self.budgets):
                value = exact(budget.cost, found.graph, found.bits, self.space.costs)
                if value > budget.limit:
                    limits[k] *= _TIGHTER * budget.limit / value
        return self._network(self._fill(choice, odds))

    def _least(self, *, highest: bool) -> _Choice:
        kept = np.ones(len(self.removable), bool)
        for unit in np.flatnonzero(self.removable).tolist():
            if self._can_go(kept, unit):
                kept[unit] = False
        layers = self.space.template.graph.layers
        return _Choice(
            weight={layer.name: np.zeros(layer.out_channels, np.int64) for layer in layers},
            activation={name: len(o.activation) - 1 if highest else 0 for name, o in self.space.options.items()},
            kept=kept,
        )

    def _likeliest(self, shares: Shares) -> _Choice:
        kept = (shares.kept.detach().cpu().numpy() >= 0.5) | ~self.removable
        for counts in self._nodes:
            if not (counts * kept).any():  # the likeliest channel of a node stays
                kept[np.argmax(np.where(counts > 0, shares.kept.detach().cpu().numpy(), -1))] = True
        return _Choice(
            weight={name: p.detach().argmax(1).cpu().numpy() for name, p in shares.weight.items()},
            activation={name: int(q.argmax()) for name, q in shares.activation.items()},
            kept=kept,
        )

    def _can_go(self, kept: np.ndarray, unit: int) -> bool:
        """Whether every node keeps a channel without a unit."""
        touched = self._nodes[self._nodes[:, unit] > 0]
        return bool(((touched * kept).sum(1) > touched[:, unit]).all())

    def _shrink(self, choice: _Choice, odds: _Odds, limits: Sequence[float]) -> bool:
        """Moves down until the relaxed costs are inside; False where none is left before."""
        while True:
            over, slopes = self._slopes(choice, limits)
            if not over:
                return True
            saved, taken = 0.0, 0
            for move, saving in self._downward(choice, odds, slopes):
                if taken and saved >= _AT_ONCE * over:
                    break
                if not move.layer and not self._can_go(choice.kept, move.place):
                    continue
                _take(choice, move)
                saved, taken = saved + saving, taken + 1
            if not taken:
                return False

    def _slopes(self, choice: _Choice, limits: Sequence[float]) -> tuple[float, Shares]:
        """How far a choice is over the limits, and the slope of that in every share."""
        shares = self._one_hot(choice)
        over = excess(self._relaxed(shares), limits)
        if not over.requires_grad:
            return 0.0, shares
        over.backward()
        return over.item(), _gradients(shares)

    def _one_hot(self, choice: _Choice) -> Shares:
        eye = {name: torch.eye(len(o.weight), dtype=torch.float64) for name, o in self.space.options.items()}
        kept = torch.from_numpy(choice.kept.astype(np.float64)).requires_grad_()
        weight = {name: eye[name][torch.from_numpy(k)].requires_grad_() for name, k in choice.weight.items()}
        activation = {}
        for name, index in choice.activation.items():
            count = len(self.space.options[name].activation)
            activation[name] = torch.eye(count, dtype=torch.float64)[index].clone().requires_grad_()
        return Shares(weight=weight, activation=activation, kept=kept)

    def _downward(self, choice: _Choice, odds: _Odds, slopes: Shares) -> list[tuple[_Move, float]]:
        """The best move down of every filter, every layer's activations and every unit, with what it saves."""
        moves = []
        for name, indices in choice.weight.items():
            log_p, present = odds.weight[name], choice.kept[self.coupling.units[name]]
            for f in np.flatnonzero(present & (indices > 0)).tolist():
                now = int(indices[f])
                moves += [_Move(layer=name, place=f, option=k, loss=log_p[f, now] - log_p[f, k]) for k in range(now)]
        for name, now in choice.activation.items():
            log_q = odds.activation[name]
            moves += [_Move(layer=name, place=-1, option=k, loss=log_q[now] - log_q[k]) for k in range(now)]
        scarce = self._scarcity(choice.kept)
        for unit in np.flatnonzero(choice.kept & self.removable).tolist():
            moves.append(_Move(layer="", place=unit, option=0, loss=odds.kept[unit] * scarce[unit]))
        best: dict[tuple[str, int], tuple[float, _Move, float]] = {}
        for move in moves:
            saving = -_difference(choice, move, slopes)
            if saving > 0:
                ratio, key = max(move.loss, _LEAST_LOSS) / saving, (move.layer, move.place)
                if key not in best or ratio < best[key][0]:
                    best[key] = ratio, move, saving
        return [(move, saving) for _, move, saving in sorted(best.values(), key=lambda found: found[0])]

    def _scarcity(self, kept: np.ndarray) -> np.ndarray:
        """Per unit how many times fewer channels than at first the narrowest node has that it is in."""
        fewer = self._nodes.sum(1) / np.maximum((self._nodes * kept).sum(1), 1)
        return np.where(self._nodes > 0, fewer[:, None], 0).max(0)

    def _fill(self, choice: _Choice, odds: _Odds) -> _Choice:
        """Moves up, those that gain most for what they cost first: each that has room, as many as fit exactly."""
        for _ in range(_ROUNDS):
            moves = self._with_room(choice, odds)
            fitting, low, high = choice, 0, len(moves)
            while low < high:
                middle = (low + high + 1) // 2
                trial = choice.copy()
                for move in moves[:middle]:
                    _take(trial, move)
                if self._fits(trial):
                    fitting, low = trial, middle
                else:
                    high = middle - 1
            if fitting is choice:
                break
            choice = fitting
        return choice

    def _with_room(self, choice: _Choice, odds: _Odds) -> list[_Move]:
        """Moves up by their worth that the relaxed costs have room for, one after the other."""
        room, slopes = [], []
        for k, budget in enumerate(self.budgets):
            shares = self._one_hot(choice)
            share = self._relaxed(shares)[k] / budget.limit
            if share.requires_grad:
                share.backward()
            room.append(1 - share.item())
            slopes.append(_gradients(shares))
        priced = [(move, [_difference(choice, move, slope) for slope in slopes]) for move in self._upward(choice, odds)]
        accepted = []
        for move, costs in sorted(priced, key=lambda pair: _worth(pair[0], sum(pair[1]))):
            if all(cost <= left for cost, left in zip(costs, room, strict=True)):
                room = [left - cost for cost, left in zip(costs, room, strict=True)]
                accepted.append(move)
        return accepted

    def _upward(self, choice: _Choice, odds: _Odds) -> list[_Move]:
        """One step up for every filter and every layer's activations, and every unit that went."""
        moves = []
        for name, indices in choice.weight.items():
            log_p = odds.weight[name]
            for f in np.flatnonzero(choice.kept[self.coupling.units[name]] & (indices < log_p.shape[1] - 1)).tolist():
                now = int(indices[f])
                moves.append(_Move(layer=name, place=f, option=now + 1, loss=log_p[f, now] - log_p[f, now + 1]))
        for name, now in choice.activation.items():
            log_q = odds.activation[name]
            if now + 1 < len(log_q):
                moves.append(_Move(layer=name, place=-1, option=now + 1, loss=log_q[now] - log_q[now + 1]))
        for unit in np.flatnonzero(~choice.kept & self.removable).tolist():
            moves.append(_Move(layer="", place=unit, option=1, loss=-odds.kept[unit]))
        return moves

    def _fits(self, choice: _Choice) -> bool:
        found = self._network(choice).blueprint
        return fits(found.graph, found.bits, self.budgets, self.space.costs)

    def _network(self, choice: _Choice) -> Pruned:
        bits = {}
        for name, options in self.space.options.items():
            stays = choice.kept[self.coupling.units[name]]
            width = np.array(options.weight)[choice.weight[name]]
            weight = options.weight[0] if len(options.weight) == 1 and stays.all() else tuple((width * stays).tolist())
            bits[name] = Bits(weight=weight, activation=options.activation[choice.activation[name]])
        template: Blueprint = self.space.template
        return prune(template.with_bits(bits))


@dataclass(frozen=True, kw_only=True)
class _Odds:
    """Log-probabilities of options, log-odds of gates."""

    weight: dict[str, np.ndarray]
    activation: dict[str, np.ndarray]
    kept: np.ndarray


def _log_odds(shares: Shares) -> _Odds:
    tiny = 1e-30
    kept = shares.kept.detach().double().cpu()
    return _Odds(
        weight={n: p.detach().double().clamp_min(tiny).log().cpu().numpy() for n, p in shares.weight.items()},
        activation={n: q.detach().double().clamp_min(tiny).log().cpu().numpy() for n, q in shares.activation.items()},
        kept=(kept.clamp_min(tiny).log() - (1 - kept).clamp_min(tiny).log()).numpy(),
    )


def _gradients(shares: Shares) -> Shares:
    return Shares(
        weight={n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in shares.weight.items()},
        activation={n: torch.zeros_like(q) if q.grad is None else q.grad for n, q in shares.activation.items()},
        kept=torch.zeros_like(shares.kept) if shares.kept.grad is None else shares.kept.grad,
    )


def _take(choice: _Choice, move: _Move) -> None:
    if not move.layer:
        choice.kept[move.place] = bool(move.option)
    elif move.place < 0:
        choice.activation[move.layer] = move.option
    else:
        choice.weight[move.layer][move.place] = move.option


def _difference(choice: _Choice, move: _Move, slopes: Shares) -> float:
    """By how much a move changes a cost, by its slopes."""
    if not move.layer:
        slope = float(slopes.kept[move.place])
        return slope if move.option else -slope
    if move.place < 0:
        slope = slopes.activation[move.layer]
        return float(slope[move.option] - slope[choice.activation[move.layer]])
    slope = slopes.weight[move.layer][move.place]
    return float(slope[move.option] - slope[int(choice.weight[move.layer][move.place])])


def _worth(move: _Move, cost: float) -> float:
    """Order of moves up: those that gain most for their cost first, then those that lose least by it."""
    cost = max(cost, 1e-12)
    return move.loss * cost if move.loss > 0 else move.loss / cost
