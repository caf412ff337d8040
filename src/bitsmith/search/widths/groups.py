"""Which channels share one width.

Units that occur equally often in every node (`Coupling.alike`: the channels of a residual stream, what
only a concatenation reads, a depthwise convolution with the one before it) are kept as a prefix: the first w of C. One
decision is the width of one such set, or of a **block**: all sets of C units whose layers have equally many channels.
Channels of the network's input and outputs have no width, and shuffled ones keep theirs, as a width of their own would
be another shuffle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from bitsmith.blueprint import PRICED, Blueprint, Coupling, NetworkGraph, couple, keep

Widths = tuple[int, ...]  # of each group


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class WidthGroup:
    """Sets of units that have one width.

    Args:
        sets: the units of each, in order, `channels` of them.
        channels: C, the greatest width.
        layers: the priced and affine nodes that make these channels.
    """

    sets: tuple[np.ndarray, ...]
    channels: int
    layers: tuple[str, ...]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class WidthGroups:
    """All groups of a network, in execution order.

    Example:
        ResNet-8 has 6 coupled groups and 3 blocks, of 16, 32 and 64 channels:

        >>> groups = width_groups(resnet8, blocks=True)
        >>> groups.channels, groups.scaled(0.25)
        ((16, 32, 64), (4, 8, 16))
        >>> groups.network((16, 8, 5))["layer2.0.conv1"].shape[0]
        8
    """

    coupling: Coupling
    groups: tuple[WidthGroup, ...]

    @property
    def channels(self) -> Widths:
        """C of each group."""
        return tuple(group.channels for group in self.groups)

    def scaled(self, share: float) -> Widths:
        """The widths of the homogeneous network: max(1, floor(share C + 1/2)) everywhere."""
        return tuple(max(1, math.floor(share * c + 0.5)) for c in self.channels)

    def kept(self, widths: Sequence[int]) -> np.ndarray:
        """The units that are left, bool [units]."""
        assert len(widths) == len(self.groups), widths
        assert all(1 <= w <= c for w, c in zip(widths, self.channels, strict=True)), (widths, self.channels)
        kept = np.ones(len(self.coupling.pinned), bool)
        for group, width in zip(self.groups, widths, strict=True):
            for units in group.sets:
                kept[units[width:]] = False
        return kept

    def network(self, widths: Sequence[int]) -> NetworkGraph:
        """The graph at some widths; names are those of the whole one."""
        return keep(self.coupling, self.kept(widths))

    def blueprint(self, template: Blueprint, widths: Sequence[int]) -> Blueprint:
        """A blueprint of the whole network, whose layers have one pair of bits each, at some widths."""
        return replace(template, graph=self.network(widths))


def width_groups(graph: NetworkGraph, *, blocks: bool) -> WidthGroups:
    """The groups of a network that have more than one width to choose.

    Args:
        blocks: one group for all sets of equally many units and channels, rather than one for each set.
    """
    coupling = couple(graph)
    makers = [n for n in graph.nodes if (n.op in PRICED and not n.shares) or n.op == "affine"]
    found: dict[object, list[tuple[np.ndarray, list[str]]]] = {}
    for number, units in enumerate(coupling.alike):
        if coupling.pinned[units].any() or coupling.shuffled[units].any() or len(units) == 1:
            continue
        layers = [node for node in makers if np.isin(units[0], coupling.units[node.name])]
        key = (layers[0].shape[0], len(units)) if blocks else number
        found.setdefault(key, []).append((units, [node.name for node in layers]))
    groups = tuple(
        WidthGroup(
            sets=tuple(units for units, _ in sets),
            channels=len(sets[0][0]),
            layers=tuple(dict.fromkeys(name for _, names in sets for name in names)),
        )
        for sets in found.values()
    )
    return WidthGroups(coupling=coupling, groups=groups)
