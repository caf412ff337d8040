"""Hand-written graphs for tests: a pencil that draws nodes, and the networks whose counts others have published."""

from __future__ import annotations

from hypothesis import strategies as st

from bitsmith.blueprint import Bits, Blueprint, NetworkGraph, Node, Norm


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
                kernel=(kernel, kernel), stride=(stride, stride), padding=(pad,) * 4, groups=groups, bias=bias,
                norm=Norm() if norm else None,
            )
        )  # fmt: skip

    def linear(self, name: str, source: str, features: int) -> str:
        return self._add(Node(name=name, op="linear", inputs=(source,), shape=(features,), bias=True))

    def max_pool(self, name: str, source: str, kernel: int = 2, stride: int = 2, padding: int = 0) -> str:
        shape = (self.nodes[source].shape[0], *self._window(source, kernel, stride, padding))
        return self._add(
            Node(name=name, op="max_pool", inputs=(source,), shape=shape, kernel=(kernel, kernel),
                 stride=(stride, stride), padding=(padding,) * 4)
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

    def graph(self, output: str) -> NetworkGraph:
        """The graph of what the output needs; the rest is dropped, as a captured network has no dead nodes either."""
        needed = {output, "x"}
        for node in reversed(self.nodes.values()):
            if node.name in needed:
                needed.update(node.inputs)
        return NetworkGraph(nodes=tuple(n for n in self.nodes.values() if n.name in needed), output=output)


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
    """One graph with each operator of the vocabulary, clips both merged and apart."""
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


@st.composite
def random_graphs(draw: st.DrawFn) -> NetworkGraph:
    """A small random network: chains, branches that meet in adds, clips merged and apart, pools, tensors read twice."""
    s = Sketch((draw(st.integers(1, 3)), 8, 8))
    y = s.conv("stem", "x", draw(st.integers(1, 5)))
    for index in range(draw(st.integers(0, 8))):
        name, shape = f"n{index}", s.nodes[y].shape
        alike = [node.name for node in s.nodes.values() if node.shape == shape and node.name not in ("x", y)]
        op = draw(st.sampled_from(["conv", "relu", "relu6", "affine", "max_pool", "dropout", "add"]))
        if op == "conv":
            stride = draw(st.sampled_from([1, 1, 2]))
            source = draw(st.sampled_from([y, *alike]))
            y = s.conv(name, source, draw(st.integers(1, 5)), draw(st.sampled_from([1, 3])), stride)
        elif op == "add":
            y = s.same("add", name, y, draw(st.sampled_from(alike))) if alike else y
        elif op == "affine":
            y = s.affine(name, y)
        elif op == "max_pool":
            y = s.max_pool(name, y, kernel=2 if shape[1] > 1 else 1)
        else:
            y = s.same(op, name, y)
    return s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", y)), draw(st.integers(1, 4))))
