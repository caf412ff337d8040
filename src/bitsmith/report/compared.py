"""The record of a comparison: what compare.json holds and compare.html shows; plain values, back unchanged."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from bitsmith.blueprint import Budget
from bitsmith.errors import RunError
from bitsmith.report.parts import STRICT, Amount, Cost, Count, Fraction, IsoTime, Plain

COMPARED_SCHEMA = 1
_ROUNDING = 1e-9  # of a limit: sums of floats in another order

# "no interval": the metric needs more than predicted classes, so that the sampling error is not known.
Outcome = Literal["shown", "not shown", "against", "identical", "no interval"]
SavingOutcome = Literal["shown", "not shown", "against", "identical", "no interval", "not comparable"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """Who is compared where: a method in a space at a budget; its seeds are samples of one thing."""

    method: str
    space: str
    budget: str

    __pydantic_config__ = STRICT


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One trained network of a comparison.

    Args:
        kind: "baseline" where others are measured by it.
        bits: a short summary.
        network: digest of its blueprint; equal ones are the same network.
        costs: as `Row.costs`.
        validation, test: 0..1; the test is that of the exported file, where source is "onnx".
        epochs: all training at low precision, search included.
        search_epochs: of these, the search's.
        seconds: wall time of the same.
        folder: its run folder, relative to the comparison.
    """

    contest: Contest
    seed: int
    kind: Literal["found", "baseline"]
    bits: str
    network: str
    costs: dict[Cost, Amount]
    validation: Fraction
    test: Fraction
    source: Literal["onnx", "torch"]
    epochs: Amount
    search_epochs: Amount
    seconds: Amount
    folder: str

    __pydantic_config__ = STRICT

    @property
    def outside(self) -> dict[str, float]:
        """Costs that are beyond their budget -> by which share of it; as-published methods enforce none."""
        over = {
            budget.cost: self.costs.get(budget.cost, 0.0) / budget.limit - 1
            for budget in map(Budget.parse, self.contest.budget.split(", "))
        }
        return {cost: share for cost, share in over.items() if share > _ROUNDING}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """All seeds of a contest; test scores with their 95 % interval, None where the metric has none."""

    contest: Contest
    kind: Literal["found", "baseline"]
    seeds: list[int]
    bits: list[str]
    test: Fraction
    low: float | None
    high: float | None
    validation: Fraction
    costs: dict[Cost, Amount]
    epochs: Amount
    search_epochs: Amount
    hours: Amount

    __pydantic_config__ = STRICT


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareVerdict:
    """One method against one baseline at one budget.

    Args:
        text: in words.
        gain: mean test score less the baseline's over the common seeds, with its interval; as parts, not points.
        same: seeds for which both are the same network.
    """

    ours: Contest
    theirs: Contest
    outcome: Outcome
    gain: float
    low: float | None
    high: float | None
    seeds: list[int]
    same: list[int]
    text: str

    __pydantic_config__ = STRICT


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """The hypervolume of a method's networks over one cost, as a share of the rectangle from the origin of the cost.

    Args:
        reference_cost, reference_score: the reference point.
    """

    method: str
    space: str
    cost: Cost
    reference_cost: Amount
    reference_score: Fraction
    value: Fraction
    low: float | None
    high: float | None
    seeds: list[int]

    __pydantic_config__ = STRICT


@dataclass(frozen=True, kw_only=True, slots=True)
class Saving:
    """How much less of a cost one method takes than another at equal scores.

    Args:
        ours, theirs: methods with their spaces where the comparison has several.
        cost: the one compared.
        value: 1 - ours / theirs, mean over the scores that both reach; None where there are none.
        scores: lowest and highest of these.
        meets: share of the bootstrap's draws in which there are any; the interval is over these.
        text: in words.
    """

    ours: str
    theirs: str
    cost: Cost
    outcome: SavingOutcome
    value: float | None
    low: float | None
    high: float | None
    scores: tuple[Fraction, Fraction] | None
    meets: Fraction
    seeds: list[int]
    text: str

    __pydantic_config__ = STRICT


@dataclass(frozen=True, kw_only=True, slots=True)
class Missing:
    """A network that is not compared: it can't be made, or its run failed."""

    method: str
    space: str
    budget: str
    reason: str
    folder: str = ""

    __pydantic_config__ = STRICT


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """A comparison.

    Args:
        summary: the verdicts' verdict, in a sentence or two.
        classes: of the data.
        test_images: that all networks predicted.
        draws: of the bootstrap.
        float_test: "seed0", or "SPACE/seed0" of further models -> test score of the float network, where there is one.
        float_epochs: of the float network that others start from; 0 where nobody starts from one.
        hours: of all training and searching, float networks included.
        command: what was typed.
    """

    schema: int = COMPARED_SCHEMA
    title: str
    created: IsoTime
    summary: str
    metric: str
    classes: Count
    test_images: Count
    draws: Count
    epochs: Amount
    float_epochs: Count
    float_test: dict[str, Fraction]
    hours: Amount
    members: list[Member]
    cells: list[Cell]
    verdicts: list[CompareVerdict]
    volumes: list[Volume]
    left_out: list[Missing]
    failed: list[Missing]
    notes: list[str]
    facts: dict[str, Plain]
    environment: dict[str, str]
    command: str
    savings: list[Saving] = field(default_factory=list)  # records made before these were told have none

    __pydantic_config__ = STRICT

    def to_json(self) -> str:
        """As JSON text.

        Raises:
            RunError: a field is of the wrong kind or out of range; the message names it.
        """
        text = json.dumps(asdict(self), indent=1, default=lambda _: {})
        _checked(text, "the comparison")
        return text


_ADAPTER = TypeAdapter(Compared)


def read_compared(path: Path) -> Compared:
    """Read compare.json, or the folder it lies in.

    Raises:
        RunError: there is no such file, it isn't JSON, its schema is another one, or a field is wrong.
    """
    path = path / "compare.json" if path.is_dir() else path
    try:
        text = path.read_bytes()
        values = json.loads(text)
    except OSError as error:
        raise RunError(f"can't read {path}: {error.strerror}; bitsmith compare writes it at its end") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is not JSON: {error}; run the comparison again, which writes it anew") from error
    schema = values.get("schema") if isinstance(values, dict) else None
    if schema != COMPARED_SCHEMA:
        raise RunError(f"{path} has comparison schema {schema!r}; this version of bitsmith reads {COMPARED_SCHEMA}")
    return _checked(text, str(path))


def _checked(text: str | bytes, what: str) -> Compared:
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "as a whole"
        raise RunError(f"{what} is not a comparison's record: {place}: {first['msg']}") from error
