"""Comparison: what is compared with what, as validated data. Its YAML is a recipe's with a few fields more.

A plain recipe is one too: its method against its baselines, over three seeds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from bitsmith.errors import BitsmithError, RecipeError
from bitsmith.files import read_yaml
from bitsmith.recipe import Recipe, make_method, parse_recipe
from bitsmith.search import Method
from bitsmith.train import TrainPlan

SEEDS = (0, 1, 2)
# In every comparison, asked for or not; sensitivity too where there are float weights to measure.
ALWAYS = ("uniform", "uniform+fill", "random")
BASELINES = (*ALWAYS, "sensitivity")
NARROWED = "narrowed w"  # and the bits: the label of narrowed uniform networks
NARROWED_BITS = (2, 4)  # where no uniform network fits, asked for or not

_PLACES = {
    "data": ("data", "source"),
    "limit": ("data", "limit"),
    "download": ("data", "download"),
    "epochs": ("train", "epochs"),
    "float_epochs": ("float_plan", "epochs"),
}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Entrant(_Section):
    """A method of a comparison: its settings, as a recipe has them, under a label of its own."""

    label: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 .,+_()-]*$")
    settings: dict[str, Any]

    @property
    def is_baseline(self) -> bool:
        """Whether others are measured by it."""
        return self.label in BASELINES

    def method(self) -> Method:
        """The method itself."""
        return make_method(self.settings)


class NarrowedSection(_Section):
    """Uniform networks made narrower until they fit: the widest of each of these bits inside each budget.

    Args:
        weight_bits: of all layers but the pinned ones.
        budgets: for which of the comparison's budgets; null = all.
    """

    weight_bits: list[Annotated[int, Field(ge=1, le=8)]] = Field(min_length=1)
    budgets: list[str] | None = None


def _entrant(value: Any) -> Any:
    """From "uniform+fill", or {name: ..., label: ..., settings}."""
    if isinstance(value, str):
        name, plus, _ = value.partition("+fill")
        value = {"name": name, "fill": True} if plus else {"name": name}
    if not isinstance(value, dict) or "settings" in value:
        return value
    settings = {key: setting for key, setting in value.items() if key != "label"}
    return {"label": str(value.get("label") or make_method(settings).name), "settings": settings}


def _narrowed(value: Any) -> Any:
    return {"weight_bits": value} if isinstance(value, list) else value


class Comparison(_Section):
    """Methods x spaces x budgets x seeds.

    Args:
        base: the recipe of all runs, without what a run has of its own: method, baselines, fixed, seed.
        methods: who is compared; the baselines are added.
        spaces: label -> what differs from the base's space.
        seeds: of networks, splits, searches and trainings; the test images are the same for all.
        narrowed: bits, or {weight_bits, budgets}, of narrowed uniform networks; budgets that no uniform network meets
            have them in any case, of 2 and 4 bits where none are given.
    """

    base: dict[str, Any]
    methods: list[Annotated[Entrant, BeforeValidator(_entrant)]] = Field(min_length=1)
    spaces: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 .,+_()-]*$")], dict[str, Any]] = Field(
        default={"all": {}}, min_length=1
    )
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=list(SEEDS), min_length=1)
    narrowed: Annotated[NarrowedSection | None, BeforeValidator(_narrowed)] = None

    @field_validator("seeds")
    @classmethod
    def _different(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value):
            raise ValueError(f"a seed is given twice: {value}")
        return value

    @model_validator(mode="after")
    def _runs_can_be_made(self) -> Comparison:
        folders = [folder_name(entrant.label) for entrant in self.methods]
        twice = {name for name in folders if folders.count(name) > 1}
        if twice:
            raise ValueError(f"two methods are called {', '.join(sorted(twice))}; give each a label of its own")
        for entrant in self.methods:
            name = entrant.method().name
            if entrant.is_baseline and entrant.label != name:
                raise ValueError(
                    f"{entrant.label} is the name of a baseline, and this is {name}; give it another label"
                )
            if entrant.label.startswith(NARROWED):
                raise ValueError(f"{entrant.label!r}: labels that start so are those of narrowed networks")
        for space in self.spaces:
            for entrant in self.methods:
                self.recipe(entrant, space, self.seeds[0])
        if self.narrowed is not None and self.narrowed.budgets is not None:
            known = list(self.recipe(self.methods[0], next(iter(self.spaces)), self.seeds[0]).budgets)
            unknown = [text for text in self.narrowed.budgets if self._spelled(text) not in known]
            if unknown:
                raise ValueError(f"narrowed.budgets: {unknown[0]} is none of the budgets")
        return self

    @property
    def trained(self) -> bool:
        """Whether low-precision networks start from trained float weights."""
        floats = self.base.get("float_plan") or (self.base.get("model") or {}).get("weights")
        return bool(floats) and self.base.get("start") != "scratch"

    def entrants(self) -> list[Entrant]:
        """All methods: those asked for, then the baselines that were not."""
        wanted = [*ALWAYS, *(["sensitivity"] if self.trained else [])]
        asked = {entrant.label for entrant in self.methods}
        added = [Entrant.model_validate(_entrant(name)) for name in wanted if name not in asked]
        return [*self.methods, *added]

    def total_epochs(self) -> float:
        """What each low-precision network gets, its search included: train.epochs beside the longest search."""
        return self._plan().epochs + max(entrant.method().epochs for entrant in self.entrants())

    def recipe(self, entrant: Entrant, space: str, seed: int) -> Recipe:
        """The recipe of one run, with the base's budgets and training."""
        values = self.base | {
            "name": f"{self.base.get('name', 'comparison')}: {entrant.label}, seed {seed}",
            "space": (self.base.get("space") or {}) | self.spaces[space],
            "method": entrant.settings,
            "baselines": [],
            "fixed": [],
            "seed": seed,
        }
        return parse_recipe(values, f"{entrant.label} in space {space}")

    def narrows(self, line: list[str]) -> bool:
        """Whether narrowed networks are wanted for a budget."""
        if self.narrowed is None:
            return False
        return self.narrowed.budgets is None or line in [self._spelled(text) for text in self.narrowed.budgets]

    def _spelled(self, text: str) -> list[str]:
        """A budget as recipes spell it."""
        return self._with({"budgets": [text]}).budgets[0]

    def _plan(self) -> TrainPlan:
        return self._with({}).train

    def _with(self, values: dict[str, Any]) -> Recipe:
        return parse_recipe(self.base | {"method": {"name": "uniform"}, "baselines": [], "fixed": []} | values, "base")


def folder_name(label: str) -> str:
    """A label as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", label)


def read_comparison(path: Path) -> Comparison:
    """Read the YAML of a comparison, or of a plain recipe.

    Raises:
        RecipeError: the file is missing, is not YAML, or says something that isn't so; the message names the field.
    """
    values = read_yaml(path, "comparison", "model, data, budgets and methods")
    return parse_comparison(values, str(path))


def parse_comparison(values: Mapping[str, Any], where: str) -> Comparison:
    """Validate the values of a comparison; `where` is named in errors.

    Raises:
        RecipeError: naming the field and the reason.
    """
    base = dict(values)
    sections = [base.get("space"), *(dict(base.get("spaces") or {}).values())]
    if any(isinstance(section, Mapping) and section.get("kind") == "mobile" for section in sections):
        raise RecipeError(
            f"{where}: comparisons need a network whose bits the baselines can choose, and a mobile space has no "
            "baselines yet; bitsmith run does its search"
        )
    own = {key: base.pop(key) for key in ("methods", "spaces", "seeds", "narrowed") if key in base}
    method, baselines = base.pop("method", None), base.pop("baselines", None)
    base.pop("fixed", None)
    seed = base.pop("seed", None)
    if "methods" in own and (method is not None or baselines is not None):
        raise RecipeError(f"{where}: give methods, or a recipe's method and baselines, not both")
    own.setdefault("methods", [method or {"name": "composite"}, *(baselines or [])])
    if seed is not None and "seeds" not in own:
        own["seeds"] = [seed + k for k in SEEDS]
    try:
        return Comparison.model_validate({"base": base, **own})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise RecipeError(f"{where}: {place}: {reason}" if place else f"{where}: {reason}") from error
    except BitsmithError as error:
        raise RecipeError(f"{where}: {error}") from error


def change(comparison: Comparison, *, seeds: list[int] | None = None, **options: Any) -> Comparison:
    """The comparison with what the command line says otherwise; options that are None change nothing."""
    values = comparison.model_dump(mode="json")
    base = values["base"]
    if seeds is not None:
        values["seeds"] = seeds
    for option, (section, key) in _PLACES.items():
        if options.get(option) is not None:
            base[section] = (base.get(section) or {}) | {key: options[option]}
    if options.get("data") is not None:
        base["data"]["fallback"] = None
    return parse_comparison(base | {key: values[key] for key in values if key != "base"}, "the options")


def dump_comparison(comparison: Comparison) -> str:
    """A comparison as YAML; `read_comparison` is the inverse."""
    values = comparison.model_dump(mode="json")
    return yaml.safe_dump(values.pop("base") | values, sort_keys=False)
