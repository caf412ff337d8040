"""From a finished run folder to the record that the report shows."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bitsmith.blueprint import Bits, Blueprint, Budget, Options
from bitsmith.cost import exact, price, table
from bitsmith.errors import RunError
from bitsmith.pipeline.folder import Entry, RunFolder
from bitsmith.pipeline.job import Job, meets, summarize_bits
from bitsmith.quantize import float_blueprint
from bitsmith.report import Curve, LayerRow, Record, Requested, Row, Verification, verdict, write_report
from bitsmith.train import read_json

_VERSIONED = ("bitsmith", "torch", "onnx", "onnxruntime", "numpy", "scipy")


def report(job: Job) -> Path:
    """Write report.json and report.html of a run.

    Raises:
        RunError: a network isn't verified yet.
    """
    return write_report(summarize(job), job.run.path)


def summarize(job: Job) -> Record:
    """The record of a run whose every network is trained and verified."""
    run, recipe, data = job.run, job.recipe, job.task.data
    entries = run.entries()
    rows = [_row(job, entry, blueprint) for entry, blueprint in entries]
    if run.history(job.float_folder) is not None:
        rows.insert(0, _float_row(job))
    chosen = next(((e, b) for e, b in entries if e.kind == "found"), entries[0])
    costs = price(chosen[1].graph, chosen[1].bits)
    lines = list(dict.fromkeys(", ".join(map(str, line)) for line in recipe.budget_sets()))
    count = len(data.test) if recipe.verify_images is None else min(len(data.test), recipe.verify_images)
    verdicts = [verdict(rows, line, test_images=count) for line in lines]
    return Record(
        title=recipe.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        verdict=" ".join(verdicts),
        network={
            "model": recipe.model.spec,
            "input": "x".join(map(str, job.graph.input_shape)),
            "priced layers": len(job.graph.layers),
            "parameters": int(costs["params"]),
            "macs": int(costs["macs"]),
        },
        data={
            "source": data.name,
            "classes": len(data.classes),
            "train_images": len(data.training),
            "validation_images": len(data.validation),
            "test_images": count,
        },
        rows=rows,
        chosen=chosen[0].name,
        layers=_layers(chosen[1]),
        curves=_curves(job, entries),
        requested=[
            Requested(cost=b.cost, limit=b.limit, obtained=value, met=value <= b.limit)
            for entry, blueprint in entries
            if entry.kind == "found"
            for b in map(Budget.parse, entry.budgets)
            for value in [exact(b.cost, blueprint.graph, blueprint.bits)]
        ],
        verification=[check for entry, _ in entries for check in _verifications(run, entry)],
        environment=environment(recipe.seed),
        notes=[*job.notes, *_left_out(job, entries), *_flagged(run, entries)],
        command=recipe.command,
    )


def _left_out(job: Job, entries: list[tuple[Entry, Blueprint]]) -> list[str]:
    """Baselines that the recipe asks for and the run doesn't have: there is no network of that kind in the budget."""
    present = {(entry.name, entry.budget) for entry, _ in entries}
    notes = []
    for budgets in job.recipe.budget_sets():
        for name in job.recipe.baselines:
            entry = Entry(name=name, kind="baseline", budgets=tuple(map(str, budgets)))
            if (name, entry.budget) not in present:
                file = job.run.folder(entry) / "left_out.json"
                why = read_json(file, "")["reason"] if file.exists() else "it has not been searched yet"
                notes.append(f"{entry.title} is not compared: {why}")
    return notes


def _flagged(run: RunFolder, entries: list[tuple[Entry, Blueprint]]) -> list[str]:
    """Layers that verified here and may still differ on old machines."""
    notes = []
    for entry, _ in entries:
        checks = read_json(run.folder(entry) / "verification.json", "run bitsmith verify first")["checks"]
        layers = [layer for check in checks for layer in check["flagged"]]
        if layers:
            notes.append(
                f"{entry.title}: on x86 machines without VNNI, onnxruntime's sums of {', '.join(layers)} can saturate; "
                "bit identity is claimed for machines like this one"
            )
    return notes


def environment(seed: int) -> dict[str, str]:
    """Versions, machine and seed, for records and benchmark results."""
    return {
        **{name: version(name) for name in _VERSIONED},
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "seed": str(seed),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _row(job: Job, entry: Entry, blueprint: Blueprint) -> Row:
    folder = job.run.folder(entry)
    history = job.run.history(folder)
    if history is None:
        raise RunError(f"{entry.title} is not trained yet; run bitsmith train {job.run.path} first")
    checked = read_json(folder / "verification.json", f"run bitsmith verify {job.run.path} first")
    curve = history.curves[f"validation_{job.task.metric_name}"]
    budgets = [budget for line in job.recipe.budget_sets() for budget in line]
    return Row(
        name=entry.name,
        kind=entry.kind,
        budget=entry.budget,
        bits=summarize_bits(blueprint),
        costs=price(blueprint.graph, blueprint.bits),
        epochs=len(curve) + entry.search_epochs,
        seconds=history.seconds + entry.search_seconds,
        seed=job.recipe.seed,
        metric=job.task.metric_name,
        validation=curve[-1],
        test=checked["test"],
        source=checked["source"],
        meets=meets(blueprint, budgets),
        folder=entry.slug,
    )


def _float_row(job: Job) -> Row:
    history = job.run.history(job.float_folder)
    assert history is not None
    checked = read_json(job.float_folder / "verification.json", f"run bitsmith verify {job.run.path} first")
    blueprint = float_blueprint(job.graph)
    curve = history.curves[f"validation_{job.task.metric_name}"]
    return Row(
        name="float",
        kind="float",
        budget="",
        bits="float32",
        costs=price(blueprint.graph, blueprint.bits),
        epochs=len(curve),
        seconds=history.seconds,
        seed=job.recipe.seed,
        metric=job.task.metric_name,
        validation=curve[-1],
        test=checked["test"],
        source="torch",
        meets=meets(blueprint, [budget for line in job.recipe.budget_sets() for budget in line]),
        folder="float",
    )


def _layers(blueprint: Blueprint) -> list[LayerRow]:
    totals = {cost: exact(cost, blueprint.graph, blueprint.bits) for cost in ("weights", "size", "bitops")}
    return [
        LayerRow(
            name=layer.name,
            kind=layer.kind,
            weights=layer.weights,
            macs=layer.macs,
            weight_bits=blueprint.bits[layer.name].weight,
            activation_bits=blueprint.bits[layer.name].activation,
            shares={
                cost: float(table(cost, blueprint.graph, layer, _only(blueprint.bits[layer.name]))[0, 0] / total)
                for cost, total in totals.items()
            },
        )
        for layer in blueprint.graph.layers
    ]


def _only(bits: Bits) -> Options:
    return Options(weight=(bits.weight,), activation=(bits.activation,))


def _curves(job: Job, entries: list[tuple[Entry, Blueprint]]) -> list[Curve]:
    curves = []
    for entry, _ in entries:
        if not entry.curves:
            continue
        steps = list(entry.curves["step"])
        curves.append(
            Curve(
                name=f"search {entry.title}: loss", x_label="step", x=steps, series={"loss": list(entry.curves["loss"])}
            )
        )
        for name in entry.curves:
            if name.startswith("expected "):
                cost = name.removeprefix("expected ")
                series = {key: list(entry.curves[key]) for key in (name, f"limit {cost}")}
                curves.append(Curve(name=f"search {entry.title}: {cost}", x_label="step", x=steps, series=series))
    metric = f"validation_{job.task.metric_name}"
    lines: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    for entry, _ in entries:
        history = job.run.history(job.run.folder(entry))
        if history is not None:
            lines[entry.title], losses[entry.title] = history.curves[metric], history.curves["loss"]
    floats = job.run.history(job.float_folder)
    if floats is not None:
        lines["float"], losses["float"] = floats.curves[metric], floats.curves["loss"]
    for name, group in ((f"training: validation {job.task.metric_name}", lines), ("training: loss", losses)):
        longest = max(map(len, group.values()), default=0)
        series: dict[str, list[float | None]] = {
            title: [*values, *[None] * (longest - len(values))] for title, values in group.items()
        }
        curves.append(Curve(name=name, x_label="epoch", x=[float(i + 1) for i in range(longest)], series=series))
    return curves


def _verifications(run: RunFolder, entry: Entry) -> list[Verification]:
    values: dict[str, Any] = read_json(run.folder(entry) / "verification.json", "run bitsmith verify first")
    return [
        Verification(
            artefact=f"{entry.slug}/{check['artefact']}",
            images=check["images"],
            accuracy=min(check["accuracy_onnxruntime"].values()),
            equal_outputs=check["equal_images"],
            integer_layers=check["integer_layers"],
            float_layers=check["float_layers"],
            first_difference=check["first_difference"],
            ok=check["ok"],
            level="bit-identical",
        )
        for check in values["checks"]
    ]


__all__ = ["environment", "report", "summarize"]
