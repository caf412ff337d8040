"""Blueprint: one concrete low-precision network as frozen, JSON-able data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from bitsmith.blueprint.graph import NetworkGraph
from bitsmith.blueprint.grids import GridPlan, plan_grids
from bitsmith.errors import RunError

SCHEMA = 1
FLOAT = 32  # the bit-width that means "not quantized"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bits:
    """Bit-widths of one priced layer: its weights and the activations it reads (1..8, or 32 = float)."""

    weight: int
    activation: int

    def __post_init__(self) -> None:
        for what, bits in (("weight", self.weight), ("activation", self.activation)):
            if bits != FLOAT and not 1 <= bits <= 8:
                raise RunError(f"{what} bits must be 1..8 (or {FLOAT} for float), got {bits}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The bit-widths that one priced layer may take: every pair of a weight and an activation bit-width."""

    weight: tuple[int, ...]
    activation: tuple[int, ...]

    def __post_init__(self) -> None:
        for values in (self.weight, self.activation):
            if not values or tuple(sorted(set(values))) != values:
                raise RunError(f"bit-widths must be given once each, in rising order; got {values}")
        for w in self.weight:
            for a in self.activation:
                Bits(weight=w, activation=a)  # checks the range


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
        bits: for every priced layer of the graph its Bits.
        quantizer: name of the quantizers ("lsq", "pact"); `bitsmith.quantize.QUANTIZERS` has them.
        stream_bits: bits of tensors that no priced layer owns (operands of adds, inputs of pools); 8, or 32 = float.
        input: how the input is fed.
        classes: names of the outputs, where known.

    Raises:
        RunError: a priced layer without bits, or bits for a layer that the graph doesn't have.
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

    @cached_property
    def grids(self) -> GridPlan:
        """The grid plan of the graph."""
        return plan_grids(self.graph)

    def with_bits(self, bits: Mapping[str, Bits]) -> Blueprint:
        """The same network at other bits."""
        return Blueprint(
            graph=self.graph,
            bits=dict(bits),
            quantizer=self.quantizer,
            stream_bits=self.stream_bits,
            input=self.input,
            classes=self.classes,
        )

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
        if schema != SCHEMA:
            raise RunError(f"blueprint schema {schema!r} can't be read; this version of bitsmith reads {SCHEMA}")
        try:
            return cls(
                graph=NetworkGraph.from_dict(values["graph"]),
                bits={name: Bits(weight=int(w), activation=int(a)) for name, (w, a) in values["bits"].items()},
                quantizer=str(values["quantizer"]),
                stream_bits=int(values["stream_bits"]),
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
