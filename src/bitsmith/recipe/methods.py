"""Search methods by their names in recipes, and code of the user's that recipes name."""

from __future__ import annotations

import dataclasses
from typing import Any

from pydantic import ConfigDict, ValidationError, create_model

from bitsmith.cost.reading import first_problem
from bitsmith.errors import RecipeError, suggestion
from bitsmith.models.importing import FAILURES, import_users
from bitsmith.search import (
    Binomial,
    BlockBinomial,
    Composite,
    Filters,
    GridSearch,
    Latent,
    Method,
    Multinomial,
    Random,
    Sensitivity,
    Supernet,
    Uniform,
)

METHODS: dict[str, type] = {
    "binomial": Binomial,
    "block-binomial": BlockBinomial,
    "composite": Composite,
    "filters": Filters,
    "grid": GridSearch,
    "latent": Latent,
    "multinomial": Multinomial,
    "random": Random,
    "sensitivity": Sensitivity,
    "supernet": Supernet,
    "uniform": Uniform,
}
FILLED = "uniform+fill"  # a method's name in tables, though not a class of its own


def named(name: str) -> dict[str, Any]:
    """The settings that a method's name in tables stands for.

    Example:
        >>> named("uniform+fill"), named("random")
        ({'name': 'uniform', 'fill': True}, {'name': 'random'})
    """
    return {"name": "uniform", "fill": True} if name == FILLED else {"name": name}


def make_method(settings: dict[str, Any]) -> Method:
    """A search method from its name ("composite", or "package.module:Name" of your own) and settings.

    Raises:
        RecipeError: unknown name, or settings that it doesn't take.
    """
    values = dict(settings)
    name = str(values.pop("name", "composite"))
    kind = METHODS.get(name)
    if kind is None and ":" in name:
        kind = import_named("method", name)
    if kind is None:
        known = ", ".join(METHODS)
        raise RecipeError(
            f"unknown method {name!r}{suggestion(name, METHODS)}; known are {known}, or give package.module:Name of "
            "your own"
        )
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        raise RecipeError(f"the method {name!r} must be a dataclass of its settings; see bitsmith.search.Composite")
    for field in dataclasses.fields(kind):  # settings of a plan that are not given keep the method's own defaults
        if field.name == "plan" and isinstance(values.get("plan"), dict) and callable(field.default_factory):
            values["plan"] = dataclasses.asdict(field.default_factory()) | values["plan"]
    # A model around the dataclass lends it the rule that unknown settings are errors.
    wrapper = create_model("Settings", __config__=ConfigDict(extra="forbid"), method=(kind, ...))
    try:
        method = getattr(wrapper.model_validate({"method": values}), "method")  # noqa: B009 - made at run time
    except ValidationError as error:
        raise RecipeError(
            f"method {name!r}: {first_problem(error, wrapper).removeprefix('method').lstrip(':. ')}"
        ) from error
    if not isinstance(method, Method):
        raise RecipeError(
            f"{name!r} is not a search method: it needs name, epochs, check(space, budgets, trained) and "
            "search(problem); see bitsmith.search.Method"
        )
    return method


def import_named(what: str, name: str) -> Any:
    """What "package.module:Name" means; the recipe's author asks for it.

    Raises:
        RecipeError: it can't be imported.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_users(module), attribute)
    except FAILURES as error:
        raise RecipeError(f"the {what} {name!r} can't be imported: {error}") from error
