"""SequenceSpaces <-> YAML, as mobile spaces.

    stem: {channels: 8, stride: 1}
    channels: {min: 8, max: 32, step: 8}
    layers: [2, 5]
    strided: 2
    operators: [conv, max_pool]
    kernels: 3
    weight_bits: [4, 8]

Options are a list, one value, or a range {min, max, step}; layers and strided are a number, or [fewest, most].
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from bitsmith.errors import RecipeError
from bitsmith.files import read_yaml
from bitsmith.space.mobile_space import Stem
from bitsmith.space.mobile_yaml import Whole, given, plain, read_options, read_range
from bitsmith.space.sequence_space import LayerOperator, SequenceSpace

_Counts = Annotated[tuple[int, int], BeforeValidator(read_range)]
_Operators = Annotated[tuple[LayerOperator, ...], BeforeValidator(read_options)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Stem(_Section):
    channels: int
    stride: int = 1


class _Space(_Section):
    stem: _Stem
    channels: Whole
    layers: _Counts | None = None
    strided: _Counts | None = None
    operators: _Operators | None = None
    kernels: Whole | None = None
    skips: Whole | None = None
    expansion: int | None = None
    narrowing: bool | None = None
    weight_bits: Whole | None = None
    activation_bits: Whole | None = None
    ends: int | None = None


def read_sequence_space(path: Path) -> SequenceSpace:
    """Read a space from a YAML file.

    Raises:
        RecipeError: the file is missing, is not YAML, or describes what can't be; the message names the field.
    """
    return parse_sequence_space(read_yaml(path, "space", "fields such as stem and channels"), str(path))


def parse_sequence_space(values: Any, where: str) -> SequenceSpace:
    """A space from plain values, as YAML has them; `where` is named in errors.

    Raises:
        RecipeError: naming the field.

    Example:
        >>> parse_sequence_space({"stem": {"channels": 8}, "channels": [8, 16], "strided": 1}, "my.yaml").strided
        (1, 1)
    """
    if not isinstance(values, dict):
        raise RecipeError(f"{where} is not a space: it must be a mapping with stem and channels")
    try:
        read = _Space.model_validate(values)
        return SequenceSpace(
            stem=Stem(**dict(read.stem)), **given({k: v for k, v in dict(read).items() if k != "stem"})
        )
    except ValidationError as error:
        raise RecipeError(f"{where}: {_first(error)}") from error
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error


def dump_sequence_space(space: SequenceSpace) -> str:
    """A space as YAML with every field spelled out; `parse_sequence_space` is the inverse."""
    return yaml.safe_dump(plain(asdict(space)), sort_keys=False, default_flow_style=None, width=120)


def _first(error: ValidationError) -> str:
    """The first problem, as "stem, channels: reason"."""
    first = error.errors()[0]
    model = _Stem if first["loc"][0] == "stem" and len(first["loc"]) > 1 else _Space
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        reason = f"there is no such field; there are {', '.join(model.model_fields)}"
    if first["type"] == "missing":
        reason = "is missing"
    more = f" (and {error.error_count() - 1} more problems)" if error.error_count() > 1 else ""
    return f"{', '.join(str(part) for part in first['loc'])}: {reason}{more}"
