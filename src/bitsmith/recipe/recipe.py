"""Recipe: what a run is, as validated data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from bitsmith.blueprint import Budget, fronts
from bitsmith.cost import TargetDescription, check_budgets, find_target, is_file, read_description
from bitsmith.cost.reading import first_problem
from bitsmith.data import absolute as absolute_source
from bitsmith.recipe.methods import make_method
from bitsmith.recipe.sections import (
    DataSection,
    ModelSection,
    Section,
    SpaceSection,
    TaskSection,
    suited_networks,
    suited_space,
)
from bitsmith.train import TrainPlan

Baseline = Literal["uniform", "uniform+fill", "random", "sensitivity"]


def _budget_lines(value: Any) -> Any:
    """One text, a list of texts (each its own network) or a list of lists (held together); fronts are spelled out."""
    if isinstance(value, str):
        value = [value]
    lines = [[line] if isinstance(line, str) else line for line in value] if isinstance(value, list) else value
    if not isinstance(lines, list) or not all(isinstance(line, list) for line in lines):
        return lines  # refused by its type
    if not all(isinstance(text, str) for line in lines for text in line):
        return lines  # refused by its type
    if not lines or not all(lines):
        raise ValueError("give at least one budget, such as size=20kB")
    return [[str(budget) for budget in budgets] for line in lines for budgets in fronts(*line)]


# Spaces that bring their networks along, which are named in place of a model, and how they are searched.
NETWORKS = {"mobile": "supernet", "sequence": "random"}


class Recipe(Section):
    """A run: network, data, space, method, budgets, training.

    Args:
        budgets: each entry is one network wanted; an entry that is a list must be met all at once. A front such as
            "size=10,15,20kB" stands for one entry per value, each with the other budgets of its list.
        method: name and settings of the search.
        baselines: of "uniform", "uniform+fill", "random", "sensitivity", for every budget.
        fixed: uniform bits trained beside, whatever the budget ("w8a8").
        float_plan: how the float network is trained first; null starts from the given weights or from scratch.
        train: the final training of every low-precision network. Baselines get the search's epochs on top.
        start: what final training starts from: "float" (the trained float network), "search" (weights inherited from
            it; networks that were not searched start from float, where there is one) or "scratch". "auto" is "search"
            for a method that trains, else "float" where there are float weights, else "scratch".
        checkpoint_seconds: how often search and training write their state; also at the end of every epoch and on
            Ctrl-C.
    """

    name: str = "run"
    model: ModelSection
    data: DataSection
    task: TaskSection = TaskSection()
    space: SpaceSection = SpaceSection()
    budgets: Annotated[list[list[str]], BeforeValidator(_budget_lines)]
    method: dict[str, Any] = Field(default_factory=lambda: {"name": "composite"})
    baselines: list[Baseline] = Field(default_factory=lambda: ["uniform", "uniform+fill"])
    fixed: list[Annotated[str, Field(pattern=r"^w[1-8]a[1-8]$")]] = Field(default_factory=list)
    float_plan: TrainPlan | None = None
    train: TrainPlan = TrainPlan()
    start: Literal["auto", "float", "search", "scratch"] = "auto"
    target: str | TargetDescription = "onnx"
    verify_images: int | None = None
    seed: int = 0
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    command: str = ""

    @model_validator(mode="before")
    @classmethod
    def _suits_target(cls, values: Any) -> Any:
        """Put a target's file in place of its path, and narrow what the space leaves at its defaults to the target."""
        if not isinstance(values, dict):
            return values
        target = values.get("target", "onnx")
        if isinstance(target, dict):
            try:
                target = TargetDescription.model_validate(target)
            except ValidationError as error:
                raise ValueError(first_problem(error, TargetDescription, at="target")) from error
        if not isinstance(target, str | TargetDescription):
            return values  # refused by its type
        target = read_description(Path(target)) if isinstance(target, str) and is_file(target) else target
        device, space = find_target(target), values.get("space") or {}
        kind = space.get("kind") if isinstance(space, dict) else None
        if isinstance(space, dict) and isinstance(kind, str) and kind in NETWORKS:
            space = suited_networks(device, kind, space.get("preset"), space.get("description")) | space
            values = {"model": {"spec": kind}, "baselines": [], "method": {"name": NETWORKS[kind]}} | values
        elif isinstance(space, dict):
            space = suited_space(device) | space
        return {**values, "target": target, "space": space}

    @field_validator("budgets")
    @classmethod
    def _different(cls, value: list[list[str]]) -> list[list[str]]:
        for line in value:
            if value.count(line) > 1:
                raise ValueError(f"{', '.join(line)} is given twice; every entry is one network")
        return value

    @field_validator("method")
    @classmethod
    def _buildable(cls, value: dict[str, Any]) -> dict[str, Any]:
        make_method(value)
        return value

    @model_validator(mode="after")
    def _whole_networks(self) -> Recipe:
        kind = self.space.kind
        if kind not in NETWORKS:
            return self
        if self.model != ModelSection(spec=kind) or self.float_plan is not None:
            raise ValueError(f"a {kind} space has no model and no float_plan: its networks are trained from scratch")
        if "sensitivity" in self.baselines:
            raise ValueError(
                f"baselines: sensitivity measures one trained float network, and a {kind} space holds many networks; "
                "it takes uniform, uniform+fill and random"
            )
        if self.fixed:
            raise ValueError(f"fixed gives a network of yours other bits; a {kind} space has no such network")
        if self.start == "float":
            raise ValueError(f"start: networks of a {kind} space start from the search or from scratch")
        return self

    @model_validator(mode="after")
    def _can_start(self) -> Recipe:
        if self.start == "auto":
            floats = self.float_plan is not None or self.model.weights is not None
            resolved = "search" if make_method(self.method).epochs else "float" if floats else "scratch"
            object.__setattr__(self, "start", resolved)
        needing = "sensitivity" in (self.method.get("name"), *self.baselines) and self.space.kind not in NETWORKS
        if needing and (self.start == "scratch" or (self.float_plan is None and not self.model.trained)):
            raise ValueError(
                "sensitivity measures a trained float network: give float_plan (--float-epochs) or model.weights "
                f"(--weights), and don't start from scratch{self.model.untrained}"
            )
        name = self.method.get("name")
        if self.start == "float" and name in ("filters", "binomial", "block-binomial"):
            raise ValueError(
                f"start: the {name} method finds networks with fewer filters, which the float network's weights don't "
                "fit; start from the search, which brings its own, or from scratch"
            )
        if self.start == "float" and self.float_plan is None and self.model.weights is None:
            raise ValueError(
                "start: float needs a trained float network: give float_plan or model.weights, "
                "or start from the search or from scratch"
            )
        if self.train.distill and self.float_plan is None and not self.model.trained:
            raise ValueError(
                "train.distill needs a trained float network to learn from: give float_plan or model.weights"
                f"{self.model.untrained}"
            )
        if self.float_plan is not None and self.float_plan.noise:
            raise ValueError("float_plan.noise: the float network has nothing to quantize; noise belongs to train")
        if self.float_plan is not None and self.float_plan.distill:
            raise ValueError("float_plan.distill: the float network has no teacher; distill belongs to train")
        return self

    @model_validator(mode="after")
    def _priced(self) -> Recipe:
        device = find_target(self.target)
        for line in self.budget_sets():
            check_budgets(device, line)
        for text in self.fixed:
            if int(text[1]) not in device.weight_bits or int(text[3]) not in device.activation_bits:
                raise ValueError(
                    f"fixed: target {device.name!r} can't hold {text}; it takes weights of {list(device.weight_bits)} "
                    f"and activations of {list(device.activation_bits)} bits"
                )
        return self

    def budget_sets(self) -> list[tuple[Budget, ...]]:
        """The budgets, parsed, with the target's memories among them; one tuple per network wanted."""
        device = find_target(self.target)
        return [device.within([Budget.parse(text) for text in line]) for line in self.budgets]


def absolute(recipe: Recipe) -> Recipe:
    """The same recipe whatever the current directory is and whatever happens to a target's files."""
    fallback, weights = recipe.data.fallback, recipe.model.weights
    data = {"source": absolute_source(recipe.data.source), "fallback": fallback and absolute_source(fallback)}
    model = {"weights": weights and weights.expanduser().resolve()}
    target = recipe.target if isinstance(recipe.target, str) else recipe.target.pinned()
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update=data),
            "model": recipe.model.model_copy(update=model),
            "target": target,
        }
    )
