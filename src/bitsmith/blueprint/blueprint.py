"""Blueprint: one concrete low-precision network as frozen, JSON-able data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from bitsmith.blueprint.bits import FLOAT, Bits, check_counts
from bitsmith.blueprint.graph import NetworkGraph
from bitsmith.blueprint.grids import GridPlan, plan_grids
from bitsmith.blueprint.sound import is_text
from bitsmith.errors import RunError
from bitsmith.files import MOST_JSON, read_text

SCHEMA = 2  # 1 had one bit-width per layer alone


@dataclass(frozen=True, kw_only=True, slots=True)
class InputContract:
    """What the network's input means: x = (pixel / 255 - mean) / std for raw uint8 pixels, channel by channel.

    Args:
        kind: "uint8": files take raw pixels (N, C, H, W) and normalize by a table.
            "float": files take the float tensor that the network was trained on; mean and std are empty.
        mean, std: one number per channel, in units of the pixel range 0..1.
    """

    kind: str = "float"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """One low-precision network: topology, bits per priced layer, quantizer, input contract.

    Args:
        bits: for every priced layer of the graph its Bits. Filters at 0 bits are removed; `prune` gives the network
            without them, which is what is built, priced and exported.
        quantizer: name of the quantizers ("lsq", "pact"); `bitsmith.quantize.QUANTIZERS` has them.
        stream_bits: bits of tensors that no priced layer owns (operands of adds, inputs of pools); 8, or 32 = float.
        input: how the input is fed.
        classes: names of the outputs, where known.

    Raises:
        RunError: a priced layer without bits, bits for a layer that the graph doesn't have, or as many bits as a layer
            has no filters or maps.
    """

    graph: NetworkGraph
    bits: Mapping[str, Bits]
    quantizer: str = "lsq"
    stream_bits: int = 8
    input: InputContract = field(default_factory=InputContract)
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wanted = {layer.name for layer in self.graph.layers}
        if wanted != set(self.bits):
            raise RunError(
                f"the blueprint's bits don't fit its graph: missing {sorted(wanted - set(self.bits))}, "
                f"unknown {sorted(set(self.bits) - wanted)}"
            )
        for layer in self.graph.layers:
            self.bits[layer.name].check(layer)

    @cached_property
    def grids(self) -> GridPlan:
        """The grid plan of the graph."""
        return plan_grids(self.graph)

    def with_bits(self, bits: Mapping[str, Bits]) -> Blueprint:
        """The same network at other bits."""
        return replace(self, bits=dict(bits))

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "schema": SCHEMA,
            "quantizer": self.quantizer,
            "stream_bits": self.stream_bits,
            "input": {"kind": self.input.kind, "mean": list(self.input.mean), "std": list(self.input.std)},
            "classes": list(self.classes),
            "bits": {name: [b.weight, b.activation] for name, b in self.bits.items()},
            "graph": self.graph.to_dict(),
        }

    def to_json(self) -> str:
        """As JSON text; `Blueprint.from_json` is the inverse."""
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Blueprint:
        """The inverse of `to_dict`.

        Raises:
            RunError: a field is missing or of the wrong kind, or the schema is newer than this version reads.
        """
        schema = values.get("schema") if isinstance(values, Mapping) else None
        if type(schema) is not int or not 1 <= schema <= SCHEMA:
            raise RunError(f"blueprint schema {schema!r} can't be read; this version of bitsmith reads 1 to {SCHEMA}")
        try:
            graph = NetworkGraph.from_dict(values["graph"])
            return cls(
                graph=graph,
                bits=_read_bits(values["bits"], graph, lists=schema > 1),
                quantizer=str(values["quantizer"]),
                stream_bits=_read_stream(values["stream_bits"]),
                input=_read_input(values["input"], graph.input_shape[0]),
                classes=_read_classes(values["classes"]),
            )
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
            raise RunError(f"the blueprint is damaged: {type(error).__name__}: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> Blueprint:
        """Read a blueprint from JSON text; errors as `from_dict`."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RunError(f"the blueprint is not JSON: {error}") from error
        return cls.from_dict(values)


def read_blueprint(path: Path, missing: str) -> Blueprint:
    """Read a blueprint from its file.

    Args:
        missing: what to do where there is none, for the message.

    Raises:
        RunError: naming the file and the reason.
    """
    try:
        return Blueprint.from_json(read_text(path, MOST_JSON))
    except OSError as error:
        raise RunError(f"can't read the blueprint {path}: {error.strerror}; {missing}") from error
    except UnicodeDecodeError as error:
        raise RunError(f"the blueprint {path} is not JSON: {error}") from error
    except ValueError as error:  # ours among them
        raise RunError(f"{path}: {error}") from error


def _read_bits(values: Mapping[str, Any], graph: NetworkGraph, *, lists: bool) -> dict[str, Bits]:
    """Bits from JSON; filters and maps may have their own where `lists` says so."""
    layers, found = {layer.name: layer for layer in graph.layers}, {}
    for name, pair in values.items():
        if type(pair) is not list:
            raise TypeError(f"the bits of layer {name!r} must be [weight, activation], got {pair!r:.60}")
        weight, activation = (
            tuple(map(_read_width, side)) if lists and type(side) is list else _read_width(side) for side in pair
        )
        if name in layers:  # before equal numbers become one
            check_counts(layers[name], weight, activation)
        found[name] = Bits(weight=weight, activation=activation)
    return found


def _read_input(values: Mapping[str, Any], channels: int) -> InputContract:
    kind, mean, std = values["kind"], tuple(values["mean"]), tuple(values["std"])
    numbers = [*mean, *std]
    if kind not in ("uint8", "float") or len(mean) != len(std) or len(mean) != (channels if kind == "uint8" else 0):
        raise ValueError(f"the input is uint8 with a mean and a deviation for each of {channels} channels, or float")
    if (
        not all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
        or min(std, default=1) <= 0
    ):
        raise ValueError(f"mean and deviation must be numbers, the latter positive, got {numbers!r:.80}")
    return InputContract(kind=kind, mean=mean, std=std)


def _read_classes(names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(map(is_text, names)):
        raise TypeError(f"classes are a list of names, got {names!r:.60}")
    return tuple(names)


def _read_stream(bits: Any) -> int:
    if _read_width(bits) not in (8, FLOAT):
        raise ValueError(f"streams have 8 bits, or {FLOAT} where they are float, not {bits!r:.60}")
    return bits


def _read_width(bits: Any) -> int:
    if type(bits) is not int:
        raise TypeError(f"bits must be whole numbers, got {bits!r:.60}")
    return bits
