"""Latency tables: what each work of a network takes on one machine, measured; and the cost `latency` made of one.

    latency = call + sum over works of entries[table.key(work)]

in whole nanoseconds, for one image in one call. `bitsmith.cost.kernels` says what the works are, `bitsmith profile`
measures them in onnxruntime, or takes Vela's estimates of an Ethos-U. What a table lacks is refused, never guessed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from bitsmith.blueprint import Bits, Blueprint, GridPlan, LayerSpec, NetworkGraph
from bitsmith.cost.additive import Cost, fractional
from bitsmith.cost.kernels import Work, free_works, layer_works
from bitsmith.errors import RecipeError, RunError
from bitsmith.files import read_json, write_json

SCHEMA = 2
NANOSECONDS = 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """What was measured of one work.

    Args:
        nanoseconds: of one inference.
        spread: nanoseconds too: half the range that the middle half of the measurements takes.
        measured: how often.
    """

    nanoseconds: int
    spread: int
    measured: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
                raise RunError(f"{name} must be a whole number from 0, got {value!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Under what a table was measured; times under another setting mean something else.

    Args:
        cpu, system: as the machine calls itself.
        runtime: what computes the networks, with its version, such as "onnxruntime 1.29.0".
        threads: within one operator.
        input: what the networks took, "uint8" pixels or "float" numbers.
    """

    cpu: str
    system: str
    runtime: str
    threads: int
    input: str

    def __str__(self) -> str:
        count = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.runtime}, {count}, {self.cpu} ({self.system}), one image of {self.input}"

    def differences(self, other: Setting) -> list[str]:
        """What is otherwise in another setting, in words.

        Example:
            ["threads: 1 there, 2 here"]
        """
        mine, others = asdict(self), asdict(other)
        return [f"{name}: {mine[name]} there, {others[name]} here" for name in mine if mine[name] != others[name]]


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Measured times by what was timed.

    Args:
        setting: under what.
        call: of a call that computes nothing.
        entries: key of a work -> its time.
        networks: `fingerprint` of every network that was measured for it.
        by_weights: whether times depend on the bits of weights, so that entries are told apart by them.
        file: where it lies, for messages.
    """

    setting: Setting
    call: Timing
    by_weights: bool = False
    entries: Mapping[str, Timing] = field(default_factory=dict)
    networks: tuple[str, ...] = ()
    file: Path | None = None

    def key(self, work: Work) -> str:
        """Under what a work's time stands in `entries`.

        Example:
            "linear logits 64 to 10", and by weights "linear logits 64 to 10, weights of 4 bits".

        Raises:
            RecipeError: by weights, of a layer whose filters differ in bits.
        """
        if not self.by_weights or work.weights is None:
            return work.key
        if not isinstance(work.weights, int):
            raise RecipeError(
                f"the filters of {work.operator!r} differ in bits, and the latency table {self.file or ''} knows "
                "layers of one bit-width: give its weights one, or budget another cost"
            )
        return f"{work.key}, weights of {work.weights} bits"

    def fingerprint(self, blueprint: Blueprint) -> str:
        """A short text that two blueprints share whose networks run the same works, as far as this table tells."""
        counted = sorted(Counter(self.key(work) for work in network_works(blueprint)).items())
        return hashlib.sha256(repr(counted).encode()).hexdigest()[:16]

    def missing_keys(self, blueprint: Blueprint) -> list[str]:
        """Keys of a network's works that the table lacks, each once."""
        keys = dict.fromkeys(self.key(work) for work in network_works(blueprint))
        return [key for key in keys if key not in self.entries]

    def with_entries(self, entries: Mapping[str, Timing], networks: Iterable[str]) -> LatencyTable:
        """The table with more entries; those it has stay."""
        known = dict.fromkeys([*self.networks, *networks])
        return replace(self, entries={**entries, **self.entries}, networks=tuple(known))

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        values = {
            "schema": SCHEMA,
            "setting": asdict(self.setting),
            "by_weights": self.by_weights,
            "call": asdict(self.call),
            "entries": {key: asdict(timing) for key, timing in self.entries.items()},
            "networks": list(self.networks),
        }
        write_json(path, values)


def read_latency_table(path: Path) -> LatencyTable:
    """The inverse of `LatencyTable.write`.

    Raises:
        RunError: the file is missing or damaged, or of another schema.
    """
    values = read_json(path, "a latency table; measure one with bitsmith profile")
    schema = values.get("schema") if isinstance(values, dict) else None
    if schema != SCHEMA:
        raise RunError(f"{path} has latency table schema {schema!r}; this version of bitsmith reads {SCHEMA}")
    try:
        setting = Setting(**values["setting"])
        if not isinstance(setting.threads, int) or not all(isinstance(name, str) for name in values["networks"]):
            raise TypeError("threads must be a number, networks must be texts")
        if not isinstance(values["by_weights"], bool):
            raise TypeError("by_weights must be true or false")
        return LatencyTable(
            setting=setting,
            call=Timing(**values["call"]),
            by_weights=values["by_weights"],
            entries={key: Timing(**timing) for key, timing in values["entries"].items()},
            networks=tuple(values["networks"]),
            file=path,
        )
    except (KeyError, TypeError, AttributeError, RunError) as error:
        raise RunError(f"{path} is damaged ({error}); delete it and measure again with bitsmith profile") from error


def network_works(blueprint: Blueprint) -> list[Work]:
    """All works of a blueprint's network: the free ones, then layer by layer.

    Raises:
        RecipeError: a layer is float.
    """
    graph, plan = blueprint.graph, blueprint.grids
    layers = [work for layer in graph.layers for work in layer_works(graph, plan, layer, blueprint.bits[layer.name])]
    return [*free_works(graph, plan), *layers]


def latency_cost(table: LatencyTable) -> Cost:
    """The cost `latency` of one machine, in seconds, as a table has it.

    latency = (call + sum of entries) / 1e9, entries in whole nanoseconds

    Example:
        A call of 5,000 ns, input and classifier of 20,000 and two layers of 30,000 ns: 8.5e-05 s.

    Raises:
        RecipeError: (when priced) the table lacks a work of the network; or a layer is float.
    """

    def entry(graph: NetworkGraph, plan: GridPlan, layer: LayerSpec, bits: Bits) -> float:
        return sum(_nanoseconds(table, work) for work in layer_works(graph, plan, layer, bits))

    def fixed(graph: NetworkGraph, plan: GridPlan) -> float:
        return table.call.nanoseconds + sum(_nanoseconds(table, work) for work in free_works(graph, plan))

    return fractional("latency", NANOSECONDS, entry, fixed)


def _nanoseconds(table: LatencyTable, work: Work) -> int:
    key = table.key(work)
    found = table.entries.get(key)
    if found is None:
        where = str(table.file) if table.file else "the latency table"
        raise RecipeError(
            f"{where} has no time for {work.operator!r} ({key}); where and how it was measured, run bitsmith profile "
            f"with this recipe or model and --out {table.file or 'FILE'}, which adds what is missing"
        )
    return found.nanoseconds
