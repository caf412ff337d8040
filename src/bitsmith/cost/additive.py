"""The costs of one inference at batch 1, and their exact values.

Every cost here is additive: value = finish(fixed(graph) + sum over priced layers of entry(layer, bits)). So the
same few functions give the exact value of a blueprint, the expected value under probabilities (differentiable) and the
rows of an integer program, and the three can't disagree. Totals are whole numbers (bytes, operations), exact in
float64 to 2^53. Weights and activations at 32 bits (float) count as 32 bits. What lies between layers
counts as 8 bits, whatever theirs are; of networks whose streams are float, `bitsmith.cost.streams` makes the costs.

One cost is no sum: `ram` is a maximum, which floats (four bytes where integers take one) change. Layers that are
certainly float, as pinned ones are, are part of what is fixed, and all is exact. Where a search may choose whether a
layer is float, its table takes for that what widening the layer's tensors in place would (`bitsmith.cost.memory`):
expected values and integer programs then see a bound that exact values stay below.

| cost | what | unit |
|---|---|---|
| params | learnable numbers: weights, biases, BatchNorm's gamma and beta | count |
| weights | packed weights alone, sum of ceil(n b / 8): what publications count | bytes |
| size | all that the packing layout stores (`bitsmith.cost.layout`) | bytes |
| ram | the static arena of the memory plan (`bitsmith.cost.memory`) | bytes |
| macs | multiply-accumulates of the priced layers | count |
| bitops | sum of MACs bw ba | count |
| bops | bit-operations of products and of sums, filter by filter (`layer_bops`) | count |
| avg_bits | sqrt(bitops / MACs): the uniform bit-width with the same bitops | bits |
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bitsmith.blueprint import FLOAT, Bits, Budget, GridPlan, LayerSpec, NetworkGraph, plan_grids
from bitsmith.cost.bops import layer_bops
from bitsmith.cost.counts import macs_by_bits
from bitsmith.cost.layout import check_operators, fixed_bytes, layer_bytes, weight_bytes
from bitsmith.cost.memory import plan_arena, widening
from bitsmith.errors import BudgetError, CaptureError


def _as_total(graph: NetworkGraph, total: Tensor) -> Tensor:
    return total


def _as_limit(graph: NetworkGraph, limit: float) -> float:
    return limit


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One additive cost.

    Args:
        name: as in budgets.
        entry: (graph, plan, layer, bits) -> what one priced layer adds; a whole number.
        fixed: (graph, plan) -> what the rest adds; a whole number.
        finish: (graph, total as a float64 scalar) -> the value; differentiable, rises with the total.
        total_limit: (graph, limit on the value) -> limit on the total; the inverse of `finish`.
    """

    name: str
    entry: Callable[[NetworkGraph, GridPlan, LayerSpec, Bits], float]
    fixed: Callable[[NetworkGraph, GridPlan], float]
    finish: Callable[[NetworkGraph, Tensor], Tensor] = _as_total
    total_limit: Callable[[NetworkGraph, float], float] = _as_limit

    def value(self, graph: NetworkGraph, total: float) -> float:
        """`finish` of a plain number: by the same kernel as under probabilities, so that both agree to the bit."""
        return float(self.finish(graph, torch.tensor(total, dtype=torch.float64)))


def fractional(
    name: str,
    parts: float,
    entry: Callable[[NetworkGraph, GridPlan, LayerSpec, Bits], float],
    fixed: Callable[[NetworkGraph, GridPlan], float] | None = None,
) -> Cost:
    """A cost whose total is counted in whole parts of its unit: value = total / parts.

    The quotient is the nearest float64, as that of a limit read from text is: a limit met exactly is met.

    Args:
        parts: how many make up one unit, a power of ten: 1e15 femtojoules are a joule.
        entry, fixed: as of `Cost`; nothing is fixed by default.

    Example:
        An energy of 40,000,000,000 fJ is 4e-05 J, inside the budget energy=40uJ.
    """

    def finish(graph: NetworkGraph, total: Tensor) -> Tensor:
        return total / parts

    def total_limit(graph: NetworkGraph, limit: float) -> float:
        return limit * parts

    return Cost(name=name, entry=entry, fixed=fixed or _none_fixed, finish=finish, total_limit=total_limit)


def _none_fixed(graph: NetworkGraph, plan: GridPlan) -> float:
    return 0


def _layer_arena(graph: NetworkGraph, plan: GridPlan, layer: LayerSpec, bits: Bits) -> float:
    """Nothing where the plan knows whether the layer reads floats; else what widening them in place takes at most."""
    carrier = plan.reads[layer.name]
    decides = bits.activation == FLOAT and carrier in plan.direct and carrier not in plan.floats
    return widening(graph, plan, carrier) if decides else 0


def _params_of(graph: NetworkGraph, name: str) -> int:
    node = graph[name]
    return node.shape[0] * (int(node.bias) + 2 * int(node.norm is not None))


def _layer_params(graph: NetworkGraph, plan: GridPlan, layer: LayerSpec, bits: Bits) -> float:
    return layer.weights + _params_of(graph, layer.name)


def _affine_params(graph: NetworkGraph, plan: GridPlan) -> float:
    return sum(_params_of(graph, node.name) for node in graph.nodes if node.op == "affine")


def _layer_weights(graph: NetworkGraph, plan: GridPlan, layer: LayerSpec, bits: Bits) -> float:
    return weight_bytes(layer, bits)


def _layer_size(graph: NetworkGraph, plan: GridPlan, layer: LayerSpec, bits: Bits) -> float:
    return layer_bytes(layer, plan, bits)


def _arena(graph: NetworkGraph, plan: GridPlan) -> float:
    return plan_arena(graph, plan).total


def _layer_macs(graph: NetworkGraph, plan: GridPlan, layer: LayerSpec, bits: Bits) -> float:
    return layer.macs


def _layer_bitops(graph: NetworkGraph, plan: GridPlan, layer: LayerSpec, bits: Bits) -> float:
    return sum(macs * weight * activation for (weight, activation), macs in macs_by_bits(layer, bits).items())


def _layer_bops(graph: NetworkGraph, plan: GridPlan, layer: LayerSpec, bits: Bits) -> float:
    return layer_bops(layer, bits)


def _macs(graph: NetworkGraph) -> int:
    return sum(layer.macs for layer in graph.layers)


def _root_per_mac(graph: NetworkGraph, bitops: Tensor) -> Tensor:
    return (bitops / _macs(graph)).sqrt()


def _bitops_at(graph: NetworkGraph, avg_bits: float) -> float:
    return avg_bits**2 * _macs(graph)


COSTS: dict[str, Cost] = {
    "params": Cost(name="params", entry=_layer_params, fixed=_affine_params),
    "weights": Cost(name="weights", entry=_layer_weights, fixed=_none_fixed),
    "size": Cost(name="size", entry=_layer_size, fixed=fixed_bytes),
    "ram": Cost(name="ram", entry=_layer_arena, fixed=_arena),
    "macs": Cost(name="macs", entry=_layer_macs, fixed=_none_fixed),
    "bitops": Cost(name="bitops", entry=_layer_bitops, fixed=_none_fixed),
    "bops": Cost(name="bops", entry=_layer_bops, fixed=_none_fixed),
    "avg_bits": Cost(
        name="avg_bits",
        entry=_layer_bitops,
        fixed=_none_fixed,
        finish=_root_per_mac,
        total_limit=_bitops_at,
    ),
}


def planned(graph: NetworkGraph, floats: Collection[str] = ()) -> GridPlan:
    """The grid plan of a graph that can be priced.

    Args:
        floats: priced layers that certainly read floats.

    Raises:
        CaptureError: an operator without a price, or no conv or linear layer at all.
    """
    check_operators(graph)
    if not graph.layers:
        raise CaptureError("the network has no conv or linear layer, so there are no bits to choose and none to price")
    return plan_grids(graph).with_floats(floats)


def find_cost(name: str, costs: Mapping[str, Cost]) -> Cost:
    """The cost of a name.

    Raises:
        BudgetError: there is none of that name among these.
    """
    if name not in costs:
        raise BudgetError(f"there is no cost {name!r} here; there are {', '.join(costs)}")
    return costs[name]


def exact(cost: str, graph: NetworkGraph, bits: Mapping[str, Bits], costs: Mapping[str, Cost] = COSTS) -> float:
    """The value of one cost for one inference.

    value = finish(fixed(graph) + sum over priced layers of entry(layer, bits))

    Args:
        cost: a key of `costs`.
        bits: for every priced layer its Bits.
        costs: those of a target (`Target.costs`) know its energy and latency too, `costs_at_streams` float streams.

    Example:
        One conv of 432 weights at 2 bits and 442,368 MACs at w2a8: weights 108 B, bitops 7,077,888, avg_bits 4.

    Raises:
        BudgetError: a cost that isn't among these.
        CaptureError: the graph has an operator without a price, or no priced layer.
    """
    plan = planned(graph, [name for name, chosen in bits.items() if chosen.activation == FLOAT])
    priced = find_cost(cost, costs)
    total = priced.fixed(graph, plan) + sum(priced.entry(graph, plan, la, bits[la.name]) for la in graph.layers)
    return priced.value(graph, total)


def price(graph: NetworkGraph, bits: Mapping[str, Bits], costs: Mapping[str, Cost] = COSTS) -> dict[str, float]:
    """All costs of one blueprint, as `exact`."""
    return {name: exact(name, graph, bits, costs) for name in costs}


def fits(
    graph: NetworkGraph, bits: Mapping[str, Bits], budgets: Sequence[Budget], costs: Mapping[str, Cost] = COSTS
) -> bool:
    """Whether a blueprint is inside every budget; a value equal to its limit is."""
    return all(exact(budget.cost, graph, bits, costs) <= budget.limit for budget in budgets)
