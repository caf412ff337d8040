"""Costs of a mobile space as sums of factors, each of a few decisions; expected under probabilities, differentiable.

    total = fixed + sum over factors of [its block is there] entries[chosen options]

Every cost of `bitsmith.cost` whose pieces depend on a block, on the width that it reads and on whether it reads a
stream has this form: parameters, bytes, operations, energy, latency by formula. `ram` has not: it is a maximum, see
`peaks`.
Under independent probabilities of the decisions the expectation is multilinear,

    E = fixed + sum over factors of P(there) sum entries[i, j, ...] p_i q_j ...

and at one-hot it is the total itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from bitsmith.blueprint import NetworkGraph
from bitsmith.cost import Cost
from bitsmith.space.decisions import Decisions


@final
@dataclass(frozen=True, kw_only=True)
class Factor:
    """What one block adds, or a part of it.

    Args:
        decisions: names, one per axis.
        entries: float64, [options of the first decision, ...].
        when: (decision of how many blocks there are, its first option with this block), or None: always there.
    """

    decisions: tuple[str, ...]
    entries: np.ndarray
    when: tuple[str, int] | None = None

    def at(self, decisions: Decisions, indices: np.ndarray) -> float:
        """What it adds at option indices [decisions]."""
        place = decisions.index
        if self.when is not None and indices[place[self.when[0]]] < self.when[1]:
            return 0.0
        return float(self.entries[tuple(int(indices[place[name]]) for name in self.decisions)])


@final
@dataclass(frozen=True, kw_only=True)
class CostFactors:
    """The additive total of a cost over a mobile space.

    Args:
        cost: whose total it is.
        graph: of any network of the space, for `cost.finish`.
    """

    cost: Cost
    graph: NetworkGraph
    fixed: float
    factors: tuple[Factor, ...]

    def total(self, decisions: Decisions, indices: np.ndarray) -> float:
        """The total at option indices [decisions]."""
        return self.fixed + sum(factor.at(decisions, indices) for factor in self.factors)


@final
class ExpectedTotal:
    """E of a `CostFactors` under probabilities; float64.

    Example:
        A factor [[1, 3], [5, 7]] of two decisions at (.5, .5) and (1, 0): 3.
    """

    def __init__(self, factors: CostFactors) -> None:
        self._fixed = factors.fixed
        self._factors = [(factor, torch.from_numpy(factor.entries)) for factor in factors.factors]

    def __call__(self, p: Mapping[str, Tensor]) -> Tensor:
        """The expected total, a float64 scalar.

        Args:
            p: decision -> one probability per option.
        """
        total = torch.tensor(self._fixed, dtype=torch.float64)
        for factor, entries in self._factors:
            value = entries.to(p[factor.decisions[0]].device)
            for name in reversed(factor.decisions):
                value = value @ p[name].double()
            if factor.when is not None:
                value = value * p[factor.when[0]][factor.when[1] :].double().sum()
            total = total.to(value.device) + value
        return total


@final
class ExpectedCost:
    """The expected value of one cost of a mobile space, differentiable; exact at one-hot.

    avg_bits is the root of two expectations, sqrt(E[bitops] / E[MACs]).

    Args:
        parts: totals that make the value up: one, or bitops and MACs.
    """

    def __init__(self, parts: Sequence[CostFactors]) -> None:
        self._parts = tuple(parts)
        self._totals = [ExpectedTotal(part) for part in parts]

    def __call__(self, p: Mapping[str, Tensor]) -> Tensor:
        """The expected value, a float64 scalar; p as of `ExpectedTotal`."""
        totals = [total(p) for total in self._totals]
        if len(totals) == 2:
            return (totals[0] / totals[1]).sqrt()
        return self._parts[0].cost.finish(self._parts[0].graph, totals[0])
