"""Where trials are done: the options, and what a person sees of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from bitsmith.cli.show import err, progress
from bitsmith.errors import RecipeError
from bitsmith.executor import Executor, InProcess, Processes, RayCluster, State
from bitsmith.train import Watch, processes, silent

Workers = Annotated[
    int | None, typer.Option(min=1, help="Trials at a time, each with one thread; default 1, on Ray all its CPUs.")
]
ExecutorName = Annotated[
    str | None,
    typer.Option("--executor", help="Where trials are done: inprocess, processes or ray."),
]
Address = Annotated[str | None, typer.Option(help="HOST:PORT of a Ray cluster's head; default: this machine's.")]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the networks of a run are trained, as `pipeline.train` takes it."""

    watch: Watch = silent
    executor: Executor | None = None
    show: Callable[[State], None] = lambda state: None


@contextmanager
def shared_out(executor: str | None, workers: int | None, address: str | None) -> Iterator[Executor | None]:
    """The executor that the options ask for; None for this process, as with none of them."""
    with choose_executor(executor or _named(workers), workers, address) as where:
        yield None if isinstance(where, InProcess) else where


@contextmanager
def training_place(where: Executor | None, quiet: bool) -> Iterator[Place]:
    """In this process with a bar for each network; elsewhere with a line for each place."""
    if where is None:
        with progress(quiet) as watch:
            yield Place(watch=watch)
    else:
        with pool_bars(quiet) as show:
            yield Place(executor=where, show=show)


def choose_executor(name: str, workers: int | None, address: str | None) -> Executor:
    """The executor that the options ask for.

    Raises:
        RecipeError: as `require_place`.
        RunError: no such Ray cluster.
    """
    require_place(name, workers, address)
    if name == "ray":
        return RayCluster(workers, address or "auto")
    return Processes(workers or 1) if name == "processes" else InProcess()


def require_place(name: str | None, workers: int | None, address: str | None) -> None:
    """Refuse options that don't go together, before anything is learned.

    Raises:
        RecipeError: an unknown name, or an option that it doesn't take.
    """
    name = name or _named(workers)
    together = processes().count
    if together > 1 and name != "inprocess":
        raise RecipeError(
            f"torchrun has started {together} processes for one training, and --executor and --workers share out many: "
            "leave those options out, or start bitsmith without torchrun"
        )
    if address is not None and name != "ray":
        raise RecipeError("--address is that of a Ray cluster: add --executor ray, or leave it out")
    if name not in ("inprocess", "processes", "ray"):
        raise RecipeError(f"--executor takes inprocess, processes or ray, got {name!r}")
    if name == "inprocess" and workers not in (None, 1):
        raise RecipeError(
            f"--executor inprocess does one trial at a time; for --workers {workers} take processes or ray"
        )


def _named(workers: int | None) -> str:
    return "inprocess" if workers is None else "processes"


@contextmanager
def pool_bars(quiet: bool) -> Iterator[Callable[[State], None]]:
    """A bar over all runs, and a line for what each worker is at."""
    if quiet:
        yield lambda state: None
        return
    bars = Progress(TextColumn("runs"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(), console=err)
    whole = bars.add_task("runs", total=None)
    with Live(bars, console=err, refresh_per_second=4) as live:

        def watch(state: State) -> None:
            bars.update(whole, total=state.total, completed=state.done)
            lines = [Text(": ".join(at) if at else "waits", overflow="ellipsis", no_wrap=True) for at in state.at_work]
            live.update(Group(bars, *lines))

        try:
            yield watch
        finally:
            bars.update(whole, visible=bars.tasks[0].total is not None)  # nothing was left to do
            live.update(bars)
