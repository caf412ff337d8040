"""The ablation on digits: every rule's run ends verified, goes on from its folder, and is read off the right layers."""

import json
from pathlib import Path

import pytest

from benchmarks import scaling
from bitsmith.recipe import read_recipe

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def recipe():
    return scaling.quick(read_recipe(ROOT / scaling.RECIPE))


def test_a_run_and_going_on(recipe, tmp_path):
    row = scaling.run(recipe, "branch", 1, tmp_path)
    assert row["verified"]
    assert 0 <= row["validation"] <= 1
    assert 0 <= row["test"] <= 1
    assert row["costs"]["size"] <= 9000
    assert row["layers"][0] == "stem"
    assert row["layers"][-1] == "classifier"
    for what in ("read_first", "read_last", "gradient_first", "gradient_last"):
        assert len(row[what]) == len(row["layers"])
        assert min(row[what]) > 0
    curves = {curve["name"]: curve for curve in json.loads(next(tmp_path.rglob("report.json")).read_text())["curves"]}
    read = curves["search supernet at size=9kB: root mean square of what layers read, by depth"]
    assert read["ticks"] == row["layers"]
    assert read["series"] == {"first epoch": row["read_first"], "last epoch": row["read_last"]}
    learned = [path for name in ("entry.json", "training.json") for path in tmp_path.rglob(name)]
    before = [path.stat().st_mtime_ns for path in learned]
    assert len(learned) == 2
    assert scaling.run(recipe, "branch", 1, tmp_path) == row
    assert [path.stat().st_mtime_ns for path in learned] == before


def test_means_over_seeds(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.result.RESULTS", tmp_path)
    layers = ["stem", "stage1.block1.squeeze", "stage1.block1.project", "classifier"]
    rows = [
        {
            "name": f"{rule}-{seed}",
            "rule": rule,
            "seed": seed,
            "validation": validation,
            "test": 0.5,
            "seconds": 1800.0,
            "layers": layers,
            "read_first": [2.0, 1e-9, 0.5, 1e-9],
            "gradient_first": [0.1, 9.0, 0.4, 9.0],
        }
        for rule, seed, validation in (
            ("none", 0, 0.5), ("none", 1, 0.7), ("mask", 0, 0.6), ("mask", 1, 0.61), ("branch", 0, 0.9)
        )
    ]  # fmt: skip
    rows += [{"name": "branch-1", "rule": "branch", "seed": 1, "diverged": "the loss became nan"}]
    found = json.loads(scaling.write(rows, recipe, quick=False).read_text())
    assert found["ratios"]["none validation_percent"] == 60
    assert found["ratios"]["none validation_deviation"] == pytest.approx(14.14)
    assert found["ratios"]["mask validation_percent"] == 60.5
    assert found["ratios"]["none read_fall"] == 0.25
    assert found["ratios"]["none gradient_fall"] == 0.25
    assert found["ratios"]["none diverged"] == 0
    assert found["ratios"]["branch diverged"] == 1
    assert found["ratios"]["branch validation_percent"] == 90
    assert found["ratios"]["mask over none test_points"] == 0
    assert "mask over branch test_points" not in found["ratios"]  # one seed in common
    assert found["settings"]["best_by_validation"] == "mask"
    assert found["core_hours"] == 2.5


def test_gains_are_paired_by_seed():
    """Against a textbook's interval: 0.6, 1.5, 1.7 are 1.267 +- 4.303 x 0.586 / sqrt 3."""
    rows = [
        {"rule": rule, "seed": seed, "test": test / 100}
        for rule, tests in (("mask", (43.6, 44.2, 43.7)), ("none", (43.0, 42.7, 42.0)))
        for seed, test in enumerate(tests)
    ]
    rows += [{"rule": "none", "seed": 3, "test": 0.1}, {"rule": "branch", "seed": 0, "diverged": "nan"}]
    found = scaling.gains(rows, "mask")
    assert found == {
        "mask over none test_points": 1.27,
        "mask over none test_points_low": -0.19,
        "mask over none test_points_high": 2.72,
    }
