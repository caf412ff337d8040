"""Latency tables: measuring what a space needs, and holding predictions against whole networks.

The networks that are measured have random weights: kernels take the same time whatever the weights are. Bits of weights
don't matter either, as files unpack them at load. So one network for each class of activation bits that a space has
measures all of its works, and its other blueprints are predicted.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from bitsmith.blueprint import Blueprint, InputContract
from bitsmith.cost import exact
from bitsmith.cost.latency import (
    LatencyTable,
    Setting,
    Timing,
    latency_cost,
    network_works,
    read_latency_table,
)
from bitsmith.data import TensorSplit
from bitsmith.deploy import IntegerProgram, lower
from bitsmith.deploy.onnx_file import to_onnx
from bitsmith.deploy.profile import Measured, measure, most_rounds, spread, time_calls, typical, undisturbed
from bitsmith.errors import RunError
from bitsmith.pipeline.machine import cpu
from bitsmith.quantize import build, freeze
from bitsmith.report import Latency
from bitsmith.seeding import derive
from bitsmith.space import Precision
from bitsmith.train import calibrate

ROUNDS = 30  # of 8 counted calls
_JITTER = 0.05  # of sampled steps, in the logarithm

_TOGETHER = 4  # networks that take turns

# (programs, called after each round) -> calls of an empty file, what each program took.
Stopwatch = Callable[[Sequence[IntegerProgram], Callable[[], None]], tuple[np.ndarray, list[Measured]]]
Progress = Callable[[str, int, int], None]  # what, done, of how many


def no_progress(what: str, done: int, total: int) -> None:
    """The Progress that shows nothing."""


def present_setting(threads: int, input_kind: str) -> Setting:
    """What a table measured here and now would be measured under."""
    return Setting(
        cpu=cpu(),
        system=f"{platform.system()} {platform.machine()}",
        runtime=f"onnxruntime {version('onnxruntime')}",
        threads=threads,
        input=input_kind,
    )


def stopwatch(rounds: int, threads: int) -> Stopwatch:
    """The real one: onnxruntime on this machine."""

    def watch(programs: Sequence[IntegerProgram], tick: Callable[[], None]) -> tuple[np.ndarray, list[Measured]]:
        return measure(programs, rounds=min(most_rounds(p, rounds) for p in programs), threads=threads, tick=tick)

    return watch


def covering(space: Precision) -> list[Blueprint]:
    """Blueprints that have all works of a space between them: one for each of its activation bit-widths."""
    widths = sorted({bits for options in space.options.values() for bits in options.activation}, reverse=True)
    return [space.uniform(8, bits) for bits in widths]


def profile(
    blueprints: Iterable[Blueprint],
    path: Path,
    *,
    threads: int = 1,
    rounds: int = ROUNDS,
    seed: int = 0,
    watch: Progress = no_progress,
    measuring: Stopwatch | None = None,
) -> LatencyTable:
    """Measure what a table lacks of some networks; the file is written after each of them, so that a stop loses one.

    Args:
        path: of the table; it is made, or what is missing is added to it.
        threads: within one operator.
        rounds: of 8 counted calls, of each network with and without onnxruntime's profile.
        measuring: how a program is timed; onnxruntime on this machine by default.

    Raises:
        RunError: the file is damaged or was measured under another setting.
        RecipeError: a network with float layers.
    """
    measuring = measuring or stopwatch(rounds, threads)
    table = read_latency_table(path) if path.exists() else None
    lacking = _lacking(blueprints, table, threads)
    for first in range(0, len(lacking), _TOGETHER):
        together = lacking[first : first + _TOGETHER]
        programs = [sample_program(blueprint, seed) for blueprint in together]
        what = f"networks {first + 1} to {first + len(together)} of {len(lacking)}"
        call, measured = measuring(programs, _ticks(watch, what, rounds))
        if table is None:
            setting = present_setting(threads, together[0].input.kind)
            table = LatencyTable(setting=setting, call=_timing([call[undisturbed(call)]]), file=path)
        entries = _entries(together, measured, typical(call))
        table = table.with_entries(entries, map(table.fingerprint, together))
        table.write(path)
    if table is None:
        raise RunError("there is no network to measure")
    return table


def _lacking(blueprints: Iterable[Blueprint], table: LatencyTable | None, threads: int) -> list[Blueprint]:
    """Those that have works which neither the table nor one before them has."""
    known = set(table.entries) if table else set()
    found = []
    for blueprint in blueprints:
        if table:
            refuse_other_setting(table, present_setting(threads, blueprint.input.kind))
        keys = {work.key for work in network_works(blueprint)}
        if not keys <= known:
            found.append(blueprint)
            known |= keys
    kinds = {blueprint.input.kind for blueprint in found}
    if len(kinds) > 1:
        raise RunError(f"networks of different inputs ({', '.join(sorted(kinds))}) need a table each")
    return found


def refuse_other_setting(table: LatencyTable, setting: Setting) -> None:
    """Times of two settings don't belong into one table, nor beside each other.

    Raises:
        RunError: the table was measured under another setting; says what is otherwise.
    """
    differences = table.setting.differences(setting)
    if differences:
        raise RunError(f"{table.file} was measured under another setting ({'; '.join(differences)}); use another file")


def other_setting_note(table: LatencyTable, input_kind: str) -> str | None:
    """A warning where a table's predictions are not about this machine, or None."""
    differences = table.setting.differences(present_setting(table.setting.threads, input_kind))
    if not differences:
        return None
    return f"the latencies of {table.file} are those of another setting ({'; '.join(differences)})"


def predict(table: LatencyTable, blueprint: Blueprint) -> float:
    """The latency of a network in seconds.

    Raises:
        RecipeError: the table lacks a work of it.
    """
    return exact("latency", blueprint.graph, blueprint.bits, {"latency": latency_cost(table)})


def check(
    table: LatencyTable,
    networks: Mapping[str, tuple[Blueprint, Path | bytes]],
    *,
    rounds: int = ROUNDS,
    watch: Progress = no_progress,
) -> list[Latency]:
    """Predict and measure exported networks, which take turns.

    Args:
        networks: name -> blueprint and file.

    Raises:
        RunError: the table was measured under another setting than the present one.
        RecipeError: the table lacks a work of a network.
    """
    for blueprint, _ in networks.values():
        refuse_other_setting(table, present_setting(table.setting.threads, blueprint.input.kind))
    predicted = {name: predict(table, blueprint) for name, (blueprint, _) in networks.items()}
    seconds = time_calls(
        {name: file for name, (_, file) in networks.items()},
        rounds=rounds,
        threads=table.setting.threads,
        tick=_ticks(watch, "checking", rounds),
    )
    return [
        Latency(
            network=name,
            predicted=predicted[name],
            measured=typical(seconds[name]),
            spread=spread(seconds[name]),
            known=table.fingerprint(blueprint) in table.networks,
            setting=str(table.setting),
        )
        for name, (blueprint, _) in networks.items()
    ]


def check_random(
    table: LatencyTable,
    space: Precision,
    count: int,
    *,
    rounds: int = ROUNDS,
    seed: int = 0,
    watch: Progress = no_progress,
) -> list[Latency]:
    """`check` of random networks of a space with random weights, other ones than the table was measured with."""
    generator = np.random.default_rng(derive(seed, "random networks"))
    blueprints = [space.sample(generator) for _ in range(count)]
    networks = {
        f"random {i + 1}": (blueprint, to_onnx(sample_program(blueprint, seed + i + 1)).SerializeToString())
        for i, blueprint in enumerate(blueprints)
    }
    return check(table, networks, rounds=rounds, watch=watch)


def _ticks(watch: Progress, what: str, rounds: int) -> Callable[[], None]:
    turns = itertools.count(1)
    return lambda: watch(what, next(turns), rounds)


@torch.no_grad()
def sample_program(blueprint: Blueprint, seed: int = 0) -> IntegerProgram:
    """The integer program of a blueprint with random weights, its steps calibrated on random inputs.

    Steps are moved apart by some percent, as training does: onnxruntime computes equal narrowings once.
    """
    blueprint = replace(blueprint, quantizer="lsq")
    generator = torch.Generator().manual_seed(derive(seed, "inputs"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        network = build(blueprint)
    calibrate(network, _random_inputs(blueprint, generator), batches=1, batch_size=2, seed=seed)
    for module in network.calibrated():
        for name, parameter in module.named_parameters():
            assert name == "log_step", name
            parameter += _JITTER * torch.randn((), generator=generator)
    return lower(freeze(network.eval(), blueprint), blueprint)


def _random_inputs(blueprint: Blueprint, generator: torch.Generator) -> TensorSplit:
    channels = blueprint.graph.input_shape[0]
    return TensorSplit(
        images=torch.randint(0, 256, (2, *blueprint.graph.input_shape), generator=generator, dtype=torch.uint8),
        labels=torch.zeros(2, dtype=torch.int64),
        contract=InputContract(kind="uint8", mean=(0.5,) * channels, std=(0.25,) * channels),
    )


def _entries(blueprints: Sequence[Blueprint], measured: Sequence[Measured], call: float) -> dict[str, Timing]:
    """The works of networks that were measured together.

    Of each network the works that no earlier one had are what is left of its whole call,

        sum over new works of max(0, profiled - c kernels) = whole call - empty call - works known,    solved for c,

    c being what the profile itself takes of every kernel.
    """
    found: dict[str, Timing] = {}
    for blueprint, took in zip(blueprints, measured, strict=True):
        works = {(work.operator, work.part): work.key for work in network_works(blueprint)}
        times = {at: np.zeros(1) for at in works}  # a table that turns out to need no clip has none
        kernels = dict.fromkeys(works, 0)
        for (operator, part), seconds in took.parts.items():
            # A clip that no work stands for belongs to its operator.
            at = (operator, part) if (operator, part) in works else (operator, "main")
            assert at in works, f"operator {operator!r} runs kernels but is no work"
            times[at] = times[at] + seconds
            kernels[at] += len(took.kernels[operator, part])
        left = typical(took.calls) - call - sum(1e-9 * found[key].nanoseconds for key in works.values() if key in found)
        new = [at for at, key in works.items() if key not in found]
        cost = profile_cost([times[at].mean() for at in new], [kernels[at] for at in new], left)
        occurrences: dict[str, list[np.ndarray]] = {}
        for at in new:
            occurrences.setdefault(works[at], []).append(times[at] - cost * kernels[at])
        found |= {key: _timing(seconds) for key, seconds in occurrences.items()}
    return found


def profile_cost(profiled: Sequence[float], kernels: Sequence[int], left: float) -> float:
    """c of `_entries`; 0 where even the profiled times are less than what is left."""
    times, counts = np.array(profiled), np.array(kernels)
    low, high = 0.0, float(times.max(initial=0.0))
    for _ in range(60):
        middle = (low + high) / 2
        over = np.maximum(times - middle * counts, 0).sum() > left
        low, high = (middle, high) if over else (low, middle)
    return high


def _timing(occurrences: Sequence[np.ndarray]) -> Timing:
    seconds = float(np.mean([times.mean() for times in occurrences]))
    apart = float(np.mean([spread(times) for times in occurrences]))
    count = sum(len(times) for times in occurrences)
    return Timing(nanoseconds=max(0, round(1e9 * seconds)), spread=round(1e9 * apart), measured=count)
