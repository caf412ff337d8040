"""Narrower networks: the same topology with a share of every layer's channels.

Below the smallest uniform low-precision network, a narrower one is what anybody would take; a search must beat it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from torch import Tensor

from bitsmith.blueprint import (
    Bits,
    Blueprint,
    Budget,
    Coupling,
    NetworkGraph,
    couple,
    format_cost,
    keep,
)
from bitsmith.cost import COSTS, Cost, exact, fits
from bitsmith.errors import BudgetError, RecipeError
from bitsmith.space.cut import cut_state
from bitsmith.space.pins import Pin
from bitsmith.space.precision import precision
from bitsmith.space.widths import kept_units

# Widths that `largest_width` tells apart: a step changes a layer of 500 channels by one at most.
STEPS = 1000
_SHOWN = 6


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Narrowed:
    """A network with a share of its channels.

    Args:
        graph: of the narrower network; names are those of the given one.
        coupling: of the given network.
        kept: its units that are left, bool [units].
        width: as asked for.
    """

    graph: NetworkGraph
    coupling: Coupling
    kept: np.ndarray
    width: float

    def left(self, node: str) -> np.ndarray:
        """The output channels of a node of the given network that are left, in order."""
        return self.coupling.left(self.kept, node)

    def state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The given network's weights and BatchNorms, of the channels that are left alone.

        Behind a channel shuffle it is lost which channel is which; its readers keep the first ones.

        Args:
            state: as `Captured.state`.
        """
        return cut_state(self.coupling.graph, self.left, state)

    def note(self) -> str:
        """What became narrower, for people."""
        pairs = zip(self.coupling.graph.layers, self.graph.layers, strict=True)
        counts = [(old.name, old.out_channels, new.out_channels) for old, new in pairs]
        changes = dict.fromkeys(f"{old} -> {new}" for _, old, new in counts if new < old)
        more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
        weights = [sum(layer.weights for layer in graph.layers) for graph in (self.coupling.graph, self.graph)]
        text = (
            f"narrowed to {self.width:g}: {', '.join(list(changes)[:_SHOWN]) or 'all'}{more} channels, "
            f"{weights[0]:,} -> {weights[1]:,} weights"
        )
        kept = [f"{name} ({self._why(name)})" for name, old, new in counts if new == old and self._wanted(name, old)]
        kept = [*kept[:3], f"{len(kept) - 3} more"] if len(kept) > 3 else kept
        return f"{text}; all filters left in {', '.join(kept)}" if kept else text

    def _wanted(self, layer: str, filters: int) -> bool:
        """Whether a layer should have lost filters; those that make the network's outputs should not."""
        outputs = self.coupling.units[self.coupling.graph.output]
        return self.width * filters <= filters - 1 and not np.isin(self.coupling.units[layer], outputs).all()

    def _why(self, layer: str) -> str:
        if self.coupling.pinned[self.coupling.units[layer]].all():
            return "coupled with the network's input or output"
        return "coupled with each other by groups, shuffles or splits"


def narrowed(graph: NetworkGraph, width: float, *, divisor: int = 1) -> Narrowed:
    """A network with `width` times the channels in every layer, as it would be built at that width.

    n channels become n' = min(n, max(d, d floor(w n / d + 1/2))), where d is the divisor. What must have equally many
    channels keeps that (`bitsmith.blueprint.couple`): sums and products, depthwise and grouped convolutions (each group
    is narrowed), shuffles, splits, layers used again. The input and the network's outputs stay; of a width of 1 all
    stays. A layer whose filters are cut apart by a split, or come to groups, is rounded part by part.

    Args:
        width: 0 < width <= 1. Wider networks than the given one are the business of its author.
        divisor: of the channels of each part, as 8 where a device likes that.

    Raises:
        RecipeError: a width out of range, or a network without a channel that could be left out.

    Example:
        >>> narrow(resnet8, 0.5)["stem"].shape                                # 16 channels become 8
        (8, 32, 32)
    """
    if not 0 < width <= 1:
        raise RecipeError(
            f"the width {width:g} must be above 0 and at most 1; build a wider network where it is written"
        )
    if divisor < 1:
        raise RecipeError(f"the divisor of channel counts must be at least 1, got {divisor}")
    coupling = couple(graph)
    return _narrowed(coupling, coupling.alike, width, divisor)


def narrow(graph: NetworkGraph, width: float, *, divisor: int = 1) -> NetworkGraph:
    """The graph of `narrowed`."""
    return narrowed(graph, width, divisor=divisor).graph


def largest_width(
    graph: NetworkGraph,
    budgets: Sequence[Budget],
    *,
    weight: int,
    activation: int,
    ends: int | None = 8,
    pins: Mapping[str, Pin] | None = None,
    costs: Mapping[str, Cost] = COSTS,
) -> float:
    """The largest width, in thousandths, whose network at uniform bits meets every budget.

    Found by bisection, since costs rise with the width. Where one doesn't quite (the memory plan is no minimum), the
    width returned meets the budgets all the same, and a wider one might.

    Args:
        weight, activation: bits of every layer but those that `ends` and `pins` fix, as in `precision`.
        costs: of the target.

    Raises:
        BudgetError: not even the narrowest network, one channel in every layer, meets them.
        RecipeError: the network can't be narrowed; pins on layers that it doesn't have.

    Example:
        ResNet-8 at w2a8 with ends at 8 bits takes 20,144 B of weights; for weights=10kB:

        >>> largest_width(resnet8, [Budget.parse("weights=10kB")], weight=2, activation=8)
        0.695
    """
    placeholder = {layer.name: Bits(weight=8, activation=8) for layer in graph.layers}
    space = precision(
        Blueprint(graph=graph, bits=placeholder), (weight,), (activation,), ends=ends, pins=pins, costs=costs
    )
    bits = space.uniform(weight, activation).bits
    coupling = couple(graph)
    sets = coupling.alike

    def at(step: int) -> NetworkGraph:
        return _narrowed(coupling, sets, step / STEPS, 1).graph

    low, high = 1, STEPS
    if fits(graph, bits, budgets, costs):
        return 1.0
    if not fits(at(low), bits, budgets, costs):
        least = {budget: exact(budget.cost, at(low), bits, costs) for budget in budgets}
        missed = [
            f"{budget} (least {format_cost(budget.cost, value)})"
            for budget, value in least.items()
            if value > budget.limit
        ]
        raise BudgetError(
            f"no width of the network meets {' and '.join(missed)} at w{weight}a{activation}: "
            "one channel in every layer is too much; give a larger budget"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(at(middle), bits, budgets, costs) else (low, middle)
    return low / STEPS


def _narrowed(coupling: Coupling, sets: Sequence[np.ndarray], width: float, divisor: int) -> Narrowed:
    if coupling.pinned.all():
        raise RecipeError(
            "the network can't be narrowed: every filter, as those of "
            f"{', '.join(layer.name for layer in coupling.graph.layers[:3])}, makes one of the network's outputs or is "
            "coupled with one of its inputs"
        )
    kept = kept_units(coupling, sets, width, divisor=divisor)
    return Narrowed(graph=keep(coupling, kept), coupling=coupling, kept=kept, width=width)
