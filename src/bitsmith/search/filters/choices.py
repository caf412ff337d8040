"""Choices: one network among all that shares could stand for, and the moves that lead from it to others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from bitsmith.search.filters.soft import Shares
from bitsmith.space import Precision

LEAST_LOSS = 1e-3  # nats; moves that lose less are alike, and units then go by scarcity


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One network.

    Args:
        weight: option indices of each layer's filters, [filters]; those of removed filters are what they had.
        activation: the option index of what each layer reads.
        kept: units that stay, bool [units].
    """

    weight: dict[str, np.ndarray]
    activation: dict[str, int]
    kept: np.ndarray

    def copy(self) -> Choice:
        """Another one, to `take` moves in."""
        weight = {name: indices.copy() for name, indices in self.weight.items()}
        return Choice(weight=weight, activation=dict(self.activation), kept=self.kept.copy())

    def take(self, move: Move) -> None:
        """Change this choice by a move."""
        if not move.layer:
            self.kept[move.place] = bool(move.option)
        elif move.place < 0:
            self.activation[move.layer] = move.option
        else:
            self.weight[move.layer][move.place] = move.option

    def one_hot(self, space: Precision) -> Shares:
        """The shares that stand for this choice alone, float64, with gradients."""
        eye = {name: torch.eye(len(o.weight), dtype=torch.float64) for name, o in space.options.items()}
        weight = {name: eye[name][torch.from_numpy(k)].requires_grad_() for name, k in self.weight.items()}
        activation = {}
        for name, index in self.activation.items():
            count = len(space.options[name].activation)
            activation[name] = torch.eye(count, dtype=torch.float64)[index].clone().requires_grad_()
        kept = torch.from_numpy(self.kept.astype(np.float64)).requires_grad_()
        return Shares(weight=weight, activation=activation, kept=kept)


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """A filter, a layer's activations (place -1) or a unit (layer "") at another option, and the log-odds it loses."""

    layer: str
    place: int
    option: int
    loss: float

    @property
    def of(self) -> tuple[str, int]:
        """What it moves."""
        return self.layer, self.place

    def difference(self, choice: Choice, slopes: Shares) -> float:
        """By how much it changes a cost, by the cost's slopes at a choice."""
        if not self.layer:
            slope = float(slopes.kept[self.place])
            return slope if self.option else -slope
        if self.place < 0:
            slope, now = slopes.activation[self.layer], choice.activation[self.layer]
        else:
            slope, now = slopes.weight[self.layer][self.place], int(choice.weight[self.layer][self.place])
        return float(slope[self.option] - slope[now])


@dataclass(frozen=True, kw_only=True)
class Odds:
    """How likely everything is: what moves lose, and the moves there are.

    Args:
        weight: log-probabilities of each layer's filters [filters, options].
        activation: of what each layer reads, times the number of its filters [options].
        kept: log-odds of units [units].
        units: of each layer's filters [filters].
        removable: units that may go, bool [units].
        nodes: how many channels of each unit each node has, int [nodes, units].
    """

    weight: dict[str, np.ndarray]
    activation: dict[str, np.ndarray]
    kept: np.ndarray
    units: dict[str, np.ndarray]
    removable: np.ndarray
    nodes: np.ndarray

    def downward(self, choice: Choice) -> list[Move]:
        """All single moves to fewer bits, and to one unit less."""
        moves = self._bits(choice, lambda now, count: range(now))
        left = self.left(choice)
        return moves + [self.removal(left, unit) for unit in np.flatnonzero(choice.kept & self.removable).tolist()]

    def upward(self, choice: Choice) -> list[Move]:
        """All single moves to more bits, and all units that went and may come back."""
        moves = self._bits(choice, lambda now, count: range(now + 1, count))
        gone = np.flatnonzero(~choice.kept & self.removable).tolist()
        return moves + [Move(layer="", place=unit, option=1, loss=-float(self.kept[unit])) for unit in gone]

    def _bits(self, choice: Choice, others: Callable[[int, int], range]) -> list[Move]:
        moves = []
        for name, indices in choice.weight.items():
            log_p = self.weight[name]
            for f in np.flatnonzero(choice.kept[self.units[name]]).tolist():
                now = int(indices[f])
                moves += [
                    Move(layer=name, place=f, option=k, loss=float(log_p[f, now] - log_p[f, k]))
                    for k in others(now, log_p.shape[1])
                ]
        for name, now in choice.activation.items():
            log_q = self.activation[name]
            moves += [
                Move(layer=name, place=-1, option=k, loss=float(log_q[now] - log_q[k])) for k in others(now, len(log_q))
            ]
        return moves

    def left(self, choice: Choice) -> np.ndarray:
        """How many channels each node has left, int [nodes]."""
        return self.nodes @ choice.kept.astype(np.int64)

    def removal(self, left: np.ndarray, unit: int) -> Move:
        """A unit's removal: its log-odds times (N / n)^2, n channels left of N in the narrowest node that it is in.

        That is the slope of N^2 / n: as if harm were the reciprocal of what is left.
        """
        has = self.nodes[:, unit] > 0
        scarce = float((self._all[has] / left[has]).max())
        return Move(layer="", place=unit, option=0, loss=max(float(self.kept[unit]), LEAST_LOSS) * scarce**2)

    @cached_property
    def _all(self) -> np.ndarray:
        return self.nodes.sum(1)


def log_odds(shares: Shares, units: Mapping[str, np.ndarray], removable: np.ndarray, nodes: np.ndarray) -> Odds:
    """The odds of shares; arguments as of `Odds`.

    What a layer reads is one decision for all of its filters and counts as often. By Adam its few logits move as
    much as those of a single filter, while a move saves as much as moves of all filters do: by its bare log-odds it
    would nearly always be the cheapest.
    """
    tiny = 1e-30
    kept = shares.kept.detach().double().cpu()
    return Odds(
        weight={n: p.detach().double().clamp_min(tiny).log().cpu().numpy() for n, p in shares.weight.items()},
        activation={
            n: len(units[n]) * q.detach().double().clamp_min(tiny).log().cpu().numpy()
            for n, q in shares.activation.items()
        },
        kept=(kept.clamp_min(tiny).log() - (1 - kept).clamp_min(tiny).log()).numpy(),
        units={name: units[name] for name in shares.weight},
        removable=removable,
        nodes=nodes,
    )


def gradients(shares: Shares) -> Shares:
    """The slopes that a backward pass left in shares."""
    return Shares(
        weight={n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in shares.weight.items()},
        activation={n: torch.zeros_like(q) if q.grad is None else q.grad for n, q in shares.activation.items()},
        kept=torch.zeros_like(shares.kept) if shares.kept.grad is None else shares.kept.grad,
    )
