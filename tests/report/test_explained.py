"""The words on what layers gain and cost, and the file that holds them."""

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.errors import RunError
from bitsmith.report import Effect, LayerStep, advise, read_explained, write_explained
from bitsmith.report.page import render
from bitsmith.report.steps import steps_figure

NOISE = st.floats(-0.01, 0.01)


def effect(value, margin=0.01):
    return Effect(value=value, margin=margin, noise=abs(value) <= margin)


def words(explained, *steps, **changes):
    return " ".join(explained(list(steps), **changes).words)


def test_a_gain_is_ranked_per_byte_and_compared_with_the_budgets(explained, step):
    small = step("small", before=2, after=3, score=0.02, size=100, inside=True)
    large = step("large", before=2, after=3, score=0.05, size=1000, inside=True)
    said = words(explained, small, large)
    assert "One step up is worth most in small: its weights at 3 instead of 2 bits gain 2.00 ± 1.00 points" in said
    assert "for 100 B of size, the most per byte; the budgets still hold" in said
    said = words(explained, small, replace(large, costs={"size": 200.0, "bitops": 1.0}, inside=False))
    assert "worth most in large" in said
    assert "the budgets do not hold that" in said


@pytest.mark.parametrize(("size", "text"), [(0, "for no size at all"), (-256, "and save 256 B of size")])
def test_a_step_up_that_takes_nothing_goes_first(explained, step, size, text):
    """At 8 bits a layer reads a stream as it is; at fewer it needs a table."""
    bought = step("bought", before=2, after=3, score=0.09, size=1)
    said = words(explained, bought, step("free", "activation", before=4, after=8, score=0.02, size=size))
    assert (
        f"worth most in free: its activations at 8 instead of 4 bits gain 2.00 ± 1.00 points of accuracy {text}" in said
    )


def test_the_finer_loss_speaks_where_the_metric_is_silent(explained, step):
    said = words(explained, step("a", before=2, after=3, score=0.009, loss=-0.02), step("b", before=2, after=3))
    assert "worth most in a: its weights at 3 instead of 2 bits lower the loss by 0.0200 ± 0.0100" in said
    assert "points" not in said.split(". ")[0]


@given(scores=st.lists(NOISE, min_size=8, max_size=8), losses=st.lists(NOISE, min_size=8, max_size=8))
def test_noise_is_never_sold_as_a_fact(scores, losses, explained, step):
    steps = [
        step(f"layer{i // 2}", after=(2, 8)[i % 2], score=score, loss=loss)
        for i, (score, loss) in enumerate(zip(scores, losses, strict=True))
    ]
    said = words(explained, *steps)
    assert "No step up, by itself and before training, gains anything beyond the noise" in said
    assert not re.search("worth most|earn|lose .* points|gain .* points|lower the loss|raise the loss|does rise", said)
    # What could be given up is called noise, with what it may lose at worst.
    given_up = re.search(r"(layer\d) could give some up, .* within the noise, at worst by -(\d\.\d\d) points", said)
    assert given_up
    rates = {s.layer: (0.01 - s.score.value) / -s.costs["size"] for s in steps if not s.up}
    assert rates[given_up[1]] == min(rates.values())


def test_what_loses_is_not_given_up(explained, step):
    dear, cheap = step("dear", score=-0.05, loss=0.02), step("cheap", score=-0.02, loss=0.02)
    said = words(explained, dear, cheap)
    assert "Bits earn most in dear: its weights at 2 instead of 4 bits lose 5.00 ± 1.00 points of accuracy" in said
    assert "No layer can give a step up for nothing; the least per byte loses cheap" in said
    said = words(explained, dear, step("finer", score=-0.005, loss=0.02))
    assert "finer could give some up" in said
    assert "the loss does rise, by 0.0200" in said
    assert "dear could" not in said
    # A step down that saves nothing of the price is no offer.
    assert "No step down saves any size" in words(explained, step("flat", size=0))


def test_metric_and_price_are_named(explained, step):
    said = words(explained, step("a", before=2, after=3, score=0.02), metric="f1", price="bitops")
    assert "gain 2.00 ± 1.00 points of F1 for 1 M of BitOPs, the most per unit" in said


def test_where_there_is_no_step_it_says_so(explained):
    assert explained([]).words == ["Every layer has one option alone, so there is no single step to measure."]


def test_ends_of_the_options_are_said(explained, step):
    assert "Every layer is at its lowest option already." in words(explained, step(before=1, after=2))
    assert "Every layer is at its highest option already." in words(explained, step(before=8, after=4))


def test_it_comes_back_from_its_file(explained, tmp_path):
    path = tmp_path / "explain.json"
    write_explained(explained(), path)
    assert read_explained(path) == explained()
    assert advise(read_explained(path)) == explained().words


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(schema=99), "has schema 99; this version of bitsmith reads 1"),
        (lambda values: values["steps"][0].pop("kind"), "is damaged: steps.0.kind"),
        (lambda values: values["steps"][0]["score"].update(noise=False), "can't be recorded as noise=False"),
        (lambda values: values.update(words=[1]), "is damaged: words.0"),
    ],
)
def test_a_damaged_file_is_refused(explained, tmp_path, change, message):
    path = tmp_path / "explain.json"
    write_explained(explained([LayerStep(**_fields())]), path)
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(RunError, match=message):
        read_explained(path)


def _fields():
    return {
        "layer": "a", "kind": "weight", "before": 4, "after": 2, "score": effect(0.0), "loss": effect(0.0),
        "costs": {"size": -1.0}, "inside": None, "believed": None,
    }  # fmt: skip


def test_noise_that_is_none_can_not_be_recorded():
    with pytest.raises(RunError, match=r"0.02 ± 0.01 can't be recorded as noise=True"):
        Effect(value=0.02, margin=0.01, noise=True)


def test_the_plot_has_every_step_and_hollows_out_noise(explained, step):
    steps = [
        step("a<b>", before=2, after=3, score=0.02, loss=-0.02),
        step("a<b>", before=2, after=1, score=-0.02, loss=0.001),
        step("c", "activation", before=8, after=4),
    ]
    figure = steps_figure(explained(steps), "a network")
    assert figure is not None
    points = [
        (trace["x"][i], y, trace["error_y"]["array"][i], trace["marker"]["symbol"][i], trace["customdata"][i][0])
        for trace in figure.plot["data"]
        for i, y in enumerate(trace["y"])
    ]
    assert sorted((round(x), round(y, 9), round(margin, 9), symbol, name) for x, y, margin, symbol, name in points) == [
        (0, -2.0, 1.0, "triangle-down", "a&lt;b&gt;"),
        (0, -0.02, 0.01, "triangle-up", "a&lt;b&gt;"),
        (0, 0.001, 0.01, "triangle-down-open", "a&lt;b&gt;"),
        (0, 2.0, 1.0, "triangle-up", "a&lt;b&gt;"),
        (1, 0.0, 0.01, "triangle-down-open", "c"),
        (1, 0.0, 1.0, "triangle-down-open", "c"),
    ]
    assert [key.text for key in figure.keys] == [
        "weights, one step up", "weights, one step down", "activations, one step down", "hollow: within the noise",
    ]  # fmt: skip
    assert steps_figure(explained([]), "a network") is None


def test_the_page_tells_every_step(record, explained):
    html = render(record())
    assert html.count('scope="row">stage2.0.conv1</th><td>weights</td>') == 2
    for sentence in explained().words:
        assert sentence in html.replace("&#39;", "'")
    marked = sum(e.noise for s in explained().steps for e in (s.score, s.loss))
    assert html.count('<span class="flag">noise</span>') == marked > 0
    assert "4 → 8" in html
    assert "+400 B" in html
    assert "-200 B" in html
    unexplained = render(record(explained={}))
    assert "What each layer gains and costs" not in unexplained
