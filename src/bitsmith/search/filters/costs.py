"""Expected costs of a network whose filters are undecided, differentiable.

A layer's cost is a sum over its filters and the maps that each of them reads, so with shares in place of choices

    weights = sum_b b / 8 window N_b,    N_b = sum_groups (sum_f kept_f p_fb) (sum_m kept_m)
    bitops = positions window sum_b b E[a] N_b,    and so on.

At one-hot shares params, macs and bitops are exactly those of the pruned network. The others are relaxed by what has no
slope: weights and size leave out that streams end in whole bytes; size takes the places of filters as given where a
layer has several options, and its filters may end in another order than that of their bits; bops takes log2 instead of
its ceiling. Size expects a table for every bit-width that some map of a layer has, as if maps were independent:

    256 (sum_b (1 - prod_m (1 - q_mb)) - A) + maps (1 - A),    A = sum_b prod_m q_mb: that all are alike

and where they are alike a table where they are narrowed. These costs lead a search; what comes out is priced exactly.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from bitsmith.blueprint import Budget, Coupling, LayerSpec
from bitsmith.cost import find_cost
from bitsmith.cost.layout import HEADER, PER_AFFINE_CHANNEL, PER_CHANNEL, STREAM_BITS, TABLE
from bitsmith.search.filters.soft import Shares
from bitsmith.space import Precision

RELAXED: tuple[str, ...] = ("params", "weights", "size", "flash", "macs", "bitops", "bops")
STORED = ("size", "flash")  # flash: size and what code takes


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """What of a priced layer its costs need; float64."""

    spec: LayerSpec
    filters: Tensor  # units [filters]
    maps: Tensor  # units [maps]
    weight: Tensor  # bits [options]
    activation: Tensor  # bits [options]
    window: int
    positions: int
    per_channel: int  # learnable numbers beside the weights
    stored_per_channel: int
    reads: int  # kinds of streams that it reads
    narrows: bool  # whether a table brings maps that are alike to fewer bits


def rising_layers(space: Precision, coupling: Coupling) -> frozenset[str]:
    """The layers whose filters `prune` can put in the order of their bits, whatever the choices are.

    They make all of the channels that may change places with each other, and no layer before them, whose order goes
    first, has a choice.
    """
    fixed = coupling.pinned | coupling.shuffled
    sets = {tuple(units.tolist()) for units in coupling.alike if not fixed[units[0]]}
    found, decided = set[str](), np.zeros(len(fixed), bool)
    for layer in space.template.graph.layers:
        units = coupling.units[layer.name]
        if len(space.options[layer.name].weight) > 1:
            if tuple(sorted(units.tolist())) in sets and not decided[units].any():
                found.add(layer.name)
            decided[units] = True
    return frozenset(found)


@final
class RelaxedCosts:
    """The expected values of some costs.

    Args:
        names: among `RELAXED`.
        coupling: of the space's graph.
        rising: layers whose filters end in the order of their bits.

    Raises:
        BudgetError: a cost that the space doesn't know, such as flash of a target that has none.
    """

    def __init__(
        self, space: Precision, coupling: Coupling, names: Sequence[str], *, rising: Collection[str] = ()
    ) -> None:
        assert set(names) <= set(RELAXED), names
        graph, plan = space.template.graph, space.template.grids
        self.names = tuple(names)
        self._layers = []
        for spec in graph.layers:
            node, options = graph[spec.name], space.options[spec.name]
            stored = len(options.weight) > 1 and spec.name not in rising
            place = 0 if not stored else 1 if spec.out_channels <= 256 else 2
            self._layers.append(
                _Layer(
                    spec=spec,
                    filters=torch.from_numpy(coupling.units[spec.name]),
                    maps=torch.from_numpy(coupling.units[node.inputs[0]]),
                    weight=torch.tensor(options.weight, dtype=torch.float64),
                    activation=torch.tensor(options.activation, dtype=torch.float64),
                    window=spec.kernel[0] * spec.kernel[1],
                    positions=spec.macs // spec.weights,
                    per_channel=int(node.bias) + 2 * int(node.norm is not None),
                    stored_per_channel=PER_CHANNEL + place,
                    reads=len({plan.signed[c] for c in plan.layer_reads[spec.name]}),
                    narrows=plan.narrows(spec.name),
                )
            )
        affine = [node for node in graph.nodes if node.op == "affine"]
        self._affine = [torch.from_numpy(coupling.units[node.name]) for node in affine]
        channels = sum(node.shape[0] for node in affine)
        self._fixed = {
            name: find_cost(name, space.costs).fixed(graph, plan) - PER_AFFINE_CHANNEL * channels
            for name in names
            if name in STORED
        }

    def __call__(self, shares: Shares) -> list[Tensor]:
        """The values in the order of the names, float64 scalars."""
        kept = shares.kept.double().cpu()
        totals = {name: torch.zeros((), dtype=torch.float64) for name in self.names}
        affine = sum((kept[units].sum() for units in self._affine), torch.zeros((), dtype=torch.float64))
        for name, fixed in self._fixed.items():
            totals[name] = totals[name] + fixed + PER_AFFINE_CHANNEL * affine
        if "params" in totals:
            totals["params"] = totals["params"] + 2 * affine
        for layer in self._layers:
            p = shares.weight[layer.spec.name].double().cpu()
            q = shares.activation[layer.spec.name].double().cpu()
            for name, value in self._of(layer, p, q, kept).items():
                totals[name] = totals[name] + value
        return [totals[name] for name in self.names]

    def _of(self, layer: _Layer, p: Tensor, q: Tensor, kept: Tensor) -> dict[str, Tensor]:
        groups = layer.spec.groups
        stays = kept[layer.filters]
        filters = (stays[:, None] * p).reshape(groups, -1, p.shape[1]).sum(1)  # [groups, weight bits]
        read = kept[layer.maps]
        maps = read.reshape(groups, -1).sum(1)  # [groups]
        alike = q.ndim == 1  # all maps of the layer
        q = q.expand(len(read), -1) if alike else q
        wires = (read * (q @ layer.activation)).reshape(groups, -1).sum(1)  # bits that a group reads
        counts = layer.window * (filters * maps[:, None]).sum(0)  # weights of each bit-width
        stored = (counts * layer.weight).sum() / 8
        found: dict[str, Tensor] = {}
        for name in self.names:
            match name:
                case "params":
                    found[name] = counts.sum() + layer.per_channel * stays.sum()
                case "weights":
                    found[name] = stored
                case "size" | "flash":
                    narrowing = _tables_of_all(layer, q[0]) if alike else _tables_of_each(layer, q, read)
                    found[name] = HEADER + stored + layer.stored_per_channel * stays.sum() + narrowing
                case "macs":
                    found[name] = layer.positions * counts.sum()
                case "bitops":
                    found[name] = layer.positions * layer.window * ((filters @ layer.weight) * wires).sum()
                case "bops":
                    levels = (2**layer.activation - 1).double()
                    # log2 of all that a group reads; of maps that are alike but undecided, its mean.
                    reach = (
                        (levels.log2() @ q[0]) + (layer.window * maps).clamp_min(1).log2()
                        if alike
                        else (layer.window * (read * (q @ levels)).reshape(groups, -1).sum(1)).clamp_min(1).log2()
                    )
                    found[name] = self._bops(layer, filters, maps, wires, reach)
        return found

    def _bops(self, layer: _Layer, filters: Tensor, maps: Tensor, wires: Tensor, reach: Tensor) -> Tensor:
        """As `bitsmith.cost.bops`, with log2 for its ceiling; [groups] and filters [groups, weight bits]."""
        products = layer.window * wires[:, None] * (layer.weight - 1)
        magnitude = (2 ** (layer.weight - 1) - 1).clamp_min(1)
        accumulator = reach[:, None] + magnitude.log2()
        sums = (layer.window * maps[:, None] - 1).clamp_min(0) * accumulator
        return layer.positions * (filters * (products + sums)).sum()


def _tables_of_all(layer: _Layer, q: Tensor) -> Tensor:
    """Bytes that narrow what a layer reads, all maps alike; q is [options]."""
    return TABLE * layer.reads * layer.narrows * q[layer.activation < STREAM_BITS].sum()


def _tables_of_each(layer: _Layer, q: Tensor, read: Tensor) -> Tensor:
    """Bytes that narrow what a layer reads, each map with bits of its own; q is [maps, options], read is [maps]."""
    alike = q.prod(0)  # [options]
    widths = (1 - (1 - read[:, None] * q).prod(0)).sum()
    differing = TABLE * layer.reads * (widths - alike.sum()) + read.sum() * (1 - alike.sum())
    return differing + _tables_of_all(layer, alike)


def led(budgets: Sequence[Budget]) -> tuple[Budget, ...]:
    """The budgets that a search can be led to."""
    return tuple(budget for budget in budgets if budget.cost in RELAXED)


def excess(values: Sequence[Tensor], limits: Sequence[float]) -> Tensor:
    """By how much budgets are passed, relative to each limit, summed."""
    over = [value / limit - 1 for value, limit in zip(values, limits, strict=True) if value.item() > limit]
    return sum(over, torch.zeros((), dtype=torch.float64))
