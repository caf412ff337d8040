"""Budget: a hard upper limit on one cost, read from text such as "size=20kB"."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal

from bitsmith.errors import BudgetError

_BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1024.0, "MiB": 1024.0**2, "GiB": 1024.0**3}
_COUNT = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_PLAIN = {"": 1.0}
# cost -> the units it takes; the first entry is the unit of `limit`.
UNITS: dict[str, dict[str, float]] = {
    "params": _COUNT,
    "weights": _BYTES,
    "size": _BYTES,
    "ram": _BYTES,
    "macs": _COUNT,
    "bitops": _COUNT,
    "avg_bits": _PLAIN,
}
_FORM = re.compile(r"\s*([a-z_]+)\s*=\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """`cost` must be at most `limit`, in bytes for memories and plain counts for the rest.

    Example:
        >>> Budget.parse("size=20kB")
        Budget(cost='size', limit=20000.0)
        >>> str(Budget.parse("ram=64KiB"))
        'ram=65.536kB'

    Raises:
        BudgetError: an unknown cost, a limit that is not a positive finite number.
    """

    cost: str
    limit: float

    def __post_init__(self) -> None:
        if self.cost not in UNITS:
            raise BudgetError(f"unknown cost {self.cost!r}; known are {', '.join(UNITS)}")
        if not math.isfinite(self.limit) or self.limit <= 0:
            raise BudgetError(f"a budget must be a positive number, got {self.cost}={self.limit:g}")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read "cost=NUMBER[UNIT]"; kB = 1000 bytes, KiB = 1024 bytes, M = 10^6.

        Raises:
            BudgetError: the text is not of that form, or the unit doesn't fit the cost.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise BudgetError(f"can't read the budget {text!r}; write it as size=20kB, macs=12M or avg_bits=2.5")
        cost, number, unit = match.groups()
        if cost not in UNITS:
            raise BudgetError(f"unknown cost {cost!r} in {text!r}; known are {', '.join(UNITS)}")
        if unit not in UNITS[cost]:
            names = ", ".join(name or "no unit" for name in UNITS[cost])
            raise BudgetError(f"{cost} in {text!r} can't be in {unit or 'a bare number'!r}; it takes {names}")
        try:
            # Decimal, as 1.001 * 1000 in floats is less than 1001, and a cost of 1001 would be refused.
            limit = float(Decimal(number) * Decimal(UNITS[cost][unit]))
        except ArithmeticError as error:
            raise BudgetError(f"{number!r} in {text!r} is not a number") from error
        return cls(cost=cost, limit=limit)

    def __str__(self) -> str:
        return f"{self.cost}={format_cost(self.cost, self.limit, exact=True)}"


def format_cost(cost: str, value: float, *, exact: bool = False) -> str:
    """A cost with its unit, rounded to four digits unless `exact`: 20144 -> "20.14 kB", 1.25e7 -> "12.5 M"."""
    units = UNITS[cost]
    steps = [(f, u) for u, f in units.items() if not u.endswith("iB") and u != "K"]
    factor, unit = max((s for s in steps if abs(value) >= s[0]), default=min(steps))
    if exact:
        return f"{(Decimal(repr(float(value))) / Decimal(factor)).normalize():f}{unit}"
    return f"{value / factor:.4g} {unit}".rstrip()
