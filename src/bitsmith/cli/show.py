"""What a person sees: progress, tables, durations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bitsmith import pipeline
from bitsmith.blueprint import format_cost
from bitsmith.pipeline import Job
from bitsmith.pipeline.estimate import estimate
from bitsmith.train import Event

out = Console()
err = Console(stderr=True)


def announce(job: Job, say: Callable[[str], None]) -> None:
    """Refuse budgets out of reach, then tell how long the run will take."""
    pipeline.check_budgets(job)
    expected = estimate(job)
    say(
        f"{job.recipe.name}: {expected.networks} networks; about {duration(expected.total)} of search and training "
        f"if nothing is done yet (float {duration(expected.float_seconds)}, search "
        f"{duration(expected.search_seconds)}, final training {duration(expected.train_seconds)})"
    )


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def say(quiet: bool) -> Callable[[str], None]:
    return pipeline.quiet if quiet else lambda message: err.print(escape(message), soft_wrap=True)


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[Event], None]]:
    """A bar per stage with images per second and the time left."""
    if quiet:
        yield lambda event: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=err) as bars:
        tasks: dict[str, Any] = {}
        images: dict[str, int] = {}

        def watch(event: Event) -> None:
            if event.stage not in tasks:
                name = escape(event.stage)
                tasks[event.stage] = bars.add_task(name, total=event.steps, speed="", figures="")
                images[event.stage] = 0
            images[event.stage] += event.images
            bar = bars.tasks[tasks[event.stage]]
            speed = images[event.stage] / bar.elapsed if bar.elapsed else 0.0
            shown: dict[str, Any] = {"completed": event.step, "speed": f"{speed:,.0f} images/s"}
            if event.epoch_end:
                loss = event.values.get("loss")
                score = next(
                    (v for k, v in event.values.items() if k.startswith("validation_") and "loss" not in k), None
                )
                shown["figures"] = " ".join(
                    text
                    for text in (
                        f"loss {loss:.3f}" if loss is not None else "",
                        f"{100 * score:.1f} %" if score else "",
                    )
                )
            bars.update(bar.id, **shown)

        yield watch


def print_rows(record: dict[str, Any]) -> None:
    """The results of a report as a table that fits 80 columns."""
    table = Table(title=escape(record["title"]))
    for name in ("network", "budget", "bits"):
        table.add_column(name, no_wrap=True)
    for name in ("epochs", "test %", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in record["rows"]:
        table.add_row(
            escape(row["name"]),
            escape(row["budget"]),
            row["bits"],
            f"{row['epochs']:g}",
            f"{100 * row['test']:.2f}",
            format_cost("size", row["costs"]["size"]),
        )
    out.print(table)


def print_check(job: Job, rows: list[dict[str, Any]], seconds: float, networks: int) -> None:
    for note in job.notes:
        out.print(f"note: {escape(note)}")
    out.print(
        f"Captured: {len(job.graph.layers)} priced layers, every operator can be lowered to integers; "
        f"{job.space.count():,} choices of bits."
    )
    table = Table()
    for name in ("budget", "least", "most", ""):
        table.add_column(name, justify="right" if name in ("least", "most") else "left")
    for row in rows:
        low, high = format_cost(row["cost"], row["least"]), format_cost(row["cost"], row["most"])
        table.add_row(row["budget"], low, high, row["state"])
    out.print(table)
    out.print(f"About {duration(seconds)} of search and training for {networks} networks on this machine, uncompiled.")
