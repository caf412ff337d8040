"""The merged front of a comparison: the test score of every method against each budgeted cost."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from bitsmith.blueprint import UNITS, Budget, format_cost, spoken_cost, unit_of
from bitsmith.report.compare_verdicts import name_of
from bitsmith.report.compared import Cell, Compared
from bitsmith.report.plot import (
    COLORS,
    FOUND,
    GRAY,
    Figure,
    Key,
    draw_references,
    escape,
    finish,
    span,
    span_percent,
    spoken_metric,
)


def compare_figures(compared: Compared) -> list[Figure]:
    """One figure for each cost that has a budget."""
    limits: dict[str, set[float]] = {}
    for cell in compared.cells:
        for budget in map(Budget.parse, cell.contest.budget.split(", ")):
            limits.setdefault(budget.cost, set()).add(budget.limit)
    return [_figure(compared, cost, sorted(limits[cost])) for cost in UNITS if cost in limits]


def on_merged_front(cells: Sequence[Cell], cost: str) -> list[bool]:
    """Whether no other cell costs at most as much and tests at least as well, one of them better; by means over seeds.

    Example:
        Costs 10, 12 and 15 kB with 90, 89 and 91 % give True, False, True.
    """
    ranks = [(cell.costs[cost], -cell.test) for cell in cells]
    return [not any(o != own and o[0] <= own[0] and o[1] <= own[1] for o in ranks) for own in ranks]


def _figure(compared: Compared, cost: str, limits: Sequence[float]) -> Figure:
    cells, metric, price = compared.cells, spoken_metric(compared.metric), spoken_cost(cost)
    several = len({cell.contest.space for cell in cells}) > 1
    front = [cell for cell, on in zip(cells, on_merged_front(cells, cost), strict=True) if on]
    floats = [100 * value for value in compared.float_test.values()]
    if any("/" in name for name in compared.float_test):  # of several models: a mean of theirs means nothing
        floats = []
    ends = span([cell.costs[cost] for cell in cells] + list(limits), 0.08)
    heights = [100 * v for cell in cells for v in (cell.low, cell.high, cell.test) if v is not None] + floats
    figure, keys = go.Figure(), []
    steps = sorted((cell.costs[cost], 100 * cell.test) for cell in front)
    figure.add_scatter(
        x=[*(x for x, _ in steps), ends[1]],
        y=[*(y for _, y in steps), steps[-1][1]],
        mode="lines+markers",
        line={"shape": "hv", "dash": "dot", "width": 1, "color": GRAY},
        marker={"symbol": "circle-open", "size": [20] * len(steps) + [0], "line": {"width": 1.5}, "color": GRAY},
        hoverinfo="skip",
    )
    series: dict[str, list[Cell]] = {}
    for cell in cells:
        series.setdefault(name_of(cell.contest, several), []).append(cell)
    found = [name for name, mine in series.items() if mine[0].kind == "found"]
    colors = iter(COLORS * len(series))
    for name, mine in series.items():
        color = FOUND if found and name == found[0] else next(colors)
        mine = sorted(mine, key=lambda cell: cell.costs[cost])
        keys.append(Key(text=name, color=color, mark="dot"))
        figure.add_scatter(
            x=[cell.costs[cost] for cell in mine],
            y=[100 * cell.test for cell in mine],
            name=escape(name),
            mode="lines+markers",
            line={"width": 1.5, "color": color},
            marker={"color": color, "size": 10 if mine[0].kind == "found" else 8},
            error_y={
                "array": [100 * ((cell.high or cell.test) - cell.test) for cell in mine],
                "arrayminus": [100 * (cell.test - (cell.low if cell.low is not None else cell.test)) for cell in mine],
                "visible": any(cell.low is not None for cell in mine),
                "color": color,
                "thickness": 1,
                "width": 3,
            },
            customdata=[_hover(cell, cost, metric, name, cell in front) for cell in mine],
            hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]}<br>%{customdata[3]}"
            "<extra></extra>",
        )
    keys.append(Key(text=f"no other is better in {metric} and {price} at once", color=GRAY, mark="ring"))
    keys += draw_references(figure, floats, cost, limits)
    x_axis = {"title": {"text": price}, "range": ends}
    if cost != "avg_bits":
        x_axis |= {"tickformat": "~s", "ticksuffix": unit_of(cost)}
    intervals = any(cell.low is not None for cell in cells)
    bars = f" Bars: 95 % over seeds and {compared.test_images:,} test images." if intervals else ""
    return Figure(
        title=f"{metric[:1].upper()}{metric[1:]} against {price}, all methods",
        caption=f"Means over seeds; one line per method.{bars}",
        keys=tuple(keys),
        plot=finish(
            figure,
            {
                "xaxis": x_axis,
                "yaxis": {"title": {"text": escape(f"{metric}, test, %")}, "range": span_percent(heights)},
            },
            height=420,
        ),
        height=420,
    )


def _hover(cell: Cell, cost: str, metric: str, name: str, on_the_front: bool) -> list[str]:
    between = "" if cell.low is None or cell.high is None else f" [{100 * cell.low:.2f}, {100 * cell.high:.2f}]"
    seeds = f"{len(cell.seeds)} seed{'s' if len(cell.seeds) > 1 else ''}"
    return [
        escape(f"{name} at {cell.contest.budget}"),
        escape(f"{metric} {100 * cell.test:.2f} %{between}"),
        f"{spoken_cost(cost)} {format_cost(cost, cell.costs[cost])}",
        escape(", ".join(filter(None, (" / ".join(cell.bits), seeds, "on the front" if on_the_front else "")))),
    ]
