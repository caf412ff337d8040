"""The nodes of the ONNX file: how each integer operator is written; `onnx_sums` has those with weights."""

from __future__ import annotations

from typing import assert_never

import numpy as np
from onnx import TensorProto

from bitsmith.deploy.float_operators import (
    Dequantize,
    FloatAdd,
    FloatAverage,
    FloatFunction,
    FloatMultiply,
    FloatScale,
    FloatSums,
    Numbers,
    Pixels,
    Quantize,
)
from bitsmith.deploy.functions import lookup_function
from bitsmith.deploy.lines import find_lines
from bitsmith.deploy.onnx_float import write_float
from bitsmith.deploy.onnx_sums import window, write_average, write_conv, write_logits
from bitsmith.deploy.onnx_writer import INPUT, RUNTIME_DOMAIN, Writer
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
    Shuffle,
    Split,
    Table,
)


def write_operator(writer: Writer, operator: Operator) -> None:
    """Append the nodes and constants of one operator."""
    y = writer.read(operator.name)
    inputs = [writer.read(source) for source in operator.inputs]
    match operator:
        case InputTable():
            _write_table(writer, operator.name, INPUT, operator.table)
        case InputQuantize():
            _write_input_quantize(writer, operator)
        case Conv():
            write_conv(writer, operator)
        case Logits():
            write_logits(writer, operator)
        case Average():
            write_average(writer, operator)
        case Add():
            _write_add(writer, operator)
        case Multiply():
            _write_multiply(writer, operator)
        case Concat():
            writer.node("Concat", inputs, y, axis=1)
        case Table():
            if operator.table.ndim == 1:
                _write_table(writer, operator.name, inputs[0], operator.table[None])
            else:
                _write_maps(writer, operator)
        case MaxPool():
            geometry = window(operator.kernel, operator.stride, operator.padding, operator.dilation)
            writer.node("MaxPool", inputs, y, **geometry)
        case Pad():
            _write_pad(writer, operator)
        case Shuffle():
            write_shuffle(writer, operator)
        case Split():
            # From start to stop along axis 1.
            bounds = [writer.shared(np.array([number])) for number in (operator.start, operator.stop, 1)]
            writer.node("Slice", [*inputs, *bounds], y)
        case Flatten():
            writer.reshape(inputs[0], writer.program.shapes[operator.name], y)
        case (
            Pixels() | Numbers() | Dequantize() | Quantize() | FloatSums() | FloatScale() | FloatAverage() | FloatAdd()
            | FloatMultiply() | FloatFunction()
        ):  # fmt: skip
            write_float(writer, operator)
        case _:
            assert_never(operator)


def _write_table(writer: Writer, name: str, source: str, tables: np.ndarray) -> None:
    """One table for all numbers, or one per channel: as rounded lines where they are such, else looked up."""
    y = writer.read(name)
    channels = (-1, *[1] * (len(writer.program.shapes[name]) - 1)) if len(tables) > 1 else ()
    lines = find_lines(tables)
    if lines is None:
        if channels:
            source = _entry(writer, name, source, len(tables), channels)
        writer.call(lookup_function, [source, writer.shared(tables.reshape(-1))], [y])
        return
    wide = writer.node("Cast", [source], f"{name}.float", to=TensorProto.FLOAT)
    place = writer.node("Mul", [wide, writer.shared(lines.gain.reshape(channels))], f"{name}.scaled")
    if lines.offset.any():
        place = writer.node("Add", [place, writer.shared(lines.offset.reshape(channels))], f"{name}.line")
    rounding = [place, writer.shared(np.float32(1)), writer.byte(0)]
    low = lines.low if lines.rounded.min() < lines.low and lines.low > 0 else None
    high = lines.high if lines.rounded.max() > lines.high and lines.high < 255 else None
    if low is None and high is None:
        writer.node("QuantizeLinear", rounding, y)
        return
    bounds = ["" if bound is None else writer.byte(bound) for bound in (low, high)]
    writer.node("Clip", [writer.node("QuantizeLinear", rounding, f"{name}.levels"), *bounds], y)


def _entry(writer: Writer, name: str, source: str, tables: int, channels: tuple[int, ...]) -> str:
    """Where each number's entry is in the tables of all channels, one behind the other."""
    wide = writer.node("Cast", [source], f"{name}.index", to=TensorProto.INT32)
    offsets = 256 * np.arange(tables, dtype=np.int32).reshape(channels)
    return writer.node("Add", [wide, writer.shared(offsets)], f"{name}.entry")


def _write_maps(writer: Writer, operator: Table) -> None:
    """Tables of maps that differ in bits: each one stored once, and for every map a byte that says which it has."""
    name, source = operator.name, writer.read(operator.inputs[0])
    different, which = np.unique(operator.table, axis=0, return_inverse=True)
    index = writer.shared(which.reshape(-1).astype(np.uint8))
    number = writer.node("Cast", [index], f"{name}.which", to=TensorProto.INT32)
    tables = writer.node("Gather", [writer.shared(different), number], f"{name}.tables", axis=0)
    row = writer.node("Reshape", [tables, writer.shared(np.array([-1]))], f"{name}.row")
    channels = (-1, *[1] * (len(writer.program.shapes[name]) - 1))
    entry = _entry(writer, name, source, len(operator.table), channels)
    writer.call(lookup_function, [entry, row], [writer.read(name)])


def _write_input_quantize(writer: Writer, operator: InputQuantize) -> None:
    name, image, grid = operator.name, INPUT, writer.program.grids[operator.name]
    if operator.gain is not None and operator.offset is not None:
        scaled = writer.node("Mul", [image, writer.shared(operator.gain)], f"{name}.gain")
        image = writer.node("Add", [scaled, writer.shared(operator.offset)], f"{name}.offset")
    writer.saturate(image, name, grid.top, step=grid.step)


def _write_add(writer: Writer, operator: Add) -> None:
    name, y = operator.name, writer.read(operator.name)
    if len(operator.inputs) == 2:
        # Scales of one: sums of bytes are exact in float32, whatever the kernel does with them.
        one, clips = writer.shared(np.float32(1)), operator.top < 255
        inputs = [part for source in operator.inputs for part in (writer.read(source), one, writer.zero(source))]
        total = f"{name}.sum" if clips else y
        writer.node("QLinearAdd", [*inputs, one, writer.zero(name)], total, domain=RUNTIME_DOMAIN)
        if clips:
            writer.node("Clip", [total, "", writer.byte(operator.top)], y)
        return
    parts = [writer.centered(source, f"{name}.{i}") for i, source in enumerate(operator.inputs)]
    writer.saturate(writer.node("Sum", parts, f"{name}.sum"), name, operator.top)


def _write_multiply(writer: Writer, operator: Multiply) -> None:
    """Products of bytes are exact in float32; then one product with the ratio of the steps."""
    name, grids = operator.name, writer.program.grids
    left, right = (writer.centered(source, f"{name}.{i}") for i, source in enumerate(operator.inputs))
    product = writer.node("Mul", [left, right], f"{name}.product")
    first, second = (grids[source].step for source in operator.inputs)
    ratio = writer.shared((first * second) / grids[name].step)
    writer.saturate(writer.node("Mul", [product, ratio], f"{name}.scaled"), name, operator.top)


def _write_pad(writer: Writer, operator: Pad) -> None:
    top, left, bottom, right = operator.padding
    inputs = [writer.read(operator.inputs[0]), writer.shared(np.array([0, 0, top, left, 0, 0, bottom, right]))]
    if operator.mode == "constant" and operator.name in writer.program.grids:  # else zero, as ONNX has it by itself
        inputs.append(writer.zero(operator.name))
    writer.node("Pad", inputs, writer.read(operator.name), mode=operator.mode)


def write_shuffle(writer: Writer, operator: Shuffle) -> None:
    """Channels in groups, transposed; of integers or numbers."""
    name, shape = operator.name, writer.program.shapes[operator.name]
    parts = (operator.groups, shape[0] // operator.groups, *shape[1:])
    grouped = writer.reshape(writer.read(operator.inputs[0]), parts, f"{name}.groups")
    order = [0, 2, 1, *range(3, len(parts) + 1)]
    transposed = writer.node("Transpose", [grouped], f"{name}.transposed", perm=order)
    writer.reshape(transposed, shape, writer.read(name))
