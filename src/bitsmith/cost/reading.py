"""From what a user writes to a target: a name, or the path of a YAML file that describes one."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from bitsmith.cost.described import TargetDescription
from bitsmith.cost.target import Target
from bitsmith.cost.targets import TARGETS
from bitsmith.errors import RecipeError
from bitsmith.files import read_yaml


def find_target(target: str | Target | TargetDescription) -> Target:
    """A target by its name or its description.

    Args:
        target: a key of `TARGETS`, the path of a YAML file ("my-board.yaml"), or what one holds.

    Raises:
        RecipeError: there is none of that name; the file can't be read, or a field says something that isn't so.
    """
    if isinstance(target, Target):
        return target
    if isinstance(target, str):
        if not is_file(target):
            if target not in TARGETS:
                raise RecipeError(
                    f"unknown target {target!r}; known are {', '.join(TARGETS)}, or give the path of your own as "
                    "my-board.yaml"
                )
            return TARGETS[target]
        target = read_description(Path(target))
    try:
        return target.target()
    except ValueError as error:
        raise RecipeError(f"target {target.name!r}: {error}") from error


def is_file(target: str) -> bool:
    """Whether a target is given as a path and not by its name."""
    return Path(target).suffix in (".yaml", ".yml") or "/" in target


def read_description(path: Path) -> TargetDescription:
    """Read a target's YAML; its name is the file's unless it says another, its paths are seen from its folder.

    Raises:
        RecipeError: the file is missing, is not YAML, or a field says something that isn't so.
    """
    values = read_yaml(path, "target", "fields such as bits, memories, energy")
    values = {"name": path.stem, **values}
    for at, key in ((values, "latency"), (values.get("zigzag"), "accelerator"), (values.get("zigzag"), "mapping")):
        if isinstance(at, dict) and isinstance(at.get(key), str):
            at[key] = path.resolve().parent / Path(at[key]).expanduser()
    try:
        return TargetDescription.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{path}: {first_problem(error)}") from error


def first_problem(error: ValidationError) -> str:
    """The first problem of a validation, in words."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more problems)" if error.error_count() > 1 else ""
    return f"{place}: {reason}{more}" if place else f"{reason}{more}"
