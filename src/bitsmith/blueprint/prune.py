"""Removed filters, made real: a blueprint with filters at 0 bits becomes a narrower network without any.

What is left is put in the order of its bits, since files store filters by rising bits: whatever reads a channel reads
it in its new place, so that no file has to say which filter is stored where. Channels that several layers make (a sum)
have one order for all of them: that of the first layer whose filters differ, and of those that agree with it.

A removed filter has neither weights nor BatchNorm scale and offset: its channel is zero, and what reads it has one
input less. Channels that are coupled go together (`bitsmith.blueprint.coupling`): where one filter of an addition is
removed, so are those that it is added to; a depthwise filter goes with the channel that it reads. So nothing behind a
search, neither costs nor training nor files, ever meets a filter of 0 bits.

In float the narrower network computes what the masked one does, where every function that a removed channel passes
keeps zero. A sigmoid doesn't (it makes 1/2 of it); there the inputs that read the channel count as removed with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bitsmith.blueprint.bits import Bits
from bitsmith.blueprint.blueprint import Blueprint
from bitsmith.blueprint.coupling import Coupling, couple, keep, occurrences
from bitsmith.blueprint.graph import PRICED
from bitsmith.errors import RunError


@dataclass(frozen=True, kw_only=True, eq=False)
class Pruned:
    """A blueprint without its removed filters.

    Args:
        blueprint: of the narrower network; names are those of the given one.
        coupling: of the given network.
        kept: its units that are left, bool [units].
        order: for each of its units that which comes to its place, int64 [units].
    """

    blueprint: Blueprint
    coupling: Coupling
    kept: np.ndarray
    order: np.ndarray

    def left(self, node: str) -> np.ndarray:
        """The output channels of a node of the given network that are left, in their new order."""
        return _left(self.coupling.units[node], self.kept, self.order)


def prune(blueprint: Blueprint) -> Pruned:
    """Cut removed filters out of a network, with all that is coupled with them; the rest goes by rising bits.

    Raises:
        RunError: naming the layer: a removed filter makes an output of the network or is coupled with its input, its
            channel is shuffled, or no channel would be left.

    Example:
        A chain of 4 and 6 filters, the second of the first layer removed:

        >>> bits = {"conv0": Bits(weight=(2, 0, 4, 2), activation=8), "conv1": Bits(weight=8, activation=(4, 8, 4, 4))}
        >>> found = prune(Blueprint(graph=graph, bits=bits)).blueprint
        >>> found.graph["conv0"].shape[0], found.bits["conv0"].weight, found.bits["conv1"].activation
        (3, (2, 2, 4), 4)
    """
    graph, coupling = blueprint.graph, couple(blueprint.graph)
    kept = np.ones(len(coupling.pinned), bool)
    for layer in graph.layers:
        weight = blueprint.bits[layer.name].weight
        if isinstance(weight, int):
            continue
        removed = coupling.units[layer.name][np.array(weight) == 0]
        for reasons, text in (
            (coupling.pinned, "makes an output of the network or is coupled with its input"),
            (coupling.shuffled, "makes a channel that is shuffled"),
        ):
            if reasons[removed].any():
                filter = int(np.flatnonzero((np.array(weight) == 0) & reasons[coupling.units[layer.name]])[0])
                raise RunError(
                    f"filter {filter} of layer {layer.name!r} can't be removed: it {text}; give it 1..8 bits"
                )
        kept[removed] = False
    return cut(blueprint, coupling, kept)


def cut(blueprint: Blueprint, coupling: Coupling, kept: np.ndarray) -> Pruned:
    """A blueprint without some units: `prune` for those who have the coupling and know that these may go.

    Args:
        coupling: of the blueprint's graph.
        kept: units that stay, bool [units]; what bits removed filters have doesn't matter.

    Raises:
        RunError: no channel of a node would be left.
    """
    for node in coupling.graph.nodes:
        if not kept[coupling.units[node.name]].any():
            raise RunError(f"no channel of {node.name!r} would be left; keep one filter of those that make it")
    order = _by_bits(blueprint, coupling, kept)
    if kept.all() and (order == np.arange(len(order))).all():
        return Pruned(blueprint=blueprint, coupling=coupling, kept=kept, order=order)

    def left(widths: int | tuple[int, ...], node: str) -> int | tuple[int, ...]:
        if isinstance(widths, int):
            return widths
        return tuple(np.array(widths)[_left(coupling.units[node], kept, order)].tolist())

    graph = coupling.graph
    bits = {
        name: Bits(weight=left(old.weight, name), activation=left(old.activation, graph[name].inputs[0]))
        for name, old in blueprint.bits.items()
    }
    narrow = replace(blueprint, graph=keep(coupling, kept), bits=bits)
    return Pruned(blueprint=narrow, coupling=coupling, kept=kept, order=order)


def _left(units: np.ndarray, kept: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Which channel of a node comes to each place that is left: the k-th of its unit to the k-th of the unit there."""
    places, by_unit = np.flatnonzero(kept[units]), np.argsort(units, kind="stable")
    first = np.searchsorted(units[by_unit], order[units[places]])
    return by_unit[first + occurrences(units)[places]]


def _by_bits(blueprint: Blueprint, coupling: Coupling, kept: np.ndarray) -> np.ndarray:
    """The order of `Pruned` by which as many layers as can be have filters of rising bits, the first ones first."""
    order = np.arange(len(kept))
    different = {
        node.name: np.array(blueprint.bits[node.name].weight)
        for node in coupling.graph.nodes
        if node.op in PRICED and not node.shares and not isinstance(blueprint.bits[node.name].weight, int)
    }
    for alike in coupling.alike if different else ():
        units = alike[(kept & ~coupling.pinned & ~coupling.shuffled)[alike]]
        if not len(units):
            continue
        keys = np.zeros((len(units), 0), np.int64)
        for name, bits in different.items():
            made = np.isin(coupling.units[name], units)
            if not made.any():
                continue
            by_unit = np.argsort(coupling.units[name][made], kind="stable")
            both = np.concatenate([keys, bits[made][by_unit].reshape(len(units), -1)], axis=1)
            trial = order.copy()
            trial[units] = units[np.lexsort(both.T[::-1])]
            filters = bits[_left(coupling.units[name], kept, trial)][made[kept[coupling.units[name]]]]
            if (filters[1:] >= filters[:-1]).all():
                keys, order = both, trial
    return order
