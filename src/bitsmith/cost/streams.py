"""What networks cost whose streams are float: the same costs, by a grid plan that knows it.

Costs see a graph and bits of layers; what lies between the layers (`Blueprint.stream_bits`) is a choice beside these,
made once for a whole space. It changes `ram` (four bytes per element of every stream) and `size` (no tables).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bitsmith.blueprint import FLOAT, Bits, GridPlan, LayerSpec, NetworkGraph
from bitsmith.cost.additive import COSTS, Cost


def costs_at_streams(stream_bits: int, costs: Mapping[str, Cost] = COSTS) -> Mapping[str, Cost]:
    """The same costs, of networks whose streams have these bits.

    Args:
        stream_bits: as of `Blueprint`; any but 32 (float) changes nothing.

    Example:
        A sum of 16x8x8 that is read twice takes 1,024 bytes of `ram` at 8 bits and 4,096 at 32.
    """
    return {name: _on_floats(cost) for name, cost in costs.items()} if stream_bits == FLOAT else costs


def _on_floats(cost: Cost) -> Cost:
    def entry(graph: NetworkGraph, plan: GridPlan, layer: LayerSpec, bits: Bits) -> float:
        return cost.entry(graph, plan.with_float_streams(), layer, bits)

    def fixed(graph: NetworkGraph, plan: GridPlan) -> float:
        return cost.fixed(graph, plan.with_float_streams())

    return replace(cost, entry=entry, fixed=fixed)
