"""The command line: output, exit codes, one message per error."""

import json
import os
import signal
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest

from bitsmith.cli import main


@pytest.fixture
def bitsmith(monkeypatch, capsys):
    """A function that runs a command in this process and asserts its exit code."""

    def run(*arguments, cwd=None, check=0):
        monkeypatch.setattr(sys, "argv", ["bitsmith", *map(str, arguments)])
        old, before = signal.getsignal(signal.SIGINT), os.getcwd()
        os.chdir(cwd or before)
        try:
            with warnings.catch_warnings(), pytest.raises(SystemExit) as stopped:
                main()
        finally:
            os.chdir(before)
            signal.signal(signal.SIGINT, old)
        stdout, stderr = capsys.readouterr()
        assert (stopped.value.code or 0) == check, stderr
        return SimpleNamespace(stdout=stdout, stderr=stderr)

    return run


def test_the_stages_one_by_one(bitsmith, tmp_path):
    """search -> train -> export -> verify -> report on the user's own module, found in the current directory."""
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2),\n"
        "                         nn.ReLU(), nn.Flatten(), nn.Linear(32, 7))\n"
    )
    found = bitsmith(
        *("search", "--model", "nets:make", "--data", "digits", "--budget", "weights=600B", "--budget", "bitops=20M"),
        *("--weight-bits", "2,4,8", "--epochs", "2", "--train-epochs", "1", "--out", "a", "--json"),
        cwd=tmp_path,
    )
    rows = json.loads(found.stdout)
    assert [row["name"] for row in rows] == ["composite", "uniform", "uniform+fill"]
    assert all(row["costs"]["weights"] <= 600 for row in rows)
    (tmp_path / "nets.py").unlink()  # from here on its author's code is not needed
    bitsmith("train", "a", "--quiet", cwd=tmp_path)
    bitsmith("export", "a", "--to", "onnx", cwd=tmp_path)
    verified = json.loads(bitsmith("verify", "a", "--json", cwd=tmp_path).stdout)
    assert verified["ok"]
    for artefact in verified["artefacts"]:
        assert artefact["ok"]
        assert artefact["equal_outputs"] == artefact["images"] == 359
        assert artefact["float_layers"] == 0
        assert artefact["integer_layers"] == 3
        assert 0 <= artefact["accuracy"] <= 1
    bitsmith("report", "a", cwd=tmp_path)
    assert (tmp_path / "a" / "report.html").stat().st_size > 100_000
    spoiled = tmp_path / "a" / "composite-weights_600B-bitops_20M" / "model.onnx"
    spoiled.write_bytes(b"no model")
    assert "model.onnx" in bitsmith("verify", "a", "--json", cwd=tmp_path, check=1).stderr


def test_as_published_beside_its_baselines(bitsmith, tmp_path):
    """Float ends are searched, compared and reported; no integer file is claimed of them."""
    options = ["--model", "resnet8_slim", "--data", "digits", "--budget", "bitops=900M", "--weight-bits", "1,2,3,4"]
    options += ["--activation-bits", "2,3,4", "--as-published", "--epochs", "1", "--train-epochs", "1", "--out", "a"]
    rows = json.loads(bitsmith("search", *options, "--json", cwd=tmp_path).stdout)
    assert [row["name"] for row in rows] == ["composite-as-published", "uniform", "uniform+fill"]
    assert all(row["bits"]["conv1"] == row["bits"]["fc"] == [32, 32] for row in rows)
    bitsmith("train", "a", "--quiet", cwd=tmp_path)
    assert "no integer file to write" in bitsmith("export", "a", cwd=tmp_path).stderr.replace("\n", " ")
    assert json.loads(bitsmith("verify", "a", "--json", cwd=tmp_path).stdout) == {"ok": True, "artefacts": []}


def test_cost_prints_the_published_counts(bitsmith):
    costs = json.loads(bitsmith("cost", "--model", "resnet8", "--input", "3x32x32", "--json").stdout)
    assert costs["macs"] == 12_501_632
    assert costs["weight_bytes"] == 77_360
    assert {"params", "macs", "bitops", "weight_bytes", "size_bytes", "ram_bytes"} <= set(costs)


def test_check_says_what_binds_and_how_long(bitsmith):
    options = ("check", "--model", "resnet8_slim", "--data", "digits", "--weight-bits", "2,4", "--json")
    fine = json.loads(bitsmith(*options, "--budget", "size=9kB").stdout)
    assert fine["ok"]
    assert fine["budgets"][0]["state"] == "binds"
    assert fine["seconds"]["total"] > 0
    refused = json.loads(bitsmith(*options, "--budget", "size=1kB", "--budget", "ram=10B", check=1).stdout)
    assert [row["state"] for row in refused["budgets"]] == ["out of reach", "out of reach"]
    assert "whatever the bits are" in refused["problem"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["frobnicate"], 2, "No such command"),
        (["run", "missing.yaml"], 1, "can't read the recipe missing.yaml"),
        (["verify", "nowhere"], 1, "not a run folder"),
        (["cost", "--model", "resnet8", "--input", "3x32"], 1, "can't read the input shape '3x32'"),
        (["cost", "--model", "nosuch"], 1, "give the input's shape"),
        (["cost"], 1, "give --model"),
        (
            ["search", "--model", "resnet8", "--data", "digits", "--budget", "size=5kB", "--out", "x", "--quiet"],
            1,
            "size is at least",
        ),
        (
            ["search", "--model", "resnet8", "--data", "npy:nowhere", "--budget", "size=50kB", "--out", "x"],
            1,
            "nowhere",
        ),
        (
            ["search", "--model", "resnet8", "--data", "digits", "--budget", "size=50kB", "--out", "x", "--pin", "fc"],
            1,
            "can't read the pin 'fc'",
        ),
    ],
)
def test_errors_are_one_message(bitsmith, tmp_path, arguments, code, words):
    done = bitsmith(*arguments, cwd=tmp_path, check=code)
    assert words in done.stderr.replace("\n", " ")


def test_version_and_help(bitsmith):
    assert bitsmith("--version").stdout.strip() == "0.1.0"
    assert "search" in bitsmith("--help").stdout


def test_as_a_process_of_its_own(tmp_path):
    """Errors are one line without a traceback; Ctrl-C says that the same command goes on."""
    command = [sys.executable, "-c", "from bitsmith.cli import main; main()"]
    done = subprocess.run([*command, "verify", "nowhere"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: nowhere is not a run folder")
    options = [
        "search",
        "--model",
        "resnet8",
        "--data",
        "digits",
        "--budget",
        "size=50kB",
        "--epochs",
        "200",
        "--out",
        "x",
    ]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, cwd=tmp_path) as running:
        assert running.stderr is not None
        for line in running.stderr:  # the estimate is printed right before the search starts
            if "networks" in line:
                running.send_signal(signal.SIGINT)
                break
        rest = running.stderr.read()
    assert running.returncode == 130
    assert "interrupted; what was finished is kept" in rest.replace("\n", " ")
    assert "Traceback" not in rest
