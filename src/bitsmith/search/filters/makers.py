"""Which filter decides the bits of each map that a layer reads.

A filter's activation bits are those of the map that it makes. Between it and the layers that read the map stand
functions, pools and sums, which hand it on:

- Operators of one tensor, concat, split, shuffle and flatten hand on what each channel comes from.
- Where an add meets, the operand with most priced layers behind it decides, of several the last: in a residual block
  its last convolution, not the shortcut. That is what the code of Zur et al. does (arXiv 1904.09872): the filters of
  the convolution that the residual is added to quantize the sum.
- A gate of one pixel doesn't decide; what it gates does.
- A layer that is used again reads the maps of its deepest use.

What no filter makes, such as the network's input, has no maker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bitsmith.blueprint import PRICED, NetworkGraph, Node


@dataclass(frozen=True, kw_only=True, eq=False)
class Makers:
    """The makers of the maps that one layer reads.

    Args:
        layers: the names that `owner` numbers.
        owner: for each map the number of the layer that makes it, -1 where none does; int64 [maps].
        filter: for each map the filter of that layer; int64 [maps].

    Example:
        A layer that reads the concat of two filters of "a" and one of "b": layers ("a", "b"), owner [0, 0, 1], filter
        [0, 1, 0].
    """

    layers: tuple[str, ...]
    owner: np.ndarray
    filter: np.ndarray


def find_makers(graph: NetworkGraph) -> dict[str, Makers]:
    """For every priced layer the makers of what it reads; see the module's text for the rule."""
    starts, count = {}, 0
    for layer in graph.layers:
        starts[layer.name] = count
        count += layer.out_channels
    depth: dict[str, int] = {}
    made: dict[str, np.ndarray] = {}  # for each channel the number of its filter among all, or -1
    for node in graph.nodes:
        depth[node.name] = max((depth[name] for name in node.inputs), default=0) + (node.op in PRICED)
        if node.op in PRICED:
            made[node.name] = starts[node.owner] + np.arange(node.shape[0])
        elif node.op == "input":
            made[node.name] = np.full(node.shape[0], -1)
        else:
            made[node.name] = _handed_on(node, graph, made, depth)
    found, layers = {}, tuple(starts)
    firsts = np.array(list(starts.values()))
    for name in layers:
        read = max((graph[use].inputs[0] for use in graph.uses[name]), key=lambda source: depth[source])
        numbers = made[read]
        owner = np.where(numbers < 0, -1, np.searchsorted(firsts, numbers, side="right") - 1)
        found[name] = Makers(layers=layers, owner=owner, filter=np.where(owner < 0, 0, numbers - firsts[owner]))
    return found


def _handed_on(node: Node, graph: NetworkGraph, made: Mapping[str, np.ndarray], depth: Mapping[str, int]) -> np.ndarray:
    read = [made[name] for name in node.inputs]
    match node.op:
        case "concat":
            return np.concatenate(read)
        case "split":
            return read[0][node.start : node.start + node.shape[0]]
        case "flatten":
            return np.repeat(read[0], node.shape[0] // len(read[0]))
        case "shuffle":
            return read[0].reshape(node.groups, -1).T.reshape(-1)
        case "add" | "multiply":
            whole = [name for name in node.inputs if graph[name].shape == node.shape] or list(node.inputs)
            return made[max(reversed(whole), key=lambda name: depth[name])]
    return read[0]
