"""A grid of widths on tiny data: every network there, resumed, mapped."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import FULL

from bitsmith.cost import exact
from bitsmith.errors import RecipeError, RunError
from bitsmith.executor import InProcess, Processes
from bitsmith.pipeline import width_grid
from bitsmith.pipeline.folder import RunFolder
from bitsmith.pipeline.job import prepare
from bitsmith.pipeline.width_grid import SCORE, lay_out, summarize_grid, train_grid, train_point
from bitsmith.recipe import parse_recipe, read_recipe
from bitsmith.report.width_map import MapPoint, WidthMap, map_figures, write_width_map
from bitsmith.search import Uniform
from bitsmith.train import Event

RECIPE = {
    "name": "tiny",
    "model": {"spec": "resnet8_slim"},
    "data": {"source": "digits", "limit": 120},
    "space": {"weight_bits": [4], "activation_bits": [8]},
    "budgets": ["macs=60k"],
    "method": {"name": "uniform"},
    "train": {"epochs": 1, "batch_size": 64, "lr": 0.05, "device": "cpu", "compile": "none"},
}


def recipe():
    return parse_recipe(RECIPE, "the test")


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid") / "run"
    return lay_out(prepare(RunFolder.create(folder, recipe())), shares=(0.5, 0.25), groups=2)


def test_layout(grid):
    """Blocks of 8, 16 and 32 channels in two groups."""
    assert grid.names == ("8 and 16 channels", "32 channels")
    assert grid.points() == [(0.25, 0.25), (0.25, 0.5), (0.5, 0.25), (0.5, 0.5)]
    graph = grid.blueprint((0.25, 0.5)).graph
    assert sorted({layer.out_channels for layer in graph.layers}) == [2, 4, 10, 16]
    three = lay_out(grid.job)
    assert len(three.points()) == 64
    assert len({three.blueprint(point).graph for point in three.points()}) == 64
    with pytest.raises(RecipeError, match="1 to 3 groups"):
        lay_out(grid.job, groups=4)
    with pytest.raises(RecipeError, match="first six digits"):
        lay_out(grid.job, shares=(0.5, 0.5))


def test_two_by_two(grid):
    """Trained in this process: what is told which point it is at."""
    states = []

    out = grid.job.run.path
    train_point(grid, (0.25, 0.25))  # one is there already
    with pytest.raises(RunError, match="train the grid first"):
        summarize_grid(grid)
    options = {"shares": (0.5, 0.25), "groups": 2, "watch": states.append}
    page = train_grid(recipe(), out, executor=InProcess(), command="bitsmith widths", **options).page
    titles = dict.fromkeys(at[0] for state in states for at in state.at_work if at)
    assert list(titles)[:1] == ["0.25 0.5"]  # of those that followed within a blink nobody need have seen each
    assert states[-1].total == 3
    written = json.loads(page.with_suffix(".json").read_text())
    assert [point["shares"] for point in written["points"]] == [list(point) for point in grid.points()]
    for point in written["points"]:
        kept = json.loads((grid.folder(point["shares"]) / SCORE).read_text())
        assert point["score"] == kept["metric"]
        assert 0 <= point["score"] <= 1
    macs = [point["costs"]["macs"] for point in written["points"]]
    assert sorted(macs) == [macs[0], *sorted(macs[1:3]), macs[3]]
    text = page.read_text()
    assert len(re.findall("<figure data-plot>", text)) == 2
    assert "outside" in text
    assert "32 channels" in text
    assert train_grid(recipe(), out, executor=InProcess(), **options).page == page
    assert states[-1].total == 0
    assert list(out.rglob("*.checkpoint")) == []
    changed = parse_recipe(RECIPE | {"seed": 7}, "the test")
    with pytest.raises(RunError, match="another recipe"):
        train_grid(changed, out, executor=InProcess(), **options)


def test_a_network_stopped_half_way_goes_on_to_the_same_score(tmp_path):
    longer = parse_recipe(RECIPE | {"train": RECIPE["train"] | {"epochs": 4, "batch_size": 16}}, "the test")
    whole, stopped = (
        lay_out(prepare(RunFolder.create(tmp_path / name, longer)), shares=(0.25,), groups=1) for name in "ab"
    )
    first, again = [], []
    train_point(whole, (0.25,), first.append)

    def stop(event: Event) -> None:
        again.append(event)
        if len(again) == len(first) // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_point(stopped, (0.25,), stop)
    assert list(stopped.folder((0.25,)).glob("*.checkpoint"))
    taken = len(again)
    train_point(stopped, (0.25,), again.append)
    assert len(again) - taken < len(first)
    a, b = (json.loads((grid.folder((0.25,)) / SCORE).read_text()) | {"seconds": 0} for grid in (whole, stopped))
    assert a == b


@pytest.mark.skipif(not FULL, reason="each process takes seconds to start")
def test_in_processes_they_come_to_the_same_scores(grid, tmp_path):
    with Processes(2) as executor:
        ended = train_grid(recipe(), tmp_path / "run", executor=executor, shares=(0.25, 0.5), groups=2)
    assert ended.failed == ()
    again = lay_out(prepare(RunFolder(path=tmp_path / "run")), shares=(0.25, 0.5), groups=2)
    for point in grid.points():
        train_point(grid, point)
    assert [replace(p, seconds=0.0) for p in summarize_grid(again).points] == [
        replace(p, seconds=0.0) for p in summarize_grid(grid).points
    ]


def test_the_recipe_has_a_baseline_at_every_budget(tmp_path):
    """Else a comparison of the digits' widths would lack it."""
    chosen = read_recipe(Path(__file__).parents[2] / "recipes" / "digits-widths.yaml")
    job = prepare(RunFolder.create(tmp_path / "run", chosen))
    for line in chosen.budget_sets():
        Uniform().check(job.space, line, trained=True)


def synthetic(
    scores, groups=("8 channels", "16 channels", "32 channels"), shares=(0.5, 1.0), budgets=("macs=2.5k",),
    metric="accuracy",
):  # fmt: skip
    """Points whose MACs are the product of the shares' sum by 1,000."""
    import itertools

    points = [
        MapPoint(shares=list(each), score=score, loss=1 - score, seconds=1.0, costs={"macs": 1000 * sum(each)})
        for each, score in zip(itertools.product(shares, repeat=len(groups)), scores, strict=True)
    ]
    return WidthMap(
        title="t<", created="2026-01-01T00:00:00+00:00", images=400, groups=list(groups),
        shares=list(shares), budgets=list(budgets), metric=metric, points=points, facts={}, environment={}, command="",
    )  # fmt: skip


def test_what_is_above_the_homogeneous_line(tmp_path):
    """From 0.5 at 1,500 MACs to 0.8 at 3,000: 0.6 at 2,000, 0.7 at 2,500."""
    found = synthetic([0.5, 0.61, 0.59, 0.59, 0.58, 0.5, 0.9, 0.8])
    assert [tuple(point.shares) for point in found.above()] == [(1.0, 1.0, 0.5), (0.5, 0.5, 1.0)]
    assert "2 of 6 networks" in found.verdict()
    assert "(one score's standard error is up to 2.5 points)" in found.verdict()
    assert "points)" not in replace(found, metric="f1").verdict()
    assert [found.inside(point) for point in found.points].count(False) == 1
    page = write_width_map(found, tmp_path).read_text()
    assert "t&lt;" in page


def test_inside_means_inside_any_set_of_budgets(tmp_path):
    """Of 1,500 to 3,000 MACs; a set asks for both of its budgets."""
    found = synthetic([0.5] * 8, budgets=("macs=2.5k", "macs=1.5k", "macs=3k, macs=2k"))
    met = [found.met(point) for point in found.points]
    assert met[0] == found.budgets
    assert met[1] == ["macs=2.5k", "macs=3k, macs=2k"]
    assert met[3] == ["macs=2.5k"]
    assert met[7] == []
    assert [found.inside(point) for point in found.points] == [True] * 7 + [False]
    assert "<td>macs=2.5k; macs=3k, macs=2k</td>" in write_width_map(found, tmp_path).read_text()
    with pytest.raises(RunError, match="budgets on energy"):
        replace(found, budgets=["energy=1uJ"])
    assert replace(found, budgets=[]).inside(found.points[7])


def test_budgets_on_every_cost_are_priced(tmp_path, monkeypatch):
    """Each set by itself, in the units of budgets."""
    lines = [["avg_bits=5"], ["flash=200kB", "macs=60k"]]
    other = parse_recipe(RECIPE | {"budgets": lines, "target": "c"}, "the test")
    grid = lay_out(prepare(RunFolder.create(tmp_path / "run", other)), shares=(0.25,), groups=1)
    blueprint = grid.blueprint((0.25,))
    costs = grid.costs((0.25,))
    for name in ("avg_bits", "flash", "ram"):
        assert costs[name] == exact(name, blueprint.graph, blueprint.bits, grid.job.space.costs)
    score = {"metric": 0.5, "loss": 1.0, "seconds": 1.0}
    monkeypatch.setattr(width_grid, "read_json", lambda file, hint: score)
    found = summarize_grid(grid)
    assert [[part.split("=")[0] for part in line.split(", ")] for line in found.budgets][1][:2] == ["flash", "macs"]
    assert found.points[0].costs == costs


def test_shares_of_the_same_channels_are_one_network(grid, monkeypatch):
    """Of 8 channels .25 and .26 are 2, of 16 they are 4."""
    same = lay_out(grid.job, shares=(0.25, 0.26, 0.5), groups=1)
    assert same.blueprint((0.25,)) == same.blueprint((0.26,))
    assert list(same.networks().values()) == [(0.25,), (0.5,)]
    assert same.folder((0.26,)) == same.folder((0.25,)) != same.folder((0.5,))
    with pytest.raises(RecipeError, match="differ in their first six digits"):
        lay_out(grid.job, shares=(0.25, 0.25 + 1e-9))


def test_a_refusal_leaves_no_folder(tmp_path):
    with pytest.raises(RecipeError, match="1 to 3 groups"):
        train_grid(recipe(), tmp_path / "run", executor=InProcess(), groups=4)
    floats = parse_recipe(RECIPE | {"space": {"weight_bits": [4, 32], "activation_bits": [8, 32]}}, "the test")
    with pytest.raises(RecipeError, match="pin it to 8 in the recipe's space, or leave float out"):
        train_grid(floats, tmp_path / "run", executor=InProcess())
    noisy = {"space": RECIPE["space"] | {"quantizer": "pact"}, "train": RECIPE["train"] | {"noise": 0.05}}
    with pytest.raises(RecipeError, match="noise needs weights with learned steps"):
        train_grid(parse_recipe(RECIPE | noisy, "the test"), tmp_path / "run", executor=InProcess())
    board = parse_recipe(RECIPE | {"target": "mpic", "space": {"weight_bits": [3], "activation_bits": [8]}}, "the test")
    with pytest.raises(RecipeError, match="can't hold weight bits"):
        train_grid(board, tmp_path / "run", executor=InProcess())
    assert not (tmp_path / "run").exists()


def test_every_point_is_in_every_map():
    scores = [i / 10 for i in range(8)]
    figures = map_figures(synthetic(scores))
    assert len(figures) == 3
    for figure in figures:
        assert len(figure.plot["data"]) == 2
        drawn = [round(z, 6) for panel in figure.plot["data"] for row in panel["z"] for z in row]
        assert sorted(drawn) == [10.0 * i for i in range(8)]
    # First and second group, the third at 0.5: columns are the first group, rows the second.
    assert figures[0].plot["data"][0]["z"] == [[0.0, 40.0], [20.0, 60.0]]
    assert len(map_figures(synthetic([0.1, 0.2], groups=("8 channels",)))) == 1
    with pytest.raises(RunError, match="has 8 networks, got 7"):
        replace(synthetic(scores), points=synthetic(scores).points[1:])
