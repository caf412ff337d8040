"""The reference of `--no-fpu`: the integer reference with 31-bit factors where that has float32.

Here factors are within 2^-29 of the real numbers that they stand for; the other reference multiplies and rounds in
float32 several times, which is within about 2^-22 of the product. So levels differ where a product lies within about
2^-22 of itself from a tie, and biases, rounded to integers from a quotient that is exact here and a float32 there, by
one where that is near a tie, and by more beyond 2^24. Classes are the same but for a few images in ten thousand; the C
code without floating point gives these numbers to the bit.
"""

from __future__ import annotations

import math

import numpy as np

from bitsmith.deploy.c.factors import Factor, fixed_bias
from bitsmith.deploy.float_operators import Dequantize
from bitsmith.deploy.operators import Average, Conv, Logits, Multiply, Operator, StoredGrid, Sums
from bitsmith.deploy.program import IntegerProgram
from bitsmith.deploy.reference import apply, batch_size, check_images, evaluate
from bitsmith.deploy.windows import weighted_sums, windows


def output_step(program: IntegerProgram) -> float:
    """What one unit of the int32 outputs is worth: a power of two for sums, the grid's own step for levels."""
    logits = [operator for operator in program.operators if isinstance(operator, Logits)]
    if not logits:
        return float(program.grids[next(iter(program.operators[-1].inputs))].step)
    operator = logits[0]
    unit = float(program.grids[operator.inputs[0]].step) * float(operator.sums.scale.max())
    return 2.0 ** (math.ceil(math.log2(unit * max(program.accumulator_bound(operator), 1))) - 30)


def layer_factor(program: IntegerProgram, operator: Conv | Logits) -> Factor:
    """Input step * layer scale / output step."""
    folded = operator.sums.folded
    scale = float(operator.sums.scale[0]) if folded is None else float(folded.layer_scale)
    grid = program.grids.get(operator.name)
    step = output_step(program) if grid is None else float(grid.step)
    return Factor.of(float(program.grids[operator.inputs[0]].step) * scale / step)


def average_factor(program: IntegerProgram, operator: Average) -> Factor:
    """Input step / output step."""
    return Factor.of(float(program.grids[operator.inputs[0]].step) / float(program.grids[operator.name].step))


def multiply_factor(program: IntegerProgram, operator: Multiply) -> Factor:
    """Product of the input steps / output step."""
    a, b = (float(program.grids[name].step) for name in operator.inputs)
    return Factor.of(a * b / float(program.grids[operator.name].step))


def trace_fixed(program: IntegerProgram, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor for a few images; what has no grid is int32 in units of `output_step`.

    Raises:
        VerifyError: images of another type or shape.
    """
    check_images(program, images)
    return evaluate(program, images, _apply, keep=True)


def run_fixed(program: IntegerProgram, images: np.ndarray) -> np.ndarray:
    """The int32 outputs in units of `output_step`.

    Raises:
        VerifyError: images of another type or shape.
    """
    check_images(program, images)
    batch = batch_size(program)
    parts = [evaluate(program, images[i : i + batch], _apply)[program.output] for i in range(0, len(images), batch)]
    return np.concatenate(parts) if parts else np.zeros((0, *program.shapes[program.output]), np.int32)


def _apply(program: IntegerProgram, operator: Operator, inputs: list[np.ndarray]) -> np.ndarray:
    grids = program.grids
    match operator:
        case Conv() | Logits():
            source = grids[operator.inputs[0]]
            factors = channel_factors(program, operator)
            total = _total(operator.sums, inputs[0], source, channel_bias(operator))
            grid, top = grids.get(operator.name), getattr(operator, "top", 0)
            return np.stack([_onto(total[:, c], f, grid, top) for c, f in enumerate(factors)], 1)
        case Average():
            source, grid = grids[operator.inputs[0]], grids[operator.name]
            x = inputs[0].astype(np.int64) - source.zero_point
            total = windows(x, operator.kernel, operator.stride, operator.padding, (1, 1), 0).sum((4, 5))
            rows, columns = operator.counts((x.shape[2], x.shape[3]))
            y, factor = np.zeros(total.shape, np.uint8), average_factor(program, operator)
            for i, j in np.ndindex(len(rows), len(columns)):
                shared = factor.shared_by(int(rows[i] * columns[j]))
                y[:, :, i, j] = _onto(total[:, :, i, j], shared, grid, operator.top)
            return y
        case Multiply():
            a, b = (
                x.astype(np.int64) - grids[name].zero_point for x, name in zip(inputs, operator.inputs, strict=True)
            )
            return _onto(a * b, multiply_factor(program, operator), grids[operator.name], operator.top)
        case Dequantize():
            return inputs[0].astype(np.int32) - grids[operator.inputs[0]].zero_point
        case _:
            return apply(program, operator, inputs)


def channel_factors(program: IntegerProgram, operator: Conv | Logits) -> list[Factor]:
    """The factor of each channel."""
    factor, folded = layer_factor(program, operator), operator.sums.folded
    return [factor] * len(operator.sums.scale) if folded is None else factor.times_half(folded.half)


def channel_bias(operator: Conv | Logits) -> np.ndarray:
    """The bias of each channel, int64."""
    folded = operator.sums.folded
    return operator.sums.bias if folded is None else fixed_bias(folded.stored_bias, folded.granule, folded.half)


def _total(sums: Sums, x: np.ndarray, source: StoredGrid, bias: np.ndarray) -> np.ndarray:
    x = x.reshape(*x.shape, *[1] * (4 - x.ndim)).astype(np.int16) - np.int16(source.zero_point)
    geometry = {"stride": sums.stride, "padding": sums.padding, "dilation": sums.dilation, "groups": sums.groups}
    return weighted_sums(sums.weight, x, **geometry).astype(np.int64) + bias[:, None]


def _onto(total: np.ndarray, factor: Factor, grid: StoredGrid | None, top: int) -> np.ndarray:
    if grid is None:
        return factor.of_sums(total).astype(np.int32)
    if grid.is_sign:
        return np.where(total >= 0, 2, 0).astype(np.uint8)
    return (factor.of_sums(total) + grid.zero_point).clip(0, top).astype(np.uint8)
