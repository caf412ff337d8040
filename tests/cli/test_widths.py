"""The command of the grid of widths, without its processes."""

import json

import pytest

from bitsmith.executor import Failed
from bitsmith.pipeline import width_grid
from bitsmith.train import write_json

RECIPE = """
model: {spec: resnet8_slim}
data: {source: digits, limit: 120}
space: {weight_bits: [4], activation_bits: [8]}
budgets: ["macs=60k", "macs=20k"]
method: {name: uniform}
train: {epochs: 5}
"""


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The work that the command asks for, done by writing scores; or failed, where a title is in `failing`."""
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    works, failing = [], set()

    def here(executor, its, *, watch, failed):
        ended = []
        for work in its:
            works.append((work.title, executor.places))
            if work.title in failing:
                ended.append(Failed(title=work.title, folder=work.folder, reason="TrainingError: the loss is nan"))
                failed(ended[-1])
            else:
                work.folder.mkdir(parents=True)
                write_json(work.folder / width_grid.SCORE, {"metric": 0.5, "loss": 1.0, "seconds": 1.0})
        return ended

    monkeypatch.setattr(width_grid, "run_all", here)
    return works, failing


def test_shares_json_and_going_on(bitsmith, asked, tmp_path):
    """What failed is named and tried again, what is there is not."""
    works, failing = asked
    options = (
        "widths",
        "tiny.yaml",
        "--groups",
        1,
        "--shares",
        "0.5, 0.25",
        "--workers",
        2,
        "--epochs",
        1,
        "--out",
        "g",
    )
    failing.add("0.5")
    said = bitsmith(*options, cwd=tmp_path, check=1).stderr
    assert works == [("0.25", 2), ("0.5", 2)]
    assert "1 network failed: 0.5 failed: TrainingError: the loss is nan. The same" in said.replace("\n", " ")
    assert not (tmp_path / "g" / "widths.json").exists()
    failing.clear()
    works.clear()
    printed = bitsmith(*options, "--json", cwd=tmp_path).stdout
    assert works == [("0.5", 2)]
    found = json.loads(printed)
    assert found == json.loads((tmp_path / "g" / "widths.json").read_text())
    assert found["shares"] == [0.25, 0.5]
    assert found["budgets"] == ["macs=60k", "macs=20k"]
    assert found["facts"]["epochs of each network"] == 1
    assert "Page: g/widths.html" in bitsmith(*options, cwd=tmp_path).stdout
    assert bitsmith(*options, "--quiet", cwd=tmp_path).stdout == ""


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--executor", "inprocess", "--workers", 2), "one trial at a time; for --workers 2 take processes or ray"),
        (("--executor", "threads"), "takes inprocess, processes or ray, got 'threads'"),
        (("--address", "127.0.0.1:1"), "add --executor ray"),
    ],
)
def test_executors_that_are_none(bitsmith, asked, tmp_path, options, text):
    said = bitsmith("widths", "tiny.yaml", "--out", "g", *options, cwd=tmp_path, check=1).stderr
    assert text in " ".join(said.split())
    assert not (tmp_path / "g").exists()


@pytest.mark.parametrize(
    ("shares", "text"),
    [("0.5;1", "takes numbers with commas between"), ("0.5,2", "above 0 and up to 1"), ("1,1", "first six digits")],
)
def test_shares_that_are_none(bitsmith, asked, tmp_path, shares, text):
    said = bitsmith("widths", "tiny.yaml", "--shares", shares, "--out", "g", cwd=tmp_path, check=1).stderr
    assert text in " ".join(said.split())
    assert not (tmp_path / "g").exists()
    assert asked[0] == []
