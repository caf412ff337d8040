"""Between a sequence of layers and the network that it means, both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast, final

from bitsmith.blueprint import Bits, Blueprint, NetworkGraph, Node, Options
from bitsmith.space.mobile_graph import CLASSIFIER, INPUT, STEM, Drawing
from bitsmith.space.sequence_space import POOL, POOL_KERNEL, LayerOperator, SequenceSpace, Token

# The convolutions of an operator, by the last part of their names, in execution order; the last gives its channels.
CONVOLUTIONS: Mapping[str, tuple[str, ...]] = {
    "conv": ("conv",),
    "separable": ("depthwise", "pointwise"),
    "inverted": ("expand", "depthwise", "project"),
    "max_pool": (),
}
LINEAR = "inverted"  # the operator with nothing behind its last convolution


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Convolution:
    """One convolution of a layer, with BatchNorm."""

    name: str
    width: int
    channels: int
    kernel: int
    stride: int
    groups: int

    @property
    def weights(self) -> int:
        """How many it has."""
        return self.channels * (self.width // self.groups) * self.kernel**2

    @property
    def params(self) -> int:
        """Weights, and BatchNorm's two numbers per channel."""
        return self.weights + 2 * self.channels


def convolutions(token: Token, width: int, expansion: int) -> tuple[Convolution, ...]:
    """The convolutions of a layer that reads `width` channels, in execution order."""
    hidden = width * expansion if token.operator == "inverted" else width
    found = []
    for name in CONVOLUTIONS[token.operator]:
        last = name == CONVOLUTIONS[token.operator][-1]
        spatial = name in ("conv", "depthwise")
        channels = token.channels if last else hidden
        found.append(
            Convolution(
                name=name,
                width=width,
                channels=channels,
                kernel=token.kernel if spatial else 1,
                stride=token.stride if spatial else 1,
                groups=channels if name == "depthwise" else 1,
            )
        )
        width = channels
    return tuple(found)


def make_graph(
    space: SequenceSpace, layers: Sequence[Token], input_shape: tuple[int, int, int], outputs: int
) -> NetworkGraph:
    """The topology of a sequence; its nodes are called stem, layer1.conv, layer1.add, ..., classifier."""
    drawing = Drawing(Node(name=INPUT, op="input", shape=input_shape))
    y = drawing.conv(STEM, INPUT, space.stem.channels, kernel=3, stride=space.stem.stride)
    tensors = [drawing.same("relu", f"{STEM}.activation", y)]
    for number, token in enumerate(layers, start=1):
        tensors.append(_draw(drawing, f"layer{number}", token, tensors, space.expansion))
    y = drawing.mean("pool", tensors[-1])
    y = drawing.put("flatten", "flatten", (drawing[y].shape[0],), y)
    return drawing.graph(drawing.put("linear", CLASSIFIER, (outputs,), y, bias=True))


def _draw(drawing: Drawing, name: str, token: Token, tensors: Sequence[str], expansion: int) -> str:
    """Write one layer; returns its output."""
    y = tensors[-1]
    width, height, breadth = drawing[y].shape
    if token == POOL:
        shape = (width, -(-height // 2), -(-breadth // 2))
        window = {"kernel": (POOL_KERNEL,) * 2, "stride": (2, 2), "padding": (POOL_KERNEL // 2,) * 4}
        return drawing.put("max_pool", f"{name}.pool", shape, y, **window)
    parts = convolutions(token, width, expansion)
    for part in parts:
        y = drawing.conv(
            f"{name}.{part.name}", y, part.channels, kernel=part.kernel, stride=part.stride, groups=part.groups
        )
        if part != parts[-1]:
            y = drawing.same("relu", f"{name}.{part.name}.activation", y)
    if token.skip:
        y = drawing.same("add", f"{name}.add", y, tensors[-token.skip])
    return y if token.operator == LINEAR else drawing.same("relu", f"{name}.activation", y)


def make_bits(space: SequenceSpace, layers: Sequence[Token]) -> dict[str, Bits]:
    """The bits of every priced layer of a sequence, in execution order."""
    ends = Bits(weight=space.ends, activation=space.ends)
    found = {STEM: ends}
    for number, token in enumerate(layers, start=1):
        for part in CONVOLUTIONS[token.operator]:
            found[f"layer{number}.{part}"] = Bits(weight=token.weight_bits, activation=token.activation_bits)
    return found | {CLASSIFIER: ends}


def layer_options(space: SequenceSpace) -> dict[str, Options]:
    """For every priced layer that any sequence may have, in order of layers, the bit-widths that it may take."""
    ends = Options(weight=(space.ends,), activation=(space.ends,))
    free = Options(weight=space.weight_bits, activation=space.activation_bits)
    there = {part for operator in space.operators for part in CONVOLUTIONS[operator]}
    parts = [part for part in ("conv", "expand", "depthwise", "pointwise", "project") if part in there]
    inner = {f"layer{number}.{part}": free for number in range(1, space.layers[1] + 1) for part in parts}
    return {STEM: ends} | inner | {CLASSIFIER: ends}


def read_layers(blueprint: Blueprint) -> tuple[Token, ...]:
    """What the names and shapes of a blueprint's layers say of the sequence; whether that is all of it, they don't.

    Whoever reads has to compare what the sequence gives with the blueprint.
    """
    nodes = {node.name: node for node in blueprint.graph.nodes}
    found: list[Token] = []
    tensors = [f"{STEM}.activation"]
    while True:
        name = f"layer{len(found) + 1}"
        if f"{name}.pool" in nodes:
            found.append(POOL)
            tensors.append(f"{name}.pool")
            continue
        operator = next((o for o, parts in CONVOLUTIONS.items() if parts and f"{name}.{parts[-1]}" in nodes), None)
        if operator is None:
            return tuple(found)
        parts = CONVOLUTIONS[operator]
        spatial = nodes.get(f"{name}.{'conv' if operator == 'conv' else 'depthwise'}", nodes[f"{name}.{parts[-1]}"])
        add, skip = nodes.get(f"{name}.add"), 0
        if add is not None and len(add.inputs) == 2 and add.inputs[1] in tensors:
            skip = len(tensors) - tensors.index(add.inputs[1])
        weight, activation = blueprint.bits[f"{name}.{parts[-1]}"].pair(name)
        token = Token(
            operator=cast(LayerOperator, operator),
            kernel=spatial.kernel[0],
            channels=nodes[f"{name}.{parts[-1]}"].shape[0],
            stride=spatial.stride[0],
            skip=skip,
            weight_bits=weight,
            activation_bits=activation,
        )
        found.append(token)
        ends = [f"{name}.activation", f"{name}.add", f"{name}.{parts[-1]}"]
        tensors.append(next(end for end in ends if end in nodes))
