"""Honest speed of the exported networks of a run, kept beside each network as speed.json.

Every network is measured in turns with itself at 8 bits everywhere (random weights; times don't depend on them), so
that what fewer bits brought in time is a difference of two times of one minute. What the profile adds to every kernel
is taken off so that the parts make up the whole call.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from onnx import ModelProto
from pydantic import TypeAdapter, ValidationError

from bitsmith.blueprint import FLOAT, Bits, Blueprint
from bitsmith.cost import costs_at_streams
from bitsmith.deploy import IntegerProgram, lower
from bitsmith.deploy.onnx_file import for_file, to_onnx
from bitsmith.deploy.operators import Flatten
from bitsmith.deploy.profile import Measured, spread, typical
from bitsmith.deploy.runtime import FLOAT_KERNELS, INTEGER_KERNELS
from bitsmith.errors import RunError
from bitsmith.files import read_json, write_json
from bitsmith.pipeline import exported
from bitsmith.pipeline.folder import RunFolder
from bitsmith.pipeline.job import Say, quiet
from bitsmith.pipeline.profile import (
    ROUNDS,
    Progress,
    Stopwatch,
    no_progress,
    present_setting,
    profile_cost,
    sample_program,
    stopwatch,
)
from bitsmith.pipeline.traits import blueprint_arithmetic, is_integer
from bitsmith.quantize import freeze
from bitsmith.report import LayerSpeed, Speed, Time

FILE = "speed.json"
_READ = TypeAdapter(Speed)
_Parts = Mapping[tuple[str, str], np.ndarray]


def measure_speeds(
    run: RunFolder,
    *,
    rounds: int = ROUNDS,
    threads: int = 1,
    watch: Progress = no_progress,
    say: Say = quiet,
    measuring: Stopwatch | None = None,
) -> list[Speed]:
    """Measure every exported network of a run on this machine; what was measured of the same file stays.

    Networks with float layers are left out, and that is said: onnxruntime renames and fuses kernels there, so that its
    profile doesn't tell whose they are.

    Raises:
        RunError: a network isn't exported, or its file isn't of its weights.
    """
    measuring = measuring or stopwatch(rounds, threads)
    for entry, blueprint in run.entries():
        folder = run.folder(entry)
        file = folder / "model.onnx"
        if not is_integer(blueprint):
            say(f"{entry.title}: no speed, as it is {blueprint_arithmetic(blueprint)}")
            continue
        if not file.exists():
            raise RunError(f"{file} is missing; run bitsmith export {run.path} first")
        setting = str(present_setting(threads, blueprint.input.kind))
        mark = hashlib.sha256(file.read_bytes() + setting.encode()).hexdigest()[:16]
        if _stored(folder).get("mark") == mark:
            continue
        done = [0]

        def tick(title: str = entry.title, done: list[int] = done) -> None:
            done[0] += 1
            watch(title, done[0], rounds)

        speed = _measured(folder, entry.slug, setting, measuring, tick)
        write_json(folder / FILE, {"mark": mark, "speed": asdict(speed)})
    return read_speeds(run)


def read_speeds(run: RunFolder) -> list[Speed]:
    """What `measure_speeds` kept of the networks that are exported as they were then."""
    found = []
    for entry, _ in run.entries():
        folder = run.folder(entry)
        values, file = _stored(folder), folder / "model.onnx"
        if not values or not file.exists():
            continue
        try:
            speed = _READ.validate_json(json.dumps(values["speed"]))
        except (KeyError, ValidationError) as error:
            raise RunError(f"{folder / FILE} is damaged; delete it and run bitsmith verify --speed again") from error
        if values.get("mark") == hashlib.sha256(file.read_bytes() + speed.setting.encode()).hexdigest()[:16]:
            found.append(speed)
    return found


def _measured(folder: Path, slug: str, setting: str, measuring: Stopwatch, tick: Any) -> Speed:
    network = exported.load(folder)
    blueprint = network.blueprint
    assert blueprint is not None
    program = lower(freeze(network, blueprint), blueprint)
    program = _of_file(folder / "model.onnx", program)
    eight = at_eight(blueprint)
    programs = [program, replace(sample_program(eight), vnni=program.vnni)]
    empty, (asked, full) = measuring(programs, tick)
    costs = costs_at_streams(blueprint.stream_bits)["size"]
    times = [_layer_times(*pair, typical(empty)) for pair in zip(programs, (asked, full), strict=True)]
    call = Time(
        asked=typical(asked.calls),
        asked_spread=spread(asked.calls),
        eight=typical(full.calls),
        eight_spread=spread(full.calls),
    )
    layers = []
    for layer in blueprint.graph.layers:
        bits = blueprint.bits[layer.name]
        kernel, extra = _kernels(program, asked, layer.name)
        is_float = kernel in FLOAT_KERNELS
        weight_type = "float32" if is_float else "uint8" if layer.name in program.unsigned else "int8"
        executed = FLOAT if is_float else 8
        layers.append(
            LayerSpeed(
                name=layer.name,
                weight_bits=mean(bits.filters(layer)),
                activation_bits=mean(bits.maps(layer)),
                kernel=kernel,
                weight_type=weight_type,
                activation_type="float32" if is_float else "uint8",
                executed_weight_bits=executed,
                executed_activation_bits=executed,
                extra_kernels=extra,
                time=_time(times[0][layer.name], times[1][layer.name]),
                bytes=float(costs.entry(blueprint.graph, blueprint.grids, layer, bits)),
                bytes_at_eight=float(costs.entry(eight.graph, eight.grids, layer, eight.bits[layer.name])),
            )
        )
    rest = _time(*(of[""] for of in times), more=typical(empty))
    return Speed(network=slug, setting=setting, call=call, rest=rest, layers=layers)


def at_eight(blueprint: Blueprint) -> Blueprint:
    """The same network with 8 bits everywhere but where it is float."""
    bits = {name: of if of.is_float else Bits(weight=8, activation=8) for name, of in blueprint.bits.items()}
    return replace(blueprint, bits=bits)


def _of_file(file: Path, program: IntegerProgram) -> IntegerProgram:
    """The program as the file holds it, with or without `vnni`."""
    stored = ModelProto()
    try:
        stored.ParseFromString(file.read_bytes())
    except Exception as error:  # protobuf's errors share no base class with ours
        raise RunError(f"{file} is not an ONNX file; export again") from error
    program = for_file(program, stored)
    if stored.graph != to_onnx(program).graph:
        raise RunError(f"{file} is not what this version writes of network.safetensors; export again, then measure")
    return program


def owner(program: IntegerProgram, operator: str, part: str) -> str:
    """The priced layer that a part of an operator is for; "" for what is for none.

    What brings numbers onto the grid of one layer alone (a narrowing, a clip) is that layer's, whoever writes it.
    """
    of = next(o for o in program.operators if o.name == operator)
    if part == "clip" or operator.endswith(":narrow"):
        names, readers = {operator}, set()
        for o in program.operators:
            if names & set(o.inputs):
                if isinstance(o, Flatten):
                    names.add(o.name)
                else:
                    readers.add(o.layer)
        if len(readers) == 1 and (reader := readers.pop()) in program.bits:
            return reader
    return of.layer if of.layer in program.bits else ""


def _layer_times(program: IntegerProgram, measured: Measured, empty: float) -> dict[str, np.ndarray]:
    """Layer ("" for the rest) -> seconds in each undisturbed call, without what the profile took."""
    keys = list(measured.parts)
    counts = [len(measured.kernels[key]) for key in keys]
    cost = profile_cost([measured.parts[key].mean() for key in keys], counts, typical(measured.calls) - empty)
    found = {name: np.zeros(len(measured.parts[keys[0]])) for name in ("", *program.bits)}
    for key, count in zip(keys, counts, strict=True):
        found[owner(program, *key)] += np.maximum(measured.parts[key] - cost * count, 0)
    return found


def _time(asked: np.ndarray, eight: np.ndarray, *, more: float = 0.0) -> Time:
    """Times of undisturbed calls, so that their mean is typical; `more` is what both take besides."""
    return Time(
        asked=float(asked.mean()) + more,
        asked_spread=spread(asked),
        eight=float(eight.mean()) + more,
        eight_spread=spread(eight),
    )


def _kernels(program: IntegerProgram, measured: Measured, layer: str) -> tuple[str, int]:
    """The kernel that sums, and how many only bring numbers onto the layer's grid."""
    sums, extra = [], 0
    for (operator, part), kernels in measured.kernels.items():
        if owner(program, operator, part) != layer:
            continue
        found = [kernel for kernel in kernels if kernel in INTEGER_KERNELS | FLOAT_KERNELS]
        sums += found
        extra += 0 if found else len(kernels)
    if not sums:
        raise RunError(f"onnxruntime's profile has no kernel of layer {layer!r}; run bitsmith verify")
    return " + ".join(dict.fromkeys(sums)), extra


def _stored(folder: Path) -> dict[str, Any]:
    if not (folder / FILE).exists():
        return {}
    values = read_json(folder / FILE, "run bitsmith verify --speed again")
    if not isinstance(values, dict):
        raise RunError(f"{folder / FILE} is damaged; delete it and run bitsmith verify --speed again")
    return values
