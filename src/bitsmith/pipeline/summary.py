"""From a finished run folder to the record that the report shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

from bitsmith.blueprint import FLOAT, Blueprint, Budget
from bitsmith.cost import costs_at_streams, exact, price
from bitsmith.errors import RunError
from bitsmith.files import values_of
from bitsmith.pipeline.explain import FILE as EXPLAINED
from bitsmith.pipeline.folder import Entry
from bitsmith.pipeline.job import Job
from bitsmith.pipeline.latencies import check_run, read_latencies
from bitsmith.pipeline.machine import environment
from bitsmith.pipeline.notes import caution, notes
from bitsmith.pipeline.post import NOT_TRAINED
from bitsmith.pipeline.speed import read_speeds
from bitsmith.pipeline.traits import meets, summarize_bits
from bitsmith.pipeline.verifications import read_tested, verifications
from bitsmith.quantize import float_blueprint
from bitsmith.report import (
    Curve,
    LayerRow,
    Record,
    Requested,
    Row,
    Sensitivities,
    Sensitivity,
    read_explained,
    verdict,
    write_report,
)


def report(job: Job) -> Path:
    """Write report.json and report.html of a run.

    Raises:
        RunError: a network isn't verified yet.
    """
    if job.target.latency is not None:
        check_run(job.run, job.target.latency)
    return write_report(summarize(job), job.run.path)


def summarize(job: Job) -> Record:
    """The record of a run whose every network is trained and verified."""
    run, recipe, data = job.run, job.recipe, job.task.data
    entries = run.entries()
    rows = [_row(job, entry, blueprint) for entry, blueprint in entries]
    if (job.float_folder / "verification.json").exists():
        rows.insert(0, _float_row(job))
    costs = price(entries[0][1].graph, entries[0][1].bits)
    lines = list(dict.fromkeys(", ".join(map(str, line)) for line in recipe.budget_sets()))
    count = len(data.test) if recipe.verify_images is None else min(len(data.test), recipe.verify_images)
    verdicts = [verdict(rows, line, test_images=count, tried=bool(recipe.baselines)) for line in lines]
    return Record(
        title=recipe.name if any(row.trained for row in rows[-len(entries) :]) else f"{recipe.name}, {NOT_TRAINED}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        verdict=" ".join([*caution(rows), *verdicts]),
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
        chosen=[entry.slug for entry, _ in entries if entry.kind == "found"],
        layers={entry.slug: layer_rows(blueprint, removed_filters(entry.details)) for entry, blueprint in entries},
        sensitivities={
            entry.slug: _sensitivities(job, entry.details) for entry, _ in entries if "noise" in entry.details
        },
        explained={
            entry.slug: read_explained(file) for entry, _ in entries if (file := run.folder(entry) / EXPLAINED).exists()
        },
        curves=_curves(job, entries),
        requested=[
            Requested(network=entry.slug, cost=b.cost, limit=b.limit, obtained=value, met=value <= b.limit)
            for entry, blueprint in entries
            for b in map(Budget.parse, entry.budgets)
            for value in [exact(b.cost, blueprint.graph, blueprint.bits, job.space.costs)]
        ],
        verification=[check for entry, blueprint in entries for check in verifications(run, entry, blueprint)],
        environment=environment(recipe.seed),
        notes=notes(job, entries),
        command=recipe.command,
        latencies=read_latencies(run) if job.target.latency else [],
        speeds=read_speeds(run),
    )


def _row(job: Job, entry: Entry, blueprint: Blueprint) -> Row:
    folder = job.run.folder(entry)
    trained = job.run.history(folder)
    history = trained or job.run.post_training(folder)
    if history is None:
        raise RunError(f"{entry.title} is not trained yet; run bitsmith train {job.run.path} first")
    checked = read_tested(folder)
    with values_of(folder, "delete how it was trained and run the stage again"):
        curve = [float(value) for value in history.curves[f"validation_{job.task.metric_name}"]]
    budgets = [budget for line in job.recipe.budget_sets() for budget in line]
    return Row(
        name=entry.name,
        kind=entry.kind,
        budget=entry.budget,
        bits=summarize_bits(blueprint) + left(entry.details),
        costs=price(blueprint.graph, blueprint.bits, job.space.costs),
        epochs=(len(curve) if trained else 0) + entry.search_epochs,
        seconds=history.seconds + entry.search_seconds,
        seed=job.recipe.seed,
        metric=job.task.metric_name,
        validation=curve[-1],
        test=checked.test,
        source=checked.source,
        meets=meets(blueprint, budgets, job.space.costs),
        folder=entry.slug,
        trained=trained is not None,
    )


def _float_row(job: Job) -> Row:
    """The float network: trained by this run, or as its weights were given (then no epochs of ours).

    It is priced by the general costs alone: no target says what floats would cost on it.
    """
    history = job.run.history(job.float_folder)
    checked = read_tested(job.float_folder)
    blueprint = float_blueprint(job.graph)
    costs = costs_at_streams(blueprint.stream_bits)
    return Row(
        name="float" if history else "float as given",
        kind="float",
        budget="",
        bits="float32",
        costs=price(blueprint.graph, blueprint.bits, costs),
        epochs=max(map(len, history.curves.values()), default=0) if history else 0,
        seconds=history.seconds if history else 0,
        seed=job.recipe.seed,
        metric=job.task.metric_name,
        validation=checked.validation,
        test=checked.test,
        source="torch",
        meets=meets(blueprint, [b for line in job.recipe.budget_sets() for b in line if b.cost in costs], costs),
        folder="float",
        trained=True,
    )


def removed_filters(details: Mapping[str, Any]) -> dict[str, int]:
    """Layer -> how many of its filters a search removed; layers that lost none are left out."""
    return {layer: bits["0"] for layer, bits in details.get("filters", {}).items() if bits.get("0")}


def left(details: Mapping[str, Any]) -> str:
    """ ", 57 of 71 filters" of a network whose search removed some, "" of others."""
    counted = [count for bits in details.get("filters", {}).values() for count in bits.values()]
    removed = sum(removed_filters(details).values())
    return f", {sum(counted) - removed} of {sum(counted)} filters" if removed else ""


def layer_rows(blueprint: Blueprint, removed: Mapping[str, int]) -> list[LayerRow]:
    graph, plan = blueprint.graph, blueprint.grids
    costs = costs_at_streams(blueprint.stream_bits)
    totals = {cost: exact(cost, graph, blueprint.bits, costs) for cost in ("weights", "size", "bitops")}
    rows = []
    for layer in graph.layers:
        bits = blueprint.bits[layer.name]
        rows.append(
            LayerRow(
                name=layer.name,
                kind=layer.kind,
                weights=layer.weights,
                macs=layer.macs,
                weight_bits=mean(bits.filters(layer)),
                activation_bits=mean(bits.maps(layer)),
                shares={c: float(costs[c].entry(graph, plan, layer, bits) / total) for c, total in totals.items()},
                filters=spell_filters(bits.filters(layer), removed.get(layer.name, 0)),
                maps="" if isinstance(bits.activation, int) else _counted(bits.activation),
            )
        )
    return rows


def spell_filters(widths: tuple[int, ...], removed: int) -> str:
    """ "16 filters: 12 removed, 4 at 2 bits"; "" where none was removed and all have the same bits."""
    if not removed and len(set(widths)) == 1:
        return ""
    gone = [f"{removed} removed"] if removed else []
    kept = [
        f"{count} {'float' if bits == FLOAT else f'at {bits} bit' + 's' * (bits > 1)}"
        for bits, count in sorted(Counter(widths).items())
    ]
    return f"{len(widths) + removed} filters: {', '.join(gone + kept)}"


def _counted(widths: tuple[int, ...]) -> str:
    return ", ".join(f"{bits}: {count}" for bits, count in sorted(Counter(widths).items()))


def _sensitivities(job: Job, details: Mapping[str, Any]) -> Sensitivities:
    """From what a search kept: layer -> kind -> loss per option, and how noisy these are."""
    decisions = []
    for layer, losses in details["sensitivities"].items():
        weight, activation = job.space.options[layer].weight, job.space.options[layer].activation
        if len(weight) > 1:
            decisions.append(Sensitivity(layer=layer, kind="weight", bits=list(weight), loss=losses["weight"]))
        if len(activation) > 1:
            loss = losses["activation"]
            decisions.append(Sensitivity(layer=layer, kind="activation", bits=list(activation), loss=loss))
    noise = details["noise"]
    return Sensitivities(
        decisions=decisions,
        images=noise["images"],
        steps=noise["steps"],
        within=noise["within"],
        standard_error=noise["standard_error"],
    )


def _curves(job: Job, entries: list[tuple[Entry, Blueprint]]) -> list[Curve]:
    """Losses and scores of all networks in one plot each; what a search expected of a cost in a plot of its own."""
    curves, searches = [], {}
    for entry, _ in entries:
        if "step" not in entry.curves:
            continue
        steps = list(entry.curves["step"])
        if "loss" in entry.curves:  # a grid learns nothing; it has scores alone
            searches[entry.title] = steps, list(entry.curves["loss"])
        for name in entry.curves:
            if name.startswith("expected "):
                cost = name.removeprefix("expected ")
                series: dict[str, list[float | None]] = {
                    key: list(entry.curves[key]) for key in (name, f"limit {cost}")
                }
                curves.append(Curve(name=f"search {entry.title}: {cost}", x_label="step", x=steps, series=series))
        curves += _by_depth(entry)
        if refinement := entry.details.get("refinement"):
            scored: list[float | None] = list(refinement["losses"])
            x = [float(i + 1) for i in range(len(scored))]
            curves.append(Curve(name=f"refinement {entry.title}", x_label="network", x=x, series={"loss": scored}))
    metric = f"validation_{job.task.metric_name}"
    folders = {entry.title: job.run.folder(entry) for entry, _ in entries} | {"float": job.float_folder}
    scores, losses = {}, {}
    for title, folder in folders.items():
        if history := job.run.history(folder):
            with values_of(folder, "delete how it was trained and run the stage again"):
                scores[title], losses[title] = _by_epoch(history.curves[metric]), _by_epoch(history.curves["loss"])
    joined = [
        _joined("search: loss", "step", searches),
        _joined(f"training: validation {job.task.metric_name}", "epoch", scores),
        _joined("training: loss", "epoch", losses),
    ]
    return [*curves, *(curve for curve in joined if curve.series)]


def _by_depth(entry: Entry) -> list[Curve]:
    """What every layer of a supernet reads and the gradient of its weights, in the first epoch and in the last."""
    found = []
    for what, start in (("what layers read", "rms "), ("gradients of weights", "gradient rms ")):
        layers = {name.removeprefix(start): values for name, values in entry.curves.items() if name.startswith(start)}
        if layers:
            # The logarithm of 0, where nothing arrives, is a gap.
            series = {
                epoch: [values[at] or None for values in layers.values()]
                for epoch, at in (("first epoch", 0), ("last epoch", -1))
            }
            x = [float(i + 1) for i in range(len(layers))]
            name = f"search {entry.title}: root mean square of {what}, by depth"
            found.append(Curve(name=name, x_label="layer", x=x, series=series, ticks=list(layers), logarithmic=True))
    return found


def _by_epoch(values: list[float]) -> tuple[list[float], list[float]]:
    return [float(i + 1) for i in range(len(values))], values


def _joined(name: str, x_label: str, lines: dict[str, tuple[list[float], list[float]]]) -> Curve:
    """Lines over axes of their own, over one axis that has all of their places."""
    places = sorted({x for xs, _ in lines.values() for x in xs})
    known = {title: dict(zip(xs, values, strict=True)) for title, (xs, values) in lines.items()}
    values = {title: [at.get(x) for x in places] for title, at in known.items()}
    return Curve(name=name, x_label=x_label, x=places, series=values)


__all__ = ["environment", "report", "summarize"]
