"""The command that compares methods, spaces and budgets over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from bitsmith.blueprint import format_cost
from bitsmith.cli.app import app
from bitsmith.cli.executors import Address, ExecutorName, Workers, choose_executor, pool_bars
from bitsmith.cli.options import AsJson, Download, Limit, Quiet, parse_numbers
from bitsmith.cli.settings import typed_command
from bitsmith.cli.show import counted, duration, out, say
from bitsmith.errors import RunError
from bitsmith.pipeline.compare import compare as compare_all
from bitsmith.pipeline.compare_hours import estimate_hours
from bitsmith.pipeline.compare_plan import Plan, plan
from bitsmith.pipeline.comparison import Comparison, change, read_comparison
from bitsmith.pipeline.planned import LeftOut
from bitsmith.report.compare_verdicts import name_of
from bitsmith.report.compared import Compared, Missing, read_compared
from bitsmith.report.plot import spoken_metric


@app.command()
def compare(
    recipe: Annotated[Path, typer.Argument(help="A YAML comparison, or a plain recipe.")],
    out_folder: Annotated[Path | None, typer.Option("--out", help="Folder to make; default runs/RECIPE.")] = None,
    seeds: Annotated[str | None, typer.Option(help="As 0,1,2,3,4.")] = None,
    workers: Workers = None,
    executor: ExecutorName = None,
    address: Address = None,
    data: Annotated[str | None, typer.Option(help="Another data set than the recipe's.")] = None,
    limit: Limit = None,
    download: Download = False,
    epochs: Annotated[int | None, typer.Option(help="Epochs of the final training.")] = None,
    float_epochs: Annotated[int | None, typer.Option(help="Epochs of the float network.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and what they take; do nothing.")] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="As --dry-run; time a few steps too, and tell what one core would take.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Methods against baselines at equal training, over seeds, with intervals and a verdict per budget.

    Run again, it goes on where it was; every run in it is an ordinary run folder.
    """
    comparison = change(
        read_comparison(recipe),
        seeds=parse_numbers(seeds, "--seeds") if seeds else None,
        data=data,
        limit=limit,
        download=download or None,
        epochs=epochs,
        float_epochs=float_epochs,
    )
    tell = say(quiet or as_json)
    if dry_run or estimate:
        laid_out = plan(comparison, tell)
        _print_plan(comparison, laid_out, workers or 1)
        if estimate:
            _print_hours(estimate_hours(laid_out))
        return
    folder = out_folder or Path("runs") / recipe.stem
    with choose_executor(executor or "processes", workers, address) as where, pool_bars(quiet or as_json) as show:
        ended = compare_all(comparison, folder, executor=where, command=typed_command(), say=tell, watch=show)
    if ended.page is not None:
        compared = read_compared(ended.page.with_suffix(".json"))
        if as_json:
            print(compared.to_json())
        elif not quiet:
            _print_compared(compared, ended.page)
    if ended.failed:
        names = "; ".join(map(str, ended.failed))
        raise RunError(f"{counted(len(ended.failed), 'run')} failed: {names}. The same command tries them again")


def _print_plan(comparison: Comparison, laid_out: Plan, workers: int) -> None:
    what = f"{counted(len(laid_out.runs), 'run')}, {counted(laid_out.networks, 'network')}"
    table = Table(title=f"{what}; epochs of each")
    for name in ("method", "space", "seeds", "budgets"):
        table.add_column(name, overflow="fold")
    for name in ("search", "training"):
        table.add_column(name, justify="right")
    lines: dict[tuple[str, ...], list[str]] = {}
    for run in laid_out.runs:
        width = f" (width {run.recipe.model.width:g})" if run.recipe.model.width != 1 else ""
        budgets = "; ".join(", ".join(line) for line in run.recipe.budgets)
        line = (run.method + width, run.space, budgets, f"{run.search_epochs:g}", str(run.recipe.train.epochs))
        lines.setdefault(line, []).append(str(run.seed))
    for (method, space, budgets, search, training), seeds in lines.items():
        table.add_row(escape(method), escape(space), ", ".join(seeds), budgets, search, training)
    out.print(table)
    floats = f", after {laid_out.head_start} of a float network" if laid_out.head_start else ""
    if laid_out.from_scratch:
        floats += f" (in {', '.join(laid_out.from_scratch)}, which has none, as many more)"
    out.print(
        f"{counted(laid_out.epochs, 'epoch')} for every low-precision network, its search included{floats}; "
        f"{counted(laid_out.all_epochs, 'epoch')} in all"
        + (f", shared out to {workers} workers" if workers > 1 else "")
        + ".",
        soft_wrap=True,
    )
    _print_missing("left out", laid_out.left_out, several=len(comparison.spaces) > 1)


def _print_hours(hours: Mapping[tuple[str, str], float]) -> None:
    table = Table(title="time on one core of this machine, if nothing is compiled")
    table.add_column("space")
    table.add_column("method")
    table.add_column("time", justify="right")
    for (space, method), value in hours.items():
        table.add_row(escape(space), escape(method), duration(3600 * value))
    out.print(table)
    out.print(f"About {duration(3600 * sum(hours.values()))} on one core in all.", soft_wrap=True)


def _print_missing(what: str, lines: Sequence[LeftOut | Missing], *, several: bool) -> None:
    """A line per reason, with all that have it."""
    groups: dict[str, list[str]] = {}
    for line in lines:
        where = (f" in {line.space}" if several and line.space else "") + (f" at {line.budget}" if line.budget else "")
        groups.setdefault(f"{where}: {line.reason}", []).append(line.method)
    for reason, methods in groups.items():
        out.print(escape(f"{what}: {', '.join(methods)}{reason}"), soft_wrap=True)


def _print_compared(compared: Compared, page: Path) -> None:
    several = len({cell.contest.space for cell in compared.cells}) > 1
    outside = {member.contest for member in compared.members if member.outside}
    table = Table(title=escape(compared.title))
    table.add_column("budget", overflow="fold", min_width=12)
    table.add_column("method", overflow="fold", min_width=12)
    table.add_column(f"{spoken_metric(compared.metric)} %", justify="right", min_width=6)
    for name in ("95 %", "cost", "seeds"):
        table.add_column(name, justify="right", no_wrap=True)
    for budget in dict.fromkeys(cell.contest.budget for cell in compared.cells):
        for cell in compared.cells:
            if cell.contest.budget == budget:
                cost = budget.partition("=")[0]
                between = (
                    "" if cell.low is None or cell.high is None else f"{100 * cell.low:.2f} .. {100 * cell.high:.2f}"
                )
                table.add_row(
                    budget,
                    escape(name_of(cell.contest, several)) + (" (outside)" if cell.contest in outside else ""),
                    f"{100 * cell.test:.2f}",
                    between,
                    format_cost(cost, cell.costs[cost]) if cost in cell.costs else "",
                    str(len(cell.seeds)),
                )
    out.print(table)
    for verdict in compared.verdicts:
        out.print(escape(verdict.text), soft_wrap=True)
    out.print(escape(compared.summary), soft_wrap=True)
    _print_missing("not compared", [*compared.left_out, *compared.failed], several=several)
    for note in compared.notes:
        out.print(f"note: {escape(note)}", soft_wrap=True)
    out.print(f"Page: {escape(str(page))}", soft_wrap=True)
