"""The weights of a network of which some channels are left out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from bitsmith.blueprint import PRICED, Coupling, Node, groups_removed

_PER_FILTER = ("bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")


def cut_state(coupling: Coupling, kept: np.ndarray, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights and BatchNorms of the channels that are left.

    Behind a channel shuffle it is lost which channel is which; its readers keep the first ones.

    Args:
        coupling: of the given network.
        kept: its units that are left, bool [units].
        state: of its float network.
    """
    found = dict(state)
    for node in coupling.graph.nodes:
        if node.shares or (node.op not in PRICED and node.norm is None):
            continue
        filters = np.flatnonzero(kept[coupling.units[node.name]])
        for key in _PER_FILTER:
            if (name := f"{node.name}.{key}") in state:
                found[name] = state[name][filters].clone()
        if node.op in PRICED:
            name = f"{node.name}.weight"
            found[name] = state[name][filters][:, _read(coupling, kept, node)].clone()
    return found


def _read(coupling: Coupling, kept: np.ndarray, node: Node) -> np.ndarray:
    """Positions in a filter of the given network that are left: its inputs are those of one group."""
    source = coupling.units[node.inputs[0]]
    one_group = len(source) // node.groups
    if groups_removed(node, len(source)):
        return np.arange(one_group)
    return np.flatnonzero(kept[source[:one_group]])
