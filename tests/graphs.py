"""Hand-written graphs for tests: a pencil that draws nodes, and the networks whose counts others have published."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from bitsmith.blueprint import Bits, Blueprint, NetworkGraph, Node, Norm, couple


class Sketch:
    """Draws a graph node by node; every method returns the new node's name."""

    def __init__(self, shape: tuple[int, ...] = (3, 8, 8)) -> None:
        self.nodes: dict[str, Node] = {"x": Node(name="x", op="input", shape=shape)}

    def _add(self, node: Node) -> str:
        self.nodes[node.name] = node
        return node.name

    def _window(self, source: str, kernel: int, stride: int, padding: int) -> tuple[int, int]:
        _, h, w = self.nodes[source].shape
        return (h + 2 * padding - kernel) // stride + 1, (w + 2 * padding - kernel) // stride + 1

    def conv(
        self, name: str, source: str, channels: int, kernel: int = 3, stride: int = 1, *,
        groups: int = 1, bias: bool = False, norm: bool = True,
    ) -> str:  # fmt: skip
        pad = kernel // 2
        return self._add(
            Node(
                name=name, op="conv", inputs=(source,), shape=(channels, *self._window(source, kernel, stride, pad)),
                kernel=(kernel, kernel), stride=(stride, stride), padding=(pad, pad, pad, pad), groups=groups,
                bias=bias, norm=Norm() if norm else None,
            )
        )  # fmt: skip

    def linear(self, name: str, source: str, features: int) -> str:
        return self._add(Node(name=name, op="linear", inputs=(source,), shape=(features,), bias=True))

    def max_pool(self, name: str, source: str, kernel: int = 2, stride: int = 2, padding: int = 0) -> str:
        shape = (self.nodes[source].shape[0], *self._window(source, kernel, stride, padding))
        return self._add(
            Node(name=name, op="max_pool", inputs=(source,), shape=shape, kernel=(kernel, kernel),
                 stride=(stride, stride), padding=(padding, padding, padding, padding))
        )  # fmt: skip

    def global_pool(self, name: str, source: str) -> str:
        channels, h, w = self.nodes[source].shape
        return self._add(Node(name=name, op="avg_pool", inputs=(source,), shape=(channels, 1, 1), kernel=(h, w)))

    def flatten(self, name: str, source: str) -> str:
        c, h, w = self.nodes[source].shape
        return self._add(Node(name=name, op="flatten", inputs=(source,), shape=(c * h * w,)))

    def affine(self, name: str, source: str) -> str:
        return self._add(Node(name=name, op="affine", inputs=(source,), shape=self.nodes[source].shape, norm=Norm()))

    def same(self, op: str, name: str, *sources: str) -> str:
        """An operator that keeps its shape: add, relu, relu6, dropout."""
        return self._add(Node(name=name, op=op, inputs=sources, shape=self.nodes[sources[0]].shape))  # type: ignore[arg-type]

    def put(self, op: str, name: str, shape: tuple[int, ...], *sources: str, **fields: Any) -> str:
        """Any node, spelled out."""
        return self._add(Node(name=name, op=op, inputs=sources, shape=shape, **fields))  # type: ignore[arg-type]

    def concat(self, name: str, *sources: str) -> str:
        shapes = [self.nodes[source].shape for source in sources]
        return self.put("concat", name, (sum(shape[0] for shape in shapes), *shapes[0][1:]), *sources)

    def split(self, name: str, source: str, start: int, channels: int) -> str:
        return self.put("split", name, (channels, *self.nodes[source].shape[1:]), source, start=start)

    def pad(self, name: str, source: str, padding: tuple[int, int, int, int], mode: str = "zeros") -> str:
        (c, h, w), (top, left, bottom, right) = self.nodes[source].shape, padding
        return self.put("pad", name, (c, h + top + bottom, w + left + right), source, padding=padding, mode=mode)

    def window(self, op: str, name: str, source: str, channels: int, kernel: int, stride: int, **fields: Any) -> str:
        """A conv or pool with any padding and dilation."""
        _, h, w = self.nodes[source].shape
        top, left, bottom, right = fields.get("padding", (0, 0, 0, 0))
        span = (kernel - 1) * fields.get("dilation", (1, 1))[0] + 1
        size = ((h + top + bottom - span) // stride + 1, (w + left + right - span) // stride + 1)
        fields |= {"kernel": (kernel, kernel), "stride": (stride, stride)}
        return self.put(op, name, (channels, *size), source, **fields)

    def shared(self, name: str, source: str, owner: str) -> str:
        """Another use of a convolution."""
        first = self.nodes[owner]
        size = self._window(source, first.kernel[0], first.stride[0], first.padding[0])
        node = replace(first, name=name, inputs=(source,), shape=(first.shape[0], *size), shares=owner)
        return self._add(node)

    def gate(self, name: str, source: str, function: str = "sigmoid") -> str:
        """Squeeze and excitation: what a tensor says of itself, times itself."""
        channels = self.nodes[source].shape[0]
        y = self.conv(f"{name}.fc", self.global_pool(f"{name}.pool", source), channels, kernel=1, bias=True, norm=False)
        return self.same("multiply", name, source, self.same(function, f"{name}.scale", y))

    def graph(self, output: str) -> NetworkGraph:
        """The graph of what the output needs."""
        return NetworkGraph(nodes=tuple(self.nodes.values()), output=output)


def basic_block(s: Sketch, name: str, source: str, channels: int, stride: int = 1) -> str:
    """conv - relu - conv, plus the input or its 1x1 downsample, then relu."""
    y = s.conv(f"{name}.conv1", source, channels, stride=stride)
    y = s.same("relu", f"{name}.relu1", y)
    y = s.conv(f"{name}.conv2", y, channels)
    if stride != 1 or s.nodes[source].shape[0] != channels:
        source = s.conv(f"{name}.down", source, channels, kernel=1, stride=stride)
    y = s.same("add", f"{name}.add", y, source)
    return s.same("relu", f"{name}.relu2", y)


def chain(channels: tuple[int, ...] = (4, 6, 8), side: int = 8, classes: int = 5) -> NetworkGraph:
    """conv - relu, once per width, then global average pool and linear."""
    s = Sketch((3, side, side))
    y = "x"
    for index, width in enumerate(channels):
        y = s.same("relu", f"relu{index}", s.conv(f"conv{index}", y, width))
    y = s.flatten("flat", s.global_pool("pool", y))
    return s.graph(s.linear("fc", y, classes))


def residual(channels: int = 4, side: int = 8) -> NetworkGraph:
    """conv, one block with identity, one with a downsample, global average pool, linear."""
    s = Sketch((3, side, side))
    y = s.same("relu", "stem.relu", s.conv("stem", "x", channels))
    y = basic_block(s, "a", y, channels)
    y = basic_block(s, "b", y, 2 * channels, stride=2)
    y = s.flatten("flat", s.global_pool("pool", y))
    return s.graph(s.linear("fc", y, 5))


def resnet8() -> NetworkGraph:
    """MLPerf Tiny's ResNet-8 for CIFAR-10: 77,360 weights."""
    s = Sketch((3, 32, 32))
    y = s.same("relu", "stem.relu", s.conv("stem", "x", 16))
    y = basic_block(s, "a", y, 16)
    y = basic_block(s, "b", y, 32, stride=2)
    y = basic_block(s, "c", y, 64, stride=2)
    y = s.flatten("flat", s.global_pool("pool", y))
    return s.graph(s.linear("fc", y, 10))


def resnet18(side: int = 224) -> NetworkGraph:
    """torchvision's resnet18."""
    s = Sketch((3, side, side))
    y = s.same("relu", "relu", s.conv("conv1", "x", 64, kernel=7, stride=2))
    y = s.max_pool("maxpool", y, kernel=3, stride=2, padding=1)
    for stage, channels in enumerate((64, 128, 256, 512)):
        y = basic_block(s, f"layer{stage + 1}.0", y, channels, stride=1 if stage == 0 else 2)
        y = basic_block(s, f"layer{stage + 1}.1", y, channels)
    y = s.flatten("flat", s.global_pool("avgpool", y))
    return s.graph(s.linear("fc", y, 1000))


def mobilenet_v2(side: int = 224) -> NetworkGraph:
    """torchvision's mobilenet_v2."""
    s = Sketch((3, side, side))
    y = s.same("relu6", "stem.relu", s.conv("stem", "x", 32, stride=2))
    settings = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    for stage, (expansion, channels, blocks, first_stride) in enumerate(settings):
        for block in range(blocks):
            name, stride, start = f"{stage}.{block}", first_stride if block == 0 else 1, y
            width = s.nodes[y].shape[0]
            if expansion != 1:
                y = s.conv(f"{name}.expand", y, width * expansion, kernel=1)
                y = s.same("relu6", f"{name}.relu1", y)
            y = s.conv(f"{name}.depth", y, width * expansion, stride=stride, groups=width * expansion)
            y = s.same("relu6", f"{name}.relu2", y)
            y = s.conv(f"{name}.project", y, channels, kernel=1)
            if stride == 1 and width == channels:
                y = s.same("add", f"{name}.add", y, start)
    y = s.same("relu6", "head.relu", s.conv("head", y, 1280, kernel=1))
    y = s.same("dropout", "dropout", s.flatten("flat", s.global_pool("avgpool", y)))
    return s.graph(s.linear("fc", y, 1000))


def every_operator() -> NetworkGraph:
    """One graph with each classic operator, clips both merged and apart; `modern` has the others."""
    s = Sketch((3, 8, 8))
    y = s.same("relu", "relu", s.conv("stem", "x", 4))
    y = s.max_pool("pool", y)
    z = s.same("relu6", "relu6", s.affine("affine", y))
    z = s.conv("conv", z, 4, groups=4, bias=True, norm=False)
    y = s.same("add", "add", z, y)
    w = s.same("relu", "apart", y)
    y = s.same("add", "add2", s.conv("deep", w, 4), y)
    y = s.same("dropout", "dropout", s.flatten("flat", s.global_pool("avg", y)))
    return s.graph(s.linear("fc", y, 5))


def uniform_bits(graph: NetworkGraph, weight: int, activation: int) -> dict[str, Bits]:
    return {layer.name: Bits(weight=weight, activation=activation) for layer in graph.layers}


def blueprint(graph: NetworkGraph, weight: int = 8, activation: int = 8) -> Blueprint:
    return Blueprint(graph=graph, bits=uniform_bits(graph, weight, activation))


def modern() -> NetworkGraph:
    """The rest of the vocabulary: every function, concat, multiply, shuffle, split, pads, shared layers, odd pools."""
    s = Sketch((3, 8, 8))
    y = s.same("hard_swish", "hswish", s.conv("stem", "x", 4))
    y = s.gate("se", y, "hard_sigmoid")
    left, right = s.split("left", y, 0, 2), s.split("right", y, 2, 2)
    left = s.same("silu", "silu", s.conv("twice", left, 2))
    left = s.same("tanh", "tanh", s.shared("twice2", left, "twice"))
    right = s.same("gelu", "gelu", s.pad("reflect", s.conv("deep", right, 2, kernel=1), (1, 1, 1, 1), "reflect"))
    right = s.window("max_pool", "max", right, 2, 3, 1)
    y = s.put("shuffle", "shuffle", (4, 8, 8), s.concat("concat", left, right), groups=2)
    z = s.same("leaky_relu", "leaky", s.window("avg_pool", "mean", y, 4, 3, 1, padding=(1,) * 4, count_pad=False))
    y = s.same("add", "add", y, z, s.same("relu", "relu", s.conv("side", y, 4)))
    y = s.conv("last", s.pad("zeros", y, (0, 1, 2, 0)), 6, stride=2)
    y = s.flatten("flat", s.global_pool("avg", s.same("sigmoid", "sigmoid", y)))
    return s.graph(s.linear("fc", y, 5))


@st.composite
def filter_bits(draw: st.DrawFn, graph: NetworkGraph, *, zeros: bool = True, maps: bool = True) -> dict[str, Bits]:
    """Bits per filter and per map, some filters removed; at least one channel of every node is left."""
    coupling = couple(graph)
    free = ~coupling.pinned & ~coupling.shuffled
    removed = np.zeros(len(free), bool)
    if zeros:
        removed = free & np.array(draw(st.lists(st.booleans(), min_size=len(free), max_size=len(free))), bool)
        for node in graph.nodes:  # the first channel of every node stays
            if removed[coupling.units[node.name]].all():
                removed[coupling.units[node.name][0]] = False
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = {}
    for layer in graph.layers:
        few = rng.choice(np.arange(1, 9), size=rng.integers(1, 5), replace=False)
        weight = rng.choice(few, layer.out_channels)
        # A coupled group may be removed through any of its filters.
        weight[removed[coupling.units[layer.name]] & (rng.random(layer.out_channels) < 0.7)] = 0
        if not weight.any():
            weight[0] = few[0]
        activation = (
            rng.choice(few, layer.in_channels) if maps and rng.random() < 0.5 else few[:1].repeat(layer.in_channels)
        )
        found[layer.name] = Bits(weight=tuple(weight.tolist()), activation=tuple(activation.tolist()))
    return found


FUNCTIONS = ("hard_swish", "hard_sigmoid", "silu", "sigmoid", "tanh", "gelu", "leaky_relu")
_STEPS = ("conv", "conv", "window", "depthwise", "shared", "relu", "relu6", "function", "affine", "max_pool",
          "avg_pool", "add", "concat", "multiply", "gate", "pad", "shuffle", "split", "dropout")  # fmt: skip


@st.composite
def random_graphs(draw: st.DrawFn, *, steps: tuple[int, int] = (0, 8), functions: int = 1) -> NetworkGraph:
    """A small random network over the whole vocabulary: chains, branches, layers used twice, tensors read twice.

    Args:
        steps: how many operators or gates, at least and at most.
        functions: how often a step is a function, against once for most others.
    """
    s = Sketch((draw(st.integers(1, 3)), 8, 8))
    y = s.conv("stem", "x", draw(st.integers(1, 5)))
    for index in range(draw(st.integers(*steps))):
        y = _random_step(draw, s, f"n{index}", y, draw(st.sampled_from((*_STEPS, *["function"] * (functions - 1)))))
    ending = draw(st.sampled_from(["linear", "linear", "conv", "features", "as it is"]))
    if ending == "as it is":
        return s.graph(y)
    if ending == "conv":
        return s.graph(s.flatten("flat", s.global_pool("pool", s.conv("head", y, draw(st.integers(1, 4)), kernel=1))))
    y = s.flatten("flat", y if ending == "features" and math.prod(s.nodes[y].shape) < 200 else s.global_pool("pool", y))
    return s.graph(s.linear("fc", y, draw(st.integers(1, 4))))


def _random_step(draw: st.DrawFn, s: Sketch, name: str, y: str, step: str) -> str:
    shape = s.nodes[y].shape
    channels, side = shape[0], min(shape[1:])
    alike = [node.name for node in s.nodes.values() if node.shape == shape and node.name not in ("x", y)]
    stride = draw(st.sampled_from([1, 1, 2]))
    if step == "conv":
        source = draw(st.sampled_from([y, *alike]))
        return s.conv(name, source, draw(st.integers(1, 5)), draw(st.sampled_from([1, 3])), stride)
    if step == "window" and side > 3:
        dilation = draw(st.integers(1, 2))
        padding = tuple(draw(st.integers(0, 2)) for _ in range(4))
        fields = {"padding": padding, "dilation": (dilation,) * 2, "norm": Norm()}
        return s.window("conv", name, y, draw(st.integers(1, 5)), 2, stride, **fields)
    if step == "depthwise":
        return s.conv(name, y, channels * draw(st.integers(1, 2)), groups=channels)
    if step == "shared":
        before = _ancestors(s, y)
        owners = [
            node.name
            for node in s.nodes.values()
            if node.op == "conv" and node.name in before and not node.shares and node.groups == 1
            and node.kernel[0] % 2 and s.nodes[node.inputs[0]].shape[0] == channels
        ]  # fmt: skip
        return s.shared(name, y, draw(st.sampled_from(owners))) if owners else y
    if step == "function":
        return s.same(draw(st.sampled_from(FUNCTIONS)), name, y)
    if step == "affine":
        return s.affine(name, y)
    if step == "max_pool" and side > 2:
        padding = tuple(draw(st.integers(0, 1)) for _ in range(4))
        return s.window(
            "max_pool", name, y, channels, 2, stride, padding=padding, dilation=(draw(st.integers(1, 2)),) * 2
        )
    if step == "avg_pool" and side > 2:
        padding = tuple(draw(st.integers(0, 1)) for _ in range(4))
        return s.window("avg_pool", name, y, channels, 2, stride, padding=padding, count_pad=draw(st.booleans()))
    if step == "add" and alike:
        return s.same("add", name, y, *draw(st.lists(st.sampled_from(alike), min_size=1, max_size=3)))
    if step == "concat":
        near = [node.name for node in s.nodes.values() if node.shape[1:] == shape[1:] and node.name != "x"]
        others = draw(st.lists(st.sampled_from(near), min_size=1, max_size=2))
        small = channels + sum(s.nodes[other].shape[0] for other in others) <= 12
        return s.concat(name, y, *others) if small else y
    if step == "multiply" and alike:
        return s.same("multiply", name, y, draw(st.sampled_from(alike)))
    if step == "gate":
        return s.gate(name, y, draw(st.sampled_from(["sigmoid", "hard_sigmoid"])))
    if step == "pad" and 1 < side < 12:
        padding = draw(st.tuples(*[st.integers(0, 1)] * 4))
        return s.pad(name, y, padding, draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])))
    if step == "shuffle":
        groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
        return s.put("shuffle", name, shape, y, groups=groups)
    if step == "split":
        start = draw(st.integers(0, channels - 1))
        return s.split(name, y, start, draw(st.integers(1, channels - start)))
    if step in ("relu", "relu6", "dropout"):
        return s.same(step, name, y)
    return y


def _ancestors(s: Sketch, name: str) -> set[str]:
    found = {name}
    for node in reversed(s.nodes.values()):
        if node.name in found:
            found.update(node.inputs)
    return found
