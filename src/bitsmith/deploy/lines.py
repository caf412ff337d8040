"""Tables that are rounded straight lines, which onnxruntime computes seven times faster than it looks them up.

Narrowing a grid and normalizing pixels are tables of 256 entries by definition. Gather takes 4 to 5 ns for each of
its bytes (measured: half of a 4-bit ResNet-18); cast, multiply, add, quantize and clip together 0.6 ns. So a table is
written as

    clip(rint(fl(fl(x * gain) + offset)), low, high)    x = 0..255, everything in float32, round half to even

where there is a line that gives all 256 entries exactly, which is checked entry by entry. Elementwise float32
operations and the cast to integers are defined to the last bit, so that what holds here holds in every runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import linprog


@dataclass(frozen=True, kw_only=True)
class Line:
    """Tables as lines, one per row.

    Args:
        gain, offset: float32 (rows,).
        low, high: bounds of all rows, within 0..255.
    """

    gain: np.ndarray
    offset: np.ndarray
    low: int
    high: int

    @property
    def rounded(self) -> np.ndarray:
        """What the lines give before they are clipped, float32 (rows, 256)."""
        x = np.arange(256, dtype=np.float32)
        return np.rint(x * self.gain[:, None] + self.offset[:, None])

    @property
    def tables(self) -> np.ndarray:
        """The tables that these lines stand for, uint8 (rows, 256)."""
        return self.rounded.clip(self.low, self.high).astype(np.uint8)


def find_lines(tables: np.ndarray) -> Line | None:
    """Lines that give exactly these tables, or None where there are none.

    Of all lines through the 256 intervals that round to the entries, the one farthest from their ends (a linear
    program in two unknowns); an offset of zero, which saves an operator, where that is enough.

    Args:
        tables: uint8 (rows, 256).

    Example:
        Eight bits narrowed to four at a step 17 times as large:
        >>> line = find_lines(np.minimum(np.rint(np.arange(256) / 17), 15).astype(np.uint8)[None])
        >>> line is not None and line.gain, line is not None and line.offset
        (array([0.05882353], dtype=float32), array([0.], dtype=float32))
    """
    low, high = int(tables.min()), int(tables.max())
    for bounds in ((0.0, 0.0), (None, None)):
        found = [_widest(table.tobytes(), low, high, bounds) for table in tables]
        lines = np.array([line for line in found if line is not None], np.float32)
        if len(lines) < len(tables):
            continue
        line = Line(gain=lines[:, 0], offset=lines[:, 1], low=low, high=high)
        if (line.tables == tables).all():
            return line
    return None


@lru_cache(maxsize=1024)  # proofs write a network several times, and a program takes milliseconds
def _widest(codes: bytes, low: int, high: int, bounds: tuple[float | None, float | None]) -> tuple[float, float] | None:
    """(gain, offset) with the largest room: table - 1/2 + room <= gain x + offset <= table + 1/2 - room."""
    table, x = np.frombuffer(codes, np.uint8).astype(np.float64), np.arange(256.0)
    rows, limits = [], []
    for sign, inside in ((1.0, table < high), (-1.0, table > low)):
        ones = np.ones(int(inside.sum()))
        rows.append(np.stack([sign * x[inside], sign * ones, ones], 1))
        limits.append(sign * table[inside] + 0.5)
    solved = linprog(
        [0.0, 0.0, -1.0], np.concatenate(rows), np.concatenate(limits), bounds=[(0.0, None), bounds, (0.0, 0.5)]
    )
    return (float(solved.x[0]), float(solved.x[1])) if solved.status == 0 else None
