"""Coupling: which filters can only be removed together, and which inputs go with them.

A **unit** is the least that can be removed: output channels of layers, and every input that reads one of them. Every
channel of every tensor belongs to one unit; a filter of a convolution makes a channel of a new unit, and operators
that hand channels on keep theirs. Units become one (union-find over channels) where

- an add or a multiply meets: channel c of all operands (a gate's map of one pixel too);
- a layer is used again: its filters are the same, and so must be the channels that its uses read;
- a convolution has groups: channel j of every group, as all groups must stay equally wide. Where a group has one input
  or one output channel (depthwise), whole groups go instead: their inputs with their outputs.

concat and split only order channels; flatten makes h w features of each. The input's channels and the network's
outputs are pinned. A shuffle transposes (groups, C / groups): without one channel the transposition is another one, so
identity ends there. Its output starts new units, and what is kept must be as many channels before as behind it, a
multiple of its groups: enough to make a network narrower, while single `shuffled` units can't be removed for what
they compute.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from bitsmith.blueprint.graph import PRICED, NetworkGraph, Node
from bitsmith.blueprint.groups import Groups


@dataclass(frozen=True, kw_only=True, eq=False)
class Coupling:
    """The units of a graph, numbered as they first appear in execution order.

    Args:
        units: for each node the unit of each of its output channels, int64 [channels].
        pinned: units that hold a channel of the network's input or output, bool [units].
        shuffled: units that a shuffle reads or makes, bool [units].

    Example:
        A residual block of 16 channels behind a convolution: unit 0 holds filter 0 of the first convolution and of the
        block's last one, since their outputs are added:

        >>> coupling = couple(resnet8)
        >>> coupling.filters(0)
        {'stem': (0,), 'a.conv2': (0,)}
        >>> coupling.readers(0)
        {'a.conv1': (0,), 'b.conv1': (0,), 'b.down': (0,)}
    """

    graph: NetworkGraph
    units: Mapping[str, np.ndarray]
    pinned: np.ndarray
    shuffled: np.ndarray

    @cached_property
    def alike(self) -> tuple[np.ndarray, ...]:
        """The units in sets of alike ones: equally often in every node, pinned ones apart.

        Each set in order, the sets by their first unit. Alike units that are neither pinned nor shuffled may change
        places, the k-th channel of one in a tensor with the k-th of the other: the network stays the same but for the
        order of its channels. So of what is split, the same ones of their channels are in each part.

        Example:
            Of a residual block, the image, the stream, what is inside:

            >>> [units.tolist() for units in couple(block).alike]
            [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9, 10]]
        """
        seen: list[list[tuple[int, int]]] = [[(-1, 1)] if pinned else [] for pinned in self.pinned]
        for index, node in enumerate(self.graph.nodes):
            units = self.units[node.name]
            which = occurrences(units)
            if node.op == "split":
                which = occurrences(self.units[node.inputs[0]])[node.start : node.start + len(units)]
            for unit, occurrence in zip(units.tolist(), which.tolist(), strict=True):
                seen[unit].append((index, occurrence))
        found: dict[tuple[tuple[int, int], ...], list[int]] = {}
        for unit, places in enumerate(seen):
            found.setdefault(tuple(places), []).append(unit)
        return tuple(np.array(units) for units in found.values())

    def left(self, kept: np.ndarray, node: str) -> np.ndarray:
        """The output channels of a node that are left where some units are (`kept`, bool [units]), in order."""
        return np.flatnonzero(kept[self.units[node]])

    def filters(self, unit: int) -> dict[str, tuple[int, ...]]:
        """The filters that make a unit's channels: priced layer -> numbers of its output channels."""
        return self._filters[unit]

    def readers(self, unit: int) -> dict[str, tuple[int, ...]]:
        """The inputs that go with a unit: priced layer -> numbers of its input channels (features), over all uses."""
        return self._readers[unit]

    @cached_property
    def _filters(self) -> tuple[dict[str, tuple[int, ...]], ...]:
        layers = (node for node in self.graph.nodes if node.op in PRICED and not node.shares)
        return self._places((node.name, self.units[node.name]) for node in layers)

    @cached_property
    def _readers(self) -> tuple[dict[str, tuple[int, ...]], ...]:
        # All uses of a layer read the same units in the same places.
        layers = (node for node in self.graph.nodes if node.op in PRICED and not node.shares)
        return self._places((node.name, self.units[node.inputs[0]]) for node in layers)

    def _places(self, layers: Iterable[tuple[str, np.ndarray]]) -> tuple[dict[str, tuple[int, ...]], ...]:
        found: list[dict[str, tuple[int, ...]]] = [{} for _ in self.pinned]
        for name, units in layers:
            for place, unit in enumerate(units.tolist()):
                found[unit][name] = (*found[unit].get(name, ()), place)
        return tuple(found)


def couple(graph: NetworkGraph) -> Coupling:
    """Find the units of a graph; see the module's text for the rule."""
    groups, made = Groups[int](), 0
    channels: dict[str, np.ndarray] = {}
    for node in graph.nodes:
        read = [channels[name] for name in node.inputs]
        if node.op in ("input", "shuffle") or (node.op in PRICED and not node.shares):
            channels[node.name] = np.arange(made, made + node.shape[0])
            made += node.shape[0]
        else:
            channels[node.name] = _handed_on(node, read, channels)
        if node.shares:
            _join(groups, channels[graph[node.shares].inputs[0]], read[0])
        elif node.groups > 1 and node.op == "conv":
            _join_groups(groups, node, read[0], channels[node.name])
        elif node.op in ("add", "multiply"):
            for other in read[1:]:
                _join(groups, read[0], other)

    numbers: dict[int, int] = {}
    unit = np.array([numbers.setdefault(groups.find(channel), len(numbers)) for channel in range(made)], np.int64)
    units = {name: unit[channel] for name, channel in channels.items()}
    pinned, shuffled = np.zeros(len(numbers), bool), np.zeros(len(numbers), bool)
    pinned[units[graph.nodes[0].name]] = pinned[units[graph.output]] = True
    for node in graph.nodes:
        if node.op == "shuffle":
            shuffled[units[node.name]] = shuffled[units[node.inputs[0]]] = True
    return Coupling(graph=graph, units=units, pinned=pinned, shuffled=shuffled)


def keep(coupling: Coupling, kept: np.ndarray) -> NetworkGraph:
    """The graph with some units alone; a network of it is the given one with the other channels cut out.

    Args:
        kept: bool [units]; every pinned one, at least one channel of every node, and at every shuffle as many channels
            before as behind it, a multiple of its groups.
    """
    assert kept[coupling.pinned].all()
    return replace(coupling.graph, nodes=tuple(_narrower(coupling, node, kept) for node in coupling.graph.nodes))


def occurrences(units: np.ndarray) -> np.ndarray:
    """For each channel how many before it are of its unit.

    Example:
        >>> occurrences(np.array([4, 7, 4, 4, 7])).tolist()
        [0, 0, 1, 2, 1]
    """
    by_unit = np.argsort(units, kind="stable")
    found = np.empty(len(units), np.int64)
    found[by_unit] = np.arange(len(units)) - np.searchsorted(units[by_unit], units[by_unit])
    return found


def groups_removed(node: Node, in_channels: int) -> bool:
    """Whether a convolution loses whole groups, rather than a channel of every group."""
    return node.groups > 1 and node.groups in (in_channels, node.shape[0])


def _handed_on(node: Node, read: list[np.ndarray], channels: Mapping[str, np.ndarray]) -> np.ndarray:
    match node.op:
        case "conv" | "linear":
            return channels[node.shares]
        case "concat":
            return np.concatenate(read)
        case "split":
            return read[0][node.start : node.start + node.shape[0]]
        case "flatten":
            return np.repeat(read[0], node.shape[0] // len(read[0]))
    return read[0]


def _join(groups: Groups[int], left: np.ndarray, right: np.ndarray) -> None:
    for a, b in zip(left.tolist(), right.tolist(), strict=True):
        groups.join(a, b)


def _join_groups(groups: Groups[int], node: Node, read: np.ndarray, made: np.ndarray) -> None:
    sides = [read.reshape(node.groups, -1), made.reshape(node.groups, -1)]
    if groups_removed(node, len(read)):
        sides = [np.concatenate(sides, axis=1).T]
    for side in sides:
        for other in side[1:]:
            _join(groups, side[0], other)


def _narrower(coupling: Coupling, node: Node, kept: np.ndarray) -> Node:
    units = coupling.units
    count = int(kept[units[node.name]].sum())
    assert count, node.name
    changed = replace(node, shape=(count, *node.shape[1:]))
    if not node.inputs:
        return changed
    source = kept[units[node.inputs[0]]]
    if node.op == "split":
        return replace(changed, start=int(source[: node.start].sum()))
    if node.op == "shuffle":
        assert count == source.sum(), node.name
        assert count % node.groups == 0, node.name
    if node.op == "conv" and groups_removed(node, len(source)):
        return replace(changed, groups=int(source.sum()) // (len(source) // node.groups))
    return changed
