"""The costs that a budget can limit: their units and how they are written, in one place."""

from __future__ import annotations

import re
from decimal import Decimal

BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1024.0, "MiB": 1024.0**2, "GiB": 1024.0**3}
_COUNT = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_PLAIN = {"": 1.0}
_JOULES = {"J": 1.0, "mJ": 1e-3, "uJ": 1e-6, "nJ": 1e-9}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
# cost -> the units it takes; the first entry is the unit of values and limits.
UNITS: dict[str, dict[str, float]] = {
    "params": _COUNT,
    "weights": BYTES,
    "size": BYTES,
    "flash": BYTES,
    "ram": BYTES,
    "macs": _COUNT,
    "bitops": _COUNT,
    "bops": _COUNT,
    "ebops": _COUNT,
    "avg_bits": _PLAIN,
    "energy": _JOULES,
    "latency": _SECONDS,
}
WATTS = {"W": 1.0, "mW": 1e-3, "uW": 1e-6}
RATES = {"fps": 1.0, "Hz": 1.0}
CLOCKS = {"Hz": 1.0, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9}
ENERGIES = {**_JOULES, "pJ": 1e-12, "fJ": 1e-15}
NUMBER = r"([0-9.]+(?:[eE][+-]?[0-9]+)?)"
VALUE = re.compile(rf"\s*{NUMBER}\s*([A-Za-z]*)\s*")
_READ_AS_OTHERS = {"K"}  # units that are read, but not written


def format_cost(cost: str, value: float, *, exact: bool = False) -> str:
    """A cost with its unit, rounded to four digits unless `exact`: 20144 -> "20.14 kB", 1.25e7 -> "12.5 M"."""
    return format_value(UNITS[cost], value, exact=exact)


def format_value(units: dict[str, float], value: float, *, exact: bool = False) -> str:
    """A number in the greatest of these units that it has one of, else in the least.

    Example:
        >>> format_value({"W": 1.0, "mW": 1e-3}, 0.005, exact=True)
        '5 mW'
    """
    steps = [(f, u) for u, f in units.items() if not u.endswith("iB") and u not in _READ_AS_OTHERS]
    factor, unit = max((s for s in steps if abs(value) >= s[0]), default=min(steps))
    if exact:
        return f"{(Decimal(repr(float(value))) / decimal(factor)).normalize():f} {unit}".rstrip()
    return f"{value / factor:.4g} {unit}".rstrip()


def read_quantity(text: str, units: dict[str, float]) -> float:
    """A number with one of these units.

    Raises:
        ValueError: it isn't of that form; the message says what it takes.

    Example:
        >>> read_quantity("2.5pJ", {"J": 1.0, "pJ": 1e-12})
        2.5e-12
    """
    match = VALUE.fullmatch(micro(text))
    if match is None or match[2] not in units:
        raise ValueError(f"can't read {text!r}; write a number and a unit, one of {', '.join(u for u in units if u)}")
    try:
        return float(Decimal(match[1]) * decimal(units[match[2]]))
    except ArithmeticError as error:
        raise ValueError(f"{match[1]!r} in {text!r} is not a number") from error


def micro(text: str) -> str:
    """The text with u for the micro sign and for mu."""
    return text.replace("\N{MICRO SIGN}", "u").replace("\N{GREEK SMALL LETTER MU}", "u")


def decimal(factor: float) -> Decimal:
    """A factor as it is written: 1e-6 in floats is a little less than a millionth."""
    return Decimal(repr(factor))


def spoken_cost(cost: str) -> str:
    """A cost as it is written in a sentence."""
    words = {"ram": "RAM", "macs": "MACs", "bitops": "BitOPs", "bops": "BOPs", "ebops": "EBOPs"}
    return (words | {"avg_bits": "average bits"}).get(cost, cost)


def json_name(cost: str) -> str:
    """A cost with its unit, for readers of plain numbers: "size" is "size_bytes"."""
    word = {"B": "bytes", "J": "joules", "s": "seconds"}.get(unit_of(cost))
    return f"{cost.removesuffix('s')}_{word}" if word else cost


def unit_of(cost: str) -> str:
    """The unit of a cost's plain values: "B", "J", "s", or "" for counts."""
    return next(iter(UNITS[cost]))
