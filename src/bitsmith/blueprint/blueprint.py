"""Blueprint: one concrete low-precision network as frozen, JSON-able data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from bitsmith.blueprint.bits import Bits, check_counts
from bitsmith.blueprint.graph import NetworkGraph
from bitsmith.blueprint.grids import GridPlan, plan_grids
from bitsmith.errors import RunError

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
                stream_bits=_read_width(values["stream_bits"]),
                input=InputContract(
                    kind=values["input"]["kind"],
                    mean=tuple(values["input"]["mean"]),
                    std=tuple(values["input"]["std"]),
                ),
                classes=tuple(values["classes"]),
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


def _read_width(bits: Any) -> int:
    if type(bits) is not int:
        raise TypeError(f"bits must be whole numbers, got {bits!r:.60}")
    return bits
