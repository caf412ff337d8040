"""The page's figures as plain plotly JSON.

Plotly reads a subset of HTML in every text it draws, and %{...} in hover templates. So each string of the record goes
through `_text` first, and names reach hover templates as data, never as part of the template. Text and grid colors are
left to the page's style sheet, which knows about light, dark and print.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bitsmith.blueprint import FLOAT, UNITS, Budget, format_cost
from bitsmith.report.record import Curve, LayerRow, Record, Row

_FOUND, _BASELINE, _LIMIT = "#d2691e", "#6b7f99", "#c0392b"
_COLORS = ["#3d7ab8", "#c98a2b", "#4f9a6b", "#a05fa5", "#8a8f98", "#c75d5d", "#2a9d9d"]
_LONGEST_NAME = 22  # characters of a layer's name under its bars; hovering shows all of it
_LOG_FROM = 4  # largest cost over smallest from which the axis is logarithmic
_FLOAT_BAR = 9  # a float layer is drawn one step above 8 bit: 32 would flatten all others


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One plot.

    Args:
        title: plain text, shown above it.
        caption: plain text, shown beneath it and read out in its place.
        plot: {"data": ..., "layout": ...}, all strings escaped for plotly.
        height: pixels.
        least_width: pixels; on a narrower screen the plot scrolls sideways.
    """

    title: str
    caption: str
    plot: dict[str, Any]
    height: int
    least_width: int = 0


def accuracy_figures(record: Record) -> list[Figure]:
    """The metric on the test set against each budgeted cost, one figure a cost."""
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
    floats = [row.test for row in record.rows if row.kind == "float" and row.test is not None]
    where = [row.costs[cost] for row in rows] + list(limits)
    logarithmic = min(where) > 0 and max(where) / min(where) >= _LOG_FROM
    labels = _labels(rows, cost, math.sqrt(min(where) * max(where)) if logarithmic else (min(where) + max(where)) / 2)
    figure = go.Figure()
    kinds = (("baseline", "baselines", _BASELINE, 9), ("found", "found by search", _FOUND, 12))
    for kind, title, color, size in kinds:
        # The legend copies the first marker: a hollow one would read as "these are all outside".
        mine = sorted((row for row in rows if row.kind == kind), key=lambda row: not _inside(row))
        if mine:
            bars = _sampling_bars(mine, record.test_images)
            texts, places = zip(*(labels[id(row)] for row in mine), strict=True)
            figure.add_scatter(
                x=[row.costs[cost] for row in mine],
                y=[100 * (row.test or 0) for row in mine],
                name=title,
                mode="markers+text",
                text=texts,
                textposition=places,
                cliponaxis=False,
                marker={
                    "color": color,
                    "size": size,
                    "symbol": ["circle" if _inside(row) else "circle-open" for row in mine],
                    "line": {"width": 2, "color": color},
                },
                error_y={"array": bars, "visible": any(bars), "color": color, "thickness": 1, "width": 4},
                customdata=[[_text(row.name), format_cost(cost, row.costs[cost]), row.seed] for row in mine],
                hovertemplate="%{customdata[0]}<br>%{y:.2f} %<br>%{customdata[1]}<br>seed %{customdata[2]}"
                "<extra></extra>",
            )
    heights = [100 * value for value in floats]
    for row, bar in zip(rows, _sampling_bars(rows, record.test_images), strict=True):
        heights += [100 * (row.test or 0) - bar, 100 * (row.test or 0) + bar]
    if floats:
        figure.add_hline(
            y=100 * mean(floats),
            line={"dash": "dash", "width": 1.5, "color": _COLORS[4]},
            annotation={"text": f"float {100 * mean(floats):.2f} %", "showarrow": False, "xshift": 4},
            annotation_position="top left",
            layer="below",
        )
    for i, limit in enumerate(limits):
        figure.add_vline(x=limit, line={"width": 1.5, "color": _LIMIT}, layer="below")
        figure.add_annotation(
            x=math.log10(limit) if logarithmic else limit,  # unlike shapes, annotations take the exponent
            y=0, yref="paper", yanchor="bottom", xanchor="left", yshift=2 + 16 * (i % 2), showarrow=False,
            text=f"budget {format_cost(cost, limit)}",
        )  # fmt: skip
    x_axis: dict[str, Any] = {"title": {"text": _spoken(cost)}, "range": _span(where, 0.14)}
    if cost != "avg_bits":
        x_axis["tickformat"] = "~s"
        x_axis["ticksuffix"] = "B" if "B" in UNITS[cost] else ""
    if logarithmic:
        x_axis |= _log_axis(cost, where)
    metric = record.rows[0].metric
    y_axis = {"title": {"text": _text(f"{metric}, test, %")}, "range": _span(heights, 0.1)}
    error = (
        f" Bars: 95 % sampling error of {record.test_images:,} test images."
        if record.test_images and metric == "accuracy"
        else ""
    )
    return Figure(
        title=f"{metric.capitalize()} against {_spoken(cost)}",
        caption=f"Vertical: the budget. Hollow points miss their budget, dashed is the float network.{error}",
        plot=_finish(figure, {"xaxis": x_axis, "yaxis": y_axis}, height=400),
        height=400,
    )


def _labels(rows: Sequence[Row], cost: str, middle: float) -> dict[int, tuple[str, str]]:
    """Text and place for each point: seeds share one label, which stands on the side where there is room."""
    labels: dict[int, tuple[str, str]] = {}
    seen: set[tuple[str, str]] = set()
    for row in sorted(rows, key=lambda row: row.costs[cost]):
        first = (row.name, row.budget) not in seen
        place = "middle right" if row.costs[cost] < middle else "middle left"
        labels[id(row)] = (f"\N{NO-BREAK SPACE}{_text(_shorten(row.name))}\N{NO-BREAK SPACE}" if first else "", place)
        seen.add((row.name, row.budget))
    return labels


def _inside(row: Row) -> bool:
    """Whether a network meets what it was made for; made for nothing in particular, whether it meets everything."""
    texts = row.budget.split(", ") if row.budget else row.meets
    return all(row.meets.get(text, False) for text in texts)


def _log_axis(cost: str, where: Sequence[float]) -> dict[str, Any]:
    """Ticks at 1, 2, 5 times powers of ten, finer where these are too few; plotly's own lose the unit."""
    span = _span([math.log10(x) for x in where], 0.14)
    powers = range(math.floor(span[0]), math.ceil(span[1]) + 1)
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = [step * 10.0**power for power in powers for step in steps]
        ticks = [tick for tick in ticks if span[0] <= math.log10(tick) <= span[1]]
        if len(ticks) >= 3:
            break
    names = [format_cost(cost, tick) for tick in ticks]
    return {"type": "log", "range": span, "tickmode": "array", "tickvals": ticks, "ticktext": names}


def _sampling_bars(rows: Sequence[Row], test_images: int | None) -> list[float]:
    """Half of each row's 95 % interval in points; 0 where the test set's size or the metric doesn't tell."""
    if test_images is None or rows[0].metric != "accuracy":
        return [0.0] * len(rows)
    return [196 * math.sqrt(p * (1 - p) / test_images) for p in (row.test or 0.0 for row in rows)]


def layer_figure(layers: Sequence[LayerRow], name: str) -> Figure | None:
    """Weight and activation bits of each layer, and beneath them its share of each cost."""
    if not layers:
        return None
    costs = [cost for cost in UNITS if any(cost in layer.shares for layer in layers)]
    x = list(range(len(layers)))
    names = [_text(layer.name) for layer in layers]
    figure = make_subplots(
        rows=2 if costs else 1, cols=1, shared_xaxes=True, vertical_spacing=0.06,
        row_heights=[0.6, 0.4] if costs else None,
    )  # fmt: skip
    bits = {
        "weight bits": [layer.weight_bits for layer in layers],
        "activation bits": [layer.activation_bits for layer in layers],
    }
    for (title, values), color in zip(bits.items(), _COLORS, strict=False):
        shown = ["float" if b == FLOAT else str(b) for b in values]
        figure.add_bar(
            x=x, y=[min(b, _FLOAT_BAR) for b in values], name=title, marker={"color": color},
            text=shown, textposition="outside", textangle=0, cliponaxis=False, constraintext="none",
            customdata=list(zip(names, shown, strict=True)),
            hovertemplate=f"%{{customdata[0]}}<br>{title}: %{{customdata[1]}}<extra></extra>",
            row=1, col=1,
        )  # fmt: skip
    for cost, color in zip(costs, _COLORS[2:] * len(costs), strict=False):
        figure.add_bar(
            x=x, y=[100 * layer.shares.get(cost, 0.0) for layer in layers], name=f"share of {_spoken(cost)}",
            marker={"color": color}, customdata=names,
            hovertemplate=f"%{{customdata}}<br>%{{y:.1f}} % of {_spoken(cost)}<extra></extra>",
            row=2, col=1,
        )  # fmt: skip
    ticks = [_text(_shorten(layer.name)) for layer in layers]
    x_axis = {"tickmode": "array", "tickvals": x, "ticktext": ticks, "tickangle": -90, "showgrid": False}
    top = _FLOAT_BAR if any(FLOAT in values for values in bits.values()) else 8
    y_axis = {"title": {"text": "bits"}, "range": [0, top + 0.9], "tickvals": [0, 2, 4, 6, 8]}
    axes = {"yaxis": y_axis, "xaxis": x_axis}
    if costs:  # the names stand under the lower plot
        axes = {
            "yaxis": y_axis,
            "xaxis": {"showgrid": False},
            "yaxis2": {"title": {"text": "share, %"}, "rangemode": "tozero"},
            "xaxis2": x_axis,
        }
    height = 520 if costs else 360
    return Figure(
        title="Bits per layer",
        caption=f"{name}: bits of the weights and of the activations each layer reads, in execution order"
        + ("; below, the layer's part of each cost." if costs else "."),
        plot=_finish(figure, axes, height=height),
        height=height,
        least_width=70 + 26 * len(layers),
    )


def curve_figure(curve: Curve) -> Figure:
    """Its series as lines, its limits dashed."""
    figure = go.Figure()
    for i, (name, values) in enumerate(curve.series.items()):
        figure.add_scatter(
            x=curve.x, y=values, name=_text(name), mode="lines" if len(curve.x) > 1 else "markers",
            line={"color": _COLORS[i % len(_COLORS)], "width": 2}, text=[_text(name)] * len(curve.x),
            hovertemplate="%{text}<br>%{y:.5~g} at %{x:~g}<extra></extra>",
        )  # fmt: skip
    for name, limit in (curve.limits or {}).items():
        # As a trace and not a shape, so that the axis always reaches it.
        ends = [min(curve.x, default=0.0), max(curve.x, default=1.0)]
        figure.add_scatter(
            x=ends, y=[limit, limit], name=_text(name), mode="lines", text=[_text(name)] * 2,
            line={"color": _LIMIT, "width": 1.5, "dash": "dash"},
            hovertemplate="%{text}<br>%{y:.5~g}<extra></extra>",
        )  # fmt: skip
    x_axis = {"title": {"text": _text(curve.x_label)}}
    return Figure(
        title=curve.name,
        caption=f"{', '.join(curve.series)} over {curve.x_label}" + ("; dashed: the limit." if curve.limits else "."),
        plot=_finish(figure, {"xaxis": x_axis}, height=300),
        height=300,
    )


def _finish(figure: go.Figure, axes: Mapping[str, Mapping[str, Any]], *, height: int) -> dict[str, Any]:
    """The layout that all plots share; returns plain JSON values."""
    clear = "rgba(0,0,0,0)"
    figure.update_layout(
        template=go.layout.Template(),
        height=height,
        margin={"l": 52, "r": 16, "t": 16, "b": 44},
        paper_bgcolor=clear,
        plot_bgcolor=clear,
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0, "bgcolor": clear},
        showlegend=True,
        dragmode=False,  # a finger on the plot scrolls the page
        bargap=0.25,
        hoverlabel={"bgcolor": "#26292e", "bordercolor": "#26292e", "font": {"color": "#f2f2f2"}},
    )
    figure.update_xaxes(zeroline=False, showline=True, automargin=True, fixedrange=True)
    figure.update_yaxes(zeroline=False, showline=False, automargin=True, fixedrange=True)
    figure.update_layout({name: dict(settings) for name, settings in axes.items()})
    plot = json.loads(str(figure.to_json()))
    return {"data": plot["data"], "layout": plot["layout"]}


def _text(value: str) -> str:
    """Escaped for plotly, which knows &amp; &lt; &gt; but not &quot;, and opens no attribute outside a tag."""
    return html.escape(value, quote=False)


def _shorten(name: str) -> str:
    if len(name) <= _LONGEST_NAME:
        return name
    half = (_LONGEST_NAME - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _span(values: Sequence[float], pad: float) -> list[float]:
    low, high = min(values), max(values)
    room = pad * (high - low or max(abs(high), 1.0))
    return [low - room, high + room]


def _spoken(cost: str) -> str:
    return {"ram": "RAM", "macs": "MACs", "bitops": "BitOPs", "avg_bits": "average bits"}.get(cost, cost)
