"""The command that explains trained networks."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from bitsmith import pipeline
from bitsmith.blueprint import FLOAT, format_cost
from bitsmith.cli.app import app
from bitsmith.cli.options import AsJson, Folder, Quiet
from bitsmith.cli.show import out, progress, say
from bitsmith.pipeline import RunFolder
from bitsmith.report import Effect, Explained, LayerStep
from bitsmith.report.plot import spoken_metric


@app.command()
def explain(
    folder: Folder,
    network: Annotated[
        list[str] | None, typer.Option("--network", help="Just networks of this name or folder; default: those found.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """What each layer of a trained network gains by one bit-width more, loses by one less, and what that costs."""
    tell = say(quiet or as_json)
    job = pipeline.prepare(RunFolder(path=folder), tell)
    with progress(quiet or as_json) as watch:
        found = pipeline.explain_run(job, network or (), watch, tell)
    if as_json:
        print(json.dumps([asdict(explained) for explained in found.values()], indent=1))
    elif not quiet:
        for explained in found.values():
            _print(explained)
        out.print(f"On the report's page with: bitsmith report {escape(shlex.quote(str(folder)))}", soft_wrap=True)


def _print(explained: Explained) -> None:
    out.print(f"\n[bold]{escape(explained.network)}[/]", soft_wrap=True)
    for line in explained.requested:
        slack = line.limit - line.obtained
        out.print(
            f"{line.cost}: asked for at most {format_cost(line.cost, line.limit)}, obtained "
            f"{format_cost(line.cost, line.obtained)}, "
            + (f"{format_cost(line.cost, slack)} left" if line.met else f"{format_cost(line.cost, -slack)} too many"),
            soft_wrap=True,
        )
    if explained.steps:
        out.print(_table(explained))
    for sentence in explained.words:
        out.print(f"- {escape(sentence)}", soft_wrap=True)


def _table(explained: Explained) -> Table:
    """One row per step, for 80 columns; what is within the noise is dim."""
    metric = f"{spoken_metric(explained.metric)}, points"
    beliefs = any(step.believed is not None for step in explained.steps)
    table = Table(
        caption=f"± holds for all steps together (95 %); ~ within the noise of {explained.images:,} validation images"
    )
    table.add_column("layer", overflow="fold")
    table.add_column("step", no_wrap=True)
    costs = [cost for cost in explained.costs if any(step.costs[cost] for step in explained.steps)]
    table.add_column(metric, justify="right", min_width=10)
    for name in ("loss", *costs[:1], *(["believed"] if beliefs else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for step in explained.steps:
        table.add_row(
            escape(step.layer),
            _step(step),
            _effect(step.score, 100, 1),
            _effect(step.loss, 1, 3),
            *(_change(step, cost) for cost in costs[:1]),
            *(["" if step.believed is None else f"{step.believed:+.3f}"] if beliefs else []),
        )
    return table


def _step(step: LayerStep) -> str:
    before, after = ("float" if bits == FLOAT else str(bits) for bits in (step.before, step.after))
    return f"{step.kind[0]} {before}→{after}"


def _effect(effect: Effect, factor: float, digits: int) -> str:
    text = f"{factor * effect.value:+.{digits}f}±{factor * effect.margin:.{digits}f}"
    return f"[dim]~{text}[/]" if effect.noise else text


def _change(step: LayerStep, cost: str) -> str:
    value = step.costs[cost]
    return f"{'+' if value > 0 else ''}{format_cost(cost, value)}" if value else "0"
