"""The page of a latent space."""

from dataclasses import replace

import pytest

from bitsmith.report.latent_space import LatentSpace, render_latent_space, write_latent_space

SPACE = LatentSpace(
    title="A space",
    points=[(0.0, 1.0), (2.0, -1.0), (1.0, 0.5)],
    share=0.4,
    names=["conv k3", "<b>max_pool</b>", "separable"],
    costs={"params": [1000.0, 5000.0, 20000.0], "macs": [1e6, 2e6, 4e6]},
    measures={"valid": 1.0, "unique": 0.97},
    environment={"torch": "2"},
)


def test_a_figure_per_cost():
    figures = SPACE.figures()
    assert [figure.title for figure in figures] == ["The space by params", "The space by MACs"]
    trace = figures[1].plot["data"][0]
    assert list(trace["x"]) == [0.0, 2.0, 1.0]
    assert trace["marker"]["color"] == pytest.approx([13.8155, 14.5087, 15.2018], abs=1e-4)
    assert trace["customdata"][1] == ["&lt;b&gt;max_pool&lt;/b&gt;", "2 M"]
    assert figures[1].caption == (
        "Codes of 3 networks on their two principal components (40 % of the variance); "
        "MACs from 1 M (dark) to 4 M (bright), logarithmic."
    )


def test_accuracies_where_there_are_any():
    last = replace(SPACE, accuracies=[0.5, None, 0.75]).figures()[-1]
    assert last.title == "The space by accuracy"
    assert last.plot["data"][0]["marker"]["color"] == [0.5, 0.75]
    assert list(last.plot["data"][0]["y"]) == [1.0, 0.5]
    assert last.caption == "Codes of 2 networks, as above; accuracy from 50.0 % (dark) to 75.0 % (bright)."
    assert len(replace(SPACE, accuracies=[None] * 3).figures()) == 2


def test_the_page(tmp_path):
    path = write_latent_space(SPACE, tmp_path)
    text = path.read_text(encoding="utf-8")
    assert text == render_latent_space(SPACE)
    assert "<h1>A space</h1>" in text
    assert "<b>max_pool" not in text
    assert '<th scope="row">unique</th><td>0.97</td>' in text
