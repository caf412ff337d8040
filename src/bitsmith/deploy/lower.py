"""Lowering: a frozen network and its blueprint to an IntegerProgram.

The grid plan says which tensor lies on which grid; this module only turns nodes into operators. Dropout vanishes, a
merged clip becomes the bounds of the operator before it, an average pool becomes a depthwise convolution of ones with
scale 1/k^2, a narrowing and a clip that stands apart become tables.
"""

from __future__ import annotations

from typing import assert_never, cast

import numpy as np

from bitsmith.blueprint import ACCUMULATING, CLIPS, FLOAT, Blueprint, NetworkGraph, Node
from bitsmith.deploy.program import (
    Add,
    Conv,
    Dequantize,
    Flatten,
    InputQuantize,
    InputTable,
    IntegerProgram,
    Logits,
    MaxPool,
    Operator,
    StoredGrid,
    Sums,
    Table,
)
from bitsmith.errors import ExportError
from bitsmith.quantize import FrozenLayer, Grid, Network


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
        if node.op in ("conv", "linear", "affine") and not isinstance(frozen.layer(node.name), FrozenLayer):
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
        alive = _alive(self.graph)
        for node in self.graph.nodes:
            if node.name in alive:
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
        name = node.name
        self.tensor[name] = name
        match node.op:
            case "input":
                grid = _stored(self.network.grid(name))
                self.emit(self.input_operator(node, grid), grid, node.shape)
            case "conv" | "linear" | "affine" | "avg_pool":
                self.lower_weighted(node)
            case "add":
                left, right = self.tensor[node.inputs[0]], self.tensor[node.inputs[1]]
                grid, top = self.destination(node)
                assert self.grids[left].step == self.grids[right].step == grid.step, f"{name}: unequal steps"
                self.emit(Add(name=name, layer=name, inputs=(left, right), top=top), grid, node.shape)
            case "relu" | "relu6":
                self.lower_clip(node)
            case "max_pool":
                source = self.tensor[node.inputs[0]]
                pool = MaxPool(
                    name=name,
                    layer=name,
                    inputs=(source,),
                    kernel=node.kernel,
                    stride=node.stride,
                    padding=node.padding,
                    dilation=node.dilation,
                )
                self.emit(pool, self.grids.get(source), node.shape)
            case "flatten":
                source = self.tensor[node.inputs[0]]
                self.emit(Flatten(name=name, layer=name, inputs=(source,)), self.grids.get(source), node.shape)
            case "dropout":
                self.tensor[name] = self.tensor[node.inputs[0]]
            case _:
                assert_never(node.op)

    def input_operator(self, node: Node, grid: StoredGrid) -> Operator:
        contract = self.blueprint.input
        if contract.kind == "float":
            return InputQuantize(name=node.name, layer=node.name)
        channels = node.shape[0]
        if contract.kind != "uint8" or not len(contract.mean) == len(contract.std) == channels:
            raise ExportError(
                f"the input contract {contract} doesn't fit an input of {channels} channels; "
                'kind is "uint8" with one mean and std per channel, or "float"'
            )
        mean = np.asarray(contract.mean, np.float32)[:, None]
        std = np.asarray(contract.std, np.float32)[:, None]
        pixels = np.arange(256, dtype=np.float32)[None] / np.float32(255)
        return InputTable(name=node.name, layer=node.name, table=grid.store((pixels - mean) / std))

    def lower_weighted(self, node: Node) -> None:
        source = self.tensor[node.inputs[0]]
        if node.op == "avg_pool":
            sums = _average(node)
        else:
            layer = cast(FrozenLayer, self.network.layer(node.name))
            sums = _layer_sums(node, layer)
            wanted = _stored(layer.folded.input)
            if layer.quantize_input is not None and self.plan.narrows(node.name):
                source = self.narrow(node.name, source, wanted)
            assert self.grids[source] == wanted, f"{node.name} reads {self.grids[source]}, was folded for {wanted}"
        if self.plan.logits == node.name:
            self.emit(Logits(name=node.name, layer=node.name, inputs=(source,), sums=sums), None, node.shape)
        else:
            grid, top = self.destination(node)
            conv = Conv(name=node.name, layer=node.name, inputs=(source,), sums=sums, top=top)
            self.emit(conv, grid, node.shape)

    def narrow(self, layer: str, source: str, wanted: StoredGrid) -> str:
        name = f"{layer}:narrow"
        table = wanted.store(self.grids[source].load(np.arange(256)))
        self.emit(Table(name=name, layer=layer, inputs=(source,), table=table), wanted, self.shapes[source])
        return name

    def merged_clip(self, node: Node) -> Node | None:
        """The relu or relu6 that the plan merges into a node."""
        readers = self.graph.consumers[node.name]
        clip = self.graph[readers[0]] if len(readers) == 1 else None
        merged = clip is not None and clip.op in CLIPS and node.op in ACCUMULATING | {"add"}
        return clip if merged else None

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


def _alive(graph: NetworkGraph) -> frozenset[str]:
    """The nodes that the output depends on."""
    alive = {graph.output}
    for node in reversed(graph.nodes):
        if node.name in alive:
            alive.update(node.inputs)
    return frozenset(alive)
