"""The metric on the test set against each budgeted cost: a line per method, the front marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean
from typing import Any

import plotly.graph_objects as go

from bitsmith.blueprint import UNITS, Budget, format_cost, spoken_cost, unit_of
from bitsmith.report.front import on_front
from bitsmith.report.parts import Row
from bitsmith.report.plot import (
    COLORS,
    FOUND,
    GRAY,
    Figure,
    Key,
    draw_references,
    escape,
    finish,
    shorten,
    span,
    span_percent,
    spoken_metric,
)
from bitsmith.report.record import Record

FIXED = "fixed bits"  # networks made for no budget share one series; their names stand beside the points
_LOG_FROM = 4  # largest cost over smallest from which the axis is logarithmic


def accuracy_figures(record: Record) -> list[Figure]:
    """One figure for each cost that has a budget."""
    texts = dict.fromkeys(text for row in record.rows for text in row.meets)
    budgets = [Budget.parse(text) for text in texts] + [Budget(cost=r.cost, limit=r.limit) for r in record.requested]
    limits: dict[str, list[float]] = {}
    for budget in budgets:
        known = limits.setdefault(budget.cost, [])
        if budget.limit not in known:
            known.append(budget.limit)
    figures = [_accuracy(record, cost, limits[cost]) for cost in UNITS if cost in limits]
    return [figure for figure in figures if figure is not None]


def _accuracy(record: Record, cost: str, limits: Sequence[float]) -> Figure | None:
    rows = [row for row in record.rows if row.kind != "float" and row.test is not None and cost in row.costs]
    if not rows:
        return None
    metric, price = spoken_metric(record.metric), spoken_cost(cost)
    floats = [100 * row.test for row in record.rows if row.kind == "float" and row.test is not None]
    bars = dict(zip(map(id, rows), _sampling_bars(rows, record.test_images), strict=True))
    heights = floats + [100 * (row.test or 0) + sign * bars[id(row)] for row in rows for sign in (-1, 1)]
    where = [row.costs[cost] for row in rows] + list(limits)
    logarithmic = min(where) > 0 and max(where) / min(where) >= _LOG_FROM
    axis = [math.log10(x) for x in where] if logarithmic else where
    ends = span(axis, 0.14)
    front = [row for row, marked in zip(rows, on_front(rows, cost), strict=True) if marked]

    figure, keys = go.Figure(), []
    _add_front(figure, front, cost, 10 ** ends[1] if logarithmic else ends[1])
    series = _series(rows)
    colors = iter(COLORS * len(series))
    for name, mine in series.items():
        found = mine[0].kind == "found"
        color = FOUND if found else GRAY if name == FIXED else next(colors)
        keys.append(Key(text=name, color=color, mark="dot"))
        _add_line(figure, mine, cost, color)
        texts, places = _labels(mine, cost, sum(axis) / len(axis), logarithmic)
        figure.add_scatter(
            x=[row.costs[cost] for row in mine],
            y=[100 * (row.test or 0) for row in mine],
            name=escape(name),
            mode="markers+text",
            text=texts if name == FIXED else [""] * len(mine),
            textposition=places,
            cliponaxis=False,
            marker={
                "color": color,
                "size": 12 if found else 9,
                "symbol": ["circle" if is_inside(row) else "circle-open" for row in mine],
                "line": {"width": 2, "color": color},
            },
            error_y={
                "array": [bars[id(row)] for row in mine],
                "visible": any(bars[id(row)] for row in mine),
                "color": color, "thickness": 1, "width": 3,
            },
            customdata=[_hover(row, cost, metric, row in front) for row in mine],
            hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]}<br>%{customdata[3]}"
            "<extra></extra>",
        )  # fmt: skip
    keys.append(Key(text=f"no other is better in {metric} and {price} at once", color=GRAY, mark="ring"))
    keys += draw_references(figure, floats, cost, limits, logarithmic=logarithmic)
    x_axis: dict[str, Any] = {"title": {"text": price}, "range": ends}
    if cost != "avg_bits":
        x_axis["tickformat"] = "~s"
        x_axis["ticksuffix"] = unit_of(cost)
    if logarithmic:
        x_axis |= _log_axis(cost, ends)
    y_axis = {"title": {"text": escape(f"{metric}, test, %")}, "range": span_percent(heights)}
    bars_text = f" Bars: 95 % sampling error of {record.test_images:,} test images." if any(bars.values()) else ""
    return Figure(
        title=f"{metric[:1].upper()}{metric[1:]} against {price}",
        caption=f"One line per method. Hollow points miss their budget.{bars_text}",
        keys=tuple(keys),
        plot=finish(figure, {"xaxis": x_axis, "yaxis": y_axis}, height=400),
        height=400,
    )


def is_inside(row: Row) -> bool:
    """Whether a network meets what it was made for; made for nothing in particular, whether it meets everything."""
    texts = row.budget.split(", ") if row.budget else row.meets
    return all(row.meets.get(text, False) for text in texts)


def _series(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """What shares a color: the networks of one method, and those of fixed bits."""
    series: dict[str, list[Row]] = {}
    for row in rows:
        fixed = row.kind == "baseline" and not row.budget
        series.setdefault(FIXED if fixed else row.name, []).append(row)
    return series


def _add_front(figure: go.Figure, front: Sequence[Row], cost: str, end: float) -> None:
    """The staircase through the networks that no other one beats, up to the end of the axis."""
    steps = sorted((row.costs[cost], 100 * (row.test or 0)) for row in front)
    figure.add_scatter(
        x=[*(x for x, _ in steps), end],
        y=[*(y for _, y in steps), steps[-1][1]],
        name="front",
        mode="lines+markers",
        line={"shape": "hv", "dash": "dot", "width": 1, "color": GRAY},
        cliponaxis=False,
        marker={"symbol": "circle-open", "size": [20] * len(steps) + [0], "line": {"width": 1.5}, "color": GRAY},
        hoverinfo="skip",
    )


def _add_line(figure: go.Figure, rows: Sequence[Row], cost: str, color: str) -> None:
    """The line of a method over its budgets, through the means of its seeds."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.budget:
            groups.setdefault(row.budget, []).append(row)
    points = sorted(
        (mean(row.costs[cost] for row in group), mean(100 * (row.test or 0) for row in group))
        for group in groups.values()
    )
    if len(points) > 1:
        figure.add_scatter(
            x=[x for x, _ in points],
            y=[y for _, y in points],
            name=escape(rows[0].name),
            mode="lines",
            line={"width": 1.5, "color": color},
            hoverinfo="skip",
        )


def _hover(row: Row, cost: str, metric: str, on_the_front: bool) -> list[str]:
    """Four lines: what, how good, how large, how made."""
    marks = ["" if row.trained else "not trained", "on the front" if on_the_front else ""]
    return [
        escape(row.title),
        escape(f"{metric} {100 * (row.test or 0):.2f} %"),
        f"{spoken_cost(cost)} {format_cost(cost, row.costs[cost])}",
        escape(", ".join(text for text in (row.bits, f"seed {row.seed}", *marks) if text)),
    ]


def _labels(rows: Sequence[Row], cost: str, middle: float, logarithmic: bool) -> tuple[list[str], list[str]]:
    """Names beside points, on the side where there is room; seeds share one."""
    texts, places, seen = [], [], set()
    for row in rows:
        place = math.log10(row.costs[cost]) if logarithmic else row.costs[cost]
        texts.append("" if row.title in seen else f"\N{NO-BREAK SPACE}{escape(shorten(row.name))}\N{NO-BREAK SPACE}")
        places.append("middle right" if place < middle else "middle left")
        seen.add(row.title)
    return texts, places


def _log_axis(cost: str, ends: Sequence[float]) -> dict[str, Any]:
    """Ticks at 1, 2, 5 times powers of ten, finer where these are too few; plotly's own lose the unit."""
    powers = range(math.floor(ends[0]), math.ceil(ends[1]) + 1)
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = [step * 10.0**power for power in powers for step in steps]
        ticks = [tick for tick in ticks if ends[0] <= math.log10(tick) <= ends[1]]
        if len(ticks) >= 3:
            break
    names = [format_cost(cost, tick) for tick in ticks]
    return {"type": "log", "tickmode": "array", "tickvals": ticks, "ticktext": names}


def _sampling_bars(rows: Sequence[Row], test_images: int | None) -> list[float]:
    """Half of each row's 95 % interval in points; 0 where the test set's size or the metric doesn't tell."""
    if test_images is None or rows[0].metric != "accuracy":
        return [0.0] * len(rows)
    return [196 * math.sqrt(p * (1 - p) / test_images) for p in (row.test or 0.0 for row in rows)]
