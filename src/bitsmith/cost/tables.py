"""Costs of all options at once: tables for integer programs, and the expected cost that a search differentiates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from bitsmith.blueprint import FLOAT, Bits, LayerSpec, NetworkGraph, Options
from bitsmith.cost.additive import COSTS, Cost, find_cost, planned


def table(
    cost: str, graph: NetworkGraph, layer: LayerSpec, options: Options, costs: Mapping[str, Cost] = COSTS
) -> np.ndarray:
    """What a layer adds to the additive total of a cost at each pair of its options.

    Returns:
        float64 [number of weight bits, number of activation bits], whole numbers.

    Example:
        432 weights at 2 or 3 bits, activations at 8: `weights` is [[108.], [162.]].
    """
    plan, priced = planned(graph, _certain({layer.name: options})), find_cost(cost, costs)
    return np.array(
        [
            [priced.entry(graph, plan, layer, Bits(weight=w, activation=a)) for a in options.activation]
            for w in options.weight
        ],
        dtype=np.float64,
    )


def _certain(options: Mapping[str, Options]) -> list[str]:
    """Layers that read floats whatever is chosen."""
    return [name for name, choice in options.items() if choice.activation == (FLOAT,)]


@final
@dataclass(frozen=True, kw_only=True)
class CostTables:
    """One cost of every blueprint of a space: value = finish(fixed + sum of one entry per layer).

    Args:
        cost: what `entries` and `fixed` are totals of.
        fixed: what doesn't depend on a layer's bits.
        entries: for every priced layer, in execution order, its `table`.
    """

    cost: Cost
    graph: NetworkGraph
    fixed: float
    entries: Mapping[str, np.ndarray]

    @property
    def decided(self) -> bool:
        """Whether any choice of bits changes this cost."""
        return any(entry.min() < entry.max() for entry in self.entries.values())

    def total(self, indices: np.ndarray) -> float:
        """The additive total at option indices [layers, 2] (weight, activation)."""
        return self.fixed + sum(float(t[w, a]) for t, (w, a) in zip(self.entries.values(), indices, strict=True))

    def value(self, total: float) -> float:
        """The cost's value at an additive total."""
        return self.cost.value(self.graph, total)

    def whole_limit(self, limit: float) -> int:
        """The greatest whole total in reach whose value is at most `limit`, free of rounding errors."""
        if self.greatest() <= limit:
            return int(self.fixed + sum(float(entry.max()) for entry in self.entries.values()))
        # The inverse in floats may be a few units off, by more the larger totals are: bracket it, then halve.
        inside = outside = math.floor(self.cost.total_limit(self.graph, limit))
        step = 1
        while self.value(inside) > limit:
            inside, step = inside - step, 2 * step
        step = 1
        while self.value(outside) <= limit:
            outside, step = outside + step, 2 * step
        while outside - inside > 1:
            middle = (inside + outside) // 2
            inside, outside = (middle, outside) if self.value(middle) <= limit else (inside, middle)
        return inside

    def least(self) -> float:
        """The least value that any choice reaches."""
        return self.value(self.fixed + sum(float(entry.min()) for entry in self.entries.values()))

    def greatest(self) -> float:
        """The greatest value that any choice reaches."""
        return self.value(self.fixed + sum(float(entry.max()) for entry in self.entries.values()))


def tabulate(
    cost: str, graph: NetworkGraph, options: Mapping[str, Options], costs: Mapping[str, Cost] = COSTS
) -> CostTables:
    """The tables of one cost for a graph and the options of its priced layers.

    Raises:
        BudgetError: a cost that isn't among these.
    """
    priced = find_cost(cost, costs)
    return CostTables(
        cost=priced,
        graph=graph,
        fixed=float(priced.fixed(graph, planned(graph, _certain(options)))),
        entries={layer.name: table(cost, graph, layer, options[layer.name], costs) for layer in graph.layers},
    )


@final
class ExpectedCost:
    """The cost of a network whose bits are probabilities, differentiable.

    E = finish(fixed + sum over layers of p^T T q), with T = `table`, p over weight bits, q over activation bits.
    At one-hot probabilities it equals `exact` to the last bit (whole numbers in float64), but for `ram` where a layer's
    activations may be float or not: there it is a bound (`bitsmith.cost.additive`).

    Args:
        cost: a key of `costs`.
        options: for every priced layer its Options.

    Example:
        >>> expected = ExpectedCost("weights", graph, options)          # one conv of 432 weights, options 2 and 3 bits
        >>> expected({"conv": torch.tensor([0.5, 0.5])}, {"conv": torch.tensor([1.0])})
        tensor(135., dtype=torch.float64)
    """

    def __init__(
        self, cost: str, graph: NetworkGraph, options: Mapping[str, Options], costs: Mapping[str, Cost] = COSTS
    ) -> None:
        self._tables = tabulate(cost, graph, options, costs)
        self._entries = {name: torch.from_numpy(entry) for name, entry in self._tables.entries.items()}

    def __call__(
        self, weight_probabilities: Mapping[str, Tensor], activation_probabilities: Mapping[str, Tensor]
    ) -> Tensor:
        """The expected value, a float64 scalar.

        Args:
            weight_probabilities, activation_probabilities: for every priced layer a vector, one entry per option.
        """
        total = torch.tensor(self._tables.fixed, dtype=torch.float64)
        for name, entry in self._entries.items():
            p, q = weight_probabilities[name].double(), activation_probabilities[name].double()
            total = total.to(p.device) + p @ entry.to(p.device) @ q
        return self._tables.cost.finish(self._tables.graph, total)
