"""The page: the record through one template, with plotly.js inside, so that it opens anywhere without network.

Three fences keep data from becoming code: jinja escapes every value, figures travel as JSON in which "<" can't occur,
and the page's own content security policy allows exactly its two scripts (by hash) and no connection at all.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from bitsmith.blueprint import FLOAT, UNITS, format_cost, spoken_cost
from bitsmith.files import whole_file
from bitsmith.report.accuracy import accuracy_figures, is_inside
from bitsmith.report.figures import curve_figure, layer_figure, sensitivity_figure
from bitsmith.report.front import front_cost, limited_costs, on_front
from bitsmith.report.latency import median_error
from bitsmith.report.parts import Verification
from bitsmith.report.plot import Figure, spoken_metric
from bitsmith.report.record import Record
from bitsmith.report.steps import steps_figure

# A hidden plot has no width, so each is drawn when it is shown first.
_DRAW = """
const draw = (figure) => {
  if (figure.dataset.drawn) return;
  figure.dataset.drawn = "yes";
  const plot = JSON.parse(figure.querySelector("script").textContent);
  Plotly.newPlot(figure.querySelector(".plot"), plot.data, plot.layout, {responsive: true, displayModeBar: false});
};
for (const choice of document.querySelectorAll("select")) {
  const panels = document.getElementById(choice.dataset.panels).children;
  const show = () => [...panels].forEach((panel, i) => {
    panel.hidden = i !== choice.selectedIndex;
    if (!panel.hidden) panel.querySelectorAll("figure[data-plot]").forEach(draw);
  });
  choice.parentElement.hidden = false;
  choice.addEventListener("change", show);
  show();
}
for (const figure of document.querySelectorAll("figure[data-plot]")) if (!figure.closest("[hidden]")) draw(figure);
"""


def write_report(record: Record, folder: Path) -> Path:
    """Write report.json and report.html into a folder, made where it's missing; returns the path of the page.

    Both are written under temporary names and renamed, so that a reader never meets half a file.

    Raises:
        RunError: a field of the record is of the wrong kind or out of range; nothing is written.
    """
    write_pages({"report.json": record.to_json(), "report.html": render(record)}, Path(folder))
    return Path(folder) / "report.html"


def write_pages(texts: Mapping[str, str], folder: Path) -> None:
    """Write files that belong together under temporary names, then rename all."""
    with ExitStack() as files_to_be:
        for name, text in texts.items():
            partial = files_to_be.enter_context(whole_file(folder / name))
            partial.write_text(text, encoding="utf-8", newline="\n")


def render(record: Record) -> str:
    """The whole page as HTML."""
    titles = {row.folder: row.title for row in record.rows}
    costs = _costs([row.costs for row in record.rows])
    fronted = front_cost(record.rows) if costs else ""
    shown = [row.folder for row in record.rows if record.layers.get(row.folder)]
    return fill(
        "page.html",
        record=record,
        metric=spoken_metric(record.metric),
        accuracy=accuracy_figures(record),
        networks=[(titles[folder], record.layers[folder], _layer_figures(record, folder)) for folder in shown],
        first=next((i for i, folder in enumerate(shown) if folder in record.chosen), 0),
        explanations=[
            (titles[folder], explained, steps_figure(explained, titles[folder]))
            for folder, explained in record.explained.items()
        ],
        curves=[curve_figure(curve) for curve in record.curves],
        titles=titles,
        limited=limited_costs(record.rows),
        costs=costs,
        shares=_costs([layer.shares for layers in record.layers.values() for layer in layers]),
        front_cost=spoken_cost(fronted),
        front=on_front(record.rows, fronted) if fronted else [],
        inside=is_inside,
        median_error=median_error(record.latencies),
    )


def fill(template: str, **values: object) -> str:
    """A template of this room with its values; scripts, their hashes and the style are added."""
    environment = Environment(
        loader=FunctionLoader(_part),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "cost": _cost, "bits": _bits, "duration": _duration, "plain": _plain}
    environment.filters |= {"equal": _equal, "change": _change}
    plotly = get_plotlyjs()
    style = Markup(_part("style.css"))  # nosec B704
    return environment.get_template(template).render(
        **values,
        style=style,
        plotly=_script(plotly),
        draw=_script(_DRAW),
        hashes=" ".join(_hash(script) for script in (plotly, _DRAW)),
    )


def _part(name: str) -> str:
    return files("bitsmith.report").joinpath(name).read_text(encoding="utf-8")


def _layer_figures(record: Record, folder: str) -> list[Figure]:
    title = next(row.title for row in record.rows if row.folder == folder)
    measured = record.sensitivities.get(folder)
    figures = [layer_figure(record.layers[folder], title), sensitivity_figure(measured) if measured else None]
    return [figure for figure in figures if figure is not None]


def _script(text: str) -> Markup:
    assert "</script" not in text.lower(), "would end early"
    assert "\r" not in text, "a browser would hash another text"
    # plotly's and our own scripts, never a name of the user's
    return Markup(text)  # nosec B704


def _hash(script: str) -> Markup:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # base64
    return Markup(f"'sha256-{digest}'")  # nosec B704


def _costs(dicts: Sequence[dict[str, float]]) -> list[str]:
    return [cost for cost in UNITS if any(cost in values for values in dicts)]


def _percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _cost(value: float | None, cost: str) -> str:
    return "–" if value is None else format_cost(cost, value)


def _change(value: float, cost: str) -> str:
    return f"{'+' if value > 0 else ''}{format_cost(cost, value)}" if value else "0"


def _bits(value: float) -> str:
    return "float" if value == FLOAT else f"{value:.3g}"


def _plain(value: str | int | float) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _equal(check: Verification) -> str:
    """How many outputs equal the reference: in few words where all do at every level."""
    if not check.images:
        return "none: it didn't run"
    if all(count == check.images for count in check.equal_outputs.values()):
        return f"all, at {', '.join(check.equal_outputs)}"
    return "; ".join(f"{level}: {count:,}" for level, count in check.equal_outputs.items())


def _duration(seconds: float) -> str:
    """1.5 -> "1.5 s", 80 -> "1 min 20 s", 4000 -> "1 h 7 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"
