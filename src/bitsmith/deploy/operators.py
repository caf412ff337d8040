"""The integer operators of a program, as plain values with numpy constants.

Every activation is stored as uint8: the integer q of its grid lo..hi plus the zero point -lo. Weighted sums (conv,
linear, affine, average pool) are convolutions; the arithmetic is

    stored = clip(rint(float32(acc + bias) * fl(fl(sx sw) / sy)), -z, top - z) + z,    round half to even,

with acc the exact integer sum of w (stored_x - z_x), zero outside the image. A one-bit signed grid (-1, +1) is stored
as 0 and 2 with zero point 1; writing onto it takes the sign of acc + bias, where 0 counts as +1.

Layers that stay float have operators of their own (`float_operators`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bitsmith.deploy.float_operators import FloatOperator
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
        owner: the layer whose parameters these are, which several operators can use; "" for an average pool.
    """

    weight: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    stride: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    folded: Folded | None = None
    owner: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class InputTable:
    """Raw pixels to the first grid: stored = table[channel, pixel]; table is uint8 (channels, 256)."""

    name: str
    layer: str
    table: np.ndarray
    inputs: tuple[()] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class InputQuantize:
    """Float input to the first grid: stored = clip(rint((x * gain + offset) / step), -z, top - z) + z.

    Args:
        gain, offset: float32, broadcast against an image; None where there are none.
    """

    name: str
    layer: str
    gain: np.ndarray | None = None
    offset: np.ndarray | None = None
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
class Average:
    """Means of windows of which the padding is no part: a convolution of ones, divided by its numbers on the image.

    stored = clip(rint(float32(acc) * fl(fl(sx / sy) / count)), -z, top - z) + z
    """

    name: str
    layer: str
    inputs: tuple[str]
    kernel: Pair
    stride: Pair
    padding: tuple[int, int, int, int]
    top: int

    def counts(self, size: Pair) -> tuple[np.ndarray, np.ndarray]:
        """float32: rows and columns of each window that lie on an image of (height, width); count is their product."""
        before, after = self.padding[:2], self.padding[2:]
        rows, columns = (
            np.lib.stride_tricks.sliding_window_view(np.pad(np.ones(n, np.float32), (a, b)), k)[::s].sum(1)
            for n, a, b, k, s in zip(size, before, after, self.kernel, self.stride, strict=True)
        )
        return rows, columns


@dataclass(frozen=True, kw_only=True, eq=False)
class Add:
    """Sum of tensors at the same step: clip(a - z_a + b - z_b + ... + z, 0, top)."""

    name: str
    layer: str
    inputs: tuple[str, ...]
    top: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Multiply:
    """Product of two tensors, the second of equal shape or (channels, 1, 1).

    stored = clip(rint(float32((a - z_a) (b - z_b)) * fl(fl(s_a s_b) / s_y)), -z, top - z) + z
    """

    name: str
    layer: str
    inputs: tuple[str, str]
    top: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Concat:
    """Tensors of one grid, one behind the other along the channels."""

    name: str
    layer: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """stored = table[stored]; table is uint8 (256,). A function, a clip, a narrowing for one layer, another sign.

    Where maps differ in bits, table is uint8 (channels, 256): stored = table[channel, stored].
    """

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
class Pad:
    """Edges of (top, left, bottom, right) more pixels: the zero point, or by numpy's pad mode."""

    name: str
    layer: str
    inputs: tuple[str]
    padding: tuple[int, int, int, int]
    mode: Literal["constant", "reflect", "edge", "wrap"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Shuffle:
    """Channels, as (groups, channels / groups), transposed."""

    name: str
    layer: str
    inputs: tuple[str]
    groups: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """The channels from `start` up to but without `stop`."""

    name: str
    layer: str
    inputs: tuple[str]
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Flatten:
    """The same numbers as one row per image."""

    name: str
    layer: str
    inputs: tuple[str]


IntegerOperator = (
    InputTable | InputQuantize | Conv | Logits | Average | Add | Multiply | Concat | Table | MaxPool | Pad | Shuffle
    | Split | Flatten
)  # fmt: skip
Operator = IntegerOperator | FloatOperator
