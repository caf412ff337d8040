"""What a person sees: progress, tables, durations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from bitsmith import pipeline
from bitsmith.blueprint import format_cost
from bitsmith.cost import Target
from bitsmith.executor import Teller
from bitsmith.pipeline import Job
from bitsmith.pipeline.estimate import Estimate, estimate
from bitsmith.pipeline.profile import Progress as Watch
from bitsmith.pipeline.reach import Reach
from bitsmith.report import Record, front_cost, limited_costs, on_front, read_record
from bitsmith.space import Mobile, Sequences, Space
from bitsmith.train import Event

out = Console()
err = Console(stderr=True)


def announce(job: Job, say: Callable[[str], None]) -> None:
    """Refuse budgets out of reach, then tell how long the run will take."""
    pipeline.check_budgets(job)
    expected = estimate(job)
    say(
        f"{job.recipe.name}: {counted(expected.networks, 'network')}; about {duration(expected.total)} of search and "
        f"training if nothing is done yet (float {duration(expected.float_seconds)}, search "
        f"{duration(expected.search_seconds)}, final training {duration(expected.train_seconds)})"
    )


def counted(count: float, what: str) -> str:
    """1 -> "1 network", 2 -> "2 networks"."""
    return f"{count:,g} {what}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def say(quiet: bool) -> Callable[[str], None]:
    return pipeline.quiet if quiet else lambda message: err.print(escape(message), soft_wrap=True)


class _Short(ProgressColumn):
    """Text in one line that gives way where a terminal is narrow, as no other column does."""

    def __init__(self, text: Callable[[Task], str]) -> None:
        super().__init__()
        self._text = text

    def render(self, task: Task) -> Text:
        return Text(self._text(task), no_wrap=True, overflow="ellipsis")


def bar_columns() -> tuple[ProgressColumn, ...]:
    """Name, bar, count, speed, time left, figures; bars have the fields `speed` and `figures`."""

    def whole() -> Column:
        return Column(no_wrap=True)

    return (
        _Short(lambda task: task.description),
        BarColumn(bar_width=8, table_column=whole()),
        MofNCompleteColumn(table_column=whole()),
        TextColumn("{task.fields[speed]}", table_column=whole()),
        TimeRemainingColumn(table_column=whole()),
        _Short(lambda task: task.fields["figures"]),
    )


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[Event], None]]:
    """A bar per stage with images per second and the time left; a line per epoch and minute where no terminal is."""
    if quiet:
        yield lambda event: None
        return
    if not err.is_terminal:
        yield Teller(say(quiet), silence=60.0)
        return
    with Progress(*bar_columns(), console=err) as bars:
        tasks: dict[str, Any] = {}
        images: dict[str, int] = {}

        def watch(event: Event) -> None:
            if event.note:
                bars.console.print(escape(f"{event.stage}: {event.note}"), soft_wrap=True)
                return
            if event.stage not in tasks:
                tasks[event.stage] = bars.add_task(event.stage, total=event.steps, speed="", figures="")
                images[event.stage] = 0
            images[event.stage] += event.images
            bar = bars.tasks[tasks[event.stage]]
            speed = images[event.stage] / bar.elapsed if bar.elapsed else 0.0
            shown: dict[str, Any] = {"completed": event.step, "speed": f"{speed:,.0f} images/s" if speed else ""}
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


@contextmanager
def counting(quiet: bool) -> Iterator[Watch]:
    """Bars of what is measured, a round at a time."""
    if quiet:
        yield lambda what, done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err) as bars:
        tasks: dict[str, Any] = {}

        def watch(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(escape(what), total=total)
            bars.update(tasks[what], completed=done)

        yield watch


def print_report(page: Path, quiet: bool, as_json: bool) -> None:
    """What a run found: as JSON, or as a table and the verdict."""
    record = read_record(page.with_suffix(".json"))
    if as_json:
        print(record.to_json())
    elif not quiet:
        out.print(results(record))
        front = front_line(record)
        if front:
            out.print(front, soft_wrap=True)
        for note in record.notes:
            out.print(f"note: {escape(note)}", soft_wrap=True)
        out.print(f"{escape(record.verdict)}\nReport: {escape(str(page))}", soft_wrap=True)


def front_line(record: Record) -> str:
    """The front from cheap to dear, where it has several networks."""
    cost = front_cost(record.rows)
    marked = [row for row, on in zip(record.rows, on_front(record.rows, cost), strict=True) if on]
    alike: dict[tuple[float, float], list[str]] = {}  # on a front, equal costs have equal tests
    for row in marked:
        alike.setdefault((row.costs[cost], row.test or 0), []).append(row.name)
    points = [
        f"{format_cost(cost, at)} {100 * test:.2f} % ({escape(' = '.join(dict.fromkeys(names)))})"
        for (at, test), names in sorted(alike.items())
    ]
    return f"Front over {cost}: {' < '.join(points)}" if len(points) > 1 else ""


def results(record: Record) -> Table:
    """The rows of a report as a table that fits 80 columns, with every budgeted cost; the front's are marked."""
    cost = front_cost(record.rows)
    costs = list(dict.fromkeys(("size", *limited_costs(record.rows), cost)))
    table = Table(title=escape(record.title), caption=f"* no other network is better in test and {cost} at once")
    table.add_column("", no_wrap=True)
    for name in ("network", "budget", "bits"):
        table.add_column(name, overflow="fold")
    for name in (
        "epochs",
        "test %" if record.metric == "accuracy" else f"{record.metric} %",
        *costs,
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for row, front in zip(record.rows, on_front(record.rows, cost), strict=True):
        table.add_row(
            "*" if front else "",
            escape(row.name),
            escape(row.budget),
            row.bits,
            f"{row.epochs:g}" if row.trained else "not trained",
            "" if row.test is None else f"{100 * row.test:.2f}",
            *(format_cost(name, row.costs[name]) if name in row.costs else "" for name in costs),
        )
    return table


def print_check(job: Job, rows: list[Reach], expected: Estimate) -> None:
    _print_captured(job.notes, job.space, job.target)
    out.print(_reaches(rows))
    out.print(
        f"About {duration(expected.total)} of search ({job.method.name}) and training for "
        f"{counted(expected.networks, 'network')} on this machine, as if nothing were compiled.",
        soft_wrap=True,
    )


def print_fit(space: Space, target: Target, rows: list[Reach], notes: Sequence[str]) -> None:
    _print_captured(notes, space, target)
    out.print(_reaches(rows))


def _print_captured(notes: Sequence[str], space: Space, target: Target) -> None:
    for note in notes:
        out.print(f"note: {escape(note)}", soft_wrap=True)
    refused = [text for graph in space.graphs for text in target.refused(graph)]
    lowered = "" if refused else ", every operator can be lowered to integers"
    whole = isinstance(space, Mobile | Sequences)
    what = f"{space.kind.capitalize()} space: up to" if whole else "Captured:"
    count = _count(space.count(), "network" if whole else "choice", "" if whole else " of bits")
    out.print(
        f"{what} {len(space.options)} priced layers{lowered}; {count} for target {escape(target.name)}.", soft_wrap=True
    )


def _count(count: int, what: str, rest: str) -> str:
    """How many, exactly where that can be read."""
    if count == 1:
        return f"one {what}{rest}"
    return (f"{count:,}" if count < 10**12 else f"more than 10^{len(str(count - 1)) - 1}") + f" {what}s{rest}"


def _reaches(rows: list[Reach]) -> Table:
    """What each cost can be by itself, and its budget."""
    table = Table()
    for name in ("cost", "budget", "least", "most", ""):
        table.add_column(name, justify="right" if name in ("least", "most") else "left")
    for row in rows:
        low, high = format_cost(row.cost, row.least), format_cost(row.cost, row.most)
        table.add_row(row.cost, str(row.budget) if row.budget else "", low, high, row.state)
    return table
