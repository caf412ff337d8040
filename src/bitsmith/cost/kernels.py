"""What onnxruntime runs of an exported network, by all that its time depends on; the keys of latency tables.

A network is a list of **works**: what one operator of the integer program does, in one or two parts.

- A convolution, linear layer, lone BatchNorm or average pool is the kernel that sums ("main") and, where its result
  lies on fewer than 8 bits, what brings it there ("clip"). Bits of weights don't matter to onnxruntime: they are
  unpacked at load. What reads compressed weights, as an Ethos-U does, takes `Work.weights` into its keys.
- A layer that reads a stream at fewer bits narrows it first: elementwise kernels over what it reads.
- Everything else is one work. The grid it writes onto matters, its values don't.

What depends on a layer's bits belongs to that layer: its own sums, its narrowing, and the clip of whoever writes
straight onto its grid. So the works of a network are those of its layers, each with its own bits, and the free ones. A
relu6 counts as a relu: whether its bound lies inside an 8-bit grid depends on the learned step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from bitsmith.blueprint import (
    CLIPS,
    FUNCTIONS,
    PRICED,
    Bits,
    GridPlan,
    LayerSpec,
    NetworkGraph,
    Node,
)
from bitsmith.errors import RecipeError

Part = Literal["main", "clip"]
STREAM_BITS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A part of what an operator of the integer program does.

    Args:
        operator: its name in the program.
        part: "clip": what brings a sum onto fewer than 8 bits; "main": all else.
        key: all that its time depends on, in words; but for `weights`.
        weights: bits of the weights that it sums, of each filter where these differ; None where it has none.
    """

    operator: str
    part: Part = "main"
    key: str
    weights: int | tuple[int, ...] | None = None


def layer_works(graph: NetworkGraph, plan: GridPlan, layer: LayerSpec, bits: Bits) -> list[Work]:
    """The works that belong to a priced layer, at its own bits.

    Raises:
        RecipeError: the layer is float: what such kernels take isn't measured.
    """
    if bits.is_float:
        raise RecipeError(f"layer {layer.name!r} stays float, and latencies are known of networks of integers alone")
    activation = bits.activation
    if not isinstance(activation, int):
        raise RecipeError(
            f"the maps that layer {layer.name!r} reads differ in bits; latency is measured with one number for all of "
            "them: give its activations one bit-width, or budget another cost"
        )
    works = [
        Work(operator=use, key=_sums(graph, plan, graph[use]), weights=bits.weight) for use in graph.uses[layer.name]
    ]
    if plan.narrows(layer.name):
        if activation < STREAM_BITS:
            onto = _range(activation, plan.reads_signed(layer.name))
            for use in graph.uses[layer.name]:
                read = graph[graph[use].inputs[0]]
                start = "signed" if plan.signed[read.name] else "unsigned"
                works.append(Work(operator=f"{use}:narrow", key=f"narrow {_shape(read)}, {start} to {onto}"))
        return works
    carrier = plan.reads[layer.name]
    return works + list(_writing(graph, plan, carrier, _range(activation, plan.signed[carrier])))


def free_works(graph: NetworkGraph, plan: GridPlan) -> list[Work]:
    """The works that don't depend on any layer's bits."""
    works = []
    for node in graph.nodes:
        carrier = plan.carrier[_end(graph, plan, node).name]
        written_by_layer = carrier in plan.direct and _writer(graph, plan, carrier) is node
        if node.op in ("affine", "avg_pool") and not node.divides_by_position:
            works.append(Work(operator=node.name, key=_sums(graph, plan, node)))
        elif node.op not in PRICED | {"dropout"} and not written_by_layer and not _is_clipped_away(graph, plan, node):
            works.append(Work(operator=node.name, key=_free(graph, node, "")))
        if node.op == "concat":
            works += [
                Work(operator=f"{node.name}:sign{i}", key=f"sign {_shape(graph[read])}")
                for i, read in enumerate(node.inputs)
                if plan.signed[read] != plan.signed[node.name]
            ]
    if plan.logits is None:
        output = _tensor(graph, plan, graph[graph.output])
        works.append(Work(operator=f"{output.name}:float", key=f"dequantize {_shape(output)}"))
    return works


def _range(bits: int, signed: bool) -> str:
    """What kind of grid it is, "" for all of a byte: kernels differ by that, not by how many bits fewer there are."""
    if bits == STREAM_BITS:
        return ""
    return "sign" if bits == 1 and signed else "signed" if signed else "unsigned"


def _writing(graph: NetworkGraph, plan: GridPlan, carrier: str, onto: str) -> Iterator[Work]:
    """What the grid of the layer that reads a carrier makes of the work of who writes it."""
    node = _writer(graph, plan, carrier)
    if node.op in PRICED | {"affine", "avg_pool"} and not node.divides_by_position:
        if onto:
            kind = "sign" if onto == "sign" else "clip"
            yield Work(operator=node.name, part="clip", key=f"{kind} {_shape(node)}")
    else:
        yield Work(operator=node.name, key=_free(graph, node, onto))


def _writer(graph: NetworkGraph, plan: GridPlan, carrier: str) -> Node:
    """The node that writes a carrier's tensor: itself, or the one before a clip that merges."""
    node = graph[carrier]
    return graph[node.inputs[0]] if _is_clipped_away(graph, plan, node) else node


def _is_clipped_away(graph: NetworkGraph, plan: GridPlan, node: Node) -> bool:
    return node.op in CLIPS and plan.is_merged(node)


def _end(graph: NetworkGraph, plan: GridPlan, node: Node) -> Node:
    """The clip that merges into a node, or the node."""
    readers = graph.consumers[node.name]
    clip = graph[readers[0]] if len(readers) == 1 else None
    return clip if clip is not None and _is_clipped_away(graph, plan, clip) else node


def _tensor(graph: NetworkGraph, plan: GridPlan, node: Node) -> Node:
    """The node whose operator writes what a node gives: before dropout and before a clip that merges."""
    while node.op == "dropout" or _is_clipped_away(graph, plan, node):
        node = graph[node.inputs[0]]
    return node


def _shape(node: Node) -> str:
    return "x".join(map(str, node.shape))


def _sums(graph: NetworkGraph, plan: GridPlan, node: Node) -> str:
    """Weighted sums, or sums of ones."""
    source = graph[node.inputs[0]]
    groups = node.shape[0] if node.op in ("affine", "avg_pool") else node.groups
    kind = "average" if node.op == "avg_pool" else "linear" if node.op == "linear" else "conv"
    logits = " logits" if plan.logits == node.name else ""
    return f"{kind}{logits} {_shape(source)} to {_shape(node)}{_window(node)}" + _unless(groups, 1, "groups")


def _free(graph: NetworkGraph, node: Node, onto: str) -> str:
    """Everything that isn't a layer, written onto a kind of grid."""
    reads = " + ".join(_shape(graph[read]) for read in node.inputs if node.op != "input")
    kind = "function" if node.op in FUNCTIONS - {"hard_sigmoid"} else node.op  # one table is as good as another
    if kind == "pad":
        kind = f"pad {node.mode}"
    groups = _unless(node.groups, 1, "groups") if node.op == "shuffle" else ""
    start = _unless(node.start, 0, "from channel") if node.op == "split" else ""
    # A pad of zeros has no window, but a padding all the same.
    shapes = f"{reads} to {_shape(node)}" if reads else _shape(node)
    return f"{kind} {shapes}{_window(node)}{groups}{start}" + (f", onto {onto}" if onto else "")


def _window(node: Node) -> str:
    padding = " ".join(map(str, node.padding))
    return (
        _unless(_pair(node.kernel), "1x1", "kernel")
        + _unless(_pair(node.stride), "1x1", "stride")
        + _unless(padding, "0 0 0 0", "padding")
        + _unless(_pair(node.dilation), "1x1", "dilation")
    )


def _pair(values: tuple[int, int]) -> str:
    return f"{values[0]}x{values[1]}"


def _unless(value: str | int, default: str | int, name: str) -> str:
    return "" if value == default else f", {name} {value}"
