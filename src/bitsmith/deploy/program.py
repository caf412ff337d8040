"""IntegerProgram: a frozen network as a short list of integer operators with numpy constants.

Every activation is stored as uint8: the integer q of its grid lo..hi plus the zero point -lo. Weighted sums (conv,
linear, affine, average pool) are all convolutions; the arithmetic is

    stored = clip(rint(float32(acc + bias) * fl(fl(sx sw) / sy)), -z, top - z) + z,    round half to even,

with acc the exact integer sum of w (stored_x - z_x), zero outside the image. A one-bit signed grid (-1, +1) is stored
as 0 and 2 with zero point 1; writing onto it takes the sign of acc + bias, where 0 counts as +1.
Exporters, the reference interpreter and `verify` all read this list and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bitsmith.blueprint import Bits, InputContract
from bitsmith.errors import ExportError
from bitsmith.quantize import Folded

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredGrid:
    """How an activation is stored: (stored - zero_point) * step, stored in 0..top.

    Example:
        Four signed bits at step 0.5 are stored in 0..15 with zero point 8; 8 means 0.0, 15 means 3.5.
    """

    step: np.float32
    zero_point: int
    top: int

    @property
    def is_sign(self) -> bool:
        """Whether this is the one-bit signed grid, which holds -1 and +1 but not 0."""
        return (self.zero_point, self.top) == (1, 2)

    def store(self, x: np.ndarray) -> np.ndarray:
        """float32 numbers -> uint8, as the activation quantizers round them."""
        if self.is_sign:
            return np.where(x >= 0, 2, 0).astype(np.uint8)
        levels = np.rint(x.astype(np.float32) / self.step)
        return (np.clip(levels, -self.zero_point, self.top - self.zero_point) + self.zero_point).astype(np.uint8)

    def load(self, stored: np.ndarray) -> np.ndarray:
        """uint8 -> float32."""
        return (stored.astype(np.float32) - np.float32(self.zero_point)) * self.step


@dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """The weighted sums of an operator, as a convolution.

    Args:
        weight: int8 (filters, channels / groups, height, width).
        scale: float32 (filters,); what one unit of weight is worth.
        bias: int64 (filters,), in accumulator units.
        padding: (top, left, bottom, right), filled with the input's zero point.
        folded: the stored form of a layer with weights; None for an average pool, whose weights are ones.
    """

    weight: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    stride: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    folded: Folded | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class InputTable:
    """Raw pixels to the first grid: stored = table[channel, pixel]; table is uint8 (channels, 256)."""

    name: str
    layer: str
    table: np.ndarray
    inputs: tuple[()] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class InputQuantize:
    """Float input to the first grid: stored = clip(rint(x / step), -z, top - z) + z."""

    name: str
    layer: str
    inputs: tuple[()] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Conv:
    """Weighted sums written onto the operator's grid, saturating at `top`, which a merged ReLU6 can lower."""

    name: str
    layer: str
    inputs: tuple[str]
    sums: Sums
    top: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Logits:
    """Weighted sums that stay numbers: float32(acc + bias) * fl(sx sw)."""

    name: str
    layer: str
    inputs: tuple[str]
    sums: Sums


@dataclass(frozen=True, kw_only=True, eq=False)
class Add:
    """Sum of two tensors at the same step: clip(a - z_a + b - z_b + z, 0, top)."""

    name: str
    layer: str
    inputs: tuple[str, str]
    top: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """stored = table[stored]; table is uint8 (256,). Narrows a stream for one layer, or clips it."""

    name: str
    layer: str
    inputs: tuple[str]
    table: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool:
    """Largest number of each window; padding never wins."""

    name: str
    layer: str
    inputs: tuple[str]
    kernel: Pair
    stride: Pair
    padding: tuple[int, int, int, int]
    dilation: Pair


@dataclass(frozen=True, kw_only=True, eq=False)
class Flatten:
    """The same numbers as one row per image."""

    name: str
    layer: str
    inputs: tuple[str]


@dataclass(frozen=True, kw_only=True, eq=False)
class Dequantize:
    """Stored integers to numbers: (stored - z) * step; only at the end of a network without unquantized logits."""

    name: str
    layer: str
    inputs: tuple[str]


Operator = InputTable | InputQuantize | Conv | Logits | Add | Table | MaxPool | Flatten | Dequantize


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerProgram:
    """A network as integer operators in execution order; the last one's tensor is the output, in float32.

    Args:
        operators: each writes one tensor, called by the operator's name; `layer` is the node of the graph it is of.
        grids: tensor -> how it is stored; a tensor without a grid is float32.
        shapes: tensor -> shape without batch.
        input: what the input means. "uint8": pixels, "float": float32.
        input_shape: (channels, height, width).
        classes: names of the outputs, where known.
        bits: of the priced layers.
    """

    operators: tuple[Operator, ...]
    grids: Mapping[str, StoredGrid]
    shapes: Mapping[str, tuple[int, ...]]
    input: InputContract
    input_shape: tuple[int, ...]
    classes: tuple[str, ...]
    bits: Mapping[str, Bits]

    def __post_init__(self) -> None:
        names = [operator.name for operator in self.operators]
        assert len(set(names)) == len(names), "operator names must be unique"

    @property
    def output(self) -> str:
        """The tensor that is the network's output."""
        return self.operators[-1].name

    @property
    def weighted(self) -> tuple[Conv | Logits, ...]:
        """The operators that sum with weights."""
        return tuple(operator for operator in self.operators if isinstance(operator, Conv | Logits))

    def accumulator_bound(self, operator: Conv | Logits) -> int:
        """Largest |acc| + |bias| that any input can cause."""
        grid = self.grids[operator.inputs[0]]
        reach = max(grid.zero_point, grid.top - grid.zero_point)
        rows = np.abs(operator.sums.weight.astype(np.int64)).reshape(len(operator.sums.weight), -1).sum(1)
        return int((rows * reach + np.abs(operator.sums.bias)).max())

    def may_saturate(self, operator: Conv | Logits) -> bool:
        """Whether two neighboring products pass int16, which x86 machines without VNNI saturate silently."""
        largest = int(np.abs(operator.sums.weight.astype(np.int64)).max(initial=0))
        return 2 * largest * self.grids[operator.inputs[0]].top > 32767


def check_accumulators(program: IntegerProgram) -> None:
    """Refuse a program whose sums don't fit 32 bits.

    Raises:
        ExportError: names the layer and how large its sums can become.
    """
    for operator in program.weighted:
        bound = program.accumulator_bound(operator)
        if bound >= 2**31:
            raise ExportError(
                f"layer {operator.layer!r}: its sums can reach {bound}, beyond 32 bits; "
                "use fewer weight or activation bits there, or train without a BatchNorm gain near zero"
            )
