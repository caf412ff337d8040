import math
from dataclasses import replace

import plotly.graph_objects as go
import pytest

from bitsmith.report import Curve
from bitsmith.report.figures import accuracy_figures, curve_figure, layer_figure

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
    found = points["found by search"]
    assert (found["x"], found["y"]) == ([19_900.0], [pytest.approx(91.2)])
    assert found["error_y"]["array"] == [pytest.approx(196 * math.sqrt(0.912 * 0.088 / 10_000))]
    low, high = figure.plot["layout"]["yaxis"]["range"]
    assert low < 89.7 - 196 * math.sqrt(0.897 * 0.103 / 10_000)  # the lowest bar fits in
    assert high > 92.54 + 196 * math.sqrt(0.9254 * 0.0746 / 10_000)
    baselines = points["baselines"]
    assert dict(zip(baselines["x"], baselines["marker"]["symbol"], strict=True)) == {
        80_400.0: "circle-open", 19_850.0: "circle", 19_990.0: "circle", 18_100.0: "circle",
    }  # fmt: skip
    assert 310_000.0 not in baselines["x"]
    lines = figure.plot["layout"]["shapes"]
    assert [line["y0"] for line in lines if line["line"].get("dash")] == [pytest.approx(93.02)]
    assert [line["x0"] for line in lines if not line["line"].get("dash")] == [20_000.0]


def test_the_budgets_label_stands_at_its_line_on_both_kinds_of_axis(record, row):
    (wide,) = accuracy_figures(record())
    (narrow,) = accuracy_figures(record(rows=[row(), row("random", "baseline", 0.9, 15_000.0)]))
    where = {
        figure.plot["layout"]["xaxis"].get("type", "linear"): next(
            note["x"] for note in figure.plot["layout"]["annotations"] if note["text"] == "budget 20 kB"
        )
        for figure in (wide, narrow)
    }
    assert where == {"log": pytest.approx(math.log10(20_000)), "linear": 20_000.0}
    axis = wide.plot["layout"]["xaxis"]
    named = dict(zip(axis["ticktext"], axis["tickvals"], strict=True))
    assert named == pytest.approx({"15 kB": 1.5e4, "20 kB": 2e4, "30 kB": 3e4, "50 kB": 5e4, "70 kB": 7e4})
    low, high = axis["range"]
    assert low < math.log10(18_100) < math.log10(80_400) < high


def test_one_figure_a_budgeted_cost_and_one_label_a_network(record, row):
    meets = {"size=20kB": True, "size=10kB": False, "bitops=200M": True}
    rows = [row(seed=seed, test=0.9 + seed / 100, meets=meets) for seed in range(3)]
    figures = accuracy_figures(record(rows=rows, requested=[]))
    assert [figure.title for figure in figures] == ["Accuracy against size", "Accuracy against BitOPs"]
    (found,) = figures[0].plot["data"]
    assert sorted(text.strip() for text in found["text"]) == ["", "", "composite"]
    assert found["marker"]["symbol"] == ["circle"] * 3  # size=10kB is not what they were made for
    assert sorted(shape["x0"] for shape in figures[0].plot["layout"]["shapes"]) == [10_000.0, 20_000.0]


def test_without_a_known_test_set_there_are_no_error_bars(record):
    (figure,) = accuracy_figures(record(data={"name": "cifar10"}))
    assert [trace["error_y"]["visible"] for trace in figure.plot["data"]] == [False, False]
    assert "sampling error" not in figure.caption


def test_rows_without_a_test_are_left_out(record, row):
    assert accuracy_figures(record(rows=[row(test=None)])) == []


def test_layer_bars_are_the_bits_and_shares(record):
    layers = record().layers
    bars = traces(layer_figure(layers, "composite"))
    assert bars["weight bits"]["y"] == [layer.weight_bits for layer in layers]
    assert bars["activation bits"]["y"] == [8] * 10
    assert bars["share of size"]["y"] == pytest.approx([100 * layer.shares["size"] for layer in layers])
    assert bars["share of BitOPs"]["y"] == pytest.approx([100 * layer.shares["bitops"] for layer in layers])
    assert {bar["yaxis"] for bar in bars.values()} == {"y", "y2"}


def test_a_float_layer_is_called_float_and_does_not_dwarf_the_rest(record):
    layers = [
        replace(record().layers[0], weight_bits=32, shares={}),
        *[replace(x, shares={}) for x in record().layers[1:]],
    ]
    figure = layer_figure(layers, "composite")
    weights = traces(figure)["weight bits"]
    assert (weights["text"][0], weights["y"][0]) == ("float", 9)
    assert figure.plot["layout"]["yaxis"]["range"][1] > 9
    assert "xaxis2" not in figure.plot["layout"]


def test_long_names_are_cut_in_the_middle_but_whole_on_hover(record):
    name = "features.denseblock3.denselayer17.conv2"
    figure = layer_figure([replace(record().layers[0], name=name)], "x")
    assert figure.plot["layout"]["xaxis2"]["ticktext"] == ["features.d…er17.conv2"]
    assert traces(figure)["weight bits"]["customdata"][0][0] == name


def test_many_layers_scroll_instead_of_shrinking(record):
    assert (
        layer_figure(record().layers * 6, "x").least_width > 1500 > 400 > layer_figure(record().layers, "x").least_width
    )


def test_curves_hold_series_gaps_and_limits():
    curve = Curve(name="c", x_label="step", x=[1.0, 2.0, 3.0], series={"a": [1.0, None, 3.0]}, limits={"cap": 2.5})
    lines = traces(curve_figure(curve))
    assert lines["a"]["y"] == [1.0, None, 3.0]
    assert (lines["cap"]["x"], lines["cap"]["y"]) == ([1.0, 3.0], [2.5, 2.5])
    assert lines["cap"]["line"]["dash"] == "dash"
    empty = curve_figure(Curve(name="c", x_label="step", x=[], series={"a": []}))
    assert traces(empty)["a"].get("y", []) == []


def test_no_name_reaches_plotly_as_markup_or_template(record, row):
    rows = [row(NASTY, "baseline", metric=NASTY), row(NASTY, metric=NASTY), row(NASTY, "float", metric=NASTY)]
    layers = [replace(layer, name=NASTY) for layer in record().layers]
    curve = Curve(name=NASTY, x_label=NASTY, x=[1.0], series={NASTY: [1.0]}, limits={NASTY: 1.0})
    figures = [*accuracy_figures(record(rows=rows, chosen=NASTY)), layer_figure(layers, NASTY), curve_figure(curve)]
    seen = set()
    for figure in figures:
        go.Figure(figure.plot)  # plotly accepts what we wrote
        for text in strings(figure.plot):
            bare = text.replace("<br>", "").replace("<extra></extra>", "")
            assert "<" not in bare, text
            seen.add(text.strip())
        for trace in figure.plot["data"]:
            assert "javascript" not in trace["hovertemplate"]
    assert ESCAPED in seen
