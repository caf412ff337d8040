"""Who is compared and where: the methods and spaces of a comparison, as validated data."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from bitsmith.errors import RecipeError
from bitsmith.recipe import make_method, named
from bitsmith.search import Method, drawn_name

# In every comparison, asked for or not; sensitivity too where there are float weights to measure.
ALWAYS = ("uniform", "uniform+fill", "random")
BASELINES = (*ALWAYS, "sensitivity")
NARROWED = "narrowed w"  # and the bits: the label of narrowed uniform networks
NARROWED_BITS = (2, 4)  # where no uniform network fits, asked for or not
_DRAWN = re.compile(r"random \(\d+\)")  # what `drawn_name` makes
_LABEL = r"^[A-Za-z0-9][A-Za-z0-9 .,+_()-]*$"

Label = Annotated[str, Field(pattern=_LABEL)]


class Part(BaseModel):
    """Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Entrant(Part):
    """A method of a comparison: its settings, as a recipe has them, under a label of its own."""

    label: Label
    settings: dict[str, Any]

    @property
    def is_baseline(self) -> bool:
        """Whether others are measured by it."""
        return self.label in BASELINES or _DRAWN.fullmatch(self.label) is not None

    def method(self) -> Method:
        """The method itself."""
        return make_method(self.settings)


def read_entrant(value: Any) -> Any:
    """From "uniform+fill", or {name: ..., label: ..., settings}."""
    if isinstance(value, str):
        value = named(value)
    if not isinstance(value, dict) or "settings" in value:
        return value
    settings = {key: setting for key, setting in value.items() if key != "label"}
    return {"label": str(value.get("label") or make_method(settings).name), "settings": settings}


def draw_several(value: Any) -> Any:
    """{name: random, draws: 3} spelled out: three entrants, each a draw of its own at every seed."""
    if not isinstance(value, list):
        return value
    found = []
    for each in value:
        if not (isinstance(each, dict) and "draws" in each):
            found.append(each)
            continue
        draws = each["draws"]
        if each.get("name") != "random" or "label" in each or "index" in each or type(draws) is not int or draws < 1:
            raise ValueError("draws belongs to {name: random, draws: 3} without label and index, and is 1 or more")
        settings = {key: setting for key, setting in each.items() if key != "draws"}
        found += [settings | {"index": k, "label": drawn_name(k)} for k in range(draws)]
    return found


class Arena(Part):
    """One space of a comparison.

    Args:
        differs: what its space section has otherwise than the base's; `kind: mobile` with preset or description is a
            space of whole networks.
        model: in place of the base's.
        methods: labels of those who are compared here; null is all.
    """

    differs: dict[str, Any] = Field(default_factory=dict)
    model: dict[str, Any] | None = None
    methods: list[Label] | None = Field(default=None, min_length=1)

    def section(self, base: dict[str, Any]) -> dict[str, Any]:
        """Its space section; of another kind than the base's, without what that kind doesn't have."""
        kind = self.differs.get("kind", base.get("kind", "precision"))
        foreign = {"preset", "description"} if kind == "precision" else {"pins"}
        if kind == base.get("kind", "precision"):
            foreign = set()
        return {key: value for key, value in base.items() if key not in foreign} | self.differs

    def to_yaml(self) -> dict[str, Any]:
        """As a comparison's file has it."""
        own = {"model": self.model, "methods": self.methods}
        return self.differs | {key: value for key, value in own.items() if value is not None}


def read_arena(value: Any) -> Any:
    """From {model: ..., methods: [...], and fields of a space section}; a model may be its spec alone."""
    if not isinstance(value, dict):
        return value
    own = {key: value[key] for key in ("model", "methods") if key in value}
    if "model" in own:
        own["model"] = read_model(own["model"])
    return own | {"differs": {key: field for key, field in value.items() if key not in own}}


def read_model(value: Any) -> Any:
    """A model section, from its spec alone.

    Raises:
        RecipeError: neither of them.
    """
    if not isinstance(value, str | dict):
        raise RecipeError(f"model: write a name, or {{spec: ...}}; got {value!r}")
    return {"spec": value} if isinstance(value, str) else value


class NarrowedSection(Part):
    """Uniform networks made narrower until they fit: the widest of each of these bits inside each budget.

    Args:
        weight_bits: of all layers but the pinned ones.
        budgets: for which of the comparison's budgets; null = all.
    """

    weight_bits: list[Annotated[int, Field(ge=1, le=8)]] = Field(min_length=1)
    budgets: list[str] | None = None


def read_narrowed(value: Any) -> Any:
    """From [2, 4], or {weight_bits: [2, 4], budgets: [...]}."""
    return {"weight_bits": value} if isinstance(value, list) else value


OneEntrant = Annotated[Entrant, BeforeValidator(read_entrant)]
OneArena = Annotated[Arena, BeforeValidator(read_arena)]
Narrowing = Annotated[NarrowedSection | None, BeforeValidator(read_narrowed)]
