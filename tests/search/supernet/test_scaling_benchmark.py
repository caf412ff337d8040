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
    assert found["settings"]["best_by_validation"] == "mask"
    assert found["core_hours"] == 2.5
