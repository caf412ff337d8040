"""What model.c is made of so far, and how values of a program are written in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from bitsmith.deploy.c.factors import Factor
from bitsmith.deploy.c.layout import Layout
from bitsmith.deploy.c.literals import array, number
from bitsmith.deploy.program import IntegerProgram


@dataclass(frozen=True, kw_only=True)
class Call:
    """One operator of the network.

    Args:
        place: its number among the program's operators.
        title: what it is, for people.
        code: the C statement.
        written: C expression of the tensor that it writes, and its bytes.
        layer: the constants of a layer with weights, "" for others; `per_filter` says how these are ordered.
    """

    place: int
    title: str
    code: str
    written: str
    bytes: int
    layer: str = ""
    per_filter: bool = True


@dataclass(kw_only=True)
class Source:
    """The parts of model.c so far."""

    program: IntegerProgram
    layout: Layout
    fpu: bool
    constants: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    kernels: set[str] = field(default_factory=set)
    bits: set[int] = field(default_factory=set)
    data_bytes: int = 0
    depthwise_taps: int = 1
    narrows: bool = False
    narrows_maps: bool = False
    averages_by_window: bool = False
    _known: dict[tuple[str, bytes], str] = field(default_factory=dict)

    def array(self, name: str, values: np.ndarray) -> str:
        """A constant array, written once for all who need the same."""
        values = np.ascontiguousarray(values)
        key = (values.dtype.str, values.tobytes())
        if key not in self._known:
            self._known[key] = name
            self.constants.append(array(name, values))
            self.data_bytes += values.nbytes
        return self._known[key]

    def struct(self, kind: str, name: str, text: str, *, extent: str = "") -> str:
        """A constant structure, or (`extent`) an array of them."""
        if (kind, text.encode()) not in self._known:
            self._known[kind, text.encode()] = name
            self.constants.append(f"static const {kind} {name}{extent} = {text};")
        return self._known[kind, text.encode()]

    @property
    def wide(self) -> bool:
        """Whether a layer has more than 256 filters."""
        return any(len(operator.sums.weight) > 256 for operator in self.program.weighted)


def at(source: Source, name: str) -> str:
    """Where a tensor begins."""
    base = source.layout.base[name]
    if base == source.layout.base[source.program.output]:
        return "out"
    return f"arena + {source.layout.arena.offsets[base]}"


def grid_text(source: Source, name: str, top: int | None = None) -> str:
    """A grid, with the largest number that is written onto it."""
    step = (lambda value: f"{number(value)}, ") if source.fpu else (lambda value: "")
    grid = source.program.grids.get(name)
    if grid is None:
        return f"{{{step(1.0)}NUMBERS, 0, 0}}"
    form = "SIGNS" if grid.is_sign else "LEVELS"
    return f"{{{step(grid.step)}{form}, {grid.zero_point}, {grid.top if top is None else top}}}"


def factor_text(source: Source, step: np.float32, fixed: Callable[[], Factor]) -> str:
    return number(step) if source.fpu else fixed_text(fixed())


def fixed_text(factor: Factor) -> str:
    return f"{{{factor.mantissa}, {factor.shift}}}"


def window_text(
    program: IntegerProgram,
    name: str,
    read: str,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, ...] = (1, 1),
) -> str:
    numbers = (*maps(program, read), *maps(program, name), *kernel, *stride, *padding[:2], *dilation)
    return "{" + ", ".join(map(str, numbers)) + "}"


def maps(program: IntegerProgram, name: str) -> tuple[int, int, int]:
    """(height, width, channels); features are the channels of one pixel."""
    shape = program.shapes[name]
    return (shape[1], shape[2], shape[0]) if len(shape) == 3 else (1, 1, math.prod(shape))


def size(program: IntegerProgram, name: str) -> tuple[int, int]:
    """(positions, channels)."""
    height, width, channels = maps(program, name)
    return height * width, channels


def element(program: IntegerProgram, name: str) -> int:
    return 1 if name in program.grids else 4
