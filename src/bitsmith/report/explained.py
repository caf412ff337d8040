"""What each layer of a trained network gains and costs: the part of a record, and a file of its own (explain.json)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from bitsmith.errors import RunError
from bitsmith.files import read_json, write_json
from bitsmith.report.parts import STRICT, Amount, BitWidth, Cost, Count, Fraction, Requested

SCHEMA = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """A measured change, after minus before.

    Args:
        margin: half the width of its 95 % interval, all steps of the network taken together.
        noise: whether the interval holds zero: nothing is shown then.

    Raises:
        RunError: `noise` isn't what the two numbers say.
    """

    value: float
    margin: Amount
    noise: bool

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        if self.noise != (abs(self.value) <= self.margin):
            raise RunError(f"a change of {self.value:g} ± {self.margin:g} can't be recorded as noise={self.noise}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerStep:
    """One decision of a layer at the next option up or down, the rest of the network as trained.

    Args:
        kind: whose bits.
        before, after: bits.
        score: change of the metric on validation images; positive is better.
        loss: change of the loss there; negative is better.
        costs: exact changes.
        inside: whether every budget of the network would still be met; None where it has none.
        believed: change of the loss that the search had measured before it decided; None where it had not.
    """

    layer: str
    kind: Literal["weight", "activation"]
    before: BitWidth
    after: BitWidth
    score: Effect
    loss: Effect
    costs: dict[Cost, float]
    inside: bool | None
    believed: float | None

    __pydantic_config__ = STRICT

    @property
    def up(self) -> bool:
        """Whether it is a step to more bits."""
        return self.after > self.before


@dataclass(frozen=True, kw_only=True, slots=True)
class Explained:
    """The steps of one network, and what they say in words.

    Args:
        network: folder of its row.
        metric: that `score` measures.
        images: of validation, that changes are measured on.
        trained_score: of the network as it was trained.
        score, loss: with BatchNorm's statistics re-estimated as for every step, which the changes are against.
        price: the cost that a bit is weighed by, "size" where budgets leave no choice.
        requested: budgets and what was obtained.
        steps: in execution order.
        words: which layer is worth a bit most, which could give one up.
    """

    schema: int = SCHEMA
    network: str
    metric: str
    images: Count
    trained_score: Fraction
    score: Fraction
    loss: float
    price: Cost
    requested: list[Requested]
    steps: list[LayerStep]
    words: list[str]

    __pydantic_config__ = STRICT

    @property
    def costs(self) -> list[str]:
        """What its steps are priced in, the price of a bit first."""
        return [self.price, *(cost for cost in (self.steps[0].costs if self.steps else {}) if cost != self.price)]


_ADAPTER = TypeAdapter(Explained)


def write_explained(explained: Explained, path: Path) -> None:
    """Write explain.json, whole or not at all.

    Raises:
        RunError: a field is of the wrong kind or out of range; nothing is written.
    """
    values = asdict(explained)
    _checked(values, "the explanation")
    write_json(path, values)


def read_explained(path: Path) -> Explained:
    """Read explain.json.

    Raises:
        RunError: it is missing, damaged or of another schema.
    """
    values = read_json(path, "what each layer gains and costs; run bitsmith explain")
    schema = values.get("schema") if isinstance(values, dict) else None
    if schema != SCHEMA:
        raise RunError(f"{path} has schema {schema!r}; this version of bitsmith reads {SCHEMA}: run bitsmith explain")
    return _checked(values, str(path))


def _checked(values: object, what: str) -> Explained:
    try:
        return _ADAPTER.validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RunError(f"{what} is damaged: {place}: {first['msg']}; run bitsmith explain again") from error
