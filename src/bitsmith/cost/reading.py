"""From what a user writes to a target: a name, or the path of a YAML file that describes one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ValidationError

from bitsmith.cost.described import TargetDescription
from bitsmith.cost.target import Target
from bitsmith.cost.targets import TARGETS
from bitsmith.errors import RecipeError, suggestion
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
        raise RecipeError(f"{path}: {first_problem(error, TargetDescription)}") from error


_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_NO_MAPPING = ("model_type", "model_attributes_type", "dataclass_type")


def first_problem(error: ValidationError, kind: Any = None, *, at: str = "") -> str:
    """The first problem of a validation, in words; settings that there aren't go before others that are missing.

    Args:
        kind: the model or dataclass that was validated, where it should be told which settings there are.
        at: where in the user's file the validated values stand.
    """
    problems = error.errors()
    first = next((problem for problem in problems if problem["type"] in _UNKNOWN), problems[0])
    place, reason = list(first["loc"]), first["msg"].removeprefix("Value error, ")
    if first["type"] in _UNKNOWN:
        name = str(place.pop())
        known = _settings(kind, place)
        reason = f"there is no setting {name!r}{suggestion(name, known)}"
        reason += f"; it takes {', '.join(known)}" if known else ""
    elif first["type"] in _NO_MAPPING:
        known = _settings(kind, place)
        reason = "must be a mapping of settings" + (f"; it takes {', '.join(known)}" if known else "")
    elif first["type"] == "tuple_type":
        reason = f"must be a list, such as [{first['input']}], got {first['input']!r:.60}"
    if len(problems) > 1:
        reason += f" (and {len(problems) - 1} more problem{'s' * (len(problems) > 2)})"
    where = ".".join([*([at] if at else []), *map(str, place)])
    return f"{where}: {reason}" if where else reason


def _settings(kind: Any, place: Sequence[int | str]) -> list[str]:
    """The fields at a place within a model or a dataclass, [] where the place can't be followed."""
    for name in place:
        kind = next((k for k in _classes(_fields(kind).get(str(name)))), None)
    return list(_fields(kind))


def _fields(kind: Any) -> dict[str, Any]:
    """Name -> annotation."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return {}


def _classes(annotation: Any) -> list[Any]:
    """The classes with fields in an annotation such as `TrainPlan | None`."""
    return [kind for kind in (annotation, *get_args(annotation)) if _fields(kind)]
