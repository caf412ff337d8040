"""Where the tensors of a program lie in the C code's arena, and in what order their bytes.

Maps are stored by row, column and channel (HWC), so that what a filter reads side by side lies side by side. Flattening
moves nothing: what follows takes its features in that order, which the weights are permuted to. Tables that narrow what
one layer reads, or that change a sign before a concat, have no tensor: the reader applies them while it reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bitsmith.cost import ArenaPlan
from bitsmith.deploy.float_operators import Dequantize, FloatOperator
from bitsmith.deploy.operators import Concat, Conv, Flatten, Logits, Operator, Shuffle, Split, Table
from bitsmith.deploy.program import IntegerProgram
from bitsmith.errors import ExportError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The tensors of a program in memory.

    Args:
        arena: the memory plan of the program's graph.
        fused: tables without a tensor, by name.
        base: tensor -> the tensor whose bytes it is.
        order: flattened tensor -> which feature its i-th place holds; tensors that aren't here are in order.
    """

    arena: ArenaPlan
    fused: Mapping[str, Table]
    base: Mapping[str, str]
    order: Mapping[str, np.ndarray]

    def to_features(self, name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """What lies in memory, (N, ...), as the reference has it: (N, channels, height, width) or (N, features)."""
        if len(shape) == 3:
            channels, height, width = shape
            return values.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
        values = values.reshape(-1, *shape)
        if name not in self.order:
            return values
        found = np.empty_like(values)
        found[:, self.order[name]] = values
        return found


def lay_out(program: IntegerProgram, arena: ArenaPlan) -> Layout:
    """Find each tensor's place and order.

    Raises:
        ExportError: an operator that C code has no kernel for, with the layer's name.
    """
    _refuse_floats(program)
    fused = {o.name: o for o in program.operators if isinstance(o, Table) and o.name not in arena.storage}
    readers = {name: o for o in program.operators for name in o.inputs}
    assert all(isinstance(readers[name], Conv | Logits | Concat) for name in fused), "a table without a tensor"
    base: dict[str, str] = {}
    order: dict[str, np.ndarray] = {}
    for operator in program.operators:
        name = operator.name
        aliases = isinstance(operator, Flatten) or name in fused
        base[name] = base[next(iter(operator.inputs))] if aliases else name
        found = _order(program, operator, order)
        if found is not None:
            order[name] = found
        if not aliases and not (isinstance(operator, Dequantize) and name == program.output):
            held, needed = arena.sizes[name], _bytes(program, name)
            assert held == needed, f"{name} takes {needed} bytes, the plan has {held}"
    return Layout(arena=arena, fused=fused, base=base, order=order)


def _bytes(program: IntegerProgram, name: str) -> int:
    return math.prod(program.shapes[name]) * (1 if name in program.grids else 4)


def _refuse_floats(program: IntegerProgram) -> None:
    for operator in program.operators:
        final = isinstance(operator, Dequantize) and operator.name == program.output
        if isinstance(operator, FloatOperator) and not final:
            raise ExportError(
                f"layer {operator.layer!r} computes in float32, and C code runs integers alone; pin it to 8 bits "
                "instead of excluding it, or export to onnx"
            )


def _order(program: IntegerProgram, operator: Operator, order: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The order of what an operator writes, None where features lie as they are numbered."""
    known = [order.get(name) for name in operator.inputs]
    match operator:
        case Flatten() if len(program.shapes[operator.inputs[0]]) == 3:
            channels, height, width = program.shapes[operator.inputs[0]]
            if channels == 1 or height * width == 1:
                return None
            return np.arange(channels * height * width).reshape(channels, -1).T.reshape(-1)
        case Conv() | Logits() if operator.sums.groups == 1:
            return None
    if all(one is None for one in known):
        return None
    if isinstance(operator, Concat | Shuffle | Split):
        raise ExportError(
            f"layer {operator.layer!r}: C code keeps flattened maps by row, column and channel, and has no "
            f"{type(operator).__name__.lower()} of them; flatten after it, or export to onnx"
        )
    first = known[0]
    if any(one is None or first is None or (one != first).any() for one in known):
        raise ExportError(
            f"layer {operator.layer!r} joins flattened maps with features of another order, which C code can't; "
            "flatten after it, or export to onnx"
        )
    return first
