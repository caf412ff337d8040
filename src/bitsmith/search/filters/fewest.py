"""How few filters a network can have: every node keeps a channel."""

from __future__ import annotations

import numpy as np

from bitsmith.blueprint import Bits, Coupling, Pruned, cut
from bitsmith.space import Precision


def fewest_filters(space: Precision, coupling: Coupling, removable: np.ndarray) -> Pruned:
    """A space's network without its removable units, the first ones first, as far as every node keeps a channel.

    The bits of the result are placeholders. No choice of filters then costs less than the least that its bits can cost,
    unless channels were split and joined again in another order, so that it matters which of them stay.

    Args:
        removable: units that may go, bool [units].
    """
    nodes, kept = channels_of(coupling), np.ones(len(removable), bool)
    left = nodes.sum(1)
    for unit in np.flatnonzero(removable).tolist():
        if can_go(nodes, left, unit):
            kept[unit], left = False, left - nodes[:, unit]
    whole = space.template.with_bits({name: Bits(weight=8, activation=8) for name in space.options})
    return cut(whole, coupling, kept)


def channels_of(coupling: Coupling) -> np.ndarray:
    """How many channels of each unit each node has, int [nodes, units], equal nodes once."""
    count = len(coupling.pinned)
    return np.unique([np.bincount(units, minlength=count) for units in coupling.units.values()], axis=0)


def can_go(nodes: np.ndarray, left: np.ndarray, unit: int) -> bool:
    """Whether every node keeps a channel without a unit.

    Args:
        nodes: of `channels_of`.
        left: channels that each node has left, with the unit, int [nodes].
    """
    has = nodes[:, unit]
    return bool((left > has)[has > 0].all())
