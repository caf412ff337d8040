"""A latent space of networks on a page: its measures, and its networks on a plane, colored by what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from bitsmith.blueprint import format_cost, spoken_cost
from bitsmith.report.page import fill, write_pages
from bitsmith.report.plot import Figure, escape, finish, span


@dataclass(frozen=True, kw_only=True)
class LatentSpace:
    """What the page of a latent space shows.

    Args:
        title: of the page.
        points: of each network on the plane of two principal components of the codes.
        share: of the variance of the codes that lies in that plane.
        names: of each network, its layers in words.
        costs: cost -> its value for each network; a figure each, in this order.
        accuracies: of each network in 0..1, None where it wasn't trained; or () for no such figure.
        measures: name -> number or text, in the order shown.
        command: that made it.
        environment: versions and machine.
    """

    title: str
    points: Sequence[tuple[float, float]]
    share: float
    names: Sequence[str]
    costs: Mapping[str, Sequence[float]]
    measures: Mapping[str, str | int | float]
    accuracies: Sequence[float | None] = ()
    command: str = ""
    environment: Mapping[str, str | int | float]

    def figures(self) -> list[Figure]:
        """The plane, once for each cost, and for the accuracies where there are any."""
        found = []
        for cost, values in self.costs.items():
            texts = [format_cost(cost, value) for value in values]
            what = spoken_cost(cost)
            ends = f"{format_cost(cost, min(values))} (dark) to {format_cost(cost, max(values))} (bright)"
            found.append(self._plane(what, f"{what} from {ends}", np.log(values).tolist(), texts, range(len(values))))
        known = [i for i, value in enumerate(self.accuracies) if value is not None]
        if known:
            values = [float(self.accuracies[i] or 0.0) for i in known]
            ends = f"{100 * min(values):.1f} % (dark) to {100 * max(values):.1f} % (bright)"
            texts = [f"{100 * value:.2f} %" for value in values]
            found.append(self._plane("accuracy", f"accuracy from {ends}", values, texts, known))
        return found

    def _plane(
        self, what: str, scale: str, colors: Sequence[float], texts: Sequence[str], places: Sequence[int]
    ) -> Figure:
        x, y = ([self.points[i][axis] for i in places] for axis in (0, 1))
        figure = go.Figure(
            go.Scatter(
                x=x,
                y=y,
                mode="markers",
                marker={"color": list(colors), "colorscale": "Viridis", "size": 5},
                customdata=[[escape(self.names[i]), escape(text)] for i, text in zip(places, texts, strict=True)],
                hovertemplate="%{customdata[1]}<br>%{customdata[0]}<extra></extra>",
            )
        )
        axes = {
            "xaxis": {"title": {"text": "first component"}, "range": span(x, 0.05)},
            "yaxis": {"title": {"text": "second component"}, "range": span(y, 0.05)},
        }
        counted = f"{len(places):,} networks" if len(places) > 1 else "one network"
        return Figure(
            title=f"The space by {what}",
            caption=f"Codes of {counted} on their two principal components ({100 * self.share:.0f} % of the variance); "
            f"{scale}, logarithmic."
            if what != "accuracy"
            else f"Codes of {counted}, as above; {scale}.",
            keys=(),
            plot=finish(figure, axes, height=420),
            height=420,
        )


def write_latent_space(space: LatentSpace, folder: Path) -> Path:
    """Write latent.html into a folder; returns its path."""
    write_pages({"latent.html": render_latent_space(space)}, folder)
    return folder / "latent.html"


def render_latent_space(space: LatentSpace) -> str:
    """The whole page as HTML."""
    return fill("latent.html", space=space, figures=space.figures())
