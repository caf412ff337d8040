"""A comparison of whole networks with bits of a given one, on digits: one command, equal training, going on."""

from __future__ import annotations

import json
import shutil

import pytest
from pipeline.test_compare import NETWORK, TINY, finished, numbers

from bitsmith.executor import InProcess, run_all
from bitsmith.pipeline import compare as compare_module
from bitsmith.pipeline import quiet
from bitsmith.pipeline.compare import compare, is_finished
from bitsmith.pipeline.compare_run import do_run
from bitsmith.pipeline.comparison import parse_comparison
from bitsmith.report.compared import read_compared

BUDGET = ["size=1200B", "energy=5nJ"]
STAGE = {"kernels": 3, "squeeze_excite": False, "activations": "relu"}
VALUES = {
    "name": "whole networks",
    "model": {"spec": "nets:make"},
    "data": {"source": "digits", "limit": 200},
    "target": "bitops-energy",
    "space": {"weight_bits": [2, 4, 8], "activation_bits": [8]},
    "budgets": [BUDGET],
    "methods": [
        {"name": "supernet", "plan": {"epochs": 2, "lr": 0.05, **TINY}, "norm_batches": 1, "loss_batches": 1},
        {"name": "composite", "plan": {"epochs": 2, "lr": 0.05, **TINY}, "norm_batches": 1, "loss_batches": 1},
        {"name": "random", "draws": 2},
    ],
    "spaces": {
        "mobile": {
            "kind": "mobile",
            "description": {
                "stem": {"channels": 4, "stride": 2},
                "stages": [{"channels": [4, 8], "blocks": [1, 2], "expansions": [1, 2], **STAGE}],
                "head": [8, 16],
            },
            "methods": ["supernet", "random", "random (2)"],
        },
        "given": {"methods": ["composite", "uniform", "uniform+fill"]},
    },
    "seeds": [0],
    "float_plan": {"epochs": 2, "lr": 0.1, **TINY},
    "train": {"epochs": 1, "lr": 0.05, **TINY},
    "verify_images": 50,
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    values = parse_comparison(VALUES, "the test")
    return finished(values, tmp_path_factory.mktemp("mobile"), "bitsmith compare mobile.yaml")


def test_everyone_is_there_inside_the_budgets_and_equally_trained(done):
    compared = read_compared(done)
    assert {(m.contest.space, m.contest.method) for m in compared.members} == {
        (space, method) for space, arena in VALUES["spaces"].items() for method in arena["methods"]
    }
    assert len(compared.members) == 6
    assert all(m.costs["size"] <= 1200 and m.costs["energy"] <= 5e-9 for m in compared.members)
    assert {m.source for m in compared.members} == {"onnx"}
    # Five epochs for everyone: two of a float network, or two more at low precision.
    assert {m.epochs for m in compared.members if m.contest.space == "given"} == {3.0}
    assert {m.epochs for m in compared.members if m.contest.space == "mobile"} == {5.0}
    for file in (done / "runs").glob("**/training.json"):
        searched = 2 if file.parent.name.startswith(("composite", "supernet")) else 0
        wanted = 2 if file.parent.name == "float" else 5 if "mobile" in file.parts else 3
        assert len(json.loads(file.read_text())["curves"]["loss"]) + searched == wanted, file
    assert list(compared.float_test) == ["seed0"]
    assert (
        "Networks in mobile start from no float network; they train for its 2 epochs too, 5 in all at low precision"
        in compared.notes
    )
    assert not any("epochs, the others" in note for note in compared.notes)
    assert "<p" in (done / "compare.html").read_text()


def test_random_networks_use_the_budget(done):
    drawn = [m for m in read_compared(done).members if m.contest.method.startswith("random")]
    assert len(drawn) == 2
    assert all(max(m.costs["size"] / 1200, m.costs["energy"] / 5e-9) > 0.6 for m in drawn)


def test_verdicts_against_the_best_baseline_and_the_mean_of_random_ones(done):
    ours = [v for v in read_compared(done).verdicts if v.ours.method == "supernet"]
    assert {v.ours.budget for v in ours} == {", ".join(["size=1.2kB", "energy=5nJ"])}
    assert [v.theirs.method for v in ours if v.theirs.method.startswith("mean")] == ["mean of 2 random"]
    assert len(ours) >= 2


def test_it_goes_on_after_it_was_stopped_in_the_supernet(done, tmp_path, monkeypatch):
    """The half of a run is thrown away; what comes then is equal to the bit."""
    out = tmp_path / "out"
    shutil.copytree(done, out)
    (tmp_path / "nets.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    again = out / "runs" / "mobile" / "supernet" / "seed0"
    before = numbers(out)
    for file in again.iterdir():
        if file.name != "recipe.yaml":
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    assert not is_finished(again)

    class StoppedError(Exception):
        pass

    told = []

    def stopping(event):
        told.extend([] if event.note else [event])
        if len(told) == 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        do_run(stopping, quiet, folder=str(again))
    assert list(again.glob("supernet-*/search.checkpoint"))
    works = []

    def noting(executor, todo, **rest):
        works.extend(work.folder for work in todo)
        return run_all(executor, todo, **rest)

    monkeypatch.setattr(compare_module, "run_all", noting)
    assert compare(parse_comparison(VALUES, "the test"), out, executor=InProcess()).failed == ()
    assert works == [again]
    assert numbers(out) == before
