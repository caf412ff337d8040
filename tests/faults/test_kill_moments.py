"""kill -9 at random moments of search, train, export and compare: files are whole or not there, the end is the same.

A command is killed again and again in one folder until it gets through, then anew from where it began, until it was
killed as often as wanted. What it leaves then equals what it leaves uninterrupted. `pipeline/test_kill.py` kills at
places chosen beforehand.
"""

from __future__ import annotations

import json
import random
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml
from killed import killed, run
from pipeline.test_compare import NETWORK, VALUES, numbers
from pipeline.test_kill import assert_equal, outcome

from bitsmith.train import load_state

SEARCH = (
    "search --model nets:make --data digits --limit 240 --budget weights=700B --weight-bits 1,2,4,8 --epochs 2 "
    "--float-epochs 2 --train-epochs 2 --compile none --out out --quiet"
)
COMMANDS = {"search": SEARCH, "train": "train out --quiet", "export": "export out --quiet"}


def assert_whole(folder: Path) -> int:
    """Every file that has its name can be read; how many there are."""
    files = [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")]
    for file in files:
        if file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix == ".jsonl":
            assert file.read_text().endswith("\n")
            [json.loads(line) for line in file.read_text().splitlines()]
        elif file.suffix == ".safetensors":
            load_state(file)  # which compares checksums
        elif file.suffix == ".checkpoint":
            assert zipfile.ZipFile(file).testzip() is None
        elif file.suffix == ".onnx":
            onnx.checker.check_model(onnx.load(file))
        elif file.suffix == ".yaml":
            assert isinstance(yaml.safe_load(file.read_text()), dict)
        elif file.suffix == ".html":
            assert file.read_text().rstrip().endswith("</html>")
        else:
            assert file.name == "log.txt", file
    return len(files)


def kill_at_random(arguments: list[str], before: Path, at: Path, times: int, seconds: float, seed: int) -> None:
    """Kill a command in copies of a folder; the last copy, in which it got through, stays.

    Args:
        before: what it starts from.
        at: where the copies are; it works in "out" there.
        seconds: that it takes uninterrupted.
    """
    draw, kills = random.Random(seed), 0
    while kills < times:
        if at.exists():
            shutil.rmtree(at)
        shutil.copytree(before, at)
        # Late moments as likely as early ones, whatever earlier kills have left to do.
        while kills < times and killed(arguments, at, draw.uniform(0, seconds)):
            kills += 1
            wait_until_alone(at)
            assert_whole(at / "out")
    run(arguments, at)
    assert_whole(at / "out")


def wait_until_alone(folder: Path) -> None:
    """Until no process has it as its current folder: those that a killed command had started end by themselves."""
    end = time.monotonic() + 120
    while any(_current(process) == folder for process in Path("/proc").glob("[0-9]*")):
        assert time.monotonic() < end
        time.sleep(0.05)


def _current(process: Path) -> Path | None:
    try:
        return (process / "cwd").readlink()
    except OSError:
        return None


@pytest.mark.timeout(3600)
def test_search_train_and_export(tmp_path, full):
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "nets.py").write_text(NETWORK)
    commands = COMMANDS if full else {"search": SEARCH}
    for seed, (name, text) in enumerate(commands.items()):
        before = shutil.copytree(whole, tmp_path / f"before-{name}")
        seconds = run(text.split(), whole)
        kill_at_random(text.split(), before, tmp_path / name, 20 if full else 1, seconds, seed)
        expected = outcome(whole / "out")
        assert_equal(outcome(tmp_path / name / "out"), expected)
        assert {"search": "float/network.safetensors", "train": "trials.jsonl"}.get(name, "recipe.yaml") in expected
    assert list((whole / "out").glob("composite-*/model.onnx" if full else "composite-*/blueprint.json"))


@pytest.mark.timeout(3600)
def test_compare(tmp_path, full):
    """With processes of its own, which are left without their driver each time."""
    if not full:
        pytest.skip("in the full tier")
    before = tmp_path / "before"
    before.mkdir()
    (before / "nets.py").write_text(NETWORK)
    values: dict[str, Any] = VALUES | {"methods": ["random"], "narrowed": None, "seeds": [0], "float_plan": None}
    (before / "tiny.yaml").write_text(yaml.safe_dump(values | {"budgets": ["weights=500B"]}))
    arguments = ["compare", "tiny.yaml", "--out", "out", "--quiet", "--executor", "processes", "--workers", "2"]
    whole = shutil.copytree(before, tmp_path / "whole")
    seconds = run(arguments, whole)
    kill_at_random(arguments, before, tmp_path / "killed", 20, seconds, 7)
    assert numbers(tmp_path / "killed" / "out") == numbers(whole / "out")


def test_what_is_half_is_noticed(tmp_path):
    """`assert_whole` itself."""
    for name, content in (("a.json", "{"), ("a.jsonl", '{"a": 1}\n{"b'), ("a.html", "<html>"), ("a.yaml", "a: [")):
        file = tmp_path / name
        file.write_text(content)
        with pytest.raises((ValueError, AssertionError, yaml.YAMLError)):
            assert_whole(tmp_path)
        file.rename(tmp_path / f".{name}.partial")
        assert assert_whole(tmp_path) == 0
