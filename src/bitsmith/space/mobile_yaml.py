"""MobileSpaces <-> YAML; the only place of this room that knows it.

    stem: {channels: 16, stride: 1}
    expansions: {min: 0.75, max: 4.5, step: 0.75}     # of all stages that don't say otherwise
    stages:
      - {channels: [8, 16], expansions: 1}
      - {channels: {min: 16, max: 32, step: 8}, blocks: [1, 3], stride: 2, kernels: 3}
    head: [64, 128]
    weight_bits: [2, 4, 8]

Options are a list, one value, or a range {min, max, step}. blocks: a number, or [fewest, most].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from bitsmith.errors import RecipeError
from bitsmith.files import read_yaml
from bitsmith.space.mobile_space import Activation, MobileSpace, Stage, Stem

_OF_ALL_STAGES = ("kernels", "expansions", "squeeze_excite", "activations")


def read_options(value: Any) -> Any:
    """A list of options, from a list, one value, or a range."""
    if not isinstance(value, dict):
        return value if isinstance(value, list | tuple) else [value]
    if set(value) != {"min", "max", "step"} or any(type(v) not in (int, float) for v in value.values()):
        raise ValueError(f"a range has min, max and step, all numbers; got {value}")
    least, most, step = value["min"], value["max"], value["step"]
    steps = round((most - least) / step) if step > 0 else -1
    if steps < 0 or abs(least + steps * step - most) > 1e-6 * step:
        raise ValueError(f"max must be min plus a whole number of positive steps; got {value}")
    if steps > 1000:
        raise ValueError(f"{steps + 1} options are more than anyone searches; got {value}")
    return [round(least + i * step, 9) for i in range(steps + 1)]


def read_range(value: Any) -> Any:
    return [value, value] if type(value) is int else value


Whole = Annotated[tuple[int, ...], BeforeValidator(read_options)]
_Real = Annotated[tuple[float, ...], BeforeValidator(read_options)]
_Bool = Annotated[tuple[bool, ...], BeforeValidator(read_options)]
_Activations = Annotated[tuple[Activation, ...], BeforeValidator(read_options)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Stem(_Section):
    channels: int
    stride: int = 1


class _Stage(_Section):
    channels: Whole
    blocks: Annotated[tuple[int, int], BeforeValidator(read_range)] = (1, 1)
    stride: int = 1
    kernels: Whole | None = None
    expansions: _Real | None = None
    squeeze_excite: _Bool | None = None
    activations: _Activations | None = None


class _Space(_Section):
    stem: _Stem
    stages: tuple[_Stage, ...]
    head: Whole | None = None
    activation: Activation | None = None
    kernels: Whole | None = None
    expansions: _Real | None = None
    squeeze_excite: _Bool | None = None
    activations: _Activations | None = None
    weight_bits: Whole | None = None
    activation_bits: Whole | None = None
    bits: Literal["block", "layer"] | None = None
    ends: int | None = None
    divisor: int | None = None


def read_mobile_space(path: Path) -> MobileSpace:
    """Read a space from a YAML file.

    Raises:
        RecipeError: the file is missing, is not YAML, or describes what can't be; the message names stage and field.
    """
    values = read_yaml(path, "space", "fields such as stem and stages")
    return parse_mobile_space(values, str(path))


def parse_mobile_space(values: Any, where: str) -> MobileSpace:
    """A space from plain values, as YAML has them; `where` is named in errors.

    Raises:
        RecipeError: naming stage and field.

    Example:
        >>> stage = {"channels": {"min": 8, "max": 16, "step": 8}}
        >>> parse_mobile_space({"stem": {"channels": 8}, "stages": [stage]}, "my.yaml").stages[0].channels
        (8, 16)
    """
    if not isinstance(values, dict):
        raise RecipeError(f"{where} is not a space: it must be a mapping with stem and stages")
    try:
        read = _Space.model_validate(values)
        for_all = {name: getattr(read, name) for name in _OF_ALL_STAGES}
        stages = tuple(Stage(**(given(for_all) | given(dict(stage)))) for stage in read.stages)
        own = {name: value for name, value in dict(read).items() if name not in (*_OF_ALL_STAGES, "stem", "stages")}
        return MobileSpace(stem=Stem(**dict(read.stem)), stages=stages, **given(own))
    except ValidationError as error:
        raise RecipeError(f"{where}: {_first(error)}") from error
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error


def dump_mobile_space(space: MobileSpace) -> str:
    """A space as YAML with every field spelled out; `parse_mobile_space` is the inverse."""
    return yaml.safe_dump(plain(asdict(space)), sort_keys=False, default_flow_style=None, width=120)


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what was left out, so that each default stands in one place."""
    return {name: value for name, value in values.items() if value is not None}


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, tuple | list) else value


_MODELS: dict[str, type[BaseModel]] = {"stem": _Stem, "stages": _Stage}


def _first(error: ValidationError) -> str:
    """The first problem, as "stage 2, channels: reason"."""
    first = error.errors()[0]
    place = list(first["loc"])
    model = _MODELS.get(str(place[0]), _Space) if len(place) > 1 else _Space
    if place[0] == "stages" and len(place) > 1:
        place = [f"stage {int(place[1]) + 1}", *place[2:]]
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        reason = f"there is no such field; there are {', '.join(model.model_fields)}"
    if first["type"] == "missing":
        reason = "is missing"
    more = f" (and {error.error_count() - 1} more problems)" if error.error_count() > 1 else ""
    return f"{', '.join(str(part) for part in place)}: {reason}{more}"
