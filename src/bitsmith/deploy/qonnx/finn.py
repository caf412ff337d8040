"""What FINN needs of a network to streamline it into integers without changing a level, checked operator by operator.

FINN turns every Quant node into a MultiThreshold, moves scales and biases through the graph until thresholds absorb
them, and rounds thresholds of integer sums up to integers. That keeps every level where

- every layer reads integers without a zero point and has weights of one integer type (a Quant's zero point must be 0);
- operands of sums and concatenations have one scale, so that it moves behind them;
- thresholds on integers do what rounding does. FINN's i-th is at (i - 1/2) steps, and reached from there on; a Quant
  rounds halves to even. They part where a sum T that can occur lies exactly on a half, T m = i - 1/2, and i is odd; m
  is what one unit of the sum is worth in levels.

Sources: the handlers of FINN's conversion of QONNX (qonnx_activation_handlers.py), its transformation
RoundAndClipThresholds. Not checked: single sums so near a half that float32 decides, in FINN's own arithmetic (where it
moves scales) or in ours.
"""

from __future__ import annotations

import numpy as np

from bitsmith.deploy.operators import Add, Average, Concat, Conv, Logits, Operator, Table
from bitsmith.deploy.program import IntegerProgram
from bitsmith.errors import ExportError

_MOST = 5  # problems that a message tells


def check_streamlining(program: IntegerProgram) -> None:
    """Refuse a network that FINN would change.

    Raises:
        ExportError: one sentence for each operator that is in the way, by its name.
    """
    problems = [problem for operator in program.operators for problem in _problems(program, operator)]
    if problems:
        more = f"; and {len(problems) - _MOST} more" if len(problems) > _MOST else ""
        raise ExportError(f"FINN can't streamline this network exactly: {'; '.join(problems[:_MOST])}{more}")


def _problems(program: IntegerProgram, operator: Operator) -> list[str]:
    match operator:
        case Conv() | Logits():
            return [*_types(program, operator), *_thresholds(program, operator)]
        case Add() | Concat():
            steps = {float(program.grids[name].step) for name in operator.inputs}
            return [f"{operator.name!r} joins tensors of {len(steps)} scales"] if len(steps) > 1 else []
        case Table() if operator.table.ndim == 2:
            return [f"layer {operator.layer!r} reads maps that differ in bits, which have no datatype in common"]
        case Average():
            return [f"{operator.name!r} divides by another number at its edges, which no one scale is"]
    return []


def _types(program: IntegerProgram, operator: Conv | Logits) -> list[str]:
    folded = operator.sums.folded
    if folded is None:
        return []
    name, found = operator.layer, []
    parts = [part for _, part in folded.parts()]
    if len(parts) > 1:
        found.append(f"the filters of layer {name!r} differ in bits, and FINN has one datatype for each weight")
    if any(part.odd and part.bits != 1 for part in parts):
        found.append(
            f"the weights of layer {name!r} are odd codes with a zero point of -1/2, and FINN takes zero points of 0 "
            "alone; use lsq or nice"
        )
    silent = [i for part in parts if part.odd or part.bits == 1 for i in np.flatnonzero(_dead(part.codes))]
    if silent:
        found.append(f"layer {name!r} has constant filters ({len(silent)}), and its weights have no zero")
    if program.accumulator_bound(operator) >= 2**31:
        found.append(f"sums of layer {name!r} pass 32 bits")
    return found


def _dead(codes: np.ndarray) -> np.ndarray:
    return (codes.reshape(len(codes), -1) == 0).all(1)


def _thresholds(program: IntegerProgram, operator: Conv | Logits) -> list[str]:
    """Where integer thresholds give another level than rounding sums."""
    if isinstance(operator, Logits) or program.grids[operator.name].is_sign:
        return []  # no thresholds, or one at zero
    source, grid = program.grids[operator.inputs[0]], program.grids[operator.name]
    levels = np.arange(1 - grid.zero_point, operator.top - grid.zero_point + 1)
    reach = program.accumulator_bound(operator)
    for channel, unit in enumerate((source.step * operator.sums.scale) / grid.step):
        half = first_half(unit, levels, reach)
        if half is not None:
            return [
                f"in channel {channel} of layer {operator.layer!r} a sum of {half} lies on a half, which FINN rounds "
                "up and a Quant node to even; use quantizer lsq, whose steps are no powers of two"
            ]
    return []


def first_half(unit: np.float32, levels: np.ndarray, reach: int) -> int | None:
    """The first sum within reach that is worth exactly half a level less than an odd one of these, or None.

    Example:
        >>> first_half(np.float32(0.25), np.arange(1, 16), 100)  # 2 / 4 is 1/2: up to 1, or to 0, which is even
        2
    """
    sums = np.rint((levels - 0.5) / np.float64(unit))
    halves = (sums * np.float64(unit) == levels - 0.5) & (levels % 2 == 1) & (np.abs(sums) <= reach)
    return int(sums[halves][0]) if halves.any() else None
