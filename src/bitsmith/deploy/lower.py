"""Lowering: a frozen network and its blueprint to an IntegerProgram.

The grid plan says which tensor lies on which grid; this module only turns nodes into operators. Dropout vanishes, a
merged clip becomes the bounds of the operator before it, an average pool becomes a depthwise convolution of ones with
scale 1/k^2, a function, a narrowing and a clip that stands apart become tables.

Two kinds of tensors have no grid in training, and so none here: what a layer with float inputs alone reads, and, where
streams are float, all that lies on a stream. Whatever reads or writes such a tensor computes in float32, and so does a
layer whose weights or inputs are float; integers that it reads are dequantized first, and what it writes onto a grid is
quantized by an operator of its own. Only a layer of integers has no need of that: its sums become numbers by one
product (`Logits`).
"""

from __future__ import annotations

from typing import assert_never, cast

import numpy as np
import torch

from bitsmith.blueprint import CLIPS, FLOAT, PRICED, TRANSPARENT, Blueprint, Node
from bitsmith.deploy.float_operators import Dequantize, Quantize
from bitsmith.deploy.lower_float import float_operator
from bitsmith.deploy.lower_input import input_numbers, input_operator
from bitsmith.deploy.lower_nodes import average_sums, layer_sums, moving
from bitsmith.deploy.operators import (
    Add,
    Average,
    Concat,
    Conv,
    Logits,
    Multiply,
    Operator,
    StoredGrid,
    Sums,
    Table,
)
from bitsmith.deploy.program import IntegerProgram
from bitsmith.errors import ExportError
from bitsmith.quantize import ActivationQuantizer, FrozenLayer, Grid, Network
from bitsmith.quantize.layers import apply_free
from bitsmith.quantize.maps import LsqMaps


def lower(frozen: Network, blueprint: Blueprint) -> IntegerProgram:
    """The integer program of a frozen network.

    Args:
        frozen: as `freeze` returns it.
        blueprint: the one it was built from.

    Raises:
        ExportError: the network is not frozen, its streams have one bit, or the input contract doesn't fit the graph.
    """
    if blueprint.stream_bits < 2:
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
        self.dequantized: dict[str, str] = {}  # tensor with a grid -> the same as numbers

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
            float_streams=self.blueprint.stream_bits == FLOAT,
        )

    def emit(self, operator: Operator, grid: StoredGrid | None, shape: tuple[int, ...]) -> None:
        self.operators.append(operator)
        self.shapes[operator.name] = shape
        if grid is not None:
            self.grids[operator.name] = grid

    def lower_node(self, node: Node) -> None:
        self.tensor[node.name] = node.name
        if self.computes_in_floats(node):
            self.lower_float(node)
            return
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
                operator = moving(node, self.sources(node)[0])
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

    def lower_weighted(self, node: Node) -> None:
        layer = cast(FrozenLayer, self.network.layer(node.owner))
        self.emit_sums(node, self.layer_source(node), layer_sums(node, layer))

    def layer_source(self, node: Node) -> str:
        """The tensor that a layer reads, on its own grid where it has one."""
        source = self.tensor[node.inputs[0]]
        quantizer = cast(FrozenLayer, self.network.layer(node.owner)).quantize_input
        if isinstance(quantizer, ActivationQuantizer):
            wanted = _stored(quantizer.grid())
            if isinstance(quantizer, LsqMaps):
                if source not in self.grids:
                    source = self.quantize(f"{node.name}:grid", node.name, source, wanted, wanted.top)
                source = self.narrow_maps(node.name, source, quantizer)
            elif source not in self.grids:
                source = self.quantize(f"{node.name}:narrow", node.name, source, wanted, wanted.top)
            elif self.plan.narrows(node.owner):
                source = self.narrow(node.name, source, wanted)
            assert self.grids[source] == wanted, f"{node.name} reads {self.grids[source]}, was folded for {wanted}"
        return source

    def computes_in_floats(self, node: Node) -> bool:
        """Whether a node's operator is one of float32 tensors; what only moves numbers is the same for either kind."""
        if node.op in PRICED:
            bits = self.blueprint.bits[node.owner]
            return bits.is_float
        if node.op in TRANSPARENT:
            return False
        reads = any(source not in self.grids for source in self.sources(node))
        if node.op in CLIPS or node.op == "affine" or (node.op == "avg_pool" and not node.divides_by_position):
            return reads  # sums of integers become numbers as a layer's do, and a clip is of what its producer wrote
        return reads or self.writes_floats(node)

    def writes_floats(self, node: Node) -> bool:
        """Whether what a node writes, a merged clip behind it included, has no grid."""
        clip = self.merged_clip(node)
        carrier = node.name if clip is None else clip.name
        if carrier in self.plan.direct:
            return self.blueprint.bits[self.plan.direct[carrier]].activation == FLOAT
        if carrier in self.plan.stream:
            return self.blueprint.stream_bits == FLOAT
        return True  # logits

    def lower_float(self, node: Node) -> None:
        if node.op == "input":
            self.emit(input_numbers(node, self.blueprint.input), None, node.shape)
            return
        sources = (self.layer_source(node),) if node.op in PRICED else self.sources(node)
        numbers = tuple(self.numbers(source, node.name) for source in sources)
        self.emit(float_operator(node, numbers, self.network), None, node.shape)
        if not self.writes_floats(node):
            grid, top = self.destination(node)
            self.tensor[node.name] = self.quantize(f"{node.name}:stored", node.name, node.name, grid, top)

    def numbers(self, source: str, layer: str) -> str:
        """A tensor as float32 numbers; its integers are dequantized once, whoever reads them."""
        if source not in self.grids:
            return source
        if source not in self.dequantized:
            name = self.dequantized[source] = f"{source}:numbers"
            self.emit(Dequantize(name=name, layer=layer, inputs=(source,)), None, self.shapes[source])
        return self.dequantized[source]

    def quantize(self, name: str, layer: str, source: str, grid: StoredGrid, top: int) -> str:
        """A tensor of numbers on a grid."""
        self.emit(Quantize(name=name, layer=layer, inputs=(source,), top=top), grid, self.shapes[source])
        return name

    def lower_average(self, node: Node) -> None:
        source = self.tensor[node.inputs[0]]
        if not node.divides_by_position:
            self.emit_sums(node, source, average_sums(node))
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
        if self.writes_floats(node):
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

    def narrow_maps(self, use: str, source: str, quantizer: LsqMaps) -> str:
        """What a layer reads, each map on its own bits; by the quantizer itself, so that both agree."""
        wanted = _stored(quantizer.grid())
        table = quantizer.tables(self.grids[source].load(np.arange(256))) + wanted.zero_point
        operator = Table(name=f"{use}:narrow", layer=use, inputs=(source,), table=table.astype(np.uint8))
        self.emit(operator, wanted, self.shapes[source])
        return operator.name

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
