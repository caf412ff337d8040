"""Freezing what stays float: BatchNorm folded into float32 weights and biases.

A layer computes in float32 where its weights or what it reads are not quantized (32 bits):

    y_c = sum w x + bias_c,    w = fl(W gain_c),    bias_c = fl(b_c gain_c + offset_c),

gain and offset those of its BatchNorm, multiplied in float64. Weights of 1 to 8 bits beside a float input stay codes:
w = fl(code * scale_c) with scale_c = fl(step_c gain_c), four bytes more per channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitsmith.errors import ExportError

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class Codes:
    """Weights that are stored as integers though they multiply floats.

    Args:
        codes: int16, filters first.
        bits: 1..8.
        odd: codes are odd integers of +-(2^bits - 1), else all integers of +-(2^(bits-1) - 1).
        scale: float32 (filters,).
    """

    codes: np.ndarray
    bits: int
    odd: bool
    scale: np.ndarray

    @property
    def weight(self) -> np.ndarray:
        """float32: codes * scale."""
        column = self.scale.reshape(-1, *[1] * (self.codes.ndim - 1))
        return self.codes.astype(np.float32) * column


@dataclass(frozen=True, kw_only=True)
class FloatFolded:
    """A layer in float32, BatchNorm folded in.

    Args:
        weight: float32, filters first.
        bias: float32 (filters,).
        codes: what the weight is stored as where it has 1 to 8 bits, else None.
    """

    weight: np.ndarray
    bias: np.ndarray
    codes: Codes | None = None

    @property
    def numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """float32 weight and bias."""
        return self.weight, self.bias


def fold_float(
    name: str, *, weight: np.ndarray, gain: np.ndarray, bias: np.ndarray, bits: int = 0, odd: bool = False
) -> FloatFolded:
    """Round a layer y_c = gain_c sum weight_c x + bias_c to float32.

    Args:
        weight: float64, filters first; integer codes where `bits` says so.
        gain: float64 (filters,); the step included where the weight is codes.
        bias: float64 (filters,).
        bits: of the codes, 1..8; 0 for a float weight.
        odd: as of `Codes`.

    Raises:
        ExportError: a number is not finite, or beyond float32.
    """
    column = gain.reshape(-1, *[1] * (weight.ndim - 1))
    for numbers in (weight * column, bias):
        if not (np.abs(numbers) <= _LARGEST).all():  # NaN is not
            raise ExportError(f"layer {name!r} has weights, steps or BatchNorm statistics that are not finite")
    bias = bias.astype(np.float32)
    if not bits:
        return FloatFolded(weight=(weight * column).astype(np.float32), bias=bias)
    codes = Codes(codes=weight.astype(np.int16), bits=bits, odd=odd, scale=gain.astype(np.float32))
    return FloatFolded(weight=codes.weight, bias=bias, codes=codes)
