"""Recipe: what a run is, as validated data; the only place that knows YAML."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from bitsmith.blueprint import Budget, fronts
from bitsmith.cost import TARGETS
from bitsmith.data import absolute as absolute_source
from bitsmith.errors import BitsmithError, RecipeError
from bitsmith.models.importing import FAILURES, import_users
from bitsmith.quantize import find_quantizers
from bitsmith.search import Composite, GridSearch, Method, Random, Sensitivity, Uniform
from bitsmith.train import METRICS, TrainPlan

METHODS: dict[str, type] = {
    "composite": Composite,
    "grid": GridSearch,
    "random": Random,
    "sensitivity": Sensitivity,
    "uniform": Uniform,
}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(_Section):
    """The network: a name, "torchvision:NAME" or "package.module:function"; optionally a file of weights.

    Args:
        output: which output to take where the network gives several: a key, an index or an attribute's name.
    """

    spec: str
    weights: Path | None = None
    output: str | None = None


class DataSection(_Section):
    """The data, as `bitsmith.open_data` takes it, and how it is split.

    Args:
        augment: "default" for what suits the data, "none", "crop", "flip" or "crop+flip".
        download: whether data that is missing may be downloaded.
        skip_bad: leave out images that can't be read and count them, rather than stop.
        fallback: data to take where `source` can't be had.
    """

    source: str
    shape: tuple[int, int, int] | None = None
    limit: int | None = None
    validation: float = 0.1
    search: float = 0.2
    augment: Literal["default", "none", "crop", "flip", "crop+flip"] = "default"
    download: bool = False
    skip_bad: bool = False
    fallback: str | None = None


class SpaceSection(_Section):
    """The bit-widths that layers may take; the ends of the network are pinned unless `ends` is null.

    Args:
        quantizer: a name of `bitsmith.quantize.QUANTIZERS`, or "package.module:Name" of a QuantizerPair of your own.
        pins: layer or pattern ("layer3.*") -> 8, "w4a8", "w4", "a8" or "float"; see `bitsmith.space.resolve_pins`.
    """

    weight_bits: tuple[int, ...] = (2, 3, 4, 8)
    activation_bits: tuple[int, ...] = (8,)
    ends: int | None = 8
    pins: dict[str, int | str] = Field(default_factory=dict)
    quantizer: str = "lsq"

    @field_validator("quantizer")
    @classmethod
    def _known(cls, value: str) -> str:
        if ":" in value:
            _import("quantizer", value)
        find_quantizers(value)
        return value


class TaskSection(_Section):
    """How networks are scored and what they minimize.

    Args:
        metric: a name of `bitsmith.train.METRICS`.
        positive: the class of two that f1 is about; the last one by default.
        class_weights: of the loss: "balanced", or one number per class.
    """

    metric: str = "accuracy"
    positive: str | None = None
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None

    @field_validator("metric")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in METRICS:
            raise ValueError(f"unknown metric {value!r}; known are {', '.join(METRICS)}")
        return value


def _budget_lines(value: Any) -> Any:
    """One text, a list of texts (each its own network) or a list of lists (held together); fronts are spelled out."""
    if isinstance(value, str):
        value = [value]
    lines = [[line] if isinstance(line, str) else line for line in value] if isinstance(value, list) else value
    if not isinstance(lines, list) or not all(isinstance(text, str) for line in lines for text in line):
        return lines  # refused by its type
    if not lines or not all(lines):
        raise ValueError("give at least one budget, such as size=20kB")
    return [[str(budget) for budget in budgets] for line in lines for budgets in fronts(*line)]


class Recipe(_Section):
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
    baselines: list[Literal["uniform", "uniform+fill", "random", "sensitivity"]] = ["uniform", "uniform+fill"]
    fixed: list[Annotated[str, Field(pattern=r"^w[1-8]a[1-8]$")]] = []
    float_plan: TrainPlan | None = None
    train: TrainPlan = TrainPlan()
    start: Literal["auto", "float", "search", "scratch"] = "auto"
    target: str = "onnx"
    verify_images: int | None = None
    seed: int = 0
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    command: str = ""

    @field_validator("budgets")
    @classmethod
    def _different(cls, value: list[list[str]]) -> list[list[str]]:
        for line in value:
            if value.count(line) > 1:
                raise ValueError(f"{', '.join(line)} is given twice; every entry is one network")
        return value

    @field_validator("target")
    @classmethod
    def _known_target(cls, value: str) -> str:
        if value not in TARGETS:
            raise ValueError(f"unknown target {value!r}; known are {', '.join(TARGETS)}")
        return value

    @field_validator("method")
    @classmethod
    def _buildable(cls, value: dict[str, Any]) -> dict[str, Any]:
        make_method(value)
        return value

    @model_validator(mode="after")
    def _can_start(self) -> Recipe:
        if self.start == "auto":
            floats = self.float_plan is not None or self.model.weights is not None
            resolved = "search" if make_method(self.method).epochs else "float" if floats else "scratch"
            object.__setattr__(self, "start", resolved)
        needing = [name for name in (self.method.get("name"), *self.baselines) if name == "sensitivity"]
        if needing and (self.start == "scratch" or (self.float_plan is None and self.model.weights is None)):
            raise ValueError(
                "sensitivity measures a trained float network: give float_plan (--float-epochs) or model.weights "
                "(--weights), and don't start from scratch"
            )
        if self.start == "float" and self.float_plan is None and self.model.weights is None:
            raise ValueError(
                "start: float needs a trained float network: give float_plan or model.weights, "
                "or start from the search or from scratch"
            )
        if self.train.distill and self.float_plan is None and self.model.weights is None:
            raise ValueError(
                "train.distill needs a trained float network to learn from: give float_plan or model.weights"
            )
        if self.float_plan is not None and self.float_plan.distill:
            raise ValueError("float_plan.distill: the float network has no teacher; distill belongs to train")
        return self

    def budget_sets(self) -> list[tuple[Budget, ...]]:
        """The budgets, parsed; one tuple per network wanted."""
        return [tuple(Budget.parse(text) for text in line) for line in self.budgets]


def absolute(recipe: Recipe) -> Recipe:
    """The same recipe whatever the current directory is: with absolute paths of data and weights."""
    fallback, weights = recipe.data.fallback, recipe.model.weights
    data = {"source": absolute_source(recipe.data.source), "fallback": fallback and absolute_source(fallback)}
    model = {"weights": weights and weights.expanduser().resolve()}
    return recipe.model_copy(
        update={"data": recipe.data.model_copy(update=data), "model": recipe.model.model_copy(update=model)}
    )


def make_method(settings: dict[str, Any]) -> Method:
    """A search method from its name ("composite", or "package.module:Name" of your own) and settings.

    Raises:
        RecipeError: unknown name, or settings that it doesn't take.
    """
    values = dict(settings)
    name = str(values.pop("name", "composite"))
    kind = METHODS.get(name)
    if kind is None and ":" in name:
        kind = _import("method", name)
    if kind is None:
        known = ", ".join(METHODS)
        raise RecipeError(f"unknown method {name!r}; known are {known}, or give package.module:Name of your own")
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        raise RecipeError(f"the method {name!r} must be a dataclass of its settings; see bitsmith.search.Composite")
    for field in dataclasses.fields(kind):  # settings of a plan that are not given keep the method's own defaults
        if field.name == "plan" and isinstance(values.get("plan"), dict) and callable(field.default_factory):
            values["plan"] = dataclasses.asdict(field.default_factory()) | values["plan"]
    try:
        # A model around the dataclass lends it the rule that unknown settings are errors.
        wrapper = create_model("Settings", __config__=ConfigDict(extra="forbid"), method=(kind, ...))
        method = getattr(wrapper.model_validate({"method": values}), "method")  # noqa: B009 - made at run time
    except ValidationError as error:
        raise RecipeError(f"method {name!r}: {_first(error)}") from error
    if not isinstance(method, Method):
        raise RecipeError(
            f"{name!r} is not a search method: it needs name, epochs, check(space, budgets, trained) and "
            "search(problem); see bitsmith.search.Method"
        )
    return method


def _import(what: str, name: str) -> Any:
    """What "package.module:Name" means; the recipe's author asks for it.

    Raises:
        RecipeError: it can't be imported.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_users(module), attribute)
    except FAILURES as error:
        raise RecipeError(f"the {what} {name!r} can't be imported: {error}") from error


def read_recipe(path: Path) -> Recipe:
    """Read a YAML recipe.

    Raises:
        RecipeError: the file is missing, is not YAML, or says something that isn't so; the message names the field.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"can't read the recipe {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path} is not a recipe: it must be a mapping with model, data and budgets")
    return parse_recipe(values, str(path))


def parse_recipe(values: dict[str, Any], where: str) -> Recipe:
    """Validate the values of a recipe; `where` is named in errors.

    Raises:
        RecipeError: naming the field and the reason.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_first(error)}") from error
    except BitsmithError as error:
        raise RecipeError(f"{where}: {error}") from error


def dump_recipe(recipe: Recipe) -> str:
    """A recipe as YAML; `read_recipe` is the inverse."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def _first(error: ValidationError) -> str:
    """The first problem of a validation, in words."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]).removeprefix("method.")
    reason = first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more problems)" if error.error_count() > 1 else ""
    return f"{place}: {reason}{more}" if place else f"{reason}{more}"
