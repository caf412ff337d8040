"""The reference interpreter: an IntegerProgram in numpy, as plainly as its arithmetic is defined.

Sums are float64 matrix products over integers, exact to 2^53, whatever the order of summation; the float32 steps that
follow are those of `bitsmith.deploy.program`. Every exported file has to give these numbers, bit for bit; where layers
stay float, every operator of it by itself (`apply`), but for the room that `reference_float` leaves to sums of floats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import assert_never

import numpy as np

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
    StoredGrid,
    Sums,
    Table,
)
from bitsmith.deploy.program import IntegerProgram
from bitsmith.deploy.reference_float import compute
from bitsmith.deploy.windows import weighted_sums, windows
from bitsmith.errors import VerifyError

_SCRATCH = 32 * 2**20  # bytes that the unrolled windows of one batch may take


def run(program: IntegerProgram, images: np.ndarray) -> np.ndarray:
    """The float32 outputs (N, ...) for images (N, C, H, W): uint8 pixels, or float32 by the input contract.

    Raises:
        VerifyError: images of another type or shape.
    """
    check_images(program, images)
    batch = batch_size(program)
    parts = [evaluate(program, images[i : i + batch], apply)[program.output] for i in range(0, len(images), batch)]
    return np.concatenate(parts) if parts else np.zeros((0, *program.shapes[program.output]), np.float32)


def trace(program: IntegerProgram, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor of the program for a few images (all are kept in memory), called by its operator's name.

    Raises:
        VerifyError: images of another type or shape.
    """
    check_images(program, images)
    return evaluate(program, images, apply, keep=True)


def evaluate(
    program: IntegerProgram,
    images: np.ndarray,
    rule: Callable[[IntegerProgram, Operator, list[np.ndarray]], np.ndarray],
    *,
    keep: bool = False,
) -> dict[str, np.ndarray]:
    """Tensors by what a rule makes of each operator's inputs; without `keep` those alone that nobody reads again."""
    last = {name: i for i, operator in enumerate(program.operators) for name in operator.inputs}
    values: dict[str, np.ndarray] = {}
    for i, operator in enumerate(program.operators):
        y = rule(program, operator, [values[name] for name in operator.inputs] or [images])
        values[operator.name] = y.reshape(len(images), *program.shapes[operator.name])
        for name in operator.inputs:
            if not keep and last[name] == i:
                values.pop(name, None)
    return values


def apply(program: IntegerProgram, operator: Operator, inputs: list[np.ndarray]) -> np.ndarray:
    """What an operator makes of what it reads (of the images where it reads no tensor), positions in a row or not."""
    x = inputs[0]
    grids = program.grids
    match operator:
        case InputTable():
            return _by_channel(operator.table, x)
        case InputQuantize():
            if operator.gain is not None:
                x = x * operator.gain + operator.offset
            return grids[operator.name].store(x)
        case Conv():
            source, grid = grids[operator.inputs[0]], grids[operator.name]
            return requantize(_total(operator.sums, x, source), operator.sums, source, grid, operator.top)
        case Logits():
            source = grids[operator.inputs[0]]
            total = _total(operator.sums, x, source)
            return total.astype(np.float32) * (source.step * operator.sums.scale)[:, None]
        case Average():
            source, grid = grids[operator.inputs[0]], grids[operator.name]
            centered = x.astype(np.int32) - source.zero_point
            total = windows(centered, operator.kernel, operator.stride, operator.padding, (1, 1), 0).sum((4, 5))
            rows, columns = operator.counts((x.shape[2], x.shape[3]))
            return onto(total, (source.step / grid.step) / (rows[:, None] * columns), grid, operator.top)
        case Add():
            zeros = sum(grids[name].zero_point for name in operator.inputs)
            total = sum(y.astype(np.int32) for y in inputs) - zeros + grids[operator.name].zero_point
            return np.clip(total, 0, operator.top).astype(np.uint8)
        case Multiply():
            a, b, grid = *(grids[name] for name in operator.inputs), grids[operator.name]
            product = (x.astype(np.int32) - a.zero_point) * (inputs[1].astype(np.int32) - b.zero_point)
            return onto(product, (a.step * b.step) / grid.step, grid, operator.top)
        case Concat():
            return np.concatenate(inputs, 1)
        case Table():
            return operator.table[x] if operator.table.ndim == 1 else _by_channel(operator.table, x)
        case MaxPool():
            lowest = 0 if x.dtype == np.uint8 else -np.inf
            return windows(x, operator.kernel, operator.stride, operator.padding, operator.dilation, lowest).max((4, 5))
        case Pad():
            up, left, down, right = operator.padding
            edges = ((0, 0), (0, 0), (up, down), (left, right))
            if operator.mode == "constant":
                zero = grids[operator.name].zero_point if operator.name in grids else 0
                return np.pad(x, edges, constant_values=zero)
            return np.pad(x, edges, operator.mode)
        case Shuffle():
            n, channels, *rest = x.shape
            return x.reshape(n, operator.groups, channels // operator.groups, *rest).swapaxes(1, 2)
        case Split():
            return x[:, operator.start : operator.stop]
        case Flatten():
            return x
        case Dequantize():
            return grids[operator.inputs[0]].load(x)
        case Quantize():
            return np.minimum(grids[operator.name].store(x), np.uint8(operator.top))
        case (
            Pixels() | Numbers() | FloatSums() | FloatScale() | FloatAverage() | FloatAdd() | FloatMultiply()
            | FloatFunction()
        ):  # fmt: skip
            return compute(operator, inputs)
    assert_never(operator)


def _by_channel(tables: np.ndarray, x: np.ndarray) -> np.ndarray:
    """tables[channel, x] for tables (channels, 256)."""
    return tables[np.arange(len(tables)).reshape(-1, *[1] * (x.ndim - 2)), x]


def requantize(total: np.ndarray, sums: Sums, source: StoredGrid, grid: StoredGrid, top: int) -> np.ndarray:
    """Exact sums (N, filters, positions) onto a grid."""
    return onto(total, ((source.step * sums.scale) / grid.step)[:, None], grid, top)


def onto(total: np.ndarray, multiplier: np.ndarray | np.float32, grid: StoredGrid, top: int) -> np.ndarray:
    """Exact integers times a multiplier onto a grid: the normative float32 arithmetic."""
    if grid.is_sign:
        return np.where(total >= 0, 2, 0).astype(np.uint8)
    assert multiplier.dtype == np.float32
    levels = np.rint(total.astype(np.float32) * multiplier)
    return (np.clip(levels, -grid.zero_point, top - grid.zero_point) + grid.zero_point).astype(np.uint8)


def _total(sums: Sums, x: np.ndarray, source: StoredGrid) -> np.ndarray:
    """acc + bias as float64 (N, filters, positions), exact."""
    if x.ndim == 2:
        x = x[:, :, None, None]
    centered = x.astype(np.int16) - np.int16(source.zero_point)
    total = weighted_sums(
        sums.weight,
        centered,
        stride=sums.stride,
        padding=sums.padding,
        dilation=sums.dilation,
        groups=sums.groups,
    )
    return total + sums.bias.astype(np.float64)[:, None]


def batch_size(program: IntegerProgram) -> int:
    """Images whose widest unrolled windows fit the scratch memory."""
    widest = 1
    for operator in program.weighted:
        shape = program.shapes[operator.name]
        positions = shape[1] * shape[2] if len(shape) == 3 else 1
        _, channels, height, width = operator.sums.weight.shape
        widest = max(widest, channels * operator.sums.groups * height * width * positions * 8)
    for operator in program.float_sums:
        positions = math.prod(program.shapes[operator.name][1:])
        widest = max(widest, operator.folded.weight[0].size * operator.groups * positions * 8)
    return max(1, _SCRATCH // widest)


def check_images(program: IntegerProgram, images: np.ndarray) -> None:
    wanted = np.dtype(np.uint8 if program.input.kind == "uint8" else np.float32)
    if images.dtype != wanted or images.shape[1:] != program.input_shape:
        raise VerifyError(
            f"the network takes images of type {wanted} and shape (N, {', '.join(map(str, program.input_shape))}), "
            f"got {images.dtype} of shape {images.shape}"
        )
