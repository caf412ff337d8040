"""The page of a comparison, and its JSON."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from bitsmith.blueprint import UNITS, Budget, spoken_cost
from bitsmith.report.compare_figure import compare_figures, on_merged_front
from bitsmith.report.compare_verdicts import name_of
from bitsmith.report.compared import Cell, Compared
from bitsmith.report.page import fill, write_pages
from bitsmith.report.plot import spoken_metric
from bitsmith.report.verdict import ENOUGH_SEEDS


def write_compared(compared: Compared, folder: Path) -> Path:
    """Write compare.json and compare.html into a folder; returns the path of the page.

    Raises:
        RunError: a field of the record is of the wrong kind or out of range; nothing is written.
    """
    write_pages({"compare.json": compared.to_json(), "compare.html": render_compared(compared)}, folder)
    return folder / "compare.html"


def render_compared(compared: Compared) -> str:
    """The whole page as HTML."""
    several = len({cell.contest.space for cell in compared.cells}) > 1
    budgets = list(dict.fromkeys(cell.contest.budget for cell in compared.cells))
    limited = {Budget.parse(text).cost for line in budgets for text in line.split(", ")}
    costs = [cost for cost in UNITS if cost in limited]
    searched = {name_of(cell.contest, several) for cell in compared.cells if cell.kind == "found"}
    fronts = {cost: on_merged_front(compared.cells, cost) for cost in costs}
    return fill(
        "compare.html",
        compared=compared,
        outside={member.contest for member in compared.members if member.outside},
        metric=spoken_metric(compared.metric),
        figures=compare_figures(compared) if compared.cells else [],
        costs=costs,
        cells=[
            (name_of(cell.contest, several), cell, [spoken_cost(cost) for cost in costs if fronts[cost][i]])
            for i, cell in sorted(enumerate(compared.cells), key=lambda pair: budgets.index(pair[1].contest.budget))
        ],
        members=[
            (name_of(member.contest, several), member, f"{quote(member.folder)}/report.html")
            for member in compared.members
        ],
        verdicts=[
            (name_of(verdict.ours, several), name_of(verdict.theirs, several), verdict) for verdict in compared.verdicts
        ],
        missing=[
            (f"{line.method} in {line.space}" if several and line.space else line.method, line)
            for line in (*compared.left_out, *compared.failed)
        ],
        few=min((len(verdict.seeds) for verdict in compared.verdicts), default=ENOUGH_SEEDS) < ENOUGH_SEEDS,
        volumes=[
            (f"{volume.method} in {volume.space}" if several else volume.method, volume) for volume in compared.volumes
        ],
        told=[saving for saving in compared.savings if saving.ours in searched],
        between=_between,
        points=_points,
        share=_share,
    )


def _between(cell: Cell) -> str:
    """[84.11, 85.02], in percent."""
    return "–" if cell.low is None or cell.high is None else f"[{100 * cell.low:.2f}, {100 * cell.high:.2f}]"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.2f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.0f}"
