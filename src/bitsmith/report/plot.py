"""What all plots share: plain plotly JSON, escaped texts, colors, spans.

Plotly reads a subset of HTML in every text it draws, and %{...} in hover templates. So each string of the record goes
through `escape` first, and names reach hover templates as data, never as part of the template. Text and grid colors
are left to the page's style sheet, which knows about light, dark and print; so are the legends, which wrap there.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from statistics import mean
from typing import Any, Literal

import plotly.graph_objects as go

from bitsmith.blueprint import format_cost

FOUND, LIMIT, GRAY = "#d2691e", "#c0392b", "#8a8f98"
COLORS = ["#3d7ab8", "#c98a2b", "#4f9a6b", "#a05fa5", "#c75d5d", "#2a9d9d", "#8a8f98", "#7d6b3f"]
Mark = Literal["bar", "dot", "ring", "solid", "dash", "dotted"]
DASHES: list[tuple[str, Mark]] = [("solid", "solid"), ("dash", "dash"), ("dot", "dotted")]  # plotly's name, ours
_LONGEST_NAME = 22  # characters of a layer's name under its bars; hovering shows all of it


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """One entry of a plot's legend; `mark` is how it is drawn."""

    text: str
    color: str
    mark: Mark


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One plot.

    Args:
        title: plain text, shown above it.
        caption: plain text, shown beneath it and read out in its place; can be empty.
        keys: its legend.
        plot: {"data": ..., "layout": ...}, all strings escaped for plotly.
        height: pixels.
        least_width: pixels; on a narrower screen the plot scrolls sideways.
    """

    title: str
    caption: str
    keys: tuple[Key, ...]
    plot: dict[str, Any]
    height: int
    least_width: int = 0


def finish(figure: go.Figure, axes: Mapping[str, Mapping[str, Any]], *, height: int) -> dict[str, Any]:
    """The layout that all plots share; returns plain JSON values."""
    clear = "rgba(0,0,0,0)"
    figure.update_layout(
        template=go.layout.Template(),
        height=height,
        margin={"l": 64, "r": 16, "t": 12, "b": 44},
        paper_bgcolor=clear,
        plot_bgcolor=clear,
        font={"family": "system-ui, sans-serif", "size": 13},
        showlegend=False,
        dragmode=False,  # a finger on the plot scrolls the page
        bargap=0.25,
        hoverlabel={
            "bgcolor": "#26292e",
            "bordercolor": "#26292e",
            "font": {"color": "#f2f2f2"},
            "align": "left",
            "namelength": -1,
        },
    )
    figure.update_xaxes(zeroline=False, showline=True, automargin=True, fixedrange=True)
    # No automatic margin: on narrow plots it goes back and forth with the number of ticks, until plotly gives up.
    figure.update_yaxes(zeroline=False, showline=False, automargin=False, fixedrange=True)
    figure.update_layout({name: dict(settings) for name, settings in axes.items()})
    plot = json.loads(str(figure.to_json()))
    return {"data": plot["data"], "layout": plot["layout"]}


def escape(value: str) -> str:
    """Escaped for plotly, which knows &amp; &lt; &gt; but not &quot;, and opens no attribute outside a tag."""
    return html.escape(value, quote=False)


def shorten(name: str, longest: int = _LONGEST_NAME) -> str:
    """Cut in the middle, where names of layers and networks differ least.

    Example:
        >>> shorten("features.denseblock3.denselayer17.conv2")
        'features.d…er17.conv2'
    """
    if len(name) <= longest:
        return name
    half = (longest - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def shorten_all(names: Sequence[str]) -> list[str]:
    """Names cut as far as they stay different.

    Example:
        >>> shorten_all(["stage1.block1.depthwise", "stage1.block2.depthwise"])
        ['stage1.block1.depthwise', 'stage1.block2.depthwise']
    """
    cuts = ([shorten(name, longest) for name in names] for longest in count(_LONGEST_NAME))
    return next(texts for texts in cuts if len(set(texts)) == len(set(names)))


def span(values: Sequence[float], pad: float) -> list[float]:
    """The range of an axis: all values and some room."""
    low, high = min(values), max(values)
    room = pad * (high - low or max(abs(high), 1.0))
    return [low - room, high + room]


def span_percent(values: Sequence[float]) -> list[float]:
    """The range of an axis of shares in percent: as `span`, but without ticks below 0 and above 100.

    Example:
        >>> span_percent([100.0])
        [90.0, 100.5]
    """
    low, high = span([min(max(value, 0.0), 100.0) for value in values], 0.1)
    return [max(low, -0.5), min(high, 100.5)]


def spoken_metric(metric: str) -> str:
    """A metric as it is written in a sentence.

    Example:
        >>> spoken_metric("f1"), spoken_metric("balanced_accuracy"), spoken_metric("my_score")
        ('F1', 'balanced accuracy', 'my_score')
    """
    known = {"f1": "F1", "auc": "AUC", "balanced_accuracy": "balanced accuracy"}
    return known.get(metric, metric)


def draw_references(
    figure: go.Figure, floats: Sequence[float], cost: str, limits: Iterable[float], *, logarithmic: bool = False
) -> list[Key]:
    """Draw what networks are measured by: the float network's mean score in percent, and the budgets on a cost.

    Returns:
        Their entries in the legend.
    """
    keys = []
    if floats:
        figure.add_hline(
            y=mean(floats),
            line={"dash": "dash", "width": 1.5, "color": GRAY},
            annotation={"text": f"float {mean(floats):.2f} %", "showarrow": False, "xshift": -4},
            annotation_position="top right",
            layer="below",
        )
        keys.append(Key(text="float", color=GRAY, mark="dash"))
    for i, limit in enumerate(sorted(limits)):
        figure.add_vline(x=limit, line={"width": 1.5, "color": LIMIT}, layer="below")
        figure.add_annotation(
            x=math.log10(limit) if logarithmic else limit,  # unlike shapes, annotations take the exponent
            y=0, yref="paper", yanchor="bottom", xanchor="left", yshift=2 + 16 * (i % 3), showarrow=False,
            text=format_cost(cost, limit),
        )  # fmt: skip
    return [*keys, Key(text="budget", color=LIMIT, mark="solid")]
