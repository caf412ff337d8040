"""The float operators in numpy, and how far a float32 result of theirs may lie from another.

Each is computed in float64 and rounded once. A runtime computes in float32, in an order of its own: a sum of n products
can then be off by

    |error| <= g_n sum |w| |x|,    g_n = min(n, 6 sqrt(n)) u / (1 - n u),    u = 2^-24,

whatever the order and whether products are fused into sums: n u for certain (N. Higham, Accuracy and Stability of
Numerical Algorithms, section 3.1), and 6 sqrt(n) u but for one sum in 10^7, if roundings are independent (N. Higham and
T. Mary, A New Approach to Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 2019). That is the room that
`room` leaves. Means have n u alone: a map of one number over and over, as a blank image or a dead channel gives, is
rounded the same way each time. What takes no sum (a step, a clip, pixels to numbers) has no room: it is the same to the
last bit.

Wide layers have so much room for every single number that float16 products fit in from about 5,000 terms on. Taken
together the numbers of a layer have less: a loop rounds each of its partial sums s_k by 0.42 u |s_k| in root mean
square (of mantissas spread evenly in the logarithm), and products of random signs around a mean make E[s_k^2] at most
(k / n)^2 y^2 + (k / n) T^2, T^2 = sum (w x)^2, so that

    rms(error) <= 0.42 u sqrt(n (y^2 / 3 + T^2 / 2))  <  u sqrt(n (y^2 + T^2)) / 3,

and three times that, u sqrt(n (y^2 + T^2)), is `typical`. Kernels that add in blocks stay further below. Numbers
rounded to 11 bits (float16, TF32) before they are multiplied are off by 3,500 u T, which is more to millions of terms
where y is about T, as with weights of either sign. Where all products have one sign, y^2 is n T^2 at most, and they
pass from about 3,500 terms on: so much a verification doesn't see.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import assert_never

import numpy as np
from scipy.special import erf, expit

from bitsmith.deploy.float_operators import (
    Dequantize,
    FloatAdd,
    FloatAverage,
    FloatComputing,
    FloatFunction,
    FloatMultiply,
    FloatOperator,
    FloatScale,
    FloatSums,
    Numbers,
    Pixels,
    Quantize,
)
from bitsmith.deploy.windows import weighted_sums, windows

_UNIT = 2.0**-24
# Of functions of one number, measured against float64: onnxruntime's tanh and erf are off by 4e-7 at most.
_FUNCTION = 2.0**-20
_EXACT = frozenset({"relu", "relu6"})


def compute(operator: FloatComputing, inputs: list[np.ndarray]) -> np.ndarray:
    """What an operator makes of float32 tensors (Pixels: of uint8 images), as float32, its positions in one row or not.

    Args:
        inputs: (N, ...) each.
    """
    x = inputs[0]
    match operator:
        case Pixels():
            numbers = (x.astype(np.float32) / np.float32(255) - operator.mean) / operator.std
            return _line(numbers, operator.gain, operator.offset)
        case Numbers():
            return _line(x, operator.gain, operator.offset)
        case FloatSums():
            weight, bias = operator.folded.numbers
            return (_sums(operator, weight, x) + bias.astype(np.float64)[:, None]).astype(np.float32)
        case FloatScale():
            return (x.astype(np.float64) * operator.gain + operator.offset).astype(np.float32)
        case FloatAverage():
            total, count = _window_sums(operator, x)
            return (total / count).astype(np.float32)
        case FloatAdd():
            return sum(y.astype(np.float64) for y in inputs).astype(np.float32)  # pyright: ignore[reportAttributeAccessIssue]
        case FloatMultiply():
            return (x.astype(np.float64) * inputs[1]).astype(np.float32)
        case FloatFunction():
            if operator.function == "leaky_relu":
                return np.where(x < 0, x * np.float32(operator.slope), x)
            return FUNCTIONS[operator.function](x.astype(np.float64)).astype(np.float32)
    assert_never(operator)


def room(operator: FloatOperator, inputs: list[np.ndarray]) -> np.ndarray | float:
    """How far float32 results may lie from `compute`'s, number by number; 0 where they have to be the same.

    Args:
        inputs: as of `compute`.
    """
    match operator:
        case Pixels() | Numbers() | Dequantize() | Quantize():
            return 0.0
        case FloatSums():
            weight, bias = operator.folded.numbers
            size = _sums(operator, np.abs(weight), np.abs(inputs[0])) + np.abs(bias).astype(np.float64)[:, None]
            return _growth(weight[0].size + 2) * size
        case FloatScale():
            return _growth(3) * (np.abs(inputs[0].astype(np.float64) * operator.gain) + np.abs(operator.offset))
        case FloatAverage():
            total, count = _window_sums(operator, np.abs(inputs[0]))
            return _certain(operator.kernel[0] * operator.kernel[1] + 2) * total / count
        case FloatAdd():
            return _growth(len(inputs) + 1) * sum(np.abs(y).astype(np.float64) for y in inputs)
        case FloatMultiply():
            return _growth(2) * np.abs(inputs[0].astype(np.float64) * inputs[1])
        case FloatFunction():
            if operator.function in _EXACT:
                return 0.0
            return _FUNCTION * np.maximum(1.0, np.abs(inputs[0].astype(np.float64)))
    assert_never(operator)


def typical(operator: FloatSums, inputs: list[np.ndarray]) -> float:
    """How far float32 results may lie from `compute`'s in root mean square over the layer.

    u sqrt(n mean(y^2 + sum (w x)^2)), n counting the bias and the rounding of the result.

    Args:
        inputs: as of `compute`.
    """
    weight, bias = (numbers.astype(np.float64) for numbers in operator.folded.numbers)
    squares = _sums(operator, weight**2, inputs[0].astype(np.float64) ** 2) + (bias**2)[:, None]
    y = _sums(operator, weight, inputs[0]) + bias[:, None]
    return _UNIT * math.sqrt((weight[0].size + 2) * float((squares + y**2).mean()))


def _growth(terms: int) -> float:
    return min(1, 6 / math.sqrt(terms)) * _certain(terms)


def _certain(terms: int) -> float:
    return terms * _UNIT / (1 - terms * _UNIT)


def _line(x: np.ndarray, gain: np.ndarray | None, offset: np.ndarray | None) -> np.ndarray:
    return x if gain is None else x * gain + offset


def _sums(operator: FloatSums, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Weighted sums in float64, (N, filters, positions)."""
    if weight.ndim == 2:
        weight, x = weight[:, :, None, None], x[:, :, None, None]
    return weighted_sums(
        weight,
        x,
        stride=operator.stride,
        padding=operator.padding,
        dilation=operator.dilation,
        groups=operator.groups,
    )


def _window_sums(operator: FloatAverage, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | int]:
    """Sums of windows in float64, and by what they are divided."""

    def summed(y: np.ndarray) -> np.ndarray:
        return windows(y, operator.kernel, operator.stride, operator.padding, (1, 1), 0).sum((4, 5), dtype=np.float64)

    if operator.count_pad:
        return summed(x), operator.kernel[0] * operator.kernel[1]
    return summed(x), summed(np.ones((1, 1, *x.shape[2:])))


# Functions of one number without settings, in float64.
FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hard_sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "silu": lambda x: x * expit(x),
    "sigmoid": expit,
    "tanh": np.tanh,
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
}
