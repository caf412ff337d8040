"""Predicted and measured latency of the exported networks of a run, kept beside each network as latency.json."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bitsmith.blueprint import Blueprint
from bitsmith.cost.latency import LatencyTable
from bitsmith.errors import RunError
from bitsmith.files import read_json, write_json
from bitsmith.pipeline.folder import RunFolder
from bitsmith.pipeline.profile import (
    ROUNDS,
    Progress,
    check,
    no_progress,
    other_setting_note,
    predict,
)
from bitsmith.pipeline.traits import is_integer
from bitsmith.report import Latency

FILE = "latency.json"


def exported(run: RunFolder) -> dict[str, tuple[Blueprint, Path]]:
    """Folder of a network -> its blueprint and file, for those that have one."""
    return {
        entry.slug: (blueprint, file)
        for entry, blueprint in run.entries()
        if is_integer(blueprint) and (file := run.folder(entry) / "model.onnx").exists()
    }


def check_run(
    run: RunFolder, table: LatencyTable, *, rounds: int = ROUNDS, watch: Progress = no_progress
) -> list[Latency]:
    """Predict the latency of every exported network and measure it, where the table is of this machine.

    What was measured of the same file stays; networks that are measured take turns.

    Raises:
        RecipeError: the table lacks a work of a network.
    """
    networks = exported(run)
    stored = {name: _stored(run.path / name / FILE) for name in networks}
    marks = {name: _mark(table, file) for name, (_, file) in networks.items()}
    stale = {name: network for name, network in networks.items() if stored[name].get("mark") != marks[name]}
    here = {name: net for name, net in stale.items() if other_setting_note(table, net[0].input.kind) is None}
    measured = {row.network: row for row in check(table, here, rounds=rounds, watch=watch)} if here else {}
    for name, (blueprint, _) in stale.items():
        latency = measured.get(name) or _predicted(table, name, blueprint)
        write_json(run.path / name / FILE, {"mark": marks[name], "latency": asdict(latency)})
    return read_latencies(run)


def read_latencies(run: RunFolder) -> list[Latency]:
    """What `check_run` kept of the networks that are exported now."""
    found = []
    for name in exported(run):
        file = run.path / name / FILE
        values = _stored(file).get("latency")
        if values is not None:
            try:
                found.append(Latency(**values))
            except (TypeError, RunError) as error:
                raise RunError(f"{file} is damaged ({error}); delete it and write the report again") from error
    return found


def _predicted(table: LatencyTable, name: str, blueprint: Blueprint) -> Latency:
    """Where the table is of another machine."""
    return Latency(
        network=name,
        predicted=predict(table, blueprint),
        measured=None,
        spread=None,
        known=table.fingerprint(blueprint) in table.networks,
        setting=f"nothing, as {other_setting_note(table, blueprint.input.kind)}",
    )


def _stored(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    values = read_json(file, "write the report again")
    if not isinstance(values, dict) or not isinstance(values.get("latency", {}), dict):
        raise RunError(f"{file} is damaged; delete it and write the report again")
    return values


def _mark(table: LatencyTable, file: Path) -> str:
    """Of which file and which table, and on what machine: another one is measured anew."""
    known = repr(
        (table.entries, table.call, table.networks, table.setting, other_setting_note(table, table.setting.input))
    )
    return hashlib.sha256(file.read_bytes() + known.encode()).hexdigest()[:16]
