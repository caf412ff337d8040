import math
import re
from dataclasses import replace

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.errors import RunError
from bitsmith.report import Curve
from bitsmith.report.accuracy import FIXED, accuracy_figures
from bitsmith.report.figures import curve_figure, layer_figure, sensitivity_figure
from bitsmith.report.plot import shorten, shorten_all, span, span_percent

CHOSEN = "composite-size=20kB"
NASTY = '<b>x</b><a href="javascript:alert(1)">%{y}</a> & "q"'
ESCAPED = '&lt;b&gt;x&lt;/b&gt;&lt;a href="javascript:alert(1)"&gt;%{y}&lt;/a&gt; &amp; "q"'


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def traces(figure):
    return {trace["name"]: trace for trace in figure.plot["data"]}


def test_accuracy_points_lie_where_the_rows_say(record):
    (figure,) = accuracy_figures(record())
    points = traces(figure)
    found = points["composite"]
    assert (found["x"], found["y"]) == ([19_900.0], [pytest.approx(91.2)])
    assert found["error_y"]["array"] == [pytest.approx(196 * math.sqrt(0.912 * 0.088 / 10_000))]
    low, high = figure.plot["layout"]["yaxis"]["range"]
    assert low < 89.7 - 196 * math.sqrt(0.897 * 0.103 / 10_000)  # the lowest bar fits in
    assert high > 92.54 + 196 * math.sqrt(0.9254 * 0.0746 / 10_000)
    points.pop("front")
    symbols = {x: symbol for p in points.values() for x, symbol in zip(p["x"], p["marker"]["symbol"], strict=False)}
    assert {x: symbols[x] for x in (80_400.0, 19_850.0, 19_990.0, 18_100.0, 19_900.0)} == {
        80_400.0: "circle-open", 19_850.0: "circle", 19_990.0: "circle", 18_100.0: "circle", 19_900.0: "circle",
    }  # fmt: skip
    assert 310_000.0 not in symbols
    assert [key.text for key in figure.keys if key.mark == "dot"] == [
        FIXED, "uniform 2", "uniform+fill", "random", "composite",
    ]  # fmt: skip
    lines = figure.plot["layout"]["shapes"]
    assert [line["y0"] for line in lines if line["line"].get("dash")] == [pytest.approx(93.02)]
    assert [line["x0"] for line in lines if not line["line"].get("dash")] == [20_000.0]


def test_the_budgets_label_stands_at_its_line_on_both_kinds_of_axis(record, row):
    (wide,) = accuracy_figures(record())
    (narrow,) = accuracy_figures(record(rows=[row(), row("random", "baseline", 0.9, 15_000.0)]))
    where = {
        figure.plot["layout"]["xaxis"].get("type", "linear"): next(
            note["x"] for note in figure.plot["layout"]["annotations"] if note["text"] == "20 kB"
        )
        for figure in (wide, narrow)
    }
    assert where == {"log": pytest.approx(math.log10(20_000)), "linear": 20_000.0}
    axis = wide.plot["layout"]["xaxis"]
    named = dict(zip(axis["ticktext"], axis["tickvals"], strict=True))
    assert named == pytest.approx({"15 kB": 1.5e4, "20 kB": 2e4, "30 kB": 3e4, "50 kB": 5e4, "70 kB": 7e4})
    low, high = axis["range"]
    assert low < math.log10(18_100) < math.log10(80_400) < high


def test_one_figure_a_budgeted_cost_and_one_color_a_network(record, row):
    meets = {"size=20kB": True, "size=10kB": False, "bitops=200M": True}
    rows = [row(seed=seed, test=0.9 + seed / 100, meets=meets) for seed in range(3)]
    figures = accuracy_figures(record(rows=rows))
    assert [figure.title for figure in figures] == ["Accuracy against size", "Accuracy against BitOPs"]
    front, found = figures[0].plot["data"]
    assert found["marker"]["symbol"] == ["circle"] * 3  # size=10kB is not what they were made for
    assert (front["x"][:1], front["y"][:1]) == ([19_900.0], [pytest.approx(92)])  # the best of equal sizes
    assert sorted(shape["x0"] for shape in figures[0].plot["layout"]["shapes"]) == [10_000.0, 20_000.0]


def test_a_front_is_a_line_per_method_and_a_staircase_of_the_best(record, row):
    rows = []
    for size, ours, theirs in ((10, 0.85, 0.86), (15, 0.88, 0.84), (20, 0.91, 0.90)):
        for name, kind, test in (("composite", "found", ours), ("uniform", "baseline", theirs)):
            costs = {"size": 1000.0 * size if kind == "found" else 990.0 * size}
            text = f"size={size}kB"
            rows.append(row(name, kind, test, budget=text, meets={text: True}, costs=costs))
    (figure,) = accuracy_figures(record(rows=rows[::-1]))
    lines = {trace["name"]: trace for trace in figure.plot["data"] if trace["mode"] == "lines"}
    assert lines["composite"]["x"] == [10_000.0, 15_000.0, 20_000.0]
    assert lines["composite"]["y"] == pytest.approx([85, 88, 91])
    assert lines["uniform"]["y"] == pytest.approx([86, 84, 90])
    (front,) = [trace for trace in figure.plot["data"] if trace["name"] == "front"]
    assert front["x"][:-1] == [9_900.0, 15_000.0, 19_800.0, 20_000.0]
    assert front["y"][:-1] == pytest.approx([86, 88, 90, 91])
    assert front["marker"]["size"] == [20] * 4 + [0]
    hovered = [words for trace in figure.plot["data"] for words in trace.get("customdata", [])]
    assert {words[0] for words in hovered if "on the front" in words[3]} == {
        "uniform at size=10kB", "composite at size=15kB", "uniform at size=20kB", "composite at size=20kB",
    }  # fmt: skip


def test_another_metric_is_named_and_has_no_sampling_error(record, row):
    rows = [row(metric="f1"), row("w8a8", "baseline", budget="", metric="f1", trained=False)]
    (figure,) = accuracy_figures(record(rows=rows))
    assert figure.title == "F1 against size"
    assert figure.plot["layout"]["yaxis"]["title"]["text"] == "F1, test, %"
    points = traces(figure)
    assert points["composite"]["customdata"][0][1] == "F1 91.20 %"
    assert "not trained" in points[FIXED]["customdata"][0][3]
    assert "sampling error" not in figure.caption


def test_without_a_known_test_set_there_are_no_error_bars(record):
    (figure,) = accuracy_figures(record(data={"name": "cifar10"}))
    assert {trace["error_y"]["visible"] for trace in figure.plot["data"] if "error_y" in trace} == {False}
    assert "sampling error" not in figure.caption


def test_rows_without_a_test_are_left_out(record, row):
    assert accuracy_figures(record(rows=[row(test=None)])) == []


def test_layer_bars_are_the_bits_and_shares(record):
    layers = record().layers[CHOSEN]
    bars = traces(layer_figure(layers, "composite"))
    assert bars["weight bits"]["y"] == [layer.weight_bits for layer in layers]
    assert bars["activation bits"]["y"] == [8] * 10
    assert bars["share of size"]["y"] == pytest.approx([100 * layer.shares["size"] for layer in layers])
    assert bars["share of BitOPs"]["y"] == pytest.approx([100 * layer.shares["bitops"] for layer in layers])
    assert {bar["yaxis"] for bar in bars.values()} == {"y", "y2"}


def test_a_float_layer_is_called_float_and_does_not_dwarf_the_rest(record):
    layers = [
        replace(record().layers[CHOSEN][0], weight_bits=32, shares={}),
        *[replace(x, shares={}) for x in record().layers[CHOSEN][1:]],
    ]
    figure = layer_figure(layers, "composite")
    weights = traces(figure)["weight bits"]
    assert (weights["text"][0], weights["y"][0]) == ("float", 9)
    assert figure.plot["layout"]["yaxis"]["range"][1] > 9
    assert "xaxis2" not in figure.plot["layout"]


def test_long_names_are_cut_in_the_middle_but_whole_on_hover(record):
    name = "features.denseblock3.denselayer17.conv2"
    figure = layer_figure([replace(record().layers[CHOSEN][0], name=name)], "x")
    assert figure.plot["layout"]["xaxis2"]["ticktext"] == ["features.d…er17.conv2"]
    assert traces(figure)["weight bits"]["customdata"][0][0] == name


@pytest.mark.parametrize("figure", ["layers", "curve"])
def test_two_names_never_become_the_same(record, figure):
    names = [f"stage{s}.block{b}.depthwise.pointwise" for s in (1, 2) for b in (1, 2, 3)]
    if figure == "layers":
        layers = [replace(record().layers[CHOSEN][0], name=name) for name in names]
        ticks = layer_figure(layers, "x").plot["layout"]["xaxis2"]["ticktext"]
    else:
        curve = Curve(name="c", x_label="layer", x=[float(i) for i in range(6)], series={"a": [1.0] * 6}, ticks=names)
        ticks = curve_figure(curve).plot["layout"]["xaxis"]["ticktext"]
    assert len(set(ticks)) == len(names)
    assert all(len(tick) < len(name) for tick, name in zip(ticks, names, strict=True))


@given(st.lists(st.text("ab.1", min_size=1, max_size=40), max_size=8))
def test_names_are_cut_only_as_far_as_they_stay_different(names):
    assert len(set(shorten_all(names))) == len(set(names))
    if len(set(map(shorten, names))) == len(set(names)):
        assert shorten_all(names) == [shorten(name) for name in names]


def test_no_accuracy_is_above_100_percent(record, row):
    made = record(rows=[row(test=1.0), row("uniform", "baseline", 0.97)], requested=[], chosen=[], layers={})
    (figure,) = accuracy_figures(
        replace(made, sensitivities={}, explained={}, verification=[], latencies=[], speeds=[])
    )
    low, high = figure.plot["layout"]["yaxis"]["range"]
    assert low < 97
    assert 100 < high <= 100.5  # no room for a tick at 101
    assert span_percent([0.0, 50.0])[0] == -0.5
    assert span_percent([90.0, 92.0]) == span([90.0, 92.0], 0.1)


def test_many_layers_scroll_instead_of_shrinking(record):
    assert (
        layer_figure(record().layers[CHOSEN] * 6, "x").least_width
        > 1500
        > 400
        > layer_figure(record().layers[CHOSEN], "x").least_width
    )


def test_sensitivities_are_losses_above_the_highest_bits_beside_their_noise(record):
    measured = record().sensitivities[CHOSEN]
    figure = sensitivity_figure(measured)
    points = traces(figure)
    assert list(points) == ["weights at 1 bit", "weights at 2 bits"]
    assert points["weights at 1 bit"]["y"] == pytest.approx([0.2 / i for i in range(1, 9)])
    assert points["weights at 2 bits"]["y"] == pytest.approx([0.05 / i for i in range(1, 9)])
    (band,) = figure.plot["layout"]["shapes"]
    assert (band["y0"], band["y1"]) == (-0.008, 0.008)
    assert "5 of 16 steps" in figure.caption
    unknown = sensitivity_figure(replace(measured, within=None, standard_error=None))
    assert "shapes" not in unknown.plot["layout"]
    assert "unknown" in unknown.caption


def test_curves_hold_series_gaps_and_limits():
    curve = Curve(name="c", x_label="step", x=[1.0, 2.0, 3.0], series={"a": [1.0, None, 3.0]}, limits={"cap": 2.5})
    lines = traces(curve_figure(curve))
    assert lines["a"]["y"] == [1.0, None, 3.0]
    assert (lines["cap"]["x"], lines["cap"]["y"]) == ([1.0, 3.0], [2.5, 2.5])
    assert lines["cap"]["line"]["dash"] == "dash"
    empty = curve_figure(Curve(name="c", x_label="step", x=[], series={"a": []}))
    assert traces(empty)["a"].get("y", []) == []


def test_a_curve_over_layers():
    layers = ["stem", "stage1.block1.depthwise"]
    curve = Curve(name="c", x_label="layer", x=[1.0, 2.0], series={"a": [1.0, None]}, ticks=layers, logarithmic=True)
    layout = curve_figure(curve).plot["layout"]
    assert layout["xaxis"]["ticktext"] == ["stem", shorten(layers[1])]
    assert layout["xaxis"]["tickvals"] == [1.0, 2.0]
    assert layout["yaxis"]["type"] == "log"
    with pytest.raises(RunError, match="1 ticks for 2 of x"):
        Curve(name="c", x_label="layer", x=[1.0, 2.0], series={}, ticks=["stem"])


def test_no_name_reaches_plotly_as_markup_or_template(record, row):
    rows = [row(NASTY, kind, metric=NASTY, folder=kind) for kind in ("baseline", "found", "float")]
    measured = record().sensitivities[CHOSEN]
    layers = [replace(layer, name=NASTY) for layer in record().layers[CHOSEN]]
    curve = Curve(name=NASTY, x_label=NASTY, x=[1.0], series={NASTY: [1.0]}, limits={NASTY: 1.0})
    figures = [
        *accuracy_figures(record(rows=rows)),
        layer_figure(layers, NASTY),
        sensitivity_figure(replace(measured, decisions=[replace(it, layer=NASTY) for it in measured.decisions])),
        curve_figure(curve),
    ]
    seen = set()
    for figure in figures:
        go.Figure(figure.plot)  # plotly accepts what we wrote
        templates = {trace.get("hovertemplate") for trace in figure.plot["data"]}
        for text in strings(figure.plot):
            bare = re.sub("<(br|b|/b|extra|/extra)>", "", text) if text in templates else text
            assert "<" not in bare, text
            seen.add(text.strip())
        for trace in figure.plot["data"]:
            assert "javascript" not in trace.get("hovertemplate", "")
    assert ESCAPED in seen
