"""The operators of a program that compute on float32 tensors: layers excluded from quantization, and what lies between.

A tensor without a grid holds float32 numbers. `Dequantize` leads from integers to them, `Quantize` back; what moves
numbers without computing (max pool, pad, concat, ...) is the same operator on either kind. Sums of floats depend on the
order in which they are added: `reference_float` says by how much.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitsmith.quantize import FloatFolded

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pixels:
    """Raw pixels to float32 numbers: x = (pixel / 255 - mean) / std, then x * gain + offset where these are.

    Args:
        mean, std: float32, broadcast against an image.
        gain, offset: likewise; None where there are none.
    """

    name: str
    layer: str
    mean: np.ndarray
    std: np.ndarray
    gain: np.ndarray | None = None
    offset: np.ndarray | None = None
    inputs: tuple[()] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Numbers:
    """The user's float input as it comes, x * gain + offset where these are."""

    name: str
    layer: str
    gain: np.ndarray | None = None
    offset: np.ndarray | None = None
    inputs: tuple[()] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Dequantize:
    """Stored integers to numbers: (stored - z) * step."""

    name: str
    layer: str
    inputs: tuple[str]


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantize:
    """Numbers to stored integers: clip(rint(x / step), -z, top - z) + z; on a grid of signs, x >= 0."""

    name: str
    layer: str
    inputs: tuple[str]
    top: int


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatSums:
    """Weighted sums of numbers: a convolution, or a matrix product where `folded.weight` has two dimensions.

    Args:
        folded: float32 weight and bias, and the codes of a weight that is stored in 1 to 8 bits.
        owner: the layer whose parameters these are, which several operators can use.
    """

    name: str
    layer: str
    inputs: tuple[str]
    folded: FloatFolded
    owner: str
    stride: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatScale:
    """One line per channel, x * gain + offset: a BatchNorm by itself. Both float32, broadcast against an image."""

    name: str
    layer: str
    inputs: tuple[str]
    gain: np.ndarray
    offset: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatAverage:
    """Means of windows.

    Args:
        count_pad: whether the zeros of the padding count in what is divided by.
    """

    name: str
    layer: str
    inputs: tuple[str]
    kernel: Pair
    stride: Pair
    padding: tuple[int, int, int, int]
    count_pad: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatAdd:
    """Sum of tensors."""

    name: str
    layer: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatMultiply:
    """Product of two tensors, the second of equal shape or (channels, 1, 1)."""

    name: str
    layer: str
    inputs: tuple[str, str]


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatFunction:
    """A function of one number, as the graph calls it.

    Args:
        slope: of leaky_relu, for negative numbers.
    """

    name: str
    layer: str
    inputs: tuple[str]
    function: str
    slope: float


# What computes in float32, beside what leads from integers to floats and back.
FloatComputing = Pixels | Numbers | FloatSums | FloatScale | FloatAverage | FloatAdd | FloatMultiply | FloatFunction
FloatOperator = FloatComputing | Dequantize | Quantize
