"""Which tensors of a network lie on which integer grid.

Every tensor of the low-precision network is an integer times a step. Where the integers come from:

- A **carrier** is a node that makes new values: everything but the transparent nodes. A relu or relu6 that alone reads
  an accumulating carrier, a function or an add merges with it, and is then the carrier itself.
- max_pool, pad, shuffle, split, flatten and dropout are transparent: their output lies on the grid of their input.
- If exactly one priced layer reads a carrier (through transparent nodes) and nothing else does, the edge is **direct**:
  the carrier writes straight onto the layer's own activation grid.
- Otherwise the carrier writes onto a **stream** grid of `stream_bits`, and a priced layer with fewer bits narrows it
  by a table of its own. What a zero `pad` fills is a stream too: one signed bit has no zero. So is what a layer with
  several uses reads, each tensor with or without sign, all at one step.
- The logits (weighted sums whose only way on is the network's output) stay unquantized; so does what a layer that is
  left float alone reads.

Streams that meet in an add or a concat share one step: they form a group, found by union-find.
The same rule holds in search, in training and in lowering, whatever the bits are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from bitsmith.blueprint.graph import ACCUMULATING, CLIPS, FUNCTIONS, JOINING, PRICED, TRANSPARENT, NetworkGraph, Node
from bitsmith.blueprint.groups import Groups

# Functions whose values are never negative.
_UNSIGNED: frozenset[str] = CLIPS | {"sigmoid", "hard_sigmoid"}
# Nodes whose only reader can be a clip that merges with them.
_CLIPPED: frozenset[str] = ACCUMULATING | FUNCTIONS | {"add"}
# Nodes that can write onto a layer's own grid; what joins writes at its operands' step.
_WRITES_ANYWHERE: frozenset[str] = ACCUMULATING | FUNCTIONS | {"input"}


@dataclass(frozen=True, kw_only=True)
class GridPlan:
    """The grids of a graph.

    Args:
        carrier: for each node, the node whose grid its output lies on.
        signed: for each node, whether its values can be negative.
        stream: carriers that write onto a stream grid -> the name of the step group.
        direct: carriers that write onto the grid of one priced layer -> that layer's name.
        reads: for each conv and linear node, the carrier it reads.
        layer_reads: for each priced layer, the carriers that it reads over all its uses, in execution order.
        logits: the carrier that stays unquantized, or None where the output lies on a stream grid.
        floats: carriers that are known to stay unquantized too: direct ones whose layer reads floats, and all streams
            where these are float; the graph alone knows of none, see `with_floats` and `with_float_streams`.
    """

    carrier: Mapping[str, str]
    signed: Mapping[str, bool]
    stream: Mapping[str, str]
    direct: Mapping[str, str]
    reads: Mapping[str, str]
    layer_reads: Mapping[str, tuple[str, ...]]
    logits: str | None
    floats: frozenset[str] = frozenset()

    def with_floats(self, layers: Collection[str]) -> GridPlan:
        """The same plan where these layers read floats (their activations have 32 bits)."""
        return replace(self, floats=frozenset(name for name, layer in self.direct.items() if layer in layers))

    def with_float_streams(self) -> GridPlan:
        """The same plan where every stream stays float (`stream_bits` of 32)."""
        return replace(self, floats=self.floats | self.stream.keys())

    def on_float_stream(self, carrier: str) -> bool:
        """Whether a carrier writes onto a stream that stays float."""
        return carrier in self.stream and carrier in self.floats

    def narrows(self, layer: str) -> bool:
        """Whether a priced layer reads a stream, so that fewer bits than the stream has cost a table."""
        return self.reads[layer] in self.stream

    def reads_signed(self, layer: str) -> bool:
        """Whether what a priced layer reads can be negative in any of its uses."""
        return any(self.signed[carrier] for carrier in self.layer_reads[layer])

    def is_merged(self, clip: Node) -> bool:
        """Whether a relu or relu6 merges with its producer, which then has no grid of its own."""
        return self.carrier[clip.inputs[0]] not in self.stream


def plan_grids(graph: NetworkGraph) -> GridPlan:
    """Lay out the grids of a graph; see the module's text for the rule."""
    merged = _merged_clips(graph)
    carrier, signed = _carriers(graph)
    reads = {node.name: carrier[node.inputs[0]] for node in graph.nodes if node.op in PRICED}
    layer_reads = {layer: tuple(dict.fromkeys(reads[use] for use in uses)) for layer, uses in graph.uses.items()}
    readers = _readers(graph, carrier, merged)

    stream, direct, logits = {}, {}, None
    for name in (node.name for node in graph.nodes if node.name in readers):
        ops = [graph[reader].op if reader else "output" for reader in readers[name]]
        node = graph[name]
        source = graph[node.inputs[0]] if node.op in CLIPS and node.inputs[0] in merged else node
        if ops == ["output"] and _gives_logits(node):
            logits = name
        elif len(ops) == 1 and ops[0] in PRICED and source.op in _WRITES_ANYWHERE and _used_once(graph, readers[name]):
            direct[name] = readers[name][0]
        elif ops:
            stream[name] = name

    group = Groups[str]()
    for name in stream:
        node = graph[name]
        start = graph[node.inputs[0]] if node.op in CLIPS and node.inputs[0] in merged else node
        if start.op in JOINING | CLIPS:  # a clip that stands apart keeps its operand's step
            for read in start.inputs:
                group.join(name, carrier[read])
    for carriers in layer_reads.values():
        for other in carriers[1:]:
            group.join(carriers[0], other)
    stream = {name: group.find(name) for name in stream}
    return GridPlan(
        carrier=carrier,
        signed=signed,
        stream=stream,
        direct=direct,
        reads=reads,
        layer_reads=layer_reads,
        logits=logits,
    )


def _carriers(graph: NetworkGraph) -> tuple[dict[str, str], dict[str, bool]]:
    """For each node its carrier, and whether its values can be negative."""
    carrier: dict[str, str] = {}
    signed: dict[str, bool] = {}
    for node in graph.nodes:
        carrier[node.name] = carrier[node.inputs[0]] if node.op in TRANSPARENT else node.name
        if node.op in _UNSIGNED:
            signed[node.name] = False
        elif node.op in TRANSPARENT | JOINING | {"avg_pool", "multiply"}:
            signed[node.name] = any(signed[read] for read in node.inputs)
        else:
            signed[node.name] = True
    return carrier, signed


def _readers(graph: NetworkGraph, carrier: Mapping[str, str], merged: frozenset[str]) -> dict[str, list[str]]:
    """Who reads each carrier in the end; "" stands for the output. A producer that merged with its clip has no grid."""
    readers: dict[str, list[str]] = {name: [] for name in set(carrier.values()) if name not in merged}
    for node in graph.nodes:
        transparent = node.op in TRANSPARENT and not (node.op == "pad" and node.mode == "zeros")
        if transparent or (node.op in CLIPS and node.inputs[0] in merged):
            continue
        for read in node.inputs:
            readers[carrier[read]].append(node.name)
    readers[carrier[graph.output]].append("")
    return readers


def _gives_logits(node: Node) -> bool:
    """Whether a node is a weighted sum with one scale per channel, which needs no grid to be the output."""
    return node.op in ACCUMULATING - {"multiply"} and not node.divides_by_position


def _used_once(graph: NetworkGraph, readers: list[str]) -> bool:
    layer = graph[readers[0]]
    return len(graph.uses[layer.owner]) == 1


def _merged_clips(graph: NetworkGraph) -> frozenset[str]:
    """Producers whose only reader is a clip."""
    found = set()
    for node in graph.nodes:
        if node.op in CLIPS:
            source = graph[node.inputs[0]]
            alone = graph.consumers[source.name] == (node.name,) and source.name != graph.output
            if alone and source.op in _CLIPPED:
                found.add(source.name)
    return frozenset(found)
