"""Latency tables of an Ethos-U: Vela's own estimate of every operator in place of a measurement.

Vela compiles whole networks with random weights, one for each bit-width of weights that a space has, and says how many
cycles each operator takes; all operators of one kind, size and bit-width share their mean. Weights that compress well
are read faster, so that entries are told apart by bits. What stays on-chip depends on the neighbors too: a network of
mixed bits is not exactly the sum of its parts, and `check_vela` says how far it is from it.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from bitsmith.blueprint import Blueprint
from bitsmith.cost.latency import LatencyTable, Setting, Timing, network_works, read_latency_table
from bitsmith.deploy.tflite import VelaReport, compile_with_vela, vela_missing, write_tflite
from bitsmith.errors import RecipeError, RunError
from bitsmith.pipeline.profile import Progress, no_progress, predict, refuse_other_setting, sample_program
from bitsmith.report import Latency
from bitsmith.seeding import derive
from bitsmith.space import Precision


def vela_setting(accelerator: str, input_kind: str) -> Setting:
    """What a table of Vela's estimates is of.

    Raises:
        RunError: Vela isn't installed.
    """
    missing = vela_missing()
    if missing is not None:
        raise RunError(missing)
    return Setting(
        cpu=accelerator,
        system="Vela's default system and memory mode",
        runtime=f"Vela {importlib.metadata.version('ethos-u-vela')}, estimated",
        threads=1,
        input=input_kind,
    )


def covering_weights(space: Precision) -> list[Blueprint]:
    """Blueprints that have all works of a space of 8-bit activations between them, one for each bit-width of weights.

    Raises:
        RecipeError: the space has activations of fewer bits, which an Ethos-U doesn't compute.
    """
    narrow = next((name for name, options in space.options.items() if options.activation != (8,)), None)
    if narrow is not None:
        raise RecipeError(
            f"layer {narrow!r} may read fewer than 8 bits, and an Ethos-U computes with 8: give --activation-bits 8, "
            "or a recipe of target ethos-u"
        )
    widths = sorted({bits for options in space.options.values() for bits in options.weight}, reverse=True)
    return [space.uniform(bits, 8) for bits in widths]


def profile_vela(
    blueprints: Iterable[Blueprint],
    path: Path,
    accelerator: str,
    *,
    seed: int = 0,
    watch: Progress = no_progress,
) -> LatencyTable:
    """Let Vela estimate what a table lacks of some networks; the file is written after each of them.

    Args:
        path: of the table; it is made, or what is missing is added to it.
        accelerator: as Vela calls it, such as ethos-u55-128.
        seed: of the random weights.

    Raises:
        RunError: Vela isn't installed; the table is damaged, or of another accelerator or version.
        ExportError: a network that a TFLite file can't hold, or that Vela can't compile; an unknown accelerator.
    """
    networks = list(blueprints)
    table = read_latency_table(path) if path.exists() else None
    for place, blueprint in enumerate(networks):
        setting = vela_setting(accelerator, blueprint.input.kind)
        if table is None:
            nothing = Timing(nanoseconds=0, spread=0, measured=1)  # a call of the NPU isn't in Vela's figures
            table = LatencyTable(setting=setting, call=nothing, by_weights=True, file=path)
        refuse_other_setting(table, setting)
        if table.missing_keys(blueprint):
            entries = _entries(table, blueprint, _compiled(blueprint, accelerator, seed))
            table = table.with_entries(entries, [table.fingerprint(blueprint)])
            table.write(path)
        watch(f"Vela, {accelerator}", place + 1, len(networks))
    if table is None:
        raise RunError("there is no network to compile")
    return table


def check_vela(
    table: LatencyTable,
    space: Precision,
    count: int,
    *,
    seed: int = 0,
    watch: Progress = no_progress,
) -> list[Latency]:
    """Hold a table's sums against Vela's figure of whole random networks, with other random weights.

    Raises:
        RunError: the table is of another version of Vela.
        RecipeError: it lacks a work of a network.
        ExportError: as `profile_vela`.
    """
    generator = np.random.default_rng(derive(seed, "random networks"))
    found = []
    for place in range(count):
        blueprint = space.sample(generator)
        refuse_other_setting(table, vela_setting(table.setting.cpu, blueprint.input.kind))
        report = _compiled(blueprint, table.setting.cpu, seed + place + 1)
        found.append(
            Latency(
                network=f"random {place + 1}",
                predicted=predict(table, blueprint),
                measured=report.seconds,
                spread=0.0,
                known=table.fingerprint(blueprint) in table.networks,
                setting=str(table.setting),
            )
        )
        watch("checking", place + 1, count)
    return found


def _compiled(blueprint: Blueprint, accelerator: str, seed: int) -> VelaReport:
    with tempfile.TemporaryDirectory() as folder:
        return compile_with_vela(write_tflite(sample_program(blueprint, seed), Path(folder) / "n.tflite"), accelerator)


def _entries(table: LatencyTable, blueprint: Blueprint, report: VelaReport) -> dict[str, Timing]:
    """Key of a work -> the mean of those that are alike; what Vela leaves out of its program takes nothing."""
    works = {work.operator: work for work in network_works(blueprint)}
    cycles = dict.fromkeys(works, 0)
    for tensor, taken in report.layers.items():
        cycles[_operator(tensor, cycles)] += taken
    alike: dict[str, list[int]] = {}
    for name, work in works.items():
        alike.setdefault(table.key(work), []).append(cycles[name])
    each = 1e9 * report.seconds / report.cycles  # nanoseconds of a cycle
    return {
        key: Timing(
            nanoseconds=round(each * float(np.mean(taken))),
            spread=round(each * (max(taken) - min(taken)) / 2),
            measured=len(taken),
        )
        for key, taken in alike.items()
    }


def _operator(tensor: str, works: Mapping[str, object]) -> str:
    """Whose a tensor is: the operator of its name, or the one that it is an intermediate result of."""
    name = tensor
    while name not in works:
        assert "." in name, f"{tensor!r} is of no operator"
        name = name.rpartition(".")[0]
    return name
