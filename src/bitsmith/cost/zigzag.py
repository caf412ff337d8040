"""Energy and latency of layers on an accelerator that ZigZag describes: an optional extra, memoised on disk.

ZigZag (`pip install 'bitsmith[zigzag]'`; Mei et al., IEEE Transactions on Computers 70(8), 2021) tries loop orders of
one layer on a described array and memory hierarchy and takes the one with the least energy. It takes the bits of
weights, inputs, sums and outputs, so that narrower operands move fewer bits; the energy of a multiply-accumulate
itself is that of the description, whatever the bits, except in descriptions of in-memory computing.

How a layer is handed over, so that the cost stays additive: inputs at the layer's own activation bits, outputs at 8,
sums at `accumulator_bits`; a layer that is used several times counts each use. Adds, pools and functions are not
priced.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, final

from bitsmith.blueprint import Bits, GridPlan, LayerSpec, NetworkGraph, Node, Options
from bitsmith.cost import zigzag_worker
from bitsmith.cost.additive import Cost, fractional
from bitsmith.cost.energy import FEMTOJOULES, PICOSECONDS
from bitsmith.errors import RecipeError, RunError
from bitsmith.files import cache_folder, read_json, write_json

SCHEMA = 1
_OUTPUT_BITS = 8
_FEMTO_PER_PICO = 1000
_EQUATION = "O[b][g][k][oy][ox]+=W[g][k][c][fy][fx]*I[b][g][c][iy][ix]"

# done, in all -> None
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What ZigZag says of one use of a layer: whole femtojoules and whole cycles."""

    femtojoules: int
    cycles: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """One use of a layer at its bits: the layer's name, and its loops in ZigZag's words."""

    layer: str
    loops: Mapping[str, Any]


@final
@dataclass(frozen=True, kw_only=True)
class ZigZag:
    """An accelerator as ZigZag describes it.

    Args:
        accelerator, mapping: ZigZag's YAML files: the hardware, and which loops are spread over its array.
        hertz: of its clock, or None where that isn't known (then there is no latency).
        accumulator_bits: of partial sums; they must fit into the description's lowest memory for outputs.
        sha256: what `digest` must be, where a run was made with it.

    Example:
        On ZigZag's own TPU-like example, a 3x3 convolution of 16 to 32 channels on 16x16 pixels takes 1.73 uJ at w4a8
        and 1.07 uJ at w4a4 (without padding).
    """

    accelerator: Path
    mapping: Path
    hertz: float | None = None
    accumulator_bits: int = 16
    sha256: str | None = None

    def energy(self) -> Cost:
        """In joules; whole femtojoules per layer."""
        return fractional("energy", FEMTOJOULES, self._entry(lambda found: found.femtojoules))

    def latency(self) -> Cost:
        """In seconds: cycles of one layer after the other, of the mapping that `energy` prices."""
        assert self.hertz is not None
        each = Fraction(PICOSECONDS) / Fraction(str(self.hertz))
        return fractional("latency", PICOSECONDS, self._entry(lambda found: math.ceil(found.cycles * each)))

    def ahead(self, graph: NetworkGraph, options: Mapping[str, Options], progress: Progress) -> None:
        """Estimate all that a space can ask for and that nobody has estimated yet.

        Raises:
            RecipeError: ZigZag isn't installed, can't read its files, or can't map a layer.
        """
        pairs = (
            (layer, Bits(weight=weight, activation=activation))
            for layer in graph.layers
            for weight in options[layer.name].weight
            for activation in options[layer.name].activation
        )
        works = self._works(graph, pairs)
        for key, reason in self._estimate(works, progress).items():
            raise RecipeError(self._unmapped(works[key].layer, key, reason))

    def digest(self) -> str:
        """Of both files and of everything else that an estimate depends on.

        Raises:
            RecipeError: a file can't be read, or ZigZag isn't installed.
        """
        found = hashlib.sha256(f"{SCHEMA} {self._version} {zigzag_worker.OBJECTIVE}".encode())
        for path in (self.accelerator, self.mapping):
            try:
                found.update(hashlib.sha256(path.read_bytes()).digest())
            except OSError as error:
                raise RecipeError(f"can't read ZigZag's description {path}: {error.strerror}") from error
        return found.hexdigest()

    @cached_property
    def _version(self) -> str:
        try:
            return importlib.metadata.version("zigzag-dse")
        except importlib.metadata.PackageNotFoundError as error:
            raise RecipeError(
                f"{self.accelerator} is priced by ZigZag, which isn't installed: pip install 'bitsmith[zigzag]'"
            ) from error

    @cached_property
    def _file(self) -> Path:
        found = self.digest()
        if self.sha256 not in (None, found):
            raise RunError(
                f"{self.accelerator}, {self.mapping} or the version of ZigZag are not those any more that this run was "
                "made with; bring those back, or start a new run folder"
            )
        return cache_folder() / "zigzag" / f"{found[:32]}.json"

    @cached_property
    def _known(self) -> dict[str, Estimate]:
        """Key -> estimate: what lies on disk, and what is added here."""
        return _read(self._file)

    def _entry(self, value: Callable[[Estimate], int]) -> Callable[[NetworkGraph, GridPlan, LayerSpec, Bits], float]:
        def entry(graph: NetworkGraph, plan: GridPlan, layer: LayerSpec, bits: Bits) -> float:
            if bits.is_float:
                raise RecipeError(f"layer {layer.name!r} is float; ZigZag prices integers: pin it to 8 bits or fewer")
            works = self._works(graph, [(layer, bits)])
            if not works.keys() <= self._known.keys():
                # Whoever asks for one layer at these bits mostly asks for the next; starting ZigZag takes seconds.
                failed = self._estimate(self._works(graph, ((other, bits) for other in graph.layers)), _unseen)
                for key in works.keys() & failed.keys():
                    raise RecipeError(self._unmapped(layer.name, key, failed[key]))
            uses = [graph[use] for use in graph.uses[layer.name]]
            return sum(value(self._known[_key(self._loops(graph, use, bits))]) for use in uses)

        return entry

    def _works(self, graph: NetworkGraph, pairs: Iterable[tuple[LayerSpec, Bits]]) -> dict[str, _Work]:
        """Key -> work, of every use of every layer at its bits."""
        works = [
            _Work(layer=layer.name, loops=self._loops(graph, graph[use], bits))
            for layer, bits in pairs
            for use in graph.uses[layer.name]
        ]
        return {_key(work.loops): work for work in works}

    def _loops(self, graph: NetworkGraph, node: Node, bits: Bits) -> dict[str, Any]:
        """A layer in ZigZag's words: sizes of its loops, bits of its operands."""
        weight_bits, activation_bits = bits.pair(node.owner)
        source = graph[node.inputs[0]].shape
        (_, oy, ox), (_, iy, ix) = ((*shape, 1, 1)[:3] for shape in (node.shape, source))
        top, left, bottom, right = node.padding
        sizes = {
            "B": 1, "G": node.groups, "K": node.shape[0] // node.groups, "C": source[0] // node.groups,
            "OY": oy, "OX": ox, "FY": node.kernel[0], "FX": node.kernel[1],
        }  # fmt: skip
        return {
            "id": 0,
            "name": "layer",
            "operator_type": "Conv",
            "equation": _EQUATION,
            "dimension_relations": [
                f"ix={node.stride[1]}*ox+{node.dilation[1]}*fx",
                f"iy={node.stride[0]}*oy+{node.dilation[0]}*fy",
            ],
            "loop_dims": list(sizes),
            "loop_sizes": list(sizes.values()),
            "operand_precision": {
                "W": weight_bits,
                "I": activation_bits,
                "O": self.accumulator_bits,
                "O_final": _OUTPUT_BITS,
            },
            "operand_source": {"I": 0, "W": 0},
            "pr_loop_dims": ["IX", "IY"],
            "pr_loop_sizes": [ix, iy],
            "padding": [[left, right], [top, bottom]],
        }

    def _estimate(self, works: Mapping[str, _Work], progress: Progress) -> dict[str, str]:
        """Run ZigZag on what isn't known yet and keep it; what it can't map comes back, with its reason."""
        missing = {key: work.loops for key, work in works.items() if key not in self._known}
        failed: dict[str, str] = {}
        if not missing:
            return failed
        found: dict[str, Estimate] = {}
        try:
            answers = self._answers(list(missing.values()))
            for done, (key, answer) in enumerate(zip(missing, answers, strict=True), 1):
                if "error" in answer:
                    failed[key] = answer["error"]
                else:
                    found[key] = Estimate(
                        femtojoules=round(answer["energy"] * _FEMTO_PER_PICO), cycles=math.ceil(answer["cycles"])
                    )
                progress(done, len(missing))
        finally:  # what a killed run has learned stays
            self._known.update(found)
            _merge(self._file, found)
        return failed

    def _answers(self, layers: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """What the worker says, layer by layer."""
        asked = {"accelerator": str(self.accelerator), "mapping": str(self.mapping), "layers": list(layers)}
        # -P: our own folder, which has modules of the names of ZigZag's, is not on its path.
        command = [sys.executable, "-P", zigzag_worker.__file__]
        with (
            tempfile.TemporaryFile() as log,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True) as worker,
        ):
            assert worker.stdin is not None
            assert worker.stdout is not None
            try:
                with contextlib.suppress(BrokenPipeError), worker.stdin as stdin:  # its log says why
                    json.dump(asked, stdin)
                for _ in layers:
                    line = worker.stdout.readline()
                    if not line:
                        log.seek(0)
                        last = (log.read().decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
                        raise RecipeError(f"ZigZag {self._version} stopped: {last}")
                    yield json.loads(line)
            finally:
                worker.kill()

    def _unmapped(self, layer: str, key: str, reason: str) -> str:
        return f"ZigZag can't map layer {layer!r} ({key}) onto {self.accelerator}: {reason}"


def _key(loops: Mapping[str, Any]) -> str:
    """The numbers of a layer at its bits in a line.

    Example:
        "B1 G1 K32 C16 OY16 OX16 FY3 FX3, ix=1*ox+1*fx iy=1*oy+1*fy, IX16 IY16 pad 1 1 1 1, W4 I8 O16 O_final8"
    """
    sizes = " ".join(f"{dim}{size}" for dim, size in zip(loops["loop_dims"], loops["loop_sizes"], strict=True))
    inputs = " ".join(f"{dim}{size}" for dim, size in zip(loops["pr_loop_dims"], loops["pr_loop_sizes"], strict=True))
    pads = " ".join(str(pad) for side in loops["padding"] for pad in side)
    bits = " ".join(f"{operand}{bits}" for operand, bits in loops["operand_precision"].items())
    return f"{sizes}, {' '.join(loops['dimension_relations'])}, {inputs} pad {pads}, {bits}"


def _unseen(done: int, steps: int) -> None:
    """The Progress that shows nothing."""


def _read(file: Path) -> dict[str, Estimate]:
    if not file.exists():
        return {}
    try:
        values = read_json(file, "")
        return {key: Estimate(femtojoules=int(fj), cycles=int(cycles)) for key, (fj, cycles) in values.items()}
    except (RunError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{file} is damaged ({error}); delete it, and ZigZag runs again") from error


def _merge(file: Path, found: Mapping[str, Estimate]) -> None:
    """Add estimates to a file that other processes may add to."""
    if not found:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = {**_read(file), **found}
        write_json(file, {key: [each.femtojoules, each.cycles] for key, each in known.items()})
