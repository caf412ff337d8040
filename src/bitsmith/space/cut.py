"""The weights of a network of which some channels are left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

from bitsmith.blueprint import PRICED, NetworkGraph, Node, groups_removed

_PER_FILTER = ("bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")


def cut_state(graph: NetworkGraph, left: Callable[[str], np.ndarray], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights and BatchNorms of the channels that are left.

    Behind a channel shuffle it is lost which channel is which; its readers keep the first ones.

    Args:
        graph: of the given network.
        left: of a node of it: its output channels that are left, in their new order, as `Pruned.left`.
        state: of its float network.
    """
    found = dict(state)
    for node in graph.nodes:
        if node.shares or (node.op not in PRICED and node.norm is None):
            continue
        filters = left(node.name)
        for key in _PER_FILTER:
            if (name := f"{node.name}.{key}") in state:
                found[name] = state[name][filters].clone()
        if node.op in PRICED:
            name = f"{node.name}.weight"
            read = _read(node, graph[node.inputs[0]].shape[0], left(node.inputs[0]))
            found[name] = state[name][filters][:, read].clone()
    return found


def _read(node: Node, channels: int, left: np.ndarray) -> np.ndarray:
    """Positions in a filter of the given network that are left: its inputs are those of one group.

    Args:
        channels: that the given node reads.
        left: those of them that are left.
    """
    if groups_removed(node, channels):
        return np.arange(channels // node.groups)
    return left[: len(left) // node.groups]
