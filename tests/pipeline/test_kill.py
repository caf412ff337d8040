"""kill -9 at any moment of any stage, by the command line: the run ends as one that was never stopped, to the byte.

Real processes. Each is killed at a place given beforehand (a step of a stage, or just before a file gets its name) or
by the clock; the next one goes on in the same folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from bitsmith import pipeline
from bitsmith.errors import RunError
from bitsmith.pipeline import RunFolder, locked
from bitsmith.recipe import read_recipe

RECIPE = {
    "name": "killed",
    "model": {"spec": "nets:make"},
    "data": {"source": "digits", "limit": 240, "augment": "crop+flip"},
    "space": {"weight_bits": [1, 2, 4, 8], "activation_bits": [8]},
    "budgets": ["weights=700B"],
    "method": {
        "name": "composite",
        "plan": {"epochs": 2, "batch_size": 64, "lr": 0.05, "compile": "none"},
        "norm_batches": 1,
        "loss_batches": 1,
    },
    "baselines": [],
    "float_plan": {"epochs": 2, "batch_size": 64, "lr": 0.1, "compile": "none"},
    "train": {"epochs": 2, "batch_size": 64, "lr": 0.05, "ema": 0.9, "distill": 0.5, "compile": "none"},
    "start": "search",
    "verify_images": 40,
    "checkpoint_seconds": 0,
}
ENTRY = "composite-weights_700B"
NETWORK = """
from torch import nn

def make():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 10),
    )
"""

# A process that dies at the n-th step of a stage, or just before the n-th time that a file of some name is there.
CHILD = """
import contextlib, os, signal, sys
import torch
torch.set_num_threads(1)
from bitsmith.cli import executors, jobs, main, stages

where, at = sys.argv.pop(1), int(sys.argv.pop(1))
seen = 0

def count():
    global seen
    seen += 1
    if seen == at:
        os.kill(os.getpid(), signal.SIGKILL)

@contextlib.contextmanager
def progress(quiet):
    yield lambda event: event.stage.startswith(where) and not event.epoch_end and not event.note and count()

rename = os.replace

def replace(source, target):
    if os.path.basename(target) == where:
        count()
    return rename(source, target)

executors.progress = jobs.progress = stages.progress = progress
os.replace = replace
main()
"""


def child(where: str, at: int, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CHILD, where, str(at), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def begin(path: Path) -> tuple[str, ...]:
    """Write what a run needs; returns its command."""
    (path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (path / "nets.py").write_text(NETWORK)
    return ("run", "recipe.yaml", "--out", "run", "--quiet")


def whole(path: Path) -> None:
    """The stages in this process, never stopped."""
    run = RunFolder.create(path / "run", read_recipe(path / "recipe.yaml"))
    job = pipeline.prepare(run)
    pipeline.train_float(job)
    pipeline.search(job)
    pipeline.train(job)
    pipeline.export(run)
    assert pipeline.verify(job)
    pipeline.report(job)


def without_seconds(values: Any) -> Any:
    """Without memory either, which is measured too."""
    if isinstance(values, dict):
        kept = {key: value for key, value in values.items() if not key.endswith("seconds") and key != "memory"}
        return {key: without_seconds(value) for key, value in kept.items()}
    return values


def outcome(run: Path) -> dict[str, Any]:
    """Every file of a run that must not depend on how often it was stopped."""
    found: dict[str, Any] = {}
    for file in sorted(run.rglob("*")):
        name = str(file.relative_to(run))
        if file.suffix in (".safetensors", ".onnx") or name == f"{ENTRY}/blueprint.json":
            found[name] = file.read_bytes()
        elif file.suffix == ".json" and file.name != "report.json":
            found[name] = without_seconds(json.loads(file.read_text()))
        elif file.suffix == ".jsonl":
            found[name] = [without_seconds(json.loads(line)) for line in file.read_text().splitlines()]
        elif file.is_file():
            found[name] = None
    return found


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("whole")
    begin(path)
    with contextlib.chdir(path):
        whole(path)
    found = outcome(path / "run")
    assert {f"{ENTRY}/model.onnx", f"{ENTRY}/network.safetensors", "float/network.safetensors"} <= set(found)
    assert not [name for name in found if "checkpoint" in name or "partial" in name or "sensitivities" in name]
    return found


# Stage by stage where a process may die, and the largest n; in the order in which a run comes there.
PLACES: dict[str, list[tuple[str, int]]] = {
    "search": [("train float", 6), ("train.checkpoint", 6), ("search", 5), ("search.checkpoint", 5)],
    "sensitivities": [("sensitivities", 8), ("sensitivities.json", 8)],
    "allocation": [("inherited.safetensors", 1), ("blueprint.json", 1), ("entry.json", 1)],
    "train": [("train composite", 6), ("train.checkpoint", 6)],
    "export": [("network.safetensors", 1), ("training.json", 1), ("blueprint.json", 1), ("model.onnx", 1)],
    "verify": [("verification.json", 2), ("report.json", 1)],
}

_REDUCED = ("search", "train", "export")


def test_killed_in_every_stage(never_stopped, tmp_path, full):
    """One run, killed in each of its stages, then gone on with to its end."""
    draw = random.Random(11)
    run = begin(tmp_path)
    entry = tmp_path / "run" / ENTRY
    for stage, places in PLACES.items():
        if not full and stage not in _REDUCED:
            continue
        # The full tier dies at every place of a stage, and twice where it takes steps.
        chosen = [place for place in places for _ in range(2 if place[1] > 2 else 1)] if full else [draw.choice(places)]
        for where, most in chosen:
            ended = child(where, draw.randint(1, min(most, 2) if full else most), *run, cwd=tmp_path)
            assert ended.returncode == -signal.SIGKILL, (stage, where, ended.stderr)
            if where == "model.onnx":
                assert not (entry / "model.onnx").exists()
                assert list(entry.glob(".model.onnx.*.partial"))
    ended = child("nowhere", 1, *run, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert_equal(outcome(tmp_path / "run"), never_stopped)


def test_killed_by_the_clock(never_stopped, tmp_path, full):
    """At random moments of the whole run, importing, reading and writing included; several times in a row."""
    if not full:
        pytest.skip("in the full tier")
    run = begin(tmp_path)
    started = time.monotonic()
    killed_by_the_clock(run, tmp_path, 0)
    first = time.monotonic() - started  # what a process takes to the captured network
    for _ in range(8):
        killed_by_the_clock(run, tmp_path, random.uniform(0, 2 * first))
    ended = child("nowhere", 1, *run, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert_equal(outcome(tmp_path / "run"), never_stopped)


def killed_by_the_clock(run: tuple[str, ...], cwd: Path, seconds: float) -> None:
    """Start a run and kill it so many seconds after its network is captured."""
    command = [sys.executable, "-c", CHILD, "nowhere", "1", *run]
    with subprocess.Popen(command, cwd=cwd, stderr=subprocess.DEVNULL) as process:
        while not (cwd / "run" / "graph.json").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(seconds)
        process.kill()


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        assert found[name] == value, name


def test_a_second_process_is_told_and_leaves(tmp_path):
    """At once, with the holder's number, and nothing is touched."""
    begin(tmp_path)
    RunFolder.create(tmp_path / "run", read_recipe(tmp_path / "recipe.yaml"))
    with locked(tmp_path / "run"):
        before = outcome(tmp_path / "run")
        ended = child("nowhere", 1, "run", "recipe.yaml", "--out", "run", cwd=tmp_path)
        assert outcome(tmp_path / "run") == before
    assert ended.returncode == 1
    message = " ".join(ended.stderr.split())
    assert f"run is in use by process {os.getpid()} on " in message
    assert "the same command goes on from there" in message


def test_locks(tmp_path):
    """Alone, or together with others that share; a lock file of nobody blocks nobody."""
    with locked(tmp_path), locked(tmp_path), locked(tmp_path, shared=True):
        pass
    assert "process" in (tmp_path / ".lock").read_text()
    with (tmp_path / ".lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        with pytest.raises(RunError, match="in use by process"), locked(tmp_path):
            pass
        with locked(tmp_path, shared=True):
            with (tmp_path / ".lock").open() as third, pytest.raises(BlockingIOError):
                fcntl.flock(third, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with pytest.raises(AssertionError, match="held together"), locked(tmp_path):
                pass
        fcntl.flock(other, fcntl.LOCK_UN)
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="in use"), locked(tmp_path, shared=True):
            pass
    with locked(tmp_path):
        pass


def test_trials_are_written_once(tmp_path):
    """The same again, as after a kill, adds no line; half a line of a power cut is replaced."""
    run = RunFolder(path=tmp_path)
    run.add_trial({"name": "a", "score": 0.5, "seconds": 1.0})
    run.add_trial({"name": "a", "score": 0.5, "seconds": 2.0})
    run.add_trial({"name": "b", "score": 0.5, "seconds": 1.0})
    with (tmp_path / "trials.jsonl").open("ab") as file:
        file.write(b'{"name": "c", "sc')
    run.add_trial({"name": "c", "score": 0.25, "seconds": 1.0})
    lines = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["a", "b", "c"]
