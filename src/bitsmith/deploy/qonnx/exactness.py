"""Where a QONNX file has to give the reference's integers, and where floats between Quant nodes may miss them by one.

With steps that are powers of two every number before a scale is an integer times a power of two, which float32 holds to
2^24. With others a product may round to the other side of a half, and a level then is the neighbor of the reference's.
"""

from __future__ import annotations

import numpy as np

from bitsmith.deploy.operators import Average, Conv, Logits, Multiply, Operator, Table
from bitsmith.deploy.program import IntegerProgram
from bitsmith.quantize import ACCUMULATOR


def is_exact(program: IntegerProgram, operator: Operator) -> bool:
    """Whether an operator's numbers have to be the reference's, given the same inputs."""
    steps = [program.grids[name].step for name in (*operator.inputs, operator.name) if name in program.grids]
    match operator:
        case Conv() | Logits():
            return _powers(steps) and program.accumulator_bound(operator) < ACCUMULATOR
        case Average() | Multiply():
            return _powers(steps)
        case Table():
            if operator.table.ndim == 2:  # rounded twice, to the widest map's levels first
                return _powers(steps)
            return ":" in operator.name or _is_clip(program, operator)  # a function is another runtime's
    return True


def _is_clip(program: IntegerProgram, operator: Table) -> bool:
    source, grid = program.grids[operator.inputs[0]], program.grids[operator.name]
    levels = np.arange(source.top + 1) - source.zero_point
    clipped = levels.clip(0, operator.table.max()) + grid.zero_point
    return source.step == grid.step and np.array_equal(operator.table[: len(levels)], clipped)


def all_exact(program: IntegerProgram) -> bool:
    """Whether a whole file has to give the reference's outputs to the bit."""
    return all(is_exact(program, operator) for operator in program.operators)


def _powers(steps: list[np.float32]) -> bool:
    return all(np.frexp(step)[0] == 0.5 for step in steps)


def level_of(program: IntegerProgram, operator: Operator) -> np.ndarray | int:
    """How far neighboring levels of an operator's grid are apart as stored, for each map where these differ."""
    if program.grids[operator.name].is_sign:
        return 2
    if isinstance(operator, Table) and operator.table.ndim == 2:
        gaps = [int(np.diff(np.unique(row)).max(initial=1)) for row in operator.table]
        return np.array(gaps).reshape(-1, *[1] * (len(program.shapes[operator.name]) - 1))
    return 1
