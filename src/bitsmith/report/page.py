"""The page: the record through one template, with plotly.js inside, so that it opens anywhere without network.

Three fences keep data from becoming code: jinja escapes every value, figures travel as JSON in which "<" can't occur,
and the page's own content security policy allows exactly its two scripts (by hash) and no connection at all.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from bitsmith.blueprint import FLOAT, UNITS, Budget, format_cost
from bitsmith.report.figures import accuracy_figures, curve_figure, layer_figure
from bitsmith.report.record import Record, Row

_DRAW = """
for (const figure of document.querySelectorAll("figure[data-plot]")) {
  const plot = JSON.parse(figure.querySelector("script").textContent);
  Plotly.newPlot(figure.querySelector(".plot"), plot.data, plot.layout, {responsive: true, displayModeBar: false});
}
"""


def write_report(record: Record, folder: Path) -> Path:
    """Write report.json and report.html into a folder, made where it's missing; returns the path of the page.

    Both are written under temporary names and renamed, so that a reader never meets half a file.

    Raises:
        RunError: a field of the record is of the wrong kind or out of range; nothing is written.
    """
    folder = Path(folder)
    texts = {"report.json": record.to_json(), "report.html": render(record)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f".{name}.part").write_text(text, encoding="utf-8", newline="\n")
    for name in texts:
        os.replace(folder / f".{name}.part", folder / name)
    return folder / "report.html"


def render(record: Record) -> str:
    """The whole page as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": _percent, "cost": _cost, "bits": _bits, "duration": _duration, "plain": _plain}
    template = environment.from_string(files("bitsmith.report").joinpath("page.html").read_text(encoding="utf-8"))
    plotly = get_plotlyjs()
    budgets = list(dict.fromkeys(text for row in record.rows for text in row.meets))
    return template.render(
        record=record,
        accuracy=accuracy_figures(record),
        layers=layer_figure(record.layers, record.chosen or record.title),
        curves=[curve_figure(curve) for curve in record.curves],
        budgets=budgets,
        limited=[cost for cost in UNITS if any(Budget.parse(text).cost == cost for text in budgets)],
        costs=_costs([row.costs for row in record.rows]),
        shares=_costs([layer.shares for layer in record.layers]),
        chosen=lambda row: _is_chosen(row, record.chosen),
        plotly=_script(plotly),
        draw=_script(_DRAW),
        hashes=" ".join(_hash(script) for script in (plotly, _DRAW)),
    )


def _script(text: str) -> Markup:
    assert "</script" not in text.lower(), "would end early"
    assert "\r" not in text, "a browser would hash another text"
    return Markup(text)


def _hash(script: str) -> Markup:
    return Markup(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'")


def _costs(dicts: Sequence[dict[str, float]]) -> list[str]:
    return [cost for cost in UNITS if any(cost in values for values in dicts)]


def _is_chosen(row: Row, chosen: str) -> bool:
    return bool(chosen) and row.name == chosen


def _percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _cost(value: float | None, cost: str) -> str:
    return "–" if value is None else format_cost(cost, value)


def _bits(value: int) -> str:
    return "float" if value == FLOAT else str(value)


def _plain(value: str | int | float) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _duration(seconds: float) -> str:
    """1.5 -> "1.5 s", 80 -> "1 min 20 s", 4000 -> "1 h 7 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"
