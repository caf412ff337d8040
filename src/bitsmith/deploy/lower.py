"""Lowering: a frozen network and its blueprint to an IntegerProgram.

The grid plan says which tensor lies on which grid; this module only turns nodes into operators. Dropout vanishes, a
merged clip becomes the bounds of the operator before it, an average pool becomes a depthwise convolution of ones with
scale 1/k^2, a function, a narrowing and a clip that stands apart become tables.
"""

from __future__ import annotations

from typing import Literal, assert_never, cast

import numpy as np
import torch

from bitsmith.blueprint import CLIPS, FLOAT, Blueprint, Node
from bitsmith.deploy.lower_input import input_operator
from bitsmith.deploy.operators import (
    Add,
    Average,
    Concat,
    Conv,
    Dequantize,
    Flatten,
    Logits,
    MaxPool,
    Multiply,
    Operator,
    Pad,
    Shuffle,
    Split,
    StoredGrid,
    Sums,
    Table,
)
from bitsmith.deploy.program import IntegerProgram
from bitsmith.errors import ExportError
from bitsmith.quantize import ActivationQuantizer, FrozenLayer, Grid, Network
from bitsmith.quantize.layers import apply_free

# How `pad` nodes fill their edges -> numpy's and ONNX' names.
_PAD_MODES: dict[str, Literal["constant", "reflect", "edge", "wrap"]] = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}


def lower(frozen: Network, blueprint: Blueprint) -> IntegerProgram:
    """The integer program of a frozen network.

    Args:
        frozen: as `freeze` returns it.
        blueprint: the one it was built from.

    Raises:
        ExportError: the network is not frozen, its streams are float, or the input contract doesn't fit the graph.
    """
    if blueprint.stream_bits == FLOAT or blueprint.stream_bits < 2:
        raise ExportError(f"streams of {blueprint.stream_bits} bits can't be lowered; build the network with 8")
    for node in frozen.graph.nodes:
        if node.op in ("conv", "linear", "affine") and not isinstance(frozen.layer(node.owner), FrozenLayer):
            raise ExportError(f"layer {node.name!r} is not frozen; call freeze(network, blueprint) first")
    return _Lowering(frozen, blueprint).program()


class _Lowering:
    """The operators so far, and for each node of the graph the tensor that holds its output."""

    def __init__(self, network: Network, blueprint: Blueprint) -> None:
        self.network, self.blueprint = network, blueprint
        self.graph, self.plan = network.graph, network.grids
        self.operators: list[Operator] = []
        self.grids: dict[str, StoredGrid] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.tensor: dict[str, str] = {}

    def program(self) -> IntegerProgram:
        for node in self.graph.nodes:
            self.lower_node(node)
        output = self.tensor[self.graph.output]
        if output in self.grids:
            name = f"{output}:float"
            self.emit(Dequantize(name=name, layer=self.graph.output, inputs=(output,)), None, self.shapes[output])
        return IntegerProgram(
            operators=tuple(self.operators),
            grids=self.grids,
            shapes=self.shapes,
            input=self.blueprint.input,
            input_shape=self.graph.input_shape,
            classes=self.blueprint.classes,
            bits=dict(self.blueprint.bits),
        )

    def emit(self, operator: Operator, grid: StoredGrid | None, shape: tuple[int, ...]) -> None:
        self.operators.append(operator)
        self.shapes[operator.name] = shape
        if grid is not None:
            self.grids[operator.name] = grid

    def lower_node(self, node: Node) -> None:
        self.tensor[node.name] = node.name
        match node.op:
            case "input":
                grid = _stored(self.network.grid(node.name))
                self.emit(input_operator(node, grid, self.blueprint.input), grid, node.shape)
            case "conv" | "linear" | "affine":
                self.lower_weighted(node)
            case "avg_pool":
                self.lower_average(node)
            case "add" | "concat":
                self.lower_joining(node)
            case "multiply":
                grid, top = self.destination(node)
                left, right = self.sources(node)
                self.emit(Multiply(name=node.name, layer=node.name, inputs=(left, right), top=top), grid, node.shape)
            case "relu" | "relu6":
                self.lower_clip(node)
            case "max_pool" | "pad" | "shuffle" | "split" | "flatten":
                operator = self.transparent(node, self.sources(node)[0])
                self.emit(operator, self.grids.get(operator.inputs[0]), node.shape)
            case "dropout":
                self.tensor[node.name] = self.sources(node)[0]
            case "hard_swish" | "hard_sigmoid" | "silu" | "sigmoid" | "tanh" | "gelu" | "leaky_relu":
                self.lower_function(node)
            case _:
                assert_never(node.op)

    def sources(self, node: Node) -> tuple[str, ...]:
        """The tensors that a node reads."""
        return tuple(self.tensor[read] for read in node.inputs)

    def transparent(self, node: Node, source: str) -> MaxPool | Pad | Shuffle | Split | Flatten:
        """The operator that moves the integers it gets."""
        name, inputs = node.name, (source,)
        match node.op:
            case "max_pool":
                return MaxPool(
                    name=name,
                    layer=name,
                    inputs=inputs,
                    kernel=node.kernel,
                    stride=node.stride,
                    padding=node.padding,
                    dilation=node.dilation,
                )
            case "pad":
                return Pad(name=name, layer=name, inputs=inputs, padding=node.padding, mode=_PAD_MODES[node.mode])
            case "shuffle":
                return Shuffle(name=name, layer=name, inputs=inputs, groups=node.groups)
            case "split":
                stop = node.start + node.shape[0]
                return Split(name=name, layer=name, inputs=inputs, start=node.start, stop=stop)
        assert node.op == "flatten", node.op
        return Flatten(name=name, layer=name, inputs=inputs)

    def lower_weighted(self, node: Node) -> None:
        source = self.tensor[node.inputs[0]]
        layer = cast(FrozenLayer, self.network.layer(node.owner))
        if isinstance(layer.quantize_input, ActivationQuantizer):
            wanted = _stored(layer.quantize_input.grid())
            if self.plan.narrows(node.owner):
                source = self.narrow(node.name, source, wanted)
            assert self.grids[source] == wanted, f"{node.name} reads {self.grids[source]}, was folded for {wanted}"
        self.emit_sums(node, source, _layer_sums(node, layer))

    def lower_average(self, node: Node) -> None:
        source = self.tensor[node.inputs[0]]
        if not node.divides_by_position:
            self.emit_sums(node, source, _average(node))
            return
        grid, top = self.destination(node)
        average = Average(
            name=node.name,
            layer=node.name,
            inputs=(source,),
            kernel=node.kernel,
            stride=node.stride,
            padding=node.padding,
            top=top,
        )
        self.emit(average, grid, node.shape)

    def emit_sums(self, node: Node, source: str, sums: Sums) -> None:
        if self.plan.logits == node.name:
            self.emit(Logits(name=node.name, layer=node.name, inputs=(source,), sums=sums), None, node.shape)
        else:
            grid, top = self.destination(node)
            conv = Conv(name=node.name, layer=node.name, inputs=(source,), sums=sums, top=top)
            self.emit(conv, grid, node.shape)

    def lower_joining(self, node: Node) -> None:
        grid, top = self.destination(node)
        sources = self.sources(node)
        assert all(self.grids[source].step == grid.step for source in sources), f"{node.name}: unequal steps"
        if node.op == "add":
            self.emit(Add(name=node.name, layer=node.name, inputs=sources, top=top), grid, node.shape)
            return
        # An operand without sign beside one with: concat moves stored numbers, which must mean the same.
        inputs = tuple(
            source if self.grids[source] == grid else self.table(f"{node.name}:sign{i}", node.name, source, grid)
            for i, source in enumerate(sources)
        )
        self.emit(Concat(name=node.name, layer=node.name, inputs=inputs), grid, node.shape)

    def lower_function(self, node: Node) -> None:
        source = self.tensor[node.inputs[0]]
        grid, top = self.destination(node)
        # By the operator of the simulation itself, so that both agree.
        numbers = torch.from_numpy(self.grids[source].load(np.arange(256)))
        table = np.minimum(grid.store(apply_free(node, [numbers], training=False).numpy()), top)
        operator = Table(name=node.name, layer=node.name, inputs=(source,), table=table.astype(np.uint8))
        self.emit(operator, grid, node.shape)

    def narrow(self, use: str, source: str, wanted: StoredGrid) -> str:
        return self.table(f"{use}:narrow", use, source, wanted)

    def table(self, name: str, layer: str, source: str, wanted: StoredGrid) -> str:
        """The same numbers on another grid."""
        table = wanted.store(self.grids[source].load(np.arange(256)))
        self.emit(Table(name=name, layer=layer, inputs=(source,), table=table), wanted, self.shapes[source])
        return name

    def merged_clip(self, node: Node) -> Node | None:
        """The relu or relu6 that the plan merges into a node."""
        readers = self.graph.consumers[node.name]
        clip = self.graph[readers[0]] if len(readers) == 1 else None
        return clip if clip is not None and clip.op in CLIPS and self.plan.is_merged(clip) else None

    def destination(self, node: Node) -> tuple[StoredGrid, int]:
        """The grid that a node writes onto and the largest stored number, a merged clip taken into account."""
        clip = self.merged_clip(node)
        grid = _stored(self.network.grid(node.name if clip is None else clip.name))
        return grid, grid.top if clip is None else _clip_top(clip, grid)

    def lower_clip(self, node: Node) -> None:
        source = self.graph[node.inputs[0]]
        clip = self.merged_clip(source)
        if clip is not None:
            assert clip.name == node.name
            self.tensor[node.name] = self.tensor[source.name]
            return
        read, grid = self.tensor[source.name], _stored(self.network.grid(node.name))
        assert self.grids[read].step == grid.step, f"{node.name}: a clip that stands apart keeps its operand's step"
        table = np.minimum(grid.store(self.grids[read].load(np.arange(256))), _clip_top(node, grid))
        self.emit(
            Table(name=node.name, layer=node.name, inputs=(read,), table=table.astype(np.uint8)), grid, node.shape
        )


def _stored(grid: Grid) -> StoredGrid:
    return StoredGrid(step=np.float32(grid.step), zero_point=grid.zero_point, top=grid.hi - grid.lo)


def _clip_top(clip: Node, grid: StoredGrid) -> int:
    assert grid.zero_point == 0, f"{clip.name}: what a clip leaves is never negative"
    return min(grid.top, int(np.rint(np.float32(6) / grid.step))) if clip.op == "relu6" else grid.top


def _layer_sums(node: Node, layer: FrozenLayer) -> Sums:
    folded = layer.folded
    weight, channels = folded.weight, folded.weight.shape[0]
    if weight.ndim != 4:  # linear, or an affine on features: a 1x1 convolution on one pixel
        weight = weight.reshape(channels, -1, 1, 1)
    return Sums(
        weight=weight,
        scale=folded.scale,
        bias=folded.bias,
        stride=node.stride,
        padding=node.padding,
        dilation=node.dilation,
        groups=channels if node.op == "affine" else node.groups,
        folded=folded,
        owner=node.owner,
    )


def _average(node: Node) -> Sums:
    channels, (height, width) = node.shape[0], node.kernel
    return Sums(
        weight=np.ones((channels, 1, height, width), np.int8),
        scale=np.full(channels, np.float32(1) / np.float32(height * width)),
        bias=np.zeros(channels, np.int64),
        stride=node.stride,
        padding=node.padding,
        groups=channels,
    )
