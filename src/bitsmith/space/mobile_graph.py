"""One mobile network, chosen: plain numbers, and the NetworkGraph that they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from bitsmith.blueprint import NetworkGraph, Node, Norm
from bitsmith.blueprint.graph import Operator

INPUT, STEM, HEAD, CLASSIFIER = "input", "stem", "head", "classifier"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """An inverted residual block: expand, depthwise, squeeze-and-excitation, project, add.

    Args:
        name: what its nodes' names begin with ("stage2.block1").
        channels: of its output.
        stride, kernel: of the depthwise convolution.
        hidden: channels of the depthwise convolution.
        expands: whether there is an expanding convolution; without, `hidden` is the width of the input.
        squeezed: channels of the squeeze, 0 for no squeeze-and-excitation.
        activation: behind the expanding and the depthwise convolution.
        adds: whether the input is added to the output.
    """

    name: str
    channels: int
    stride: int
    kernel: int
    hidden: int
    expands: bool
    squeezed: int
    activation: Operator
    adds: bool

    @property
    def layers(self) -> tuple[str, ...]:
        """Its priced layers in execution order, by the last part of their names."""
        squeeze = ("squeeze", "excite") if self.squeezed else ()
        return (("expand",) if self.expands else ()) + ("depthwise", *squeeze, "project")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class MobileNetwork:
    """A network without its bits.

    Args:
        input_shape: (channels, height, width).
        stem, head: width of the convolution; head 0 for none.
        stem_stride: of the stem.
        activation: behind stem and head.
        outputs: of the classifier.
    """

    input_shape: tuple[int, int, int]
    stem: int
    stem_stride: int
    blocks: tuple[Block, ...]
    head: int
    activation: Operator
    outputs: int

    def graph(self) -> NetworkGraph:
        """Its topology; layers are called stem, stage1.block1.expand, ..., head, classifier."""
        drawing = Drawing(Node(name=INPUT, op="input", shape=self.input_shape))
        y = drawing.conv(STEM, INPUT, self.stem, kernel=3, stride=self.stem_stride)
        y = drawing.same(self.activation, f"{STEM}.activation", y)
        for block in self.blocks:
            y = drawing.block(block, y)
        if self.head:
            y = drawing.same(self.activation, f"{HEAD}.activation", drawing.conv(HEAD, y, self.head))
        y = drawing.mean("pool", y)
        y = drawing.put("flatten", "flatten", (drawing[y].shape[0],), y)
        return drawing.graph(drawing.put("linear", CLASSIFIER, (self.outputs,), y, bias=True))


class Drawing:
    """Writes a graph node by node; every method returns the name of what it wrote last."""

    def __init__(self, first: Node) -> None:
        self._nodes = {first.name: first}

    def __getitem__(self, name: str) -> Node:
        return self._nodes[name]

    def put(self, op: Operator, name: str, shape: tuple[int, ...], *inputs: str, **fields: Any) -> str:
        """Any node."""
        self._nodes[name] = Node(name=name, op=op, inputs=inputs, shape=shape, **fields)
        return name

    def same(self, op: Operator, name: str, *inputs: str) -> str:
        """A node with its first input's shape."""
        return self.put(op, name, self[inputs[0]].shape, *inputs)

    def conv(
        self,
        name: str,
        source: str,
        channels: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> str:
        """A convolution that keeps the size / stride, rounded up; with BatchNorm unless it has a bias."""
        _, height, width = self[source].shape
        return self.put(
            "conv",
            name,
            (channels, -(-height // stride), -(-width // stride)),
            source,
            kernel=(kernel, kernel),
            stride=(stride, stride),
            padding=(kernel // 2,) * 4,
            groups=groups,
            bias=bias,
            norm=None if bias else Norm(),
        )

    def mean(self, name: str, source: str) -> str:
        """The average of each channel."""
        channels, height, width = self[source].shape
        return self.put("avg_pool", name, (channels, 1, 1), source, kernel=(height, width), stride=(height, width))

    def block(self, block: Block, source: str) -> str:
        """An inverted residual block."""
        name, y = block.name, source
        if block.expands:
            y = self.conv(f"{name}.expand", y, block.hidden)
            y = self.same(block.activation, f"{name}.expanded", y)
        y = self.conv(
            f"{name}.depthwise", y, block.hidden, kernel=block.kernel, stride=block.stride, groups=block.hidden
        )
        y = self.same(block.activation, f"{name}.activation", y)
        if block.squeezed:
            s = self.conv(f"{name}.squeeze", self.mean(f"{name}.mean", y), block.squeezed, bias=True)
            s = self.conv(f"{name}.excite", self.same("relu", f"{name}.squeezed", s), block.hidden, bias=True)
            y = self.same("multiply", f"{name}.excited", y, self.same("hard_sigmoid", f"{name}.gate", s))
        y = self.conv(f"{name}.project", y, block.channels)
        return self.same("add", f"{name}.add", y, source) if block.adds else y

    def graph(self, output: str) -> NetworkGraph:
        """The graph of all nodes written."""
        return NetworkGraph(nodes=tuple(self._nodes.values()), output=output)
