"""The picture of docs/supernet.md: what layers read and what gradients their weights get, by depth and rule of scaling.

    python -m benchmarks.scaling_figure FILE.html       from benchmarks/results/scaling.json
    chromium --headless --hide-scrollbars --window-size=1000,720 --screenshot=docs/scaling.png FILE.html

Means over the seeds that ended, logarithmic; the first epoch of the search solid, the last one dotted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.result import RESULTS
from bitsmith.files import read_json

COLORS = {"none": "#8a8f98", "mask": "#3d7ab8", "branch": "#c98a2b"}
PARTS = {"read": "what layers read", "gradient": "gradients of their weights"}


def main() -> None:
    """Write the page."""
    draw(read_json(RESULTS / "scaling.json", "python -m benchmarks.scaling makes it")["rows"]).write_html(
        Path(sys.argv[1]), include_plotlyjs=True, config={"displayModeBar": False}
    )


def draw(rows: Sequence[dict[str, Any]]) -> go.Figure:
    """Root mean squares by depth, one part above the other."""
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06, subplot_titles=list(PARTS.values())
    )
    for rule, color in COLORS.items():
        own = [row for row in rows if row["rule"] == rule and "diverged" not in row]
        for place, part in enumerate(PARTS, 1):
            for when, dash in (("first", "solid"), ("last", "dot")):
                if own:
                    curve = np.exp(np.mean([np.log(row[f"{part}_{when}"]) for row in own], 0))
                    figure.add_scatter(
                        x=own[0]["layers"], y=curve, name=f"{rule}, {when} epoch", showlegend=place == 1,
                        line={"color": color, "dash": dash}, row=place, col=1,
                    )  # fmt: skip
    figure.update_yaxes(type="log", dtick="D2", title="root mean square")
    figure.update_layout(template="plotly_white", height=700, margin={"t": 40, "r": 10})
    return figure


if __name__ == "__main__":
    main()
