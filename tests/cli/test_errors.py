"""Whatever is wrong with what was typed: an exit code that is not 0 and one message that names it."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from bitsmith.recipe import FILLED, METHODS

SEARCH = ["search", "--model", "resnet8_slim", "--data", "digits", "--out", "x", "--quiet"]
FITS = ["--budget", "size=50kB"]
CHECK = ["check", "--model", "resnet8_slim", "--data", "digits", *FITS]
QUANTIZE = ["quantize", "--model", "resnet8_slim", "--data", "digits", *FITS]
COST = ["cost", "--model", "resnet8", "--input", "3x32x32"]
COMMAND = [sys.executable, "-c", "from bitsmith.cli import main; main()"]

WRONG = [
    (["frobnicate"], 2, "No such command"),
    (["search", "--model", "resnet8"], 2, "Missing option"),
    (["search", "--seed", "one"], 2, "Invalid value for '--seed'"),
    (["run"], 2, "Missing argument"),
    (["run", "missing.yaml"], 1, "can't read the recipe missing.yaml"),
    (["run", "."], 1, "can't read the recipe ."),
    (["check", "missing.yaml"], 1, "can't read the recipe missing.yaml"),
    (["check", "--model", "resnet8"], 1, "give the input's shape, such as --input 3x224x224, or --data"),
    (["check"], 1, "give a recipe, or --model with --input"),
    (["check", "--model", "resnet8", "--input", "3x32x32", "--budget", "energy=1uJ"], 1, "target mpic or bitops"),
    (["targets", "toaster"], 1, "unknown target 'toaster'; known are onnx, c, mpic"),
    (["targets", "missing.yaml"], 1, "can't read the target missing.yaml"),
    (["verify", "nowhere"], 1, "nowhere is not a run folder"),
    (["train", "nowhere"], 1, "nowhere is not a run folder"),
    (["train", "nowhere", "--lr", "0.1"], 1, "nowhere is not a run folder"),
    (["export", "nowhere"], 1, "nowhere is not a run folder"),
    (["report", "nowhere"], 1, "nowhere is not a run folder"),
    (["cost", "--model", "resnet8", "--input", "3x32"], 1, "can't read the input shape '3x32'"),
    (["cost", "--model", "resnet8", "--input", "3x0x32"], 1, "can't read the input shape '3x0x32'"),
    (["cost", "--model", "resnet8", "--input", "3x32x32", "--weight-bits", "0"], 2, "--weight-bits"),
    (["cost", "--model", "resnet8", "--input", "3x32x32", "--weight-bits", "9"], 1, "weight bits must be 1..8"),
    (["cost", "--model", "nosuch", "--input", "3x32x32"], 1, "unknown model 'nosuch'"),
    (["cost", "--model", "nosuch:make", "--input", "3x32x32"], 1, "importing nosuch failed"),
    (["cost", "--model", "resnet8"], 1, "give the input's shape"),
    (["cost", "--blueprint", "missing.json"], 1, "can't read the blueprint missing.json"),
    (
        [*COST, "--target", "mpic", "--weight-bits", "3"],
        1,
        "can't hold weight bits [3] of layer 'conv1'; it takes [2,",
    ),
    ([*COST, "--target", "ethos-u", "--activation-bits", "4"], 1, "can't hold activation bits [4] of layer 'conv1'"),
    (
        [*COST, "--target", "c", "--weight-bits", "32"],
        1,
        "layer 'conv1' would stay float, and target 'c' runs",
    ),
    (["cost"], 1, "give --model"),
    ([*SEARCH, "--budget", "size=1kB"], 1, "size is at least"),
    ([*SEARCH, "--budget", "size=50,1kB"], 1, "size is at least"),
    ([*SEARCH, "--budget", "size=50"], 1, "can't be in 'a bare number'"),
    ([*SEARCH, "--budget", "sice=50kB"], 1, "unknown cost 'sice' in 'sice=50kB' (did you mean 'size'?); known are"),
    ([*SEARCH, "--budget", "size:50kB"], 1, "can't read the budget"),
    ([*SEARCH, "--budget", "size=50,60kB", "--budget", "ram=1,2kB"], 1, "both fronts"),
    ([*SEARCH, *FITS, "--budget", "size=60kB"], 1, "size is limited twice"),
    ([*SEARCH, *FITS, "--pin", "fc"], 1, "can't read the pin 'fc'"),
    ([*SEARCH, *FITS, "--pin", "fc="], 1, "can't read the pin 'fc='"),
    ([*SEARCH, *FITS, "--pin", "fc=9"], 1, "the pin fc=9: weight bits must be 1..8"),
    ([*SEARCH, *FITS, "--pin", "fc=lots"], 1, "can't read the pin fc=lots"),
    ([*SEARCH, *FITS, "--pin", "layer1.0.conv3=8"], 1, "did you mean layer1.0.conv"),
    ([*SEARCH, *FITS, "--pin", "*z*=8"], 1, "matches no layer"),
    ([*SEARCH, *FITS, "--pin", "fc=8", "--pin", "fc=4"], 1, "--pin gives 'fc' both 8 and 4"),
    ([*SEARCH, *FITS, "--pin", "fc=float", "--target", "c"], 1, "layer 'fc' would stay float"),
    (
        [*SEARCH, *FITS, "--pin", "fc=8", "--pin", "conv*=float", "--target", "c"],
        1,
        "the pin 'conv*=float' is in the way: layer 'conv1' would stay float",
    ),
    ([*SEARCH, *FITS, "--pin", "*=float"], 1, "the pin '*=float' is in the way: the budgets can't be met: size is"),
    ([*SEARCH, *FITS, "--ends", "some"], 1, "--ends takes one number of bits, or 'free'"),
    ([*SEARCH, *FITS, "--weight-bits", "2;4"], 1, "--weight-bits takes numbers with commas between"),
    ([*SEARCH, *FITS, "--weight-bits", "0,4"], 1, "weight bits must be 1..8"),
    ([*SEARCH, *FITS, "--activation-bits", ""], 1, "--activation-bits takes numbers"),
    ([*SEARCH, *FITS, "--method", "magic"], 1, "unknown method 'magic'"),
    ([*SEARCH, *FITS, "--method", "filter"], 1, "unknown method 'filter' (did you mean 'filters'?); known are"),
    (
        [*SEARCH, *FITS, "--method", "uniform", "--epochs", "3"],
        1,
        "'uniform' doesn't, so leave it out",
    ),
    (
        [*SEARCH, *FITS, "--method", "uniform", "--as-published"],
        1,
        "to --method composite, supernet, binomial, block-binomial, multinomial, not to 'uniform'",
    ),
    ([*SEARCH, *FITS, "--epochs", "0"], 1, "epochs"),
    ([*SEARCH, *FITS, "--train-epochs", "0"], 1, "epochs of a training must be at least 1"),
    ([*SEARCH, *FITS, "--lr", "-1"], 1, "lr of a training must be positive"),
    ([*SEARCH, *FITS, "--ema", "1"], 1, "ema of a training must be in 0..1"),
    ([*SEARCH, *FITS, "--distill", "2"], 1, "distill of a training must be in 0..1"),
    ([*SEARCH, *FITS, "--compile", "yes"], 1, "compile: Input should be 'auto', 'none', 'quantizers' or 'network'"),
    ([*SEARCH, *FITS, "--precision", "int3"], 1, "precision: Input should be"),
    ([*SEARCH, *FITS, "--device", "tpu"], 1, "device: Input should be"),
    ([*SEARCH, *FITS, "--target", "toaster"], 1, "unknown target 'toaster'"),
    ([*SEARCH, *FITS, "--target", "missing.yaml"], 1, "can't read the target missing.yaml"),
    ([*SEARCH, *FITS, "--target", "mpic", "--weight-bits", "2,3"], 1, "target 'mpic' can't hold weight bits [3]"),
    ([*SEARCH, *FITS, "--target", "hls4ml", "--quantizer", "lsq"], 1, "choose quantizer lsq-pow2"),
    ([*SEARCH, "--budget", "energy=1uJ"], 1, "target 'onnx' can't meet energy=1uJ"),
    ([*SEARCH, "--target", "mpic", "--budget", "power=1uW@30fps"], 1, "uW at 30fps)"),
    ([*SEARCH, "--target", "mpic", "--budget", "power=1mW"], 1, "write it as power=5mW@30fps"),
    ([*SEARCH, *FITS, "--metric", "f9"], 1, "unknown metric 'f9'"),
    ([*SEARCH, *FITS, "--class-weights", "1,lots"], 1, "--class-weights takes"),
    ([*SEARCH, *FITS, "--class-weights", "1,2"], 1, "weights"),
    ([*SEARCH, *FITS, "--augment", "rotate"], 1, "augment"),
    ([*SEARCH, *FITS, "--label-smoothing", "2"], 1, "label_smoothing"),
    ([*SEARCH, *FITS, "--limit", "0"], 1, "limit of training images must be at least 1"),
    ([*SEARCH, *FITS, "--input", "3x8x8"], 1, "not (3, 8, 8)"),
    ([*SEARCH, *FITS, "--weights", "missing.pt"], 1, "missing.pt don't exist"),
    (["search", "--model", "resnet8", "--data", "npy:nowhere", *FITS, "--out", "x"], 1, "nowhere"),
    (["search", "--model", "resnet8", "--data", "folder:nowhere", *FITS, "--out", "x"], 1, "nowhere is not a folder"),
    (["search", "--model", "resnet8", "--data", "numbers", *FITS, "--out", "x"], 1, "unknown data 'numbers'"),
    ([*SEARCH, *FITS, "--method", "sensitivity"], 1, "sensitivity measures a trained float network"),
    (QUANTIZE, 1, "needs a trained network"),
    ([*QUANTIZE, "--weights", "missing.pt"], 1, "missing.pt don't exist"),
    ([*QUANTIZE, "--weights", "missing.pt", "--class-weights", "1,lots"], 1, "--class-weights takes"),
    ([*CHECK, "--class-weights", "1,lots"], 1, "--class-weights takes"),
    ([*CHECK, "--metric", "f1", "--positive", "7"], 1, "a positive class is for the metric f1 of two"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), WRONG, ids=lambda value: "")
def test_errors_are_one_message(bitsmith, tmp_path, arguments, code, words):
    done = bitsmith(*arguments, cwd=tmp_path, check=code)
    assert words in done.stderr.replace("\n", " ")
    assert done.stdout == ""
    if code == 1:
        assert not (tmp_path / "x").exists()  # a refusal leaves no folder behind
        assert not (tmp_path / "runs").exists()
        assert done.stderr.count("error: ") == 1
        assert done.stderr.splitlines()[-1].startswith("error: ")


def test_weights_that_do_not_know_the_data_are_refused(bitsmith, own, trained):
    """All zeros: one class for every image."""
    options = ["quantize", "--model", "ownnet:make", "--data", "digits", "--budget", "size=3kB", "--out", "x"]
    state = torch.load(trained, weights_only=True)
    torch.save({name: torch.zeros_like(value) for name, value in state.items()}, own / "zeros.pt")
    assert "were not trained for this data" in bitsmith(*options, "--weights", "zeros.pt", cwd=own, check=1).stderr


def test_another_recipe_in_the_folder(bitsmith, tmp_path):
    options = ["search", "--model", "resnet8_slim", "--data", "digits", "--method", "uniform", "--out", "x", "--quiet"]
    bitsmith(*options, "--budget", "size=50kB", cwd=tmp_path)
    bitsmith(*options, "--budget", "size=50000B", cwd=tmp_path)  # the same, spelled otherwise
    again = bitsmith(*options, "--budget", "size=40kB", cwd=tmp_path, check=1)
    assert "holds a run of another recipe" in again.stderr


def test_stages_out_of_order(bitsmith, tmp_path):
    options = ["--model", "resnet8_slim", "--data", "digits", "--method", "uniform", "--out", "x", "--quiet"]
    bitsmith("search", *options, *FITS, cwd=tmp_path)
    assert "is not trained yet; run bitsmith train" in bitsmith("export", "x", cwd=tmp_path, check=1).stderr
    assert "run bitsmith export" in bitsmith("verify", "x", cwd=tmp_path, check=1).stderr
    assert "run bitsmith train" in bitsmith("report", "x", cwd=tmp_path, check=1).stderr.replace("\n", " ")
    assert (
        "no network of this run is called other"
        in bitsmith("train", "x", "--only", "other", cwd=tmp_path, check=1).stderr
    )
    shutil.rmtree(tmp_path / "x" / "uniform-size_50kB")
    assert "no searched network yet" in bitsmith("train", "x", cwd=tmp_path, check=1).stderr


def test_a_folder_that_can_not_be_written(bitsmith, tmp_path):
    (tmp_path / "x").write_text("in the way")
    done = bitsmith(*SEARCH, *FITS, cwd=tmp_path, check=1)
    assert "x" in done.stderr
    assert (tmp_path / "x").read_text() == "in the way"


def test_data_of_the_wrong_kind(bitsmith, tmp_path):
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.save(tmp_path / f"{name}.npy", np.zeros(3, dtype=np.float64))
    options = ["search", "--model", "resnet8_slim", "--data", "npy:.", *FITS, "--out", "x"]
    assert ".npy" in bitsmith(*options, cwd=tmp_path, check=1).stderr


def test_markup_in_names_stays_text(bitsmith, tmp_path):
    done = bitsmith("verify", "[bold]x[/bold][/]", cwd=tmp_path, check=1)
    assert done.stderr.startswith("error: [bold]x[/bold][/] is not a run folder")


def test_version_and_help(bitsmith):
    assert bitsmith("--version").stdout.strip() == "0.1.0"
    assert "search" in bitsmith("--help").stdout
    for command in ("search", "check"):
        said = " ".join(bitsmith(command, "--help").stdout.replace("│", " ").split())
        assert f"{', '.join([*METHODS, FILLED])}, or" in said
    for command in ("run", "search", "quantize", "train", "export", "verify", "report", "cost", "check"):
        assert "Usage" in bitsmith(command, "--help").stdout


def test_as_a_process_of_its_own(tmp_path):
    """Errors are one line without a traceback; Ctrl-C says that the same command goes on."""
    done = subprocess.run([*COMMAND, "verify", "nowhere"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: nowhere is not a run folder")
    options = ["search", "--model", "resnet8", "--data", "digits", *FITS, "--epochs", "200", "--out", "x"]
    with subprocess.Popen([*COMMAND, *options], stderr=subprocess.PIPE, text=True, cwd=tmp_path) as running:
        assert running.stderr is not None
        for line in running.stderr:  # the estimate is printed right before the search starts
            if "networks" in line:
                running.send_signal(signal.SIGINT)
                break
        rest = running.stderr.read()
    assert running.returncode == 130
    assert "interrupted; what was finished is kept" in rest.replace("\n", " ")
    assert "Traceback" not in rest


def test_output_into_a_pipe_that_closes(tmp_path):
    """`bitsmith targets --json | head -0` ends quietly."""
    read, write = os.pipe()
    os.close(read)
    options = ["targets", "--json"]
    done = subprocess.run(
        [*COMMAND, *options], stdout=write, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False
    )
    os.close(write)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


def test_json_is_all_that_is_printed(bitsmith, tmp_path):
    """Also where the network's capture has notes for a person."""
    done = bitsmith(*SEARCH[:-1], *FITS, "--method", "uniform", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)[0]["name"] == "uniform"
    assert done.stderr == ""
