"""Recipes as YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from bitsmith.cost.reading import first_problem
from bitsmith.errors import BitsmithError, RecipeError
from bitsmith.files import read_yaml
from bitsmith.recipe.recipe import Recipe


def read_recipe(
    path: Path,
    *,
    target: str | None = None,
    space: Mapping[str, Any] | None = None,
    budgets: Sequence[Sequence[str]] | None = None,
) -> Recipe:
    """Read a YAML recipe.

    Args:
        target: in place of the recipe's.
        space: fields of its space section in place of the recipe's.
        budgets: in place of the recipe's, which the target need not price then.

    Raises:
        RecipeError: the file is missing, is not YAML, or says something that isn't so; the message names the field.
    """
    values = read_yaml(path, "recipe", "model, data and budgets")
    if target is not None:
        values = {**values, "target": target}
    if budgets is not None:
        values = {**values, "budgets": [list(line) for line in budgets]}
    if space and isinstance(values.get("space") or {}, dict):
        values = {**values, "space": {**(values.get("space") or {}), **space}}
    return parse_recipe(values, str(path))


def parse_recipe(values: dict[str, Any], where: str) -> Recipe:
    """Validate the values of a recipe; `where` is named in errors.

    Raises:
        RecipeError: naming the field and the reason.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        problem = first_problem(error, Recipe)
        # What speaks of the method says so itself.
        raise RecipeError(f"{where}: {problem.removeprefix('method: ' if ': method ' in problem else '')}") from error
    except BitsmithError as error:
        raise RecipeError(f"{where}: {error}") from error


def dump_recipe(recipe: Recipe) -> str:
    """A recipe as YAML; `read_recipe` is the inverse."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
