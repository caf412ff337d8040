"""What choices cost: relaxed with slopes, and exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np

from bitsmith.blueprint import Bits, Budget, Coupling, Pruned, cut
from bitsmith.cost import exact, fits
from bitsmith.search.filters.choices import Choice, gradients
from bitsmith.search.filters.costs import STORED, RelaxedCosts, excess, led, rising_layers
from bitsmith.search.filters.soft import Shares
from bitsmith.space import Precision


@final
class Pricing:
    """The costs of a space's choices under some budgets.

    Args:
        budgets: those on costs that `RelaxedCosts` doesn't know have no slopes.

    Attributes:
        led: the budgets that have slopes.
        stores_places: whether a cost depends on the order in which filters can be put.
        exchanged: units whose places then don't matter, bool [units]: every layer that makes one makes all those that
            it can change places with, one filter each, and no others.
    """

    def __init__(self, space: Precision, coupling: Coupling, budgets: Sequence[Budget]) -> None:
        self.space, self.coupling, self.budgets, self.led = space, coupling, tuple(budgets), led(budgets)
        rising = rising_layers(space, coupling)
        self._relaxed = RelaxedCosts(space, coupling, [budget.cost for budget in self.led], rising=rising)
        self.exchanged = _exchanged(coupling)
        self.stores_places = any(budget.cost in STORED for budget in self.budgets)

    def network(self, choice: Choice) -> Pruned:
        """The network that a choice stands for."""
        bits = {}
        for name, options in self.space.options.items():
            weight = tuple(np.array(options.weight)[choice.weight[name]].tolist())
            bits[name] = Bits(weight=weight, activation=options.activation[choice.activation[name]])
        return cut(self.space.template.with_bits(bits), self.coupling, choice.kept)

    def fits(self, choice: Choice) -> bool:
        """Whether a choice is inside every budget, exactly."""
        found = self.network(choice).blueprint
        return fits(found.graph, found.bits, self.budgets, self.space.costs)

    def exact(self, choice: Choice) -> list[float]:
        """The exact values of the budgets that have slopes."""
        found = self.network(choice).blueprint
        return [exact(budget.cost, found.graph, found.bits, self.space.costs) for budget in self.led]

    def over(self, choice: Choice, limits: Sequence[float]) -> tuple[float, Shares]:
        """How far a choice is over limits by its relaxed costs, each relative to its limit, and the slopes of that."""
        shares = choice.one_hot(self.space)
        over = excess(self._relaxed(shares), limits)
        if not over.requires_grad:
            return 0.0, shares
        over.backward()
        return over.item(), gradients(shares)

    def room(self, choice: Choice) -> list[tuple[float, Shares]]:
        """What each budget has left by its relaxed cost, as a share of its limit, and the slopes of what is used."""
        found = []
        for k, budget in enumerate(self.led):
            shares = choice.one_hot(self.space)
            used = self._relaxed(shares)[k] / budget.limit
            if used.requires_grad:
                used.backward()
            found.append((1 - used.item(), gradients(shares)))
        return found


def _exchanged(coupling: Coupling) -> np.ndarray:
    found = np.zeros(len(coupling.pinned), bool)
    made = [coupling.units[layer.name] for layer in coupling.graph.layers]
    for units in coupling.alike:
        if not (coupling.pinned | coupling.shuffled)[units[0]]:
            makers = [np.sort(of) for of in made if units[0] in of]
            found[units] = all(np.array_equal(of, units) for of in makers)
    return found
