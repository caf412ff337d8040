"""A target of one's own as plain values, as they stand in a YAML file; see docs/targets.md."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from bitsmith.blueprint.units import BYTES, CLOCKS, ENERGIES, WATTS, read_quantity
from bitsmith.cost.energy import ENERGY_MODELS, Cycles, PerMac
from bitsmith.cost.latency import read_latency_table
from bitsmith.cost.target import FORMS, Target
from bitsmith.cost.targets import TARGETS, bits_of
from bitsmith.cost.zigzag import ZigZag

_BITS_KEY = re.compile(r"([aw])([1-8])")


def _quantity(units: dict[str, float]) -> BeforeValidator:
    """Text with a unit, or a plain number of the first."""
    return BeforeValidator(lambda value: read_quantity(value, units) if isinstance(value, str) else value)


Bytes = Annotated[float, _quantity(BYTES), Field(ge=0)]
Hertz = Annotated[float, _quantity(CLOCKS), Field(gt=0)]
Watts = Annotated[float, _quantity(WATTS), Field(gt=0)]
Joules = Annotated[float, _quantity(ENERGIES), Field(ge=0)]
BitWidth = Annotated[int, Field(ge=1, le=8)]
BitWidths = Annotated[tuple[BitWidth, ...], Field(min_length=1), AfterValidator(lambda v: tuple(sorted(set(v))))]


class _Values(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Bits(_Values):
    weights: BitWidths | None = None
    activations: BitWidths | None = None


class _Memories(_Values):
    flash: Bytes | None = None
    ram: Bytes | None = None


class _Traffic(_Values):
    weights: Joules = 0.0
    activations: Joules = 0.0


class _ZigZag(_Values):
    """An accelerator in ZigZag's own files, see `bitsmith.cost.zigzag`."""

    accelerator: Path
    mapping: Path
    clock: Hertz | None = None
    accumulator_bits: Annotated[int, Field(ge=1, le=64)] = 16
    sha256: str | None = None

    def described(self) -> ZigZag:
        return ZigZag(
            accelerator=self.accelerator,
            mapping=self.mapping,
            hertz=self.clock,
            accumulator_bits=self.accumulator_bits,
            sha256=self.sha256,
        )


class TargetDescription(_Values):
    """A target described by hand. What is not given is that of `extends`, which is "onnx" unless said otherwise.

    Args:
        name: how messages call it.
        extends: a built-in target.
        bits: {weights: [2, 4, 8], activations: [8]}.
        float_layers: whether layers may stay float, as of `Target`. Where nothing is said, as of `extends`; not so
            beside bits or memories, which are a board's, or a table that says what integers cost.
        per_channel, per_filter, power_of_two: granularity, as of `Target`.
        lacks: operator, or a form of one (`bitsmith.cost.target.FORMS`) -> why it can't be held.
        memories: {flash: 64kB, ram: 16kB}.
        code: flash that everything but the network's data takes, as 12kB.
        macs_per_cycle: {a8: {w2: 2.5, w8: 2.1}}, with `clock`, and `power` where energy is wanted.
        energy_per_mac: {a8: {w2: 0.4pJ, w8: 1.1pJ}}.
        energy_per_byte: {weights: 5pJ, activations: 2pJ}, beside energy_per_mac.
        energy: a name of `bitsmith.cost.ENERGY_MODELS`, in place of tables.
        latency: a table that `bitsmith profile` measured.
        latency_sha256: of that file; a run writes it down, and refuses the file once it differs.
        zigzag: {accelerator: tpu.yaml, mapping: tpu-mapping.yaml, clock: 200MHz}, which ZigZag estimates energy from
            and, with a clock, latency; a run writes down the sha256 of both files.
    """

    name: str
    extends: str = "onnx"
    what: str | None = None
    bits: _Bits = _Bits()
    float_layers: bool | None = None
    per_channel: bool | None = None
    per_filter: bool | None = None
    power_of_two: bool | None = None
    lacks: dict[str, str] = Field(default_factory=dict)
    memories: _Memories = _Memories()
    code: Bytes | None = None
    macs_per_cycle: dict[str, dict[str, Annotated[float, Field(gt=0)]]] | None = None
    clock: Hertz | None = None
    power: Watts | None = None
    energy_per_mac: dict[str, dict[str, Joules]] | None = None
    energy_per_byte: _Traffic | None = None
    energy: str | None = None
    latency: Path | None = None
    latency_sha256: str | None = None
    zigzag: _ZigZag | None = None
    note: str | None = None
    sources: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _agrees(self) -> TargetDescription:
        if self.extends not in TARGETS:
            raise ValueError(f"extends: unknown target {self.extends!r}; known are {', '.join(TARGETS)}")
        base = TARGETS[self.extends]
        if self.energy is not None and self.energy not in ENERGY_MODELS:
            raise ValueError(f"energy: unknown model {self.energy!r}; known are {', '.join(ENERGY_MODELS)}")
        if self.energy is not None and self.energy_per_mac is not None:
            raise ValueError("energy and energy_per_mac both say what a MAC takes; keep one of them")
        if self.zigzag is not None and (self.energy is not None or self.energy_per_mac is not None):
            raise ValueError("zigzag says what energy is taken; leave out energy and energy_per_mac")
        if self.zigzag is not None and self.zigzag.clock is not None and self.latency is not None:
            raise ValueError("latency and zigzag.clock both make a latency; keep one of them")
        unknown = [form for form in self.lacks if form not in FORMS]
        if unknown:
            raise ValueError(f"lacks: there is no operator {unknown[0]!r}; there are {', '.join(FORMS)}")
        if self.energy_per_byte is not None and self.energy_per_mac is None:
            raise ValueError("energy_per_byte: it belongs beside energy_per_mac, which is missing")
        if (self.clock or self.power) and self.macs_per_cycle is None and base.cycles is None:
            raise ValueError("clock and power belong to macs_per_cycle, which is missing")
        if self.macs_per_cycle is not None and self.clock is None and base.cycles is None:
            raise ValueError("macs_per_cycle: give the clock too, as clock: 250MHz")
        if self.memories.flash is not None and self.code is None and base.code is None:
            raise ValueError(
                "memories.flash: say how much of it is code, as code: 12kB, or extends: c, which allows for some"
            )
        self.target()
        return self

    def target(self) -> Target:
        """The target that this describes.

        Raises:
            ValueError: a table lacks a pair of bits, or bits that the target is said to hold.
            RunError: the latency table is missing, damaged, or not the one that a run was made with.
        """
        base = TARGETS[self.extends]
        cycles, energy = self._cycles(base), self._energy(base)
        given = {
            "what": self.what or f"as target {base.name} ({base.what}) where it says nothing else",
            "weight_bits": self.bits.weights,
            "activation_bits": self.bits.activations,
            "per_channel": self.per_channel,
            "per_filter": self.per_filter,
            "power_of_two": self.power_of_two,
            "code": None if self.code is None else int(self.code),
            "note": self.note or f"As for {base.name}: {base.note}",
            "sources": (
                *(self.sources or ()),
                *(f"where it says nothing else, {base.name}: {s}" for s in base.sources),
            ),
            "latency": None if self.latency is None else self._measured(self.latency),
            "zigzag": self.zigzag and self.zigzag.described(),
        }
        found = {name: int(size) for name, size in self.memories if size is not None}
        target = dataclasses.replace(
            base,
            name=self.name,
            float_layers=False,
            lacks={**base.lacks, **self.lacks},
            memories={**base.memories, **found},
            cycles=cycles,
            energy=energy,
            **{key: value for key, value in given.items() if value is not None},
        )
        if self.float_layers and target.prices_integers_alone:
            raise ValueError(
                "float_layers: nothing says what a float layer takes where energy or latency are priced by tables of "
                "integers; leave one of them out"
            )
        target = dataclasses.replace(target, float_layers=self._floats(target, base))
        for field, table in (("macs_per_cycle", cycles and cycles.rates), ("energy_per_mac", _joules(energy))):
            if table:
                most = max(w for _, w in table), max(a for a, _ in table)
                if most[0] < max(target.weight_bits) or most[1] < max(target.activation_bits):
                    raise ValueError(
                        f"{field}: it goes up to w{most[0]}a{most[1]}, and the target holds up to "
                        f"w{max(target.weight_bits)}a{max(target.activation_bits)}; add entries, or say less in bits"
                    )
        return target

    def _floats(self, target: Target, base: Target) -> bool:
        if self.float_layers is not None:
            return self.float_layers
        board = self.bits != _Bits() or self.memories != _Memories()
        return base.float_layers and not board and not target.prices_integers_alone

    def _cycles(self, base: Target) -> Cycles | None:
        old = base.cycles
        rates = old.rates if old and self.macs_per_cycle is None else _table("macs_per_cycle", self.macs_per_cycle)
        hertz, watts = self.clock or (old and old.hertz), self.power or (old and old.watts)
        return Cycles(rates=rates, hertz=hertz, watts=watts) if rates and hertz else None

    def _energy(self, base: Target) -> PerMac | str | None:
        if self.energy_per_mac is not None:
            moved = self.energy_per_byte or _Traffic()
            joules = _table("energy_per_mac", self.energy_per_mac)
            return PerMac(joules=joules, weight_byte=moved.weights, activation_byte=moved.activations)
        return self.energy or (None if self.macs_per_cycle else base.energy)

    def _measured(self, path: Path) -> Any:
        table = read_latency_table(path)
        if self.latency_sha256 is not None and digest(path) != self.latency_sha256:
            raise ValueError(
                f"latency: {path} is not the table any more that this run was made with; bring that one back, or start "
                "a new run folder"
            )
        return table

    def pinned(self) -> TargetDescription:
        """The same whatever happens to its files: with the digests of its latency table and of ZigZag's files."""
        found: dict[str, Any] = {}
        if self.latency is not None:
            found["latency_sha256"] = digest(self.latency)
        if self.zigzag is not None and self.zigzag.sha256 is None:
            found["zigzag"] = self.zigzag.model_copy(update={"sha256": self.zigzag.described().digest()})
        return self.model_copy(update=found)


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _joules(energy: PerMac | str | None) -> Mapping[tuple[int, int], float] | None:
    return energy.joules if isinstance(energy, PerMac) else None


def _table(field: str, rows: dict[str, dict[str, float]] | None) -> dict[tuple[int, int], float]:
    """{a8: {w2: 2.5}} -> {(8, 2): 2.5}."""
    found: dict[tuple[int, int], float] = {}
    for row, values in (rows or {}).items():
        for column, value in values.items():
            a, w = _BITS_KEY.fullmatch(row), _BITS_KEY.fullmatch(column)
            if a is None or w is None or (a[1], w[1]) != ("a", "w"):
                raise ValueError(
                    f"{field}.{row}.{column}: rows are activation bits and columns weight bits, as a8: w2:"
                )
            found[int(a[2]), int(w[2])] = value
    try:
        bits_of(found)
    except ValueError as error:
        raise ValueError(f"{field}: it {error}") from error
    return found
