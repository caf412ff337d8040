"""The sections of a recipe: network, data, space, task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from bitsmith.cost import Target
from bitsmith.errors import RecipeError
from bitsmith.quantize import find_quantizers
from bitsmith.recipe.methods import import_named
from bitsmith.space import (
    MOBILE_SPACES,
    SEQUENCE_SPACES,
    MobileSpace,
    SequenceSpace,
    parse_mobile_space,
    parse_sequence_space,
)
from bitsmith.train import METRICS

_PRESETS: dict[str, Mapping[str, MobileSpace | SequenceSpace]] = {"mobile": MOBILE_SPACES, "sequence": SEQUENCE_SPACES}


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(Section):
    """The network: a name, "torchvision:NAME" or "package.module:function"; optionally a file of weights.

    Args:
        output: which output to take where the network gives several: a key, an index or an attribute's name.
        width: share of the channels of every layer that is left, see `bitsmith.space.narrowed`; given weights lose
            the other channels, and are something to start from, not a trained network any more.
    """

    spec: str
    weights: Path | None = None
    output: str | None = None
    width: float = Field(default=1.0, gt=0, le=1)

    @property
    def trained(self) -> bool:
        """Whether the network comes with weights that were trained as it is."""
        return self.weights is not None and self.width == 1

    @property
    def untrained(self) -> str:
        """For messages: why given weights don't count as trained, where they don't."""
        return "; at another width the given weights are not trained" if self.weights and self.width != 1 else ""


class DataSection(Section):
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


class SpaceSection(Section):
    """The bit-widths that layers may take; the ends of the network are pinned unless `ends` is null.

    Args:
        kind: "precision", bits of a given network, or "mobile" or "sequence", whole networks; these have no `model`.
        preset: of `bitsmith.space.MOBILE_SPACES` or `SEQUENCE_SPACES`.
        description: or a space of your own, as `bitsmith.space.parse_mobile_space` or `parse_sequence_space` takes it.
        quantizer: a name of `bitsmith.quantize.QUANTIZERS`, or "package.module:Name" of a QuantizerPair of your own.
        pins: layer or pattern ("layer3.*") -> 8, "w4a8", "w4", "a8" or "float"; see `bitsmith.space.resolve_pins`.
    """

    kind: Literal["precision", "mobile", "sequence"] = "precision"
    preset: str | None = None
    description: dict[str, Any] | None = None
    weight_bits: tuple[int, ...] = (2, 3, 4, 8)
    activation_bits: tuple[int, ...] = (8,)
    ends: int | None = 8
    pins: dict[str, int | str] = Field(default_factory=dict)
    quantizer: str = "lsq"

    @field_validator("quantizer")
    @classmethod
    def _known(cls, value: str) -> str:
        if ":" in value:
            import_named("quantizer", value)
        find_quantizers(value)
        return value

    @model_validator(mode="after")
    def _of_its_kind(self) -> SpaceSection:
        if self.kind == "precision" and (self.preset or self.description):
            raise ValueError("preset and description belong to kind: mobile or sequence")
        if self.kind != "precision":
            if self.pins or self.ends is None:
                raise ValueError(f"a {self.kind} space has no pins, and its ends have fixed bits")
            self.networks()
        return self

    def networks(self) -> MobileSpace | SequenceSpace:
        """The space of whole networks, with the section's bits.

        Raises:
            RecipeError: no or both of preset and description, or one that isn't known or can't be.
        """
        assert self.ends is not None
        bits = {"weight_bits": self.weight_bits, "activation_bits": self.activation_bits, "ends": self.ends}
        return replace(described(self.kind, self.preset, self.description), **bits)


class TaskSection(Section):
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


def described(kind: str, preset: str | None, description: Any) -> MobileSpace | SequenceSpace:
    """The space of whole networks that a section names or describes.

    Raises:
        RecipeError: no or both of them, or one that isn't known or can't be.
    """
    presets = _PRESETS[kind]
    if (preset is None) == (description is None):
        raise RecipeError(f"space: a {kind} space has a preset ({', '.join(presets)}), or a description")
    if description is not None:
        parse = parse_mobile_space if kind == "mobile" else parse_sequence_space
        return parse(description, "space.description")
    if preset is None or preset not in presets:
        raise RecipeError(f"space.preset: there is no {preset!r}; there are {', '.join(presets)}")
    return presets[preset]


def suited_networks(device: Target, kind: str, preset: str | None, description: Any) -> dict[str, Any]:
    """What the section of whole networks is for a target where nothing is said: the space's bits that it holds."""
    space = described(kind, preset, description)
    return {
        "weight_bits": device.narrow(space.weight_bits, device.weight_bits),
        "activation_bits": device.narrow(space.activation_bits, device.activation_bits),
        "ends": space.ends,
        "quantizer": suited_space(device)["quantizer"],
    }


def suited_space(device: Target) -> dict[str, Any]:
    """What the recipe's space is for a target where nothing is said: the defaults, of them what the target holds.

    Example:
        >>> suited_space(TARGETS["mpic"])["weight_bits"]
        (2, 4, 8)
    """
    fields = SpaceSection.model_fields
    ends = fields["ends"].default
    return {
        "weight_bits": device.narrow(fields["weight_bits"].default, device.weight_bits),
        "activation_bits": device.narrow(fields["activation_bits"].default, device.activation_bits),
        "ends": ends if ends in device.weight_bits and ends in device.activation_bits else None,
        "quantizer": "lsq-pow2" if device.power_of_two else fields["quantizer"].default,
    }
