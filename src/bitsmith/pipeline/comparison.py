"""Comparison: what is compared with what, as validated data. Its YAML is a recipe's with a few fields more.

A plain recipe is one too: its method against its baselines, over three seeds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from bitsmith.cost.reading import first_problem
from bitsmith.errors import BitsmithError, RecipeError
from bitsmith.files import read_yaml
from bitsmith.pipeline.contestants import (
    ALWAYS,
    NARROWED,
    Arena,
    Entrant,
    Label,
    Narrowing,
    OneArena,
    OneEntrant,
    Part,
    draw_several,
    read_entrant,
    read_model,
)
from bitsmith.recipe import NETWORKS, Recipe, parse_recipe

SEEDS = (0, 1, 2)
_PLACES = {
    "data": ("data", "source"),
    "limit": ("data", "limit"),
    "download": ("data", "download"),
    "epochs": ("train", "epochs"),
    "float_epochs": ("float_plan", "epochs"),
}


class Comparison(Part):
    """Methods x spaces x budgets x seeds.

    Args:
        base: the recipe of all runs, without what a run has of its own: method, baselines, fixed, seed.
        methods: who is compared; the baselines are added.
        spaces: label -> what differs from the base's space, a model of its own, and which methods are compared there.
        seeds: of networks, splits, searches and trainings; the test images are the same for all.
        narrowed: bits, or {weight_bits, budgets}, of narrowed uniform networks; budgets that no uniform network meets
            have them in any case, of 2 and 4 bits where none are given.
    """

    base: dict[str, Any]
    methods: Annotated[list[OneEntrant], BeforeValidator(draw_several)] = Field(min_length=1)
    spaces: dict[Label, OneArena] = Field(default={"all": Arena()}, min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=list(SEEDS), min_length=1)
    narrowed: Narrowing = None

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
        for space in self.spaces:
            alike = [name for name in self.spaces if folder_name(name) == folder_name(space)]
            if len(alike) > 1:
                raise ValueError(
                    f"spaces: {' and '.join(alike)} would share the folder {folder_name(space)}; rename one"
                )
        for entrant in self.methods:
            name = entrant.method().name
            if entrant.is_baseline and entrant.label != name:
                raise ValueError(
                    f"{entrant.label} is the name of a baseline, and this is {name}; give it another label"
                )
            if entrant.label.startswith(NARROWED):
                raise ValueError(f"{entrant.label!r}: labels that start so are those of narrowed networks")
        known = [entrant.label for entrant in self.entrants()]
        for space, arena in self.spaces.items():
            if unknown := [label for label in arena.methods or () if label not in known]:
                raise ValueError(f"spaces.{space}.methods: {unknown[0]} is none of the methods {', '.join(known)}")
            for entrant in self.entrants_of(space):
                self.recipe(entrant, space, self.seeds[0])
        for name in ALWAYS:  # also where every space says whom it has
            if not any(arena.methods is None or name in arena.methods for arena in self.spaces.values()):
                raise ValueError(
                    f"spaces: {name} is compared in none of them; no claim counts without {', '.join(ALWAYS)}"
                )
        for entrant in self.methods:
            if not any(entrant in self.entrants_of(space) for space in self.spaces):
                raise ValueError(
                    f"methods: no space compares {entrant.label}; add it to a space's methods, or leave it out here"
                )
        if self.narrowed is not None:
            if self.narrowed_space() is None:
                raise ValueError(
                    "narrowed: networks of a given model are made narrower; every space here is a mobile one"
                )
            lines = self._sample().budgets
            unknown = [text for text in self.narrowed.budgets or () if self._spelled(text) not in lines]
            if unknown:
                raise ValueError(f"narrowed.budgets: {unknown[0]} is none of the budgets")
        return self

    def is_mobile(self, space: str) -> bool:
        """Whether a space is one of whole networks, which have no float network to start from."""
        return self.spaces[space].section(self._section()).get("kind") in NETWORKS

    def trained(self, space: str) -> bool:
        """Whether low-precision networks of a space start from trained float weights."""
        model = self.spaces[space].model or self.base.get("model")
        weights = model.get("weights") if isinstance(model, dict) else None  # what is no section, `recipe` refuses
        return (
            bool(self.base.get("float_plan") or weights)
            and self.base.get("start") != "scratch"
            and not self.is_mobile(space)
        )

    def narrowed_space(self) -> str | None:
        """The space whose network is made narrower: the first one of a given model."""
        return next((space for space in self.spaces if not self.is_mobile(space)), None)

    def entrants(self) -> list[Entrant]:
        """All methods: those asked for, then the baselines that were not."""
        wanted = [*ALWAYS, *(["sensitivity"] if any(map(self.trained, self.spaces)) else [])]
        asked = {entrant.label for entrant in self.methods}
        added = [Entrant.model_validate(read_entrant(name)) for name in wanted if name not in asked]
        return [*self.methods, *added]

    def entrants_of(self, space: str) -> list[Entrant]:
        """Those who are compared in a space."""
        chosen, asked = self.spaces[space].methods, {entrant.label for entrant in self.methods}
        if chosen is not None:
            return [entrant for entrant in self.entrants() if entrant.label in chosen]
        return [e for e in self.entrants() if e.label != "sensitivity" or e.label in asked or self.trained(space)]

    def total_epochs(self, running: Iterable[Entrant]) -> float:
        """What each low-precision network gets, its search included: train.epochs beside the longest search."""
        return self._sample().train.epochs + max((entrant.method().epochs for entrant in running), default=0)

    def float_epochs(self) -> int:
        """What each float network gets."""
        space = self.narrowed_space()
        if space is None:
            return 0
        plan = self.recipe(self.entrants_of(space)[0], space, self.seeds[0]).float_plan
        return plan.epochs if plan is not None else 0

    def head_start(self) -> int:
        """Epochs of the float networks that others start from; networks without one train as many longer."""
        return 0 if self.base.get("start") == "scratch" else self.float_epochs()

    def recipe(self, entrant: Entrant, space: str, seed: int) -> Recipe:
        """The recipe of one run, with the base's budgets and training; of a mobile space without what it can't have."""
        arena = self.spaces[space]
        values = self.base | {
            "name": f"{self.base.get('name', 'comparison')}: {entrant.label}, seed {seed}",
            "space": arena.section(self._section()),
            "method": entrant.settings,
            "baselines": [],
            "fixed": [],
            "seed": seed,
        }
        if arena.model is not None:
            values["model"] = arena.model
        if self.is_mobile(space):
            if arena.model is not None:
                kind = values["space"]["kind"]
                raise RecipeError(f"spaces.{space}: a {kind} space has no model; its networks are its own")
            if self.narrowed_space() is not None:  # what the others have; where there are none, Recipe refuses it
                values = {key: value for key, value in values.items() if key not in ("model", "float_plan")}
                values["start"] = "auto" if values.get("start") == "float" else values.get("start", "auto")
        return parse_recipe(values, f"{entrant.label} in space {space}")

    def narrows(self, line: list[str]) -> bool:
        """Whether narrowed networks are wanted for a budget."""
        if self.narrowed is None:
            return False
        return self.narrowed.budgets is None or line in [self._spelled(text) for text in self.narrowed.budgets]

    def _spelled(self, text: str) -> list[str]:
        """A budget as recipes spell it."""
        return self._sample({"budgets": [text]}).budgets[0]

    def _section(self) -> dict[str, Any]:
        section = self.base.get("space") or {}
        if not isinstance(section, dict):
            raise RecipeError("space: must be a mapping, such as {weight_bits: [2, 4, 8]}")
        return section

    def _sample(self, changes: Mapping[str, Any] | None = None) -> Recipe:
        """A recipe with what all runs have in common."""
        uniform, space = Entrant.model_validate(read_entrant("uniform")), next(iter(self.spaces))
        return self.model_copy(update={"base": self.base | dict(changes or {})}).recipe(uniform, space, self.seeds[0])


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
    own = {key: base.pop(key) for key in ("methods", "spaces", "seeds", "narrowed") if key in base}
    method, baselines = base.pop("method", None), base.pop("baselines", None)
    base.pop("fixed", None)
    seed = base.pop("seed", None)
    if "methods" in own and (method is not None or baselines is not None):
        raise RecipeError(f"{where}: give methods, or a recipe's method and baselines, not both")
    section = base.get("space")
    kind = str(section.get("kind")) if isinstance(section, Mapping) else ""
    own.setdefault("methods", [method or {"name": NETWORKS.get(kind, "composite")}, *(baselines or [])])
    if seed is not None and "seeds" not in own:
        own["seeds"] = [seed + k for k in SEEDS]
    try:
        if "model" in base:
            base["model"] = read_model(base["model"])
        return Comparison.model_validate({"base": base, **own})
    except ValidationError as error:
        raise RecipeError(f"{where}: {first_problem(error, Comparison)}") from error
    except BitsmithError as error:
        raise RecipeError(f"{where}: {error}") from error


def change(comparison: Comparison, *, seeds: list[int] | None = None, **options: Any) -> Comparison:
    """The comparison with what the command line says otherwise; options that are None change nothing."""
    values = _plain(comparison)
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
    values = _plain(comparison)
    return yaml.safe_dump(values.pop("base") | values, sort_keys=False)


def _plain(comparison: Comparison) -> dict[str, Any]:
    spaces = {name: arena.to_yaml() for name, arena in comparison.spaces.items()}
    return comparison.model_dump(mode="json") | {"spaces": spaces}
