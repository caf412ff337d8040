"""Multipliers without floating point: mantissa * 2^-shift, and all that the C code computes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bitsmith.errors import ExportError


@dataclass(frozen=True, kw_only=True, slots=True)
class Factor:
    """mantissa * 2^-shift, the mantissa in 2^29 .. 2^30 (or 0)."""

    mantissa: int
    shift: int

    @classmethod
    def of(cls, value: float) -> Factor:
        """The nearest factor of a positive number.

        Example:
            >>> Factor.of(0.75)
            Factor(mantissa=805306368, shift=30)
        """
        fraction, exponent = math.frexp(value)
        mantissa = round(fraction * 2**30)
        if mantissa == 2**30:
            mantissa, exponent = 2**29, exponent + 1
        return cls(mantissa=mantissa, shift=30 - exponent)

    def times_half(self, half: np.ndarray) -> list[Factor]:
        """Times each half-precision number, its sign aside."""
        fractions, exponents = halves(half)
        return [
            Factor(mantissa=(self.mantissa * f) >> 10, shift=self.shift - (e + 10))
            for f, e in zip(fractions, exponents, strict=True)
        ]

    def shared_by(self, count: int) -> Factor:
        """Over a number of pixels."""
        mantissa, shift = (self.mantissa << 24) // count, self.shift + 24
        while mantissa >= 2**31:
            mantissa, shift = mantissa >> 1, shift - 1
        return Factor(mantissa=mantissa, shift=shift)

    def of_sums(self, total: np.ndarray) -> np.ndarray:
        """int64: rint(total * factor), half to even."""
        product = total.astype(np.int64) * self.mantissa
        if self.shift <= 0:
            return product
        if self.shift > 62:
            return np.zeros_like(product)
        unit = np.int64(1) << np.int64(self.shift)
        rest, whole = product & (unit - 1), product >> np.int64(self.shift)
        half = unit >> np.int64(1)
        return whole + ((rest > half) | ((rest == half) & (whole & 1 == 1)))


def halves(half: np.ndarray) -> tuple[list[int], list[int]]:
    """float16 -> (fraction, exponent), each |number| being fraction * 2^exponent with a fraction in 1024..2047.

    Raises:
        ExportError: a number below 2^-14, which has fewer digits.
    """
    bits = half.astype(np.float16).view(np.uint16).astype(int)
    if (((bits >> 10) & 31) == 0).any():
        raise ExportError("a channel's scale lies below half precision's normal numbers; this is a bug of freezing")
    return (1024 + (bits & 1023)).tolist(), (((bits >> 10) & 31) - 25).tolist()


def fixed_bias(stored: np.ndarray, granule: np.float32, half: np.ndarray) -> np.ndarray:
    """int64: rint(stored * granule / |half|), half away from zero."""
    power = round(math.log2(float(granule)))
    found = []
    for number, fraction, exponent in zip(stored.tolist(), *halves(half), strict=True):
        up = power - exponent
        top, below = abs(number) << max(up, 0), fraction << max(-up, 0)
        size = 0 if up <= -32 else (2 * top + below) // (2 * below)
        found.append(-size if number < 0 else size)
    return np.array(found, np.int64)
