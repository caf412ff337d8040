"""NetworkGraph: the topology of a network as plain data.

A graph is a tuple of nodes in execution order. A node is one operator of a small vocabulary; BatchNorm has no node of
its own where it follows a convolution or a linear layer: it is the `norm` of that node. A BatchNorm that follows
anything else is an `affine` node. Shapes leave out the batch dimension: (channels, height, width) or (features,).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from bitsmith.blueprint.sound import check_sound
from bitsmith.errors import CaptureError

Operator = Literal[
    "input", "conv", "linear", "affine", "add", "concat", "multiply", "relu", "relu6", "hard_swish", "hard_sigmoid",
    "silu", "sigmoid", "tanh", "gelu", "leaky_relu", "max_pool", "avg_pool", "pad", "shuffle", "split", "flatten",
    "dropout",
]  # fmt: skip

# Layers that hold weights and whose bits are decided.
PRICED: frozenset[str] = frozenset({"conv", "linear"})
# Operators that compute in a wide accumulator and can write to any grid.
ACCUMULATING: frozenset[str] = frozenset({"conv", "linear", "affine", "avg_pool", "multiply"})
# Functions of one number: a table from one 8-bit grid onto any other.
FUNCTIONS: frozenset[str] = frozenset({"hard_swish", "hard_sigmoid", "silu", "sigmoid", "tanh", "gelu", "leaky_relu"})
# Operators that hand on the integers they get: their output lies on their input's grid.
TRANSPARENT: frozenset[str] = frozenset({"max_pool", "pad", "shuffle", "split", "flatten", "dropout"})
# Operators whose operands and result lie at one step.
JOINING: frozenset[str] = frozenset({"add", "concat"})
# Clips that merge into the operator before them.
CLIPS: frozenset[str] = frozenset({"relu", "relu6"})
OPERATORS: frozenset[str] = frozenset({"input"}) | PRICED | ACCUMULATING | FUNCTIONS | TRANSPARENT | JOINING | CLIPS


@dataclass(frozen=True, kw_only=True, slots=True)
class Norm:
    """BatchNorm behind a layer: y = (x - mean) / sqrt(var + eps) * gamma + beta."""

    eps: float = 1e-5
    momentum: float = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One operator.

    Args:
        name: unique; the path of the module it came from where there is one ("layer1.0.conv1").
        op: the operator.
        inputs: names of the nodes read, in order.
        shape: of the output, without the batch dimension.
        kernel, stride, dilation: (height, width); of conv and pools.
        padding: (top, left, bottom, right), filled with zeros (max_pool: with minus infinity; pad: see `mode`).
        mode: of pad: how its edges are filled.
        count_pad: of avg_pool: whether padding counts in what it divides by.
        groups: of conv; of shuffle: (groups, channels / groups) is transposed to (channels / groups, groups).
        start: of split: the first channel kept; its shape says how many.
        bias: whether a conv or linear has a bias of its own (beside its norm).
        norm: BatchNorm that follows a conv or linear; of `affine`, the BatchNorm itself.
        shares: of conv and linear: the earlier layer whose parameters (weight, bias, norm, quantizers) it uses; ""
            for its own.
        rate: of dropout.
        slope: of leaky_relu, for negative numbers.
        gain, offset: of input: the network computes x * gain + offset first; one number per channel, or none at all.
        source: "file:line" in the user's model, for messages.
    """

    name: str
    op: Operator
    inputs: tuple[str, ...] = ()
    shape: tuple[int, ...]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros"
    count_pad: bool = True
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    start: int = 0
    bias: bool = False
    norm: Norm | None = None
    shares: str = ""
    rate: float = 0.0
    slope: float = 0.01
    gain: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()
    source: str = ""

    @property
    def owner(self) -> str:
        """The layer whose parameters it uses, itself or another."""
        return self.shares or self.name

    @property
    def divides_by_position(self) -> bool:
        """Whether this is an avg_pool whose windows at the edges divide by less than those inside."""
        return self.op == "avg_pool" and not self.count_pad and any(self.padding)


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSpec:
    """The plain numbers of one priced layer.

    Args:
        weights: number of weights, biases not counted.
        macs: multiply-accumulates for one input, over all nodes that use the layer.
        input_shape, output_shape: without batch; of its first use.
    """

    name: str
    kind: Literal["conv", "linear"]
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    groups: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    weights: int
    macs: int


@dataclass(frozen=True, kw_only=True)
class NetworkGraph:
    """A network as data: nodes in execution order and the name of the node whose output is the network's.

    Nodes that the output doesn't depend on are dropped.

    Raises:
        CaptureError: a node reads one that does not come before it, a name is used twice, the output is unknown.
    """

    nodes: tuple[Node, ...]
    output: str
    _by_name: Mapping[str, Node] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_name: dict[str, Node] = {}
        for node in self.nodes:
            if node.op not in OPERATORS:
                raise CaptureError(f"node {node.name!r}: operator {node.op!r} is not one of {sorted(OPERATORS)}")
            if node.name in by_name:
                raise CaptureError(f"two nodes are called {node.name!r}; names must be unique")
            for read in node.inputs:
                if read not in by_name:
                    raise CaptureError(f"node {node.name!r} reads {read!r}, which does not come before it")
            owner = by_name.get(node.shares)
            if node.shares and (owner is None or owner.op != node.op or owner.shares):
                raise CaptureError(
                    f"node {node.name!r} shares the parameters of {node.shares!r}, "
                    f"which is not an earlier {node.op} with parameters of its own"
                )
            by_name[node.name] = node
        if not self.nodes or self.nodes[0].op != "input" or sum(n.op == "input" for n in self.nodes) != 1:
            raise CaptureError("a graph starts with its one input node")
        if self.output not in by_name:
            raise CaptureError(f"the output {self.output!r} is not a node of the graph")
        alive = {self.nodes[0].name, self.output}
        for node in reversed(self.nodes):
            if node.name in alive:
                alive.update(node.inputs)
        object.__setattr__(self, "nodes", tuple(node for node in self.nodes if node.name in alive))
        object.__setattr__(self, "_by_name", {node.name: node for node in self.nodes})
        for node in self.nodes:
            if node.owner not in alive:
                raise CaptureError(
                    f"node {node.name!r} shares the parameters of {node.shares!r}, which the output doesn't depend on; "
                    "let the first node that it needs own them"
                )

    def __getitem__(self, name: str) -> Node:
        return self._by_name[name]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the network's input, (channels, height, width)."""
        return self.nodes[0].shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the network's output."""
        return self[self.output].shape

    @cached_property
    def consumers(self) -> Mapping[str, tuple[str, ...]]:
        """For each node the names of the nodes that read it, in execution order."""
        found: dict[str, list[str]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for read in dict.fromkeys(node.inputs):
                found[read].append(node.name)
        return {name: tuple(readers) for name, readers in found.items()}

    @cached_property
    def layers(self) -> tuple[LayerSpec, ...]:
        """The priced layers in execution order; nodes that share a layer's parameters count as uses of it."""
        return tuple(self._spec(node) for node in self.nodes if node.op in PRICED and not node.shares)

    @cached_property
    def uses(self) -> Mapping[str, tuple[str, ...]]:
        """For each priced layer the nodes that compute with its parameters, itself first."""
        found: dict[str, list[str]] = {}
        for node in self.nodes:
            if node.op in PRICED:
                found.setdefault(node.owner, []).append(node.name)
        return {name: tuple(nodes) for name, nodes in found.items()}

    def _spec(self, node: Node) -> LayerSpec:
        source = self[node.inputs[0]].shape
        cin, cout = source[0], node.shape[0]
        weights = cout * (cin // node.groups) * node.kernel[0] * node.kernel[1]
        positions = sum(math.prod(self[use].shape[1:]) for use in self.uses[node.name])
        return LayerSpec(
            name=node.name,
            kind="conv" if node.op == "conv" else "linear",
            in_channels=cin,
            out_channels=cout,
            kernel=node.kernel,
            stride=node.stride,
            groups=node.groups,
            input_shape=source,
            output_shape=node.shape,
            weights=weights,
            macs=weights * positions,
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values; fields at their defaults are left out."""
        return {"output": self.output, "nodes": [_node_to_dict(node) for node in self.nodes]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkGraph:
        """The inverse of `to_dict`, for values that may come from anywhere.

        Raises:
            CaptureError: as of the class.
            KeyError, TypeError, AttributeError, ValueError: a field is missing, of the wrong kind, or can't be; see
                `bitsmith.blueprint.sound`.
        """
        graph = cls(nodes=tuple(_node_from_dict(v) for v in values["nodes"]), output=values["output"])
        check_sound(graph)
        return graph


_DEFAULTS = asdict(Node(name="", op="input", shape=()))
_TUPLES = {"inputs", "shape", "kernel", "stride", "padding", "dilation", "gain", "offset"}


def _node_to_dict(node: Node) -> dict[str, Any]:
    kept = {k: v for k, v in asdict(node).items() if k in ("name", "op", "shape") or v != _DEFAULTS[k]}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}


def _node_from_dict(values: Mapping[str, Any]) -> Node:
    read: dict[str, Any] = {k: tuple(v) if k in _TUPLES else v for k, v in values.items()}
    if read.get("norm") is not None:
        read["norm"] = Norm(**read["norm"])
    return Node(**read)
