"""The nodes of a QONNX file: how each integer operator is written in float32 numbers between Quant nodes.

A layer is Conv or MatMul of the numbers that it reads with integer weights, then its bias, one product per channel, and
Quant. Where steps are powers of two all of that is exact in float32, or rounds as the reference does: the sum is an
integer times a power of two, and only the product with the channel's scale rounds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bitsmith.blueprint import CLIPS, FUNCTIONS, NetworkGraph, Node
from bitsmith.deploy.float_operators import Dequantize, FloatFunction, Pixels
from bitsmith.deploy.lower_input import input_numbers
from bitsmith.deploy.onnx_float import write_float
from bitsmith.deploy.onnx_nodes import write_shuffle
from bitsmith.deploy.onnx_writer import INPUT, Writer
from bitsmith.deploy.operators import (
    Add,
    Average,
    Concat,
    Conv,
    Flatten,
    InputQuantize,
    InputTable,
    Logits,
    MaxPool,
    Multiply,
    Operator,
    Pad,
    Pair,
    Shuffle,
    Split,
    Sums,
    Table,
)
from bitsmith.deploy.qonnx.quants import narrow_maps, onto, signs, weights


def write_operator(writer: Writer, operator: Operator, graph: NetworkGraph) -> None:
    """Append the nodes and constants of one operator.

    Args:
        graph: the program's, which knows what a table is for.
    """
    name, y = operator.name, writer.read(operator.name)
    inputs = _once(writer, operator)
    match operator:
        case InputTable():
            _write_pixels(writer, operator, graph)
        case InputQuantize():
            image = INPUT
            if operator.gain is not None and operator.offset is not None:
                scaled = writer.node("Mul", [image, writer.shared(operator.gain)], f"{name}.gain")
                image = writer.node("Add", [scaled, writer.shared(operator.offset)], f"{name}.offset")
            onto(writer, image, name, writer.program.grids[name].top)
        case Conv():
            numbers = _write_sums(writer, operator, graph, f"{name}.numbers")
            (onto if operator.sums.folded is None else _place)(writer, numbers, name, operator.top)
        case Logits():
            _write_sums(writer, operator, graph, y)
        case Average():
            _write_average(writer, operator)
        case Add():
            total = inputs[0]
            for index, other in enumerate(inputs[1:]):
                total = writer.node("Add", [total, other], f"{name}.sum{index}")
            _place(writer, total, name, operator.top)
        case Multiply():
            onto(writer, writer.node("Mul", inputs, f"{name}.product"), name, operator.top)
        case Concat():
            writer.node("Concat", inputs, y, axis=1)
        case Table():
            _write_table(writer, operator, graph)
        case MaxPool():
            shape = _window(operator.kernel, operator.stride, operator.padding)
            writer.node("MaxPool", inputs, y, **shape, dilations=operator.dilation)
        case Pad():
            top, left, bottom, right = operator.padding
            edges = writer.shared(np.array([0, 0, top, left, 0, 0, bottom, right]))
            writer.node("Pad", [*inputs, edges, writer.shared(np.float32(0))], y, mode=operator.mode)
        case Shuffle():
            write_shuffle(writer, operator)
        case Split():
            bounds = [writer.shared(np.array([number])) for number in (operator.start, operator.stop, 1)]
            writer.node("Slice", [*inputs, *bounds], y)
        case Flatten():
            writer.node("Flatten", inputs, y, axis=1)
        case Dequantize():
            writer.node("Identity", inputs, y)
        case _:
            raise AssertionError(f"{name}: float operators are refused before")


def _once(writer: Writer, operator: Operator) -> list[str]:
    """What an operator reads, each under another name: clean-up passes of qonnx lose one that a node reads twice."""
    found: list[str] = []
    for index, source in enumerate(operator.inputs):
        name = writer.read(source)
        found.append(writer.node("Identity", [name], f"{operator.name}.again{index}") if name in found else name)
    return found


def _write_pixels(writer: Writer, operator: InputTable, graph: NetworkGraph) -> None:
    """Pixels as the table was made from them, step by step in float32."""
    name, numbers = operator.name, input_numbers(graph[operator.layer], writer.program.input)
    assert isinstance(numbers, Pixels)
    last = INPUT
    steps = (
        ("Div", np.float32(255)),
        ("Sub", numbers.mean),
        ("Div", numbers.std),
        ("Mul", numbers.gain),
        ("Add", numbers.offset),
    )
    for index, (op, value) in enumerate(steps):
        if value is not None:
            last = writer.node(op, [last, writer.shared(value)], f"{name}.pixels{index}")
    onto(writer, last, name, writer.program.grids[name].top)


def _place(writer: Writer, numbers: str, name: str, top: int) -> None:
    """Numbers onto a grid; where it has no negative ones, behind a Relu, which tools for FPGAs look for."""
    if writer.program.grids[name].zero_point == 0:
        numbers = writer.node("Relu", [numbers], f"{name}.positive")
    onto(writer, numbers, name, top)


def _write_sums(writer: Writer, operator: Conv | Logits, graph: NetworkGraph, target: str) -> str:
    """Sums times the scale of their channel."""
    name, sums = operator.name, operator.sums
    x = writer.read(operator.inputs[0])
    if sums.folded is None:
        return _write_mean(writer, operator, x, target)
    flat = len(writer.program.shapes[name]) == 1
    column = (-1,) if flat else (-1, 1, 1)
    node = graph[operator.layer]
    if node.op == "affine":
        constant = writer.constant(f"{sums.owner}.weight", sums.weight.reshape(column).astype(np.float32))
        last = writer.node("Mul", [x, constant], f"{name}.sum")
    elif len(writer.program.shapes[operator.inputs[0]]) == 1:
        last = writer.node("MatMul", [x, weights(writer, operator, columns=True)], f"{name}.sum", name=name)
    else:
        inputs = [x, weights(writer, operator, columns=False)]
        last = writer.node("Conv", inputs, f"{name}.sum", name=name, **_geometry(sums))
    bias, scale = parameters(writer, operator)
    last = writer.node("Add", [last, writer.constant(f"{sums.owner}.bias", bias.reshape(column))], f"{name}.total")
    return writer.node("Mul", [last, writer.constant(f"{sums.owner}.scale", scale.reshape(column))], target)


def parameters(writer: Writer, operator: Conv | Logits) -> tuple[np.ndarray, np.ndarray]:
    """Bias in numbers before the scale, and scale: float32 (filters,)."""
    step = np.float64(writer.program.grids[operator.inputs[0]].step)
    return (operator.sums.bias * step).astype(np.float32), operator.sums.scale


def _write_mean(writer: Writer, operator: Conv | Logits, x: str, target: str) -> str:
    """An average pool: AveragePool where it divides by a power of two, else ones and a product as in the reference."""
    name, sums = operator.name, operator.sums
    kernel = (sums.weight.shape[2], sums.weight.shape[3])
    positions = kernel[0] * kernel[1]
    if positions & (positions - 1) == 0:
        shape = writer.program.shapes[operator.inputs[0]]
        if shape[1:] == kernel and not any(sums.padding):
            return writer.node("GlobalAveragePool", [x], target)
        return writer.node(
            "AveragePool", [x], target, **_window(kernel, sums.stride, sums.padding), count_include_pad=1
        )
    ones = _ones(writer, name, len(sums.weight), kernel)
    total = writer.node("Conv", [x, ones], f"{name}.sum", name=name, **_geometry(sums))
    return writer.node("Mul", [total, writer.shared(sums.scale[0])], target)


def _write_average(writer: Writer, operator: Average) -> None:
    """Sums of windows times one over the numbers that are on the image."""
    name, program = operator.name, writer.program
    channels, height, width = program.shapes[operator.inputs[0]]
    ones = _ones(writer, name, channels, operator.kernel)
    shape = _window(operator.kernel, operator.stride, operator.padding) | {"dilations": (1, 1), "group": channels}
    inputs = [writer.read(operator.inputs[0]), ones]
    total = writer.node("Conv", inputs, f"{name}.sum", name=name, **shape)
    rows, columns = operator.counts((height, width))
    parts = writer.shared(np.float32(1) / (rows[:, None] * columns))
    onto(writer, writer.node("Mul", [total, parts], f"{name}.numbers"), name, operator.top)


def _ones(writer: Writer, name: str, channels: int, kernel: tuple[int, ...]) -> str:
    values = writer.shared(np.ones((channels, 1, *kernel), np.float32))
    return signs(writer, values, f"{name}.ones", 1)


def _write_table(writer: Writer, operator: Table, graph: NetworkGraph) -> None:
    """A narrowing or another sign is a Quant by itself; a clip or a function stands before it."""
    name, grid = operator.name, writer.program.grids[operator.name]
    node, source = graph[operator.layer], writer.read(operator.inputs[0])
    if operator.table.ndim == 2:
        widths = writer.program.bits[node.owner].activation
        assert not isinstance(widths, int)
        narrow_maps(writer, operator, widths)
        return
    if name != operator.layer:
        onto(writer, source, name, grid.top)
        return
    if node.op in CLIPS:
        source = writer.node("Relu", [source], f"{name}.positive")
    else:
        assert node.op in FUNCTIONS, node.op
        function = f"{name}:function"
        numbers = FloatFunction(
            name=function, layer=node.name, inputs=operator.inputs, function=node.op, slope=node.slope
        )
        write_float(writer, numbers)
        source = writer.read(function)
    bounded = node.op == "relu6" or any(reader.op == "relu6" for reader in _merged(writer, node, graph))
    onto(writer, source, name, min(grid.top, int(np.rint(np.float32(6) / grid.step))) if bounded else grid.top)


def _merged(writer: Writer, node: Node, graph: NetworkGraph) -> list[Node]:
    """The clip that became part of a function: nothing of its name is written."""
    written = {operator.name for operator in writer.program.operators}
    readers = [graph[reader] for reader in graph.consumers[node.name]]
    return [reader for reader in readers if reader.op in CLIPS and reader.name not in written]


def _window(kernel: Pair, stride: Pair, padding: tuple[int, int, int, int]) -> dict[str, Any]:
    """Attributes of a window, all of them: the tools that read these files don't know ONNX' defaults."""
    return {"kernel_shape": kernel, "strides": stride, "pads": padding}


def _geometry(sums: Sums) -> dict[str, Any]:
    """Attributes of a Conv."""
    kernel = (sums.weight.shape[2], sums.weight.shape[3])
    return _window(kernel, sums.stride, sums.padding) | {"dilations": sums.dilation, "group": sums.groups}
