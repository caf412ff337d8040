"""The map of a grid of widths: how well networks do whose groups of layers have a share of their channels each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bitsmith.blueprint import Budget, format_cost, spoken_cost, unit_of
from bitsmith.errors import RunError
from bitsmith.report.page import fill, write_pages
from bitsmith.report.plot import COLORS, FOUND, Figure, Key, escape, finish, span, span_percent, spoken_metric

_DEFAULT = "macs"


@dataclass(frozen=True, kw_only=True, slots=True)
class MapPoint:
    """One network of a grid.

    Args:
        shares: of the channels, group by group.
        score: of validation data, 0..1.
        costs: in the units of budgets.
    """

    shares: list[float]
    score: float
    loss: float
    seconds: float
    costs: dict[str, float]

    @property
    def homogeneous(self) -> bool:
        """Whether all groups have the same share."""
        return len(set(self.shares)) == 1


@dataclass(frozen=True, kw_only=True)
class WidthMap:
    """A grid of widths, every network trained.

    Args:
        created: ISO 8601.
        images: that scores are of.
        groups: what each is called.
        budgets: the sets of them, each as text ("macs=60k, ram=4kB"); points inside none are marked.
        points: every choice of shares, the first group changing slowest.

    Raises:
        RunError: not one point for each choice, or a budget on a cost that points don't have.
    """

    title: str
    created: str
    metric: str
    images: int
    groups: list[str]
    shares: list[float]
    budgets: list[str]
    points: list[MapPoint]
    facts: dict[str, str | int]
    environment: dict[str, str]
    command: str

    def __post_init__(self) -> None:
        if len(self.points) != len(self.shares) ** len(self.groups):
            raise RunError(
                f"a grid of {len(self.shares)} widths over {len(self.groups)} groups has "
                f"{len(self.shares) ** len(self.groups)} networks, got {len(self.points)}"
            )

        unknown = {budget.cost for budget in self.limits()} - set(self.points[0].costs)
        if unknown:
            raise RunError(f"the map has budgets on {', '.join(sorted(unknown))}, which its networks have no values of")

    def limits(self) -> list[Budget]:
        """Every single budget of all sets."""
        return [
            Budget.parse(part) for part in dict.fromkeys(part for line in self.budgets for part in line.split(", "))
        ]

    @property
    def cost(self) -> str:
        """What networks are compared by: the first budget's cost that grows with networks, else MACs."""
        return next((budget.cost for budget in self.limits() if budget.cost != "avg_bits"), _DEFAULT)

    def scores(self) -> np.ndarray:
        """The scores, an axis for each group."""
        return np.array([point.score for point in self.points]).reshape([len(self.shares)] * len(self.groups))

    def met(self, point: MapPoint) -> list[str]:
        """The sets of budgets that a network is inside."""
        lines = ((line, map(Budget.parse, line.split(", "))) for line in self.budgets)
        return [line for line, budgets in lines if all(point.costs[b.cost] <= b.limit for b in budgets)]

    def inside(self, point: MapPoint) -> bool:
        """Whether a network is inside any set of budgets, or there is none."""
        return not self.budgets or bool(self.met(point))

    def above(self) -> list[MapPoint]:
        """Networks of different shares that score above homogeneous ones of their cost, best first.

        Between two homogeneous networks the score is taken as linear in the cost.
        """
        line = sorted((p.costs[self.cost], p.score) for p in self.points if p.homogeneous)
        costs, scores = zip(*line, strict=True)
        gains = [
            (point.score - float(np.interp(point.costs[self.cost], costs, scores)), point)
            for point in self.points
            if not point.homogeneous
        ]
        return [point for gain, point in sorted(gains, key=lambda pair: -pair[0]) if gain > 0]

    def verdict(self) -> str:
        """How many networks of different shares pay, and how far that can be told."""
        mixed = sum(not point.homogeneous for point in self.points)
        if not mixed:
            return "One group: all networks are homogeneous."
        error = ""
        if self.metric == "accuracy":
            error = f" (one score's standard error is up to {100 * np.sqrt(0.25 / max(1, self.images)):.2g} points)"
        return (
            f"{len(self.above())} of {mixed} networks whose groups differ in width score above homogeneous ones of "
            f"their {spoken_cost(self.cost)}; by one seed and {self.images:,} images{error}, so single points "
            "mean little."
        )


def write_width_map(found: WidthMap, folder: Path) -> Path:
    """Write widths.json and widths.html into a folder; returns the path of the page."""
    text = json.dumps(asdict(found) | {"verdict": found.verdict()}, indent=1)
    page = fill(
        "widths.html",
        found=found,
        metric=spoken_metric(found.metric),
        figures=[*map_figures(found), cost_figure(found)],
        costs=list(found.points[0].costs),
        above=found.above(),
        ranked=sorted(found.points, key=lambda point: (-point.score, point.loss)),
    )
    write_pages({"widths.json": text + "\n", "widths.html": page}, folder)
    return folder / "widths.html"


def map_figures(found: WidthMap) -> list[Figure]:
    """A heat map for each pair of groups, one beside the other for each share of the third; of one group a row."""
    if len(found.groups) == 1:
        return [_heat(found, found.scores()[None], found.groups[0], "", [""], [_by_share(found)])]
    figures = []
    for low, high in combinations(range(len(found.groups)), 2):
        others = [d for d in range(len(found.groups)) if d not in (low, high)]
        panels = [f"{found.groups[others[0]]}: {share:g}" for share in found.shares] if others else [""]
        order = [*others, high, low]
        index = np.arange(len(found.points)).reshape(found.scores().shape).transpose(order)
        index = index.reshape(len(panels), len(found.shares), len(found.shares))
        points = [[[found.points[i] for i in row] for row in panel] for panel in index.tolist()]
        scores = np.array([[[point.score for point in row] for row in panel] for panel in points])
        figures.append(_heat(found, scores, found.groups[low], found.groups[high], panels, points))
    return figures


def _by_share(found: WidthMap) -> list[list[MapPoint]]:
    return [found.points]


def _heat(
    found: WidthMap,
    scores: np.ndarray,
    x_name: str,
    y_name: str,
    panels: Sequence[str],
    points: Sequence[Sequence[Sequence[MapPoint]]],
) -> Figure:
    """Panels of scores [panels, rows, columns], each cell with its score and cost."""
    scores = scores.reshape(len(panels), -1, len(found.shares))
    shares = [f"{share:g}" for share in found.shares]
    figure = make_subplots(
        rows=1,
        cols=len(panels),
        shared_yaxes=True,
        horizontal_spacing=0.02,
        subplot_titles=[escape(panel) for panel in panels],
    )
    for column, panel in enumerate(points, start=1):
        figure.add_heatmap(
            x=shares,
            y=shares if y_name else [""],
            z=(100 * scores[column - 1]).tolist(),
            zmin=100 * float(scores.min()),
            zmax=100 * float(scores.max()),
            colorscale="Viridis",
            showscale=column == len(panels),
            colorbar={"title": {"text": "%"}, "thickness": 12},
            text=[[_cell(found, point) for point in row] for row in panel],
            texttemplate="%{text}",
            customdata=[[_hover(found, point) for point in row] for row in panel],
            hovertemplate="%{customdata}<extra></extra>",
            xgap=2,
            ygap=2,
            row=1,
            col=column,
        )
    axes = {
        f"xaxis{i if i > 1 else ''}": {"title": {"text": escape(x_name)}, "type": "category", "showgrid": False}
        for i in range(1, len(panels) + 1)
    }
    axes |= {f"yaxis{i if i > 1 else ''}": {"type": "category"} for i in range(1, len(panels) + 1)}
    axes["yaxis"] |= {"title": {"text": escape(y_name)}}
    height = 340 if y_name else 200
    plot = finish(figure, axes, height=height)
    plot["layout"]["margin"]["t"] = 36
    names, metric = f"{x_name} and {y_name}" if y_name else x_name, spoken_metric(found.metric)
    return Figure(
        title=f"{metric[:1].upper()}{metric[1:]} by the widths of {names}",
        caption=f"Shares of the channels that are left; in each cell the score of {found.images:,} validation images "
        f"in percent and the {spoken_cost(found.cost)}"
        + ("; in brackets: outside every set of budgets." if found.budgets else "."),
        keys=(),
        plot=plot,
        height=height,
        least_width=max(340, 250 * len(panels)),
    )


def cost_figure(found: WidthMap) -> Figure:
    """All networks by cost, the homogeneous ones joined by a line."""
    cost, figure = found.cost, go.Figure()
    own = sorted((p for p in found.points if p.homogeneous), key=lambda p: p.costs[cost])
    for name, points, color, mode in (
        ("groups differ in width", [p for p in found.points if not p.homogeneous], COLORS[0], "markers"),
        ("homogeneous", own, FOUND, "lines+markers"),
    ):
        figure.add_scatter(
            x=[p.costs[cost] for p in points],
            y=[100 * p.score for p in points],
            name=name,
            mode=mode,
            marker={"color": color, "size": 9},
            line={"color": color, "width": 1.5},
            customdata=[_hover(found, p) for p in points],
            hovertemplate="%{customdata}<extra></extra>",
        )
    for budget in found.limits():
        if budget.cost == cost:
            figure.add_vline(x=budget.limit, line={"width": 1, "dash": "dash"}, layer="below")
    x_axis = {
        "title": {"text": spoken_cost(cost)},
        "range": span([p.costs[cost] for p in found.points], 0.06),
        "tickformat": "~s",
        "ticksuffix": unit_of(cost),
    }
    metric = spoken_metric(found.metric)
    y_axis = {
        "title": {"text": escape(f"{metric}, validation, %")},
        "range": span_percent([100 * p.score for p in found.points]),
    }
    return Figure(
        title=f"{metric[:1].upper()}{metric[1:]} against {spoken_cost(cost)}",
        caption="Points above the line do better than homogeneous networks of their cost.",
        keys=(
            Key(text="groups differ in width", color=COLORS[0], mark="dot"),
            Key(text="homogeneous", color=FOUND, mark="solid"),
        ),
        plot=finish(figure, {"xaxis": x_axis, "yaxis": y_axis}, height=380),
        height=380,
    )


def _cell(found: WidthMap, point: MapPoint) -> str:
    text = f"{100 * point.score:.1f}<br>{format_cost(found.cost, point.costs[found.cost])}"
    return text if found.inside(point) else f"({text})"


def _hover(found: WidthMap, point: MapPoint) -> str:
    shares = [f"{escape(name)}: {share:g}" for name, share in zip(found.groups, point.shares, strict=True)]
    costs = [f"{spoken_cost(cost)} {format_cost(cost, value)}" for cost, value in point.costs.items()]
    inside = [f"inside {line}" for line in found.met(point)]
    return "<br>".join([f"<b>{100 * point.score:.2f} %</b>", *shares, *costs, *inside])
