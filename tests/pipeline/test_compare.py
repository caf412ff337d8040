"""A whole comparison on digits with a tiny network: ordinary run folders, equal training, resuming, failures."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace

import numpy as np
import pytest
import yaml
from conftest import FULL

from benchmarks.kept import pack, unpack
from bitsmith import pipeline
from bitsmith.errors import BudgetError, RunError
from bitsmith.executor import LOG, InProcess, Processes, Work, run_all
from bitsmith.pipeline import RunFolder, quiet
from bitsmith.pipeline import compare as compare_module
from bitsmith.pipeline.compare import compare, is_finished
from bitsmith.pipeline.compare_plan import create, plan
from bitsmith.pipeline.compare_run import do_run
from bitsmith.pipeline.comparison import parse_comparison
from bitsmith.pipeline.outcomes import load_outcomes
from bitsmith.report import read_record
from bitsmith.report.compared import read_compared
from bitsmith.search import Uniform
from bitsmith.train import load_state, silent

NETWORK = """
from torch import nn

def make():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 10),
    )
"""
BUDGETS = ["weights=500B", "weights=800B"] if FULL else ["weights=500B"]
TINY = {"batch_size": 64, "compile": "none"}
VALUES = {
    "name": "tiny",
    "model": {"spec": "nets:make"},
    "data": {"source": "digits", "limit": 240},
    "space": {"weight_bits": [1, 2, 4, 8], "activation_bits": [8]},
    "budgets": BUDGETS,
    "methods": [
        {"name": "composite", "plan": {"epochs": 2, "lr": 0.05, **TINY}, "norm_batches": 1, "loss_batches": 1},
        {"name": "sensitivity", "norm_batches": 1, "loss_batches": 1},
    ],
    "narrowed": [4],
    "seeds": [0, 1],
    "float_plan": {"epochs": 2, "lr": 0.1, **TINY},
    "train": {"epochs": 1, "lr": 0.05, **TINY},
    "verify_images": 60,
}


def comparison(**changes):
    values = {key: value for key, value in (VALUES | changes).items() if value is not None}
    return parse_comparison(values, "the test")


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finished(values, path, command):
    """A comparison of NETWORK under `path`, made in this process; its folder."""
    (path / "nets.py").write_text(NETWORK)
    before = os.getcwd()
    os.chdir(path)
    try:
        ended = compare(values, path / "out", executor=InProcess(), command=command)
    finally:
        os.chdir(before)
    assert ended.failed == ()
    return path / "out"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return finished(comparison(), tmp_path_factory.mktemp("compare"), "bitsmith compare tiny.yaml")


def numbers(out):
    """What must not depend on how a comparison was run."""
    compared = read_compared(out)
    members = sorted(compared.members, key=lambda m: (m.contest.method, m.contest.budget, m.seed))
    return (
        [replace(member, seconds=0.0) for member in members],
        sorted(v.text for v in compared.verdicts),
        sorted((c.contest.method, c.contest.budget, c.test, c.low, c.high) for c in compared.cells),
        sorted((v.method, v.value, v.low, v.high) for v in compared.volumes),
    )


def test_every_method_seed_and_budget_is_there_at_equal_training(done):
    compared = read_compared(done)
    found = {(m.contest.method, m.contest.budget, m.seed) for m in compared.members}
    methods = ["composite", "sensitivity", "uniform", "uniform+fill", "random"]
    assert found >= {(m, b, s) for m in methods for b in BUDGETS for s in (0, 1)}
    assert any(method == "narrowed w4" for method, _, _ in found)
    assert {member.epochs for member in compared.members} == {3.0}
    assert {m.search_epochs for m in compared.members if m.contest.method == "composite"} == {2.0}
    assert all(m.costs["weights"] <= (500 if "500" in m.contest.budget else 800) for m in compared.members)
    assert {member.source for member in compared.members} == {"onnx"}
    assert len(compared.float_test) == 2
    assert {verdict.ours.method for verdict in compared.verdicts} == {"composite", "sensitivity"}
    assert len(compared.verdicts) == 2 * len(BUDGETS)
    assert compared.test_images == 60
    assert (done / "compare.html").exists()


def test_the_epochs_are_those_that_the_run_folders_hold(done):
    for file in (done / "runs").glob("**/training.json"):
        curves = json.loads(file.read_text())["curves"]
        searched = 2 if file.parent.name.startswith("composite") else 0
        assert len(curves["loss"]) + searched == (2 if file.parent.name == "float" else 3), file


def test_a_method_without_a_baseline_of_its_seeds_is_named(done, nets):
    alone = [member for member in read_compared(done).members if member.contest.method == "composite"]
    notes = compare_module._notes(alone, plan(comparison()), [])
    assert f"At {BUDGETS[0]} composite has no verdict: no baseline inside was trained with its seeds" in notes
    assert not any("no verdict" in note for note in read_compared(done).notes)


def test_who_is_outside_its_budget_is_named(done, nets):
    members = read_compared(done).members
    first = next(m for m in members if m.contest.method == "composite")
    over = [replace(m, costs={"weights": 560.0}) if m is first else m for m in members]
    notes = compare_module._notes(over, plan(comparison()), [])
    assert f"At {BUDGETS[0]} composite is outside the budget by 12 % of weights (seed 0), so no verdict" in notes
    assert not any("composite has no verdict" in note for note in notes if BUDGETS[0] in note)


def test_every_run_is_an_ordinary_run_folder(done):
    compared = read_compared(done)
    for name in sorted({member.folder for member in compared.members}):
        run = RunFolder(path=done / name)
        recipe, record = run.recipe(), read_record(run.path)
        assert recipe.baselines == []
        assert (run.path / "report.html").exists()
        rows = {row.folder: row for row in record.rows}
        for entry, _ in run.entries():
            outcomes = load_outcomes(run.folder(entry))
            assert (outcomes.predictions == outcomes.labels).mean() == pytest.approx(rows[entry.slug].test)
    path = next((done / "runs" / "all" / "random").iterdir())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(done.parent)
        job = pipeline.prepare(RunFolder(path=path))
        assert pipeline.verify(job)
        assert pipeline.report(job).exists()


def test_a_float_network_is_that_which_each_run_would_have_made(done, nets):
    """Training is deterministic, so copying it saves time alone."""
    planned = next(run for run in plan(comparison()).runs if run.method == "random")
    run = RunFolder.create(nets / "alone", planned.recipe)
    job = pipeline.prepare(run)
    pipeline.train_float(job)
    own, theirs = (load_state(p / "float/network.safetensors") for p in (run.path, done / planned.path))
    assert own.keys() == theirs.keys()
    assert all(np.array_equal(own[name].numpy(), theirs[name].numpy()) for name in own)


def test_a_network_taken_from_a_twin_is_that_which_the_run_would_have_trained(done, nets):
    compared = read_compared(done)
    first: dict = {}
    twins = []
    for member in compared.members:
        if member.search_epochs == 0:
            key = member.network, member.seed
            twins += [(first[key], member)] if key in first and first[key].folder != member.folder else []
            first.setdefault(key, member)
    assert twins, "this comparison has no equal blueprints; choose other budgets"
    _, member = twins[0]
    planned = next(run for run in plan(comparison()).runs if run.path.as_posix() == member.folder)
    run = RunFolder.create(nets / "alone", planned.recipe)
    do_run(silent, quiet, folder=str(run.path))
    for entry, _ in run.entries():
        own, theirs = (load_state(p / entry.slug / "network.safetensors") for p in (run.path, done / member.folder))
        assert all(np.array_equal(own[name].numpy(), theirs[name].numpy()) for name in own)
    log = [json.loads(line) for line in (done / member.folder / "trials.jsonl").read_text().splitlines()]
    assert {line["name"] for line in log} == {member.contest.method}


def nobody(executor, works, **rest):
    """In place of `run_all` where nothing is left to do."""
    assert works == []
    return []


def test_a_second_call_does_nothing_again(done, nets, monkeypatch):
    before = numbers(done)
    monkeypatch.setattr(compare_module, "run_all", nobody)
    compare(comparison(), done, executor=InProcess())
    assert numbers(done) == before


def test_a_failed_run_is_named_and_the_others_are_compared(nets, monkeypatch):
    search = Uniform.search

    def failing(self, problem):
        if self.fill:
            raise BudgetError("the disk is full, say")
        return search(self, problem)

    monkeypatch.setattr(Uniform, "search", failing)
    said: list[str] = []
    few = comparison(methods=["random"], narrowed=None, seeds=[0], float_plan=None, budgets=["weights=500B"])
    ended = compare(few, nets / "out", executor=InProcess(), say=said.append)
    assert [failed.title for failed in ended.failed] == ["uniform+fill, seed 0"]
    assert said.count("uniform+fill, seed 0 failed: the disk is full, say") == 1
    compared = read_compared(nets / "out")
    assert {member.contest.method for member in compared.members} == {"random", "uniform"}
    assert compared.failed[0].method == "uniform+fill"
    assert compared.failed[0].folder == "runs/all/uniform+fill/seed0"
    monkeypatch.setattr(Uniform, "search", search)
    assert compare(few, nets / "out", executor=InProcess()).failed == ()
    assert read_compared(nets / "out").failed == []


def test_a_run_whose_file_is_wrong_is_not_finished(done, tmp_path):
    path = shutil.copytree(done / "runs" / "all" / "random" / "seed0", tmp_path / "run")
    assert is_finished(path)
    file = next(path.glob("random-*/verification.json"))
    values = json.loads(file.read_text())
    values["checks"][0]["ok"] = False
    file.write_text(json.dumps(values))
    assert not is_finished(path)


def command(out, workers):
    arguments = ["compare", "tiny.yaml", "--out", out, "--workers", str(workers), "--quiet"]
    return [sys.executable, "-c", "from bitsmith.cli import main; main()", *arguments]


def test_a_worker_is_a_process_that_says_what_it_does(done, nets):
    """It ends with the file that the same run wrote in this process."""
    planned = next(run for run in plan(comparison()).runs if run.method == "uniform")
    run = create(planned, nets / "out")
    entry = next(done.glob(f"{planned.path}/uniform-*")).name
    for file in ("graph.json", "captured.safetensors"):
        shutil.copyfile(done / planned.path / file, run.path / file)
    shutil.copytree(done / planned.path / "float", run.path / "float")
    call, arguments = "bitsmith.pipeline.compare_run:do_run", {"folder": str(run.path)}
    with Processes(1) as executor:
        assert run_all(executor, [Work(title="uniform", folder=run.path, call=call, arguments=arguments)]) == []
    assert (run.path / entry / "model.onnx").read_bytes() == (done / planned.path / entry / "model.onnx").read_bytes()
    log = (run.path / LOG).read_text()
    assert "train uniform at weights=" in log
    assert "verified on 60 images" in log


@pytest.mark.timeout(1800)
def test_killed_and_gone_on_with_by_two_workers(nets, full):
    """Real processes: kill -9 in the middle, then the same command; the numbers are those of one worker."""
    if not full:
        pytest.skip("some twenty processes")
    values = VALUES | {"methods": ["random"], "narrowed": None}
    (nets / "tiny.yaml").write_text(yaml.safe_dump(values))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for what in ("float/seed0/graph.json", "runs/*/*/seed0/graph.json", "runs/*/*/seed1/report.json"):
        with subprocess.Popen(command("two", 2), cwd=nets, env=environment, stderr=subprocess.DEVNULL) as process:
            while not list((nets / "two").glob(what)):
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
    ended = subprocess.run(command("two", 2), cwd=nets, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    compare(parse_comparison(values, "the test"), nets / "one", executor=InProcess())
    assert numbers(nets / "two") == numbers(nets / "one")


def test_finished_runs_are_kept_without_their_weights(done, nets, monkeypatch):
    """And the comparison goes on from them elsewhere: nothing is trained again, the numbers are the same."""
    assert pack(done, nets / "kept.tar.xz") == len(plan(comparison()).runs)
    assert pack(done, nets / "again.tar.xz")
    assert (nets / "kept.tar.xz").read_bytes() == (nets / "again.tar.xz").read_bytes()
    assert (nets / "kept.tar.xz").stat().st_size < 50_000
    assert unpack(nets / "kept.tar.xz", nets / "out") > 0
    assert not list((nets / "out").rglob("network.safetensors"))
    assert unpack(nets / "kept.tar.xz", nets / "out") == 0
    monkeypatch.setattr(compare_module, "run_all", nobody)
    compare(comparison(), nets / "out", executor=InProcess())
    assert numbers(nets / "out") == numbers(done)


def test_where_the_data_was_is_not_kept(done, nets):
    """Another folder takes its place; without one it is asked for."""
    shutil.copytree(done, nets / "there")
    for file in (nets / "there").rglob("*.*"):
        if file.suffix in (".yaml", ".json"):
            file.write_text(re.sub(r"(?<=source: )digits|(?<=: \")digits(?=\")", "npy:/secret/place", file.read_text()))
    assert "npy:/secret/place" in next((nets / "there").rglob("*/report.json")).read_text()
    pack(nets / "there", nets / "kept.tar.xz")
    with tarfile.open(nets / "kept.tar.xz") as kept:
        files = [kept.extractfile(member) for member in kept]
        assert not any(file is None or b"secret" in file.read() for file in files)
    with pytest.raises(RunError, match="say which by --data"):
        unpack(nets / "kept.tar.xz", nets / "here")
    unpack(nets / "kept.tar.xz", nets / "here", "npy:own")
    [recipe, *_] = (nets / "here").rglob("recipe.yaml")
    assert RunFolder(path=recipe.parent).recipe().data.source == f"npy:{nets.resolve()}/own"


def test_an_archive_that_is_none_is_named(done, nets):
    (nets / "half.tar.xz").write_bytes(b"\xfd7zXZ\x00\x00")
    for name in ("half", "missing"):
        with pytest.raises(RunError, match=rf"{name}.tar.xz can't be read"):
            unpack(nets / f"{name}.tar.xz", nets / "out")
    with pytest.raises(RunError, match=r"no run in .* is finished"):
        pack(nets, nets / "nothing.tar.xz")
    assert not (nets / "nothing.tar.xz").exists()
