"""Which tensors of a network lie on which integer grid.

Every tensor of the low-precision network is an integer times a step. Where the integers come from:

- A **carrier** is a node that makes new values: the input, conv, linear, affine, avg_pool, add, or a relu that stands
  apart from these. A relu or relu6 that alone reads a carrier merges with it, and is then the carrier itself.
- max_pool, flatten and dropout are transparent: their output lies on the grid of their input.
- If exactly one priced layer reads a carrier (through transparent nodes) and nothing else does, the edge is **direct**:
  the carrier writes straight onto the layer's own activation grid.
- Otherwise the carrier writes onto a **stream** grid of `stream_bits`, and a priced layer with fewer bits narrows it
  by a table of its own.
- The logits (an accumulating carrier whose only way on is the network's output) stay unquantized.

Streams that meet in an add share one step: they form a group, found by union-find.
The same rule holds in search, in training and in lowering, whatever the bits are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bitsmith.blueprint.graph import ACCUMULATING, CLIPS, PRICED, TRANSPARENT, NetworkGraph


@dataclass(frozen=True, kw_only=True)
class GridPlan:
    """The grids of a graph.

    Args:
        carrier: for each node, the node whose grid its output lies on.
        signed: for each node, whether its values can be negative.
        stream: carriers that write onto a stream grid -> the name of the step group.
        direct: carriers that write onto the grid of one priced layer -> that layer's name.
        reads: for each priced layer, the carrier it reads.
        logits: the carrier that stays unquantized, or None where the output lies on a stream grid.
    """

    carrier: Mapping[str, str]
    signed: Mapping[str, bool]
    stream: Mapping[str, str]
    direct: Mapping[str, str]
    reads: Mapping[str, str]
    logits: str | None

    def narrows(self, layer: str) -> bool:
        """Whether a priced layer reads a stream, so that fewer bits than the stream has cost a table."""
        return self.reads[layer] in self.stream


def plan_grids(graph: NetworkGraph) -> GridPlan:
    """Lay out the grids of a graph; see the module's text for the rule."""
    merged = _merged_clips(graph)
    carrier: dict[str, str] = {}
    signed: dict[str, bool] = {}
    for node in graph.nodes:
        if node.op in TRANSPARENT:
            carrier[node.name] = carrier[node.inputs[0]]
            signed[node.name] = signed[node.inputs[0]]
            continue
        carrier[node.name] = node.name
        if node.op in CLIPS:
            signed[node.name] = False
        elif node.op == "avg_pool":
            signed[node.name] = signed[node.inputs[0]]
        elif node.op == "add":
            signed[node.name] = any(signed[read] for read in node.inputs)
        else:
            signed[node.name] = True

    # Who reads each carrier in the end. A producer that merged with its clip has no grid of its own.
    readers: dict[str, list[tuple[str, str]]] = {name: [] for name in set(carrier.values()) if name not in merged}
    for node in graph.nodes:
        if node.op in TRANSPARENT or (node.op in CLIPS and node.inputs[0] in merged):
            continue
        for read in node.inputs:
            readers[carrier[read]].append((node.op, node.name))
    readers[carrier[graph.output]].append(("output", graph.output))

    stream, direct, logits = {}, {}, None
    group = _Groups()
    for name in (node.name for node in graph.nodes if node.name in readers):
        ops = [op for op, _ in readers[name]]
        op = graph[name].op
        # An add writes at its operands' step, so it can't land on a layer's own grid without a table.
        source = graph[name].inputs[0] if op in CLIPS else name
        writes_anywhere = op == "input" or (op in CLIPS and source in merged and graph[source].op in ACCUMULATING)
        writes_anywhere = writes_anywhere or op in ACCUMULATING
        if ops == ["output"] and op in ACCUMULATING:
            logits = name
        elif len(ops) == 1 and ops[0] in PRICED and writes_anywhere:
            direct[name] = readers[name][0][1]
        elif ops:
            stream[name] = name
    for name in stream:
        node = graph[name]
        start = graph[node.inputs[0]] if node.op in CLIPS else node
        if start.op == "add":
            for read in start.inputs:
                group.join(name, carrier[read])
        elif node.op in CLIPS and node.inputs[0] not in merged:
            group.join(name, carrier[node.inputs[0]])  # a clip that stands apart keeps its operand's step
    stream = {name: group.find(name) for name in stream}
    reads = {node.name: carrier[node.inputs[0]] for node in graph.nodes if node.op in PRICED}
    return GridPlan(carrier=carrier, signed=signed, stream=stream, direct=direct, reads=reads, logits=logits)


def _merged_clips(graph: NetworkGraph) -> frozenset[str]:
    """Producers whose only reader is a clip."""
    found = set()
    for node in graph.nodes:
        if node.op in CLIPS:
            source = graph[node.inputs[0]]
            alone = graph.consumers[source.name] == (node.name,) and source.name != graph.output
            if alone and source.op in ACCUMULATING | {"add"}:
                found.add(source.name)
    return frozenset(found)


class _Groups:
    """Union-find over names; the representative is the first name joined."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, name: str) -> str:
        while self._parent.get(name, name) != name:
            name = self._parent[name]
        return name

    def join(self, a: str, b: str) -> None:
        a, b = self.find(a), self.find(b)
        if a != b:
            self._parent[b] = a
