"""Budget: a hard upper limit on one cost, read from text such as "size=20kB"."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from decimal import Decimal

from bitsmith.blueprint.units import RATES, UNITS, VALUE, WATTS, decimal, format_cost, format_value, micro, unit_of
from bitsmith.errors import BudgetError, suggestion

_FORM = re.compile(rf"\s*([a-z_]+)\s*={VALUE.pattern}")
_RATED = re.compile(rf"\s*power\s*={VALUE.pattern}@{VALUE.pattern}")
_EXAMPLES = "size=20kB, macs=12M, avg_bits=2.5, energy=40uJ, latency=3ms or power=5mW@30fps"


@dataclass(frozen=True, kw_only=True, slots=True)
class Power:
    """How an energy budget was written where it was written as a power: watts at so many inferences per second.

    Only the energy of the inferences counts, `energy = watts / rate`; what a device takes while it waits does not.
    """

    watts: float
    rate: float

    def __post_init__(self) -> None:
        for value in (self.watts, self.rate):
            if not math.isfinite(value) or value <= 0:
                raise BudgetError(
                    f"a power and its rate must be positive numbers, got {self.watts:g} and {self.rate:g}"
                )

    @property
    def joules(self) -> float:
        """Of one inference: the float nearest to the exact quotient."""
        return float(decimal(self.watts) / decimal(self.rate))

    def __str__(self) -> str:
        return f"power={_typed(WATTS, self.watts)}@{_typed(RATES, self.rate)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """`cost` must be at most `limit`: bytes for memories, joules, seconds, plain counts for the rest.

    Args:
        power: of an energy budget that was written as a power at a rate; it is printed so again.

    Example:
        >>> Budget.parse("size=20kB")
        Budget(cost='size', limit=20000.0, power=None)
        >>> str(Budget.parse("ram=64KiB"))
        'ram=65.536kB'
        >>> Budget.parse("power=6mW@30fps").limit                          # joules per inference
        0.0002

    Raises:
        BudgetError: an unknown cost, a limit that is not a positive finite number.
    """

    cost: str
    limit: float
    power: Power | None = None

    def __post_init__(self) -> None:
        if self.cost not in UNITS:
            raise BudgetError(f"unknown cost {self.cost!r}{_known(self.cost)}")
        if not math.isfinite(self.limit) or self.limit <= 0:
            raise BudgetError(f"a budget must be a positive number, got {self.cost}={self.limit:g}")
        assert self.power is None or (self.cost, self.limit) == ("energy", self.power.joules), self

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read "cost=NUMBER[UNIT]"; kB = 1000 bytes, KiB = 1024 bytes, M = 10^6; "power=5mW@30fps" limits the energy.

        Raises:
            BudgetError: the text is not of that form, or the unit doesn't fit the cost.
        """
        text = micro(text)
        if text.partition("=")[0].strip() == "power":
            return _read_power(text)
        match = _FORM.fullmatch(text)
        if match is None:
            if "," in text:
                raise BudgetError(
                    f"{text!r} asks for one network per value, and this takes a single budget; "
                    f"bitsmith.fronts({text!r}) lists them"
                )
            raise BudgetError(f"can't read the budget {text!r}; write it as {_EXAMPLES}")
        cost, number, unit = match.groups()
        if cost not in UNITS:
            raise BudgetError(f"unknown cost {cost!r} in {text!r}{_known(cost)}")
        return cls(cost=cost, limit=_read_number(text, cost, number, unit, UNITS[cost]))

    def __str__(self) -> str:
        return str(self.power) if self.power else f"{self.cost}={_typed(UNITS[self.cost], self.limit)}"

    def describe(self, value: float, *, exact: bool = False) -> str:
        """A value of the cost in words; where the budget is a power, as that too.

        Example:
            >>> Budget.parse("power=6mW@30fps").describe(3e-4)
            '300 uJ (9 mW at 30fps)'
        """
        text = format_cost(self.cost, value, exact=exact)
        if self.power is None:
            return text
        watts = format_value(WATTS, value * self.power.rate, exact=exact)
        return f"{text} ({watts} at {_typed(RATES, self.power.rate)})"


def _typed(units: dict[str, float], value: float) -> str:
    """A value as budgets are written, in one word: "20kB"."""
    return format_value(units, value, exact=True).replace(" ", "")


def _known(unknown: str) -> str:
    return f"{suggestion(unknown, [*UNITS, 'power'])}; known are {', '.join([*UNITS, 'power (at a rate)'])}"


def _read_power(text: str) -> Budget:
    match = _RATED.fullmatch(text)
    if match is None:
        raise BudgetError(
            f"can't read the power {text!r}; a power is that of inferences at a rate: write it as power=5mW@30fps"
        )
    watts, unit, rate, per = match.groups()
    power = Power(
        watts=_read_number(text, "power", watts, unit, WATTS), rate=_read_number(text, "a rate", rate, per, RATES)
    )
    return Budget(cost="energy", limit=power.joules, power=power)


def _read_number(text: str, what: str, number: str, unit: str, units: dict[str, float]) -> float:
    if unit not in units:
        names = ", ".join(name or "no unit" for name in units)
        raise BudgetError(f"{what} in {text!r} can't be in {unit or 'a bare number'!r}; it takes {names}")
    try:
        # Decimal, as 1.001 * 1000 in floats is less than 1001, and a cost of 1001 would be refused.
        return float(Decimal(number) * decimal(units[unit]))
    except ArithmeticError as error:
        raise BudgetError(f"{number!r} in {text!r} is not a number") from error


def fronts(*texts: str | Budget) -> list[tuple[Budget, ...]]:
    """Budgets that hold together, one set per network wanted: "size=10,15,20kB" asks for three.

    The last value's unit is that of all, or each has its own. All other budgets hold for each network.

    The values of a power share their rate: "power=5,10mW@30fps".

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
                f"write {cost}=10,20{list(UNITS[cost])[1] if unit_of(cost) else ''}"
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
    text = micro(text)
    name, equals, values = text.partition("=")
    values, at, rate = values.partition("@")
    if not equals or "," not in values:
        return (Budget.parse(text),)
    parts = [VALUE.fullmatch(part) for part in values.split(",")]
    if None in parts:
        wrong = values.split(",")[parts.index(None)]
        other = ", and another cost's limit as a budget of its own" if "=" in wrong else ""
        raise BudgetError(f"can't read {wrong!r} in the front {text!r}; write it as size=10,15,20kB{other}")
    read = [(part[1], part[2]) for part in parts if part]
    own = [unit for _, unit in read if unit]
    if (own and not read[-1][1]) or 1 < len(own) < len(read):
        raise BudgetError(f"the front {text!r} has units here and there; give the last value one, or each its own")
    found: list[Budget] = []
    for number, unit in read:
        budget = Budget.parse(f"{name}={number}{unit or read[-1][1]}{at}{rate}")
        if budget in found:
            raise BudgetError(f"the front {text!r} has {budget} twice; every value is one network")
        found.append(budget)
    return tuple(found)
