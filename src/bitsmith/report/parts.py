"""What a record is made of: networks, layers, curves, measured sensitivities, budgets, checks; plain values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from bitsmith.blueprint import FLOAT, UNITS, Budget
from bitsmith.errors import RunError

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _known_cost(name: str) -> str:
    if name not in UNITS:
        raise ValueError(f"unknown cost {name!r}; known are {', '.join(UNITS)}")
    return name


def _readable_budget(text: str) -> str:
    Budget.parse(text)
    return text


def _iso_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


Cost = Annotated[str, AfterValidator(_known_cost)]
BudgetText = Annotated[str, AfterValidator(_readable_budget)]
IsoTime = Annotated[str, AfterValidator(_iso_time)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
BitWidth = Annotated[int, Field(ge=0, le=FLOAT)]
MeanBits = Annotated[float, Field(ge=0, le=FLOAT)]
Plain = str | int | float


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One trained network of the comparison.

    Args:
        name: who made it: "float", "uniform 8", "uniform+fill", "composite".
        kind: "found" by a search, "baseline", or the "float" network it all started from.
        budget: the budgets it was made for, joined by ", "; "" where there was none.
        bits: a short summary, "w8a8" or "w1-8 a8".
        costs: cost -> bytes for memories, plain counts for the rest.
        epochs: all training, search included.
        seconds: wall time of the same.
        metric: what validation and test measure; one for all rows of a record.
        validation, test: 0..1, None where not measured.
        source: what ran on the test set: the exported file ("onnx") or the PyTorch network ("torch").
        meets: text of a budget -> whether this network is inside.
        folder: where its files lie, relative to the run.
        trained: False for a network quantized after training alone, so that it was never trained at its bits.
    """

    name: str
    kind: Literal["float", "baseline", "found"]
    budget: str
    bits: str
    costs: dict[Cost, Amount]
    epochs: Amount
    seconds: Amount
    seed: int
    metric: str
    validation: Fraction | None
    test: Fraction | None
    source: Literal["onnx", "torch"]
    meets: dict[BudgetText, bool]
    folder: str
    trained: bool

    __pydantic_config__ = STRICT

    @property
    def title(self) -> str:
        """Name and budget, which together tell networks apart that one run made."""
        return f"{self.name} at {self.budget}" if self.budget else self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRow:
    """One priced layer of a network.

    Args:
        weight_bits, activation_bits: 32 = float; means over weights and over maps where these differ.
        filters: "16 filters: 12 removed, 4 at 2 bits"; "" where none was removed and all are alike.
        maps: how many have how many bits ("2: 12, 8: 4"); "" where all are alike.
        shares: cost -> this layer's part of it, 0..1.
    """

    name: str
    kind: str
    weights: Count
    macs: Count
    weight_bits: MeanBits
    activation_bits: MeanBits
    shares: dict[Cost, Fraction]
    filters: str = ""
    maps: str = ""

    __pydantic_config__ = STRICT


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """Lines over one common axis: loss over epochs, expected cost over search steps.

    Args:
        x: where each value of every series was taken.
        series: name of a line -> its values, None for a gap.
        limits: name -> height of a dashed line across the plot.
        ticks: what to write at each x instead of numbers, such as the layers' names.
        logarithmic: whether heights are drawn by their logarithm.

    Raises:
        RunError: a series or ticks that aren't as long as x.
    """

    name: str
    x_label: str
    series: dict[str, list[float | None]]
    x: list[float]
    limits: dict[str, float] | None = None
    ticks: list[str] | None = None
    logarithmic: bool = False

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        if self.ticks is not None and len(self.ticks) != len(self.x):
            raise RunError(f"curve {self.name!r}: {len(self.ticks)} ticks for {len(self.x)} of x")
        for name, values in self.series.items():
            if len(values) != len(self.x):
                raise RunError(f"curve {self.name!r}: {name!r} has {len(values)} values for {len(self.x)} of x")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """The loss with one decision of a search at each of its options, all others as they were.

    Args:
        kind: whose bits.
        bits, loss: option by option.

    Raises:
        RunError: not one loss for each option.
    """

    layer: str
    kind: Literal["weight", "activation"]
    bits: list[BitWidth]
    loss: list[float]

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        if len(self.loss) != len(self.bits):
            raise RunError(f"sensitivity of {self.layer!r}: {len(self.loss)} losses for {len(self.bits)} options")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivities:
    """What a search measured before it decided, and how far it can be believed.

    Args:
        decisions: those with a choice.
        images: how many the losses are means over.
        steps: from one option of a decision to the next.
        within: how many of the steps are within two standard errors of their difference; None where unknown.
        standard_error: the median one of a step; None where unknown.
    """

    decisions: list[Sensitivity]
    images: Count
    steps: Count
    within: Count | None
    standard_error: Amount | None

    __pydantic_config__ = STRICT


@dataclass(frozen=True, kw_only=True, slots=True)
class Requested:
    """One budget of a network: `obtained` is its exact cost, in the unit of `limit`.

    Args:
        network: folder of its row.

    Raises:
        RunError: `met` isn't what the two numbers say.
    """

    network: str
    cost: Cost
    limit: Amount
    obtained: Amount
    met: bool

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        if self.met != (self.obtained <= self.limit):
            raise RunError(f"{self.cost}: {self.obtained:g} of {self.limit:g} can't be recorded as met={self.met}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What was checked of one file.

    Args:
        artefact: the file.
        images: how many images went through it.
        score: of the file on them, by the metric of the rows; None where nothing could run it.
        equal_outputs: setting of the runtime ("DISABLE_ALL", "BASIC", ...) -> images with outputs equal to the
            integer reference.
        integer_layers, float_layers: how many layers the runtime ran as which.
        first_difference: the first layer that differs from the reference, None where none does.
        ok: whether the file may be called verified.
        level: what "equal" means here: "bit-identical", "at most 1 LSB".

    Raises:
        RunError: more equal outputs than images; ok although a layer differs.
    """

    artefact: str
    images: Count
    score: Fraction | None
    equal_outputs: dict[str, Count]
    integer_layers: Count
    float_layers: Count
    first_difference: str | None
    ok: bool
    level: str

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        if max(self.equal_outputs.values(), default=0) > self.images:
            raise RunError(f"{self.artefact}: more equal outputs than its {self.images} images")
        if self.ok and self.first_difference is not None:
            raise RunError(f"{self.artefact}: can't be ok, {self.first_difference!r} differs from the reference")
