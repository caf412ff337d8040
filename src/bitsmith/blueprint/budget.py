"""Budget: a hard upper limit on one cost, read from text such as "size=20kB"."""

from __future__ import annotations

import itertools
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
_VALUE = re.compile(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*")
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
            if "," in text:
                raise BudgetError(
                    f"{text!r} asks for one network per value, and this takes a single budget; "
                    f"bitsmith.fronts({text!r}) lists them"
                )
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


def fronts(*texts: str | Budget) -> list[tuple[Budget, ...]]:
    """Budgets that hold together, one set per network wanted: "size=10,15,20kB" asks for three.

    The last value's unit is that of all, or each has its own. All other budgets hold for each network.

    Raises:
        BudgetError: a text can't be read, a value or a cost is given twice, or two budgets are fronts: whether they
            are meant as pairs or as all combinations can't be told.

    Example:
        >>> [" ".join(map(str, line)) for line in fronts("size=10,15kB", "ram=64kB")]
        ['size=10kB ram=64kB', 'size=15kB ram=64kB']
    """
    read = [(text,) if isinstance(text, Budget) else _front(text) for text in texts]
    seen: dict[str, str] = {}
    for values, text in zip(read, texts, strict=True):
        cost = values[0].cost
        if cost in seen:
            raise BudgetError(
                f"{cost} is limited twice, by {seen[cost]} and by {text}; give it once, or for one network per value "
                f"write {cost}=10,20{'kB' if 'kB' in UNITS[cost] else ''}"
            )
        seen[cost] = str(text)
    several = [str(text) for values, text in zip(read, texts, strict=True) if len(values) > 1]
    if len(several) > 1:
        raise BudgetError(
            f"{several[0]} and {several[1]} are both fronts, and pairs or all combinations could be meant; keep one of "
            "them here, or list every network wanted in a recipe: budgets: [[size=10kB, ram=32kB], [...]]"
        )
    return list(itertools.product(*read))


def _front(text: str) -> tuple[Budget, ...]:
    name, equals, values = text.partition("=")
    if not equals or "," not in values:
        return (Budget.parse(text),)
    parts = [_VALUE.fullmatch(part) for part in values.split(",")]
    if None in parts:
        wrong = values.split(",")[parts.index(None)]
        raise BudgetError(f"can't read {wrong!r} in the front {text!r}; write it as size=10,15,20kB")
    read = [(part[1], part[2]) for part in parts if part]
    own = [unit for _, unit in read if unit]
    if (own and not read[-1][1]) or 1 < len(own) < len(read):
        raise BudgetError(f"the front {text!r} has units here and there; give the last value one, or each its own")
    found: list[Budget] = []
    for number, unit in read:
        budget = Budget.parse(f"{name}={number}{unit or read[-1][1]}")
        if budget in found:
            raise BudgetError(f"the front {text!r} has {budget} twice; every value is one network")
        found.append(budget)
    return tuple(found)


def format_cost(cost: str, value: float, *, exact: bool = False) -> str:
    """A cost with its unit, rounded to four digits unless `exact`: 20144 -> "20.14 kB", 1.25e7 -> "12.5 M"."""
    units = UNITS[cost]
    steps = [(f, u) for u, f in units.items() if not u.endswith("iB") and u != "K"]
    factor, unit = max((s for s in steps if abs(value) >= s[0]), default=min(steps))
    if exact:
        return f"{(Decimal(repr(float(value))) / Decimal(factor)).normalize():f}{unit}"
    return f"{value / factor:.4g} {unit}".rstrip()
