"""Operators of a program as TFLite's, each a plain function; what TFLite has no int8 operator for is refused by name.

Sums are the same integers as ours. What follows is not: we multiply by a float32 factor and round half to even,
TFLite's own kernels by a 31-bit fixed-point one and round halves up, so that a result may fall one level to the other
side.
`bitsmith.deploy.tflite.verify` counts where.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bitsmith.deploy.lines import find_lines
from bitsmith.deploy.operators import (
    Add,
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
    StoredGrid,
    Sums,
    Table,
)
from bitsmith.deploy.program import IntegerProgram
from bitsmith.deploy.tflite.writer import Writer
from bitsmith.errors import ExportError

INPUT = "image"
PIXELS = StoredGrid(step=np.float32(1), zero_point=0, top=255)
_LARGEST = 127  # weights of the input's line


class Lowering:
    """A program on its way into a file.

    Args:
        output: the grid of the logits, which TFLite can't leave as int32.
    """

    def __init__(self, program: IntegerProgram, output: StoredGrid) -> None:
        self.program, self.output, self.to = program, output, Writer()
        self.orders: dict[str, np.ndarray] = {}  # flat tensor -> our feature at each of its places

    def grid(self, name: str) -> StoredGrid:
        return self.program.grids.get(name, self.output)

    def shape(self, name: str) -> tuple[int, ...]:
        """(1, H, W, C) of a tensor."""
        shape = self.program.shapes[name]
        return (1, *shape[1:], shape[0]) if len(shape) == 3 else (1, 1, 1, shape[0])

    def result(self, operator: Operator, shape: tuple[int, ...] | None = None) -> str:
        """The operator's tensor."""
        return self.to.tensor(operator.name, shape or self.shape(operator.name), grid=self.grid(operator.name))

    def carry(self, operator: Operator) -> None:
        """The order of flat features, which all that an operator reads must share."""
        found = [self.orders.get(name) for name in operator.inputs]
        first = found[0]
        for other in found[1:]:
            alike = first is other if first is None or other is None else np.array_equal(first, other)
            if not alike:
                raise _refused(operator, "joins flattened maps with other features, whose order is another here")
        if first is not None:
            self.orders[operator.name] = first


def write_operator(lowering: Lowering, operator: Operator) -> None:
    """Append one operator of the program.

    Raises:
        ExportError: TFLite has no int8 operator that computes it; names the layer.
    """
    write = _WRITERS.get(type(operator))
    if write is None:
        raise _refused(operator, f"is a {type(operator).__name__}, which has no operator of int8 numbers there")
    write(lowering, operator)


def _refused(operator: Operator, why: str) -> ExportError:
    return ExportError(f"layer {operator.layer!r} can't be written to TFLite: it {why}; export --to onnx or c")


def _input_table(lowering: Lowering, operator: InputTable) -> None:
    """Pixels onto the first grid: a depthwise convolution of one weight per channel, as the table is a rounded line."""
    line = find_lines(operator.table)
    if line is None:
        raise _refused(operator, "brings pixels onto its grid by a table that is no rounded line")
    to, grid = lowering.to, lowering.grid(operator.name)
    channels = len(operator.table)
    shape = lowering.shape(operator.name)
    to.tensor(INPUT, shape, grid=PIXELS)
    weight = np.full((1, 1, 1, channels), _LARGEST, np.int8)
    gain, offset = line.gain.astype(np.float64), line.offset.astype(np.float64) - grid.zero_point
    bias = np.rint(offset * _LARGEST / gain).astype(np.int64)
    to.tensor("image.weight", weight.shape, scales=gain * float(grid.step) / _LARGEST, axis=3, data=weight)
    _bias(lowering, operator, "image.bias", bias, gain * float(grid.step) / _LARGEST)
    lowering.result(operator)
    options = {"padding": to.schema.Padding.VALID, "strideW": 1, "strideH": 1, "depthMultiplier": 1}
    to.operator(
        "DEPTHWISE_CONV_2D", [INPUT, "image.weight", "image.bias"], operator.name, "DepthwiseConv2DOptions", **options
    )


def _input_quantize(lowering: Lowering, operator: InputQuantize) -> None:
    if operator.gain is not None:
        raise _refused(operator, "scales float inputs inside the network")
    lowering.to.tensor(INPUT, lowering.shape(operator.name), "float32")
    lowering.result(operator)
    lowering.to.operator("QUANTIZE", [INPUT], operator.name, "QuantizeOptions")


def _sums(lowering: Lowering, operator: Conv | Logits) -> None:
    to, sums, source = lowering.to, operator.sums, operator.inputs[0]
    grid, channels = lowering.grid(source), lowering.shape(source)[3]
    weight = sums.weight
    if len(lowering.program.shapes[source]) == 1:
        weight = weight.reshape(len(weight), -1, 1, 1)
        if source in lowering.orders:
            weight = weight[:, lowering.orders[source]]
    depthwise = sums.groups == channels and sums.groups > 1
    if sums.groups > 1 and not depthwise:
        raise _refused(operator, f"is a convolution of {sums.groups} groups; int8 kernels take one, or one per channel")
    top = getattr(operator, "top", 255)
    name = operator.name
    if depthwise:  # (filters, 1, h, w) to (1, h, w, filters)
        stored, axis, code = weight[:, 0].transpose(1, 2, 0)[None], 3, "DEPTHWISE_CONV_2D"
    else:  # to (filters, h, w, channels)
        stored, axis, code = weight.transpose(0, 2, 3, 1), 0, "CONV_2D"
    scale = sums.scale.astype(np.float64)
    to.tensor(f"{name}.weight", stored.shape, scales=scale, axis=axis, data=np.ascontiguousarray(stored, np.int8))
    _bias(lowering, operator, f"{name}.bias", sums.bias, scale * float(grid.step))
    read, padding = _padded(lowering, operator, source, sums)
    written = name if top == 255 else to.tensor(f"{name}.sums", lowering.shape(name), grid=lowering.grid(name))
    if top == 255:
        lowering.result(operator)
    options: dict[str, Any] = {"padding": padding, **_strides(lowering, source, sums, padding)}
    options |= {"dilationHFactor": sums.dilation[0], "dilationWFactor": sums.dilation[1]}
    if depthwise:
        options["depthMultiplier"] = len(weight) // channels
    kind = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
    to.operator(code, [read, f"{name}.weight", f"{name}.bias"], written, kind, **options)
    if top != 255:
        lowering.result(operator)
        bound = np.full((1, 1, 1, 1), top - 128, np.int8)
        to.tensor(f"{name}.top", bound.shape, grid=lowering.grid(name), data=bound)
        to.operator("MINIMUM", [written, f"{name}.top"], name, "MaximumMinimumOptions")


def _strides(lowering: Lowering, source: str, window: Sums | MaxPool, padding: int) -> dict[str, int]:
    """One where a single window is all there is, so that it never moves: Vela leaves strides above three to the CPU."""
    sizes = lowering.shape(source)[1:3]
    found = list(window.stride)
    for axis, (size, span) in enumerate(zip(sizes, _spans(window), strict=True)):
        whole = size + window.padding[axis] + window.padding[axis + 2] == span
        if whole and padding == lowering.to.schema.Padding.VALID:
            found[axis] = 1
    return {"strideH": found[0], "strideW": found[1]}


def _spans(window: Sums | MaxPool) -> list[int]:
    """Rows and columns from the first to the last number of a window."""
    kernel = window.weight.shape[2:] if isinstance(window, Sums) else window.kernel
    return [(k - 1) * d + 1 for k, d in zip(kernel, window.dilation, strict=True)]


def _bias(lowering: Lowering, operator: Operator, name: str, bias: np.ndarray, scales: np.ndarray) -> None:
    if np.abs(bias).max(initial=0) >= 2**31:
        raise _refused(operator, "has a bias beyond 32 bits")
    lowering.to.tensor(name, bias.shape, "int32", scales=scales, data=bias.astype(np.int32))


def _padded(lowering: Lowering, operator: Operator, source: str, window: Sums | MaxPool) -> tuple[str, int]:
    """What a window reads, and TFLite's word for its padding; other paddings than its own are an operator before it."""
    padding = lowering.to.schema.Padding
    top, left, bottom, right = window.padding
    if not any(window.padding):
        return source, padding.VALID
    height, width = lowering.shape(source)[1:3]
    wanted = []
    for size, span, stride in zip((height, width), _spans(window), window.stride, strict=True):
        whole = max((-(-size // stride) - 1) * stride + span - size, 0)
        wanted.append((whole // 2, whole - whole // 2))
    if wanted == [(top, bottom), (left, right)]:
        return source, padding.SAME
    lowest = isinstance(window, MaxPool) and lowering.grid(source).zero_point != 0
    return _pad(lowering, f"{operator.name}.padded", source, window.padding, lowest=lowest), padding.VALID


def _pad(
    lowering: Lowering, name: str, source: str, padding: tuple[int, int, int, int], *, lowest: bool = False
) -> str:
    """Edges of the zero point, or of the least number."""
    to, (_, height, width, channels), grid = lowering.to, lowering.shape(source), lowering.grid(source)
    top, left, bottom, right = padding
    to.tensor(name, (1, height + top + bottom, width + left + right, channels), grid=grid)
    edges = to.integers(f"{name}.edges", [[0, 0], [top, bottom], [left, right], [0, 0]])
    if lowest:
        least = to.tensor(f"{name}.least", (1,), grid=grid, data=np.array([-128], np.int8))
        to.operator("PADV2", [source, edges, least], name, "PadV2Options")
    else:
        to.operator("PAD", [source, edges], name, "PadOptions")
    return name


def _add(lowering: Lowering, operator: Add) -> None:
    if len(operator.inputs) != 2:
        raise _refused(operator, f"adds {len(operator.inputs)} tensors at once")
    _two(lowering, operator, "ADD", "AddOptions")


def _multiply(lowering: Lowering, operator: Multiply) -> None:
    _two(lowering, operator, "MUL", "MulOptions")


def _two(lowering: Lowering, operator: Add | Multiply, code: str, options: str) -> None:
    to, name = lowering.to, operator.name
    lowering.carry(operator)
    written = name if operator.top == 255 else to.tensor(f"{name}.all", lowering.shape(name), grid=lowering.grid(name))
    if operator.top == 255:
        lowering.result(operator)
    to.operator(code, list(operator.inputs), written, options)
    if operator.top != 255:
        lowering.result(operator)
        bound = np.full((1, 1, 1, 1), operator.top - 128, np.int8)
        to.tensor(f"{name}.top", bound.shape, grid=lowering.grid(name), data=bound)
        to.operator("MINIMUM", [written, f"{name}.top"], name, "MaximumMinimumOptions")


def _concat(lowering: Lowering, operator: Concat) -> None:
    if any(name in lowering.orders for name in operator.inputs):
        raise _refused(operator, "joins flattened maps, whose order is another here")
    lowering.result(operator)
    lowering.to.operator("CONCATENATION", list(operator.inputs), operator.name, "ConcatenationOptions", axis=3)


def _table(lowering: Lowering, operator: Table) -> None:
    """A change of grid; other functions have no operator of exactly their numbers."""
    source, onto = lowering.grid(operator.inputs[0]), lowering.grid(operator.name)
    if operator.table.ndim == 1:
        stored = np.arange(256)[: source.top + 1]
        ratio = float(source.step) / float(onto.step)
        moved = np.rint((stored - source.zero_point) * ratio) + onto.zero_point
        away = np.abs(np.clip(moved, 0, 255) - operator.table[: source.top + 1])
    if operator.table.ndim != 1 or away.max() > 1:
        raise _refused(operator, "is a table that is no change of grid (a function such as hard-swish)")
    lowering.carry(operator)
    lowering.result(operator)
    lowering.to.operator("QUANTIZE", [operator.inputs[0]], operator.name, "QuantizeOptions")


def _max_pool(lowering: Lowering, operator: MaxPool) -> None:
    if operator.dilation != (1, 1):
        raise _refused(operator, "is a dilated max pool")
    read, padding = _padded(lowering, operator, operator.inputs[0], operator)
    lowering.result(operator)
    options = {"padding": padding, **_strides(lowering, operator.inputs[0], operator, padding)}
    options |= {"filterHeight": operator.kernel[0], "filterWidth": operator.kernel[1]}
    lowering.to.operator("MAX_POOL_2D", [read], operator.name, "Pool2DOptions", **options)


def _only_pad(lowering: Lowering, operator: Pad) -> None:
    if operator.mode != "constant":
        raise _refused(operator, f"is a pad of kind {operator.mode}")
    _pad(lowering, operator.name, operator.inputs[0], operator.padding)


def _flatten(lowering: Lowering, operator: Flatten) -> None:
    to, source = lowering.to, operator.inputs[0]
    shape = lowering.program.shapes[source]
    if len(shape) == 3 and shape[1] * shape[2] > 1:
        lowering.orders[operator.name] = np.arange(np.prod(shape)).reshape(shape).transpose(1, 2, 0).reshape(-1)
    elif source in lowering.orders:
        lowering.orders[operator.name] = lowering.orders[source]
    lowering.result(operator)
    size = to.integers(f"{operator.name}.shape", list(lowering.shape(operator.name)))
    to.operator(
        "RESHAPE", [source, size], operator.name, "ReshapeOptions", newShape=list(lowering.shape(operator.name))
    )


_WRITERS: dict[type, Callable[[Lowering, Any], None]] = {
    InputTable: _input_table,
    InputQuantize: _input_quantize,
    Conv: _sums,
    Logits: _sums,
    Add: _add,
    Multiply: _multiply,
    Concat: _concat,
    Table: _table,
    MaxPool: _max_pool,
    Pad: _only_pad,
    Flatten: _flatten,
}
