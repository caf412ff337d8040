"""What goes wrong around the commands: damaged runs, disks, names, locales, clocks. One message, nothing half."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import bitsmith
from bitsmith.blueprint import read_blueprint
from bitsmith.cli import main
from bitsmith.errors import BitsmithError, DataError, ExportError, RecipeError
from bitsmith.models import load_model
from bitsmith.pipeline import RunFolder, exported
from bitsmith.pipeline.folder import Entry
from bitsmith.recipe import read_recipe
from bitsmith.train import Loop, load_state, save_checkpoint, save_state

PLAN = {"epochs": 1, "batch_size": 64, "lr": 0.05, "compile": "none"}
RECIPE = {
    "model": {"spec": "faultynet:make"},
    "data": {"source": "digits", "limit": 240},
    # 4 bits at the ends, which every machine adds up without saturating.
    "space": {"weight_bits": [2, 4], "activation_bits": [8], "ends": 4},
    "budgets": ["weights=1200B"],
    "method": {"name": "uniform"},
    "baselines": ["uniform+fill"],
    "float_plan": PLAN,
    "train": PLAN,
    "start": "float",
    "verify_images": 20,
}
NETWORK = """
from torch import nn

def make():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 10),
    )
"""


class NetworkUsedError(Exception):
    pass


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a finished run in `run`: the whole job, during which nobody could reach the network."""
    path = tmp_path_factory.mktemp("finished")
    (path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (path / "faultynet.py").write_text(NETWORK)

    def refuse(*arguments: object, **_: object) -> None:
        raise NetworkUsedError(arguments)

    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(path):
        for name in ("connect", "connect_ex", "sendto", "bind"):
            patch.setattr(socket.socket, name, refuse)
        for name in ("getaddrinfo", "create_connection", "gethostbyname"):
            patch.setattr(socket, name, refuse)
        with socket.socket() as one, pytest.raises(NetworkUsedError):
            one.connect(("127.0.0.1", 9))
        assert command("run", "recipe.yaml", "--out", "run", "--quiet") == (0, "")
    assert (path / "run" / "report.html").exists()
    return path


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the finished run, which may be spoiled."""
    return Path(shutil.copytree(finished / "run", tmp_path / "run"))


@pytest.fixture(scope="module")
def entry(finished) -> str:
    return next(file.parent.name for file in (finished / "run").glob("uniform-*/entry.json"))


def command(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and stderr of a command in this process; any exception but a SystemExit gets out."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        said: list[str] = []
        patch.setattr(sys.modules[main.__module__], "_fail", lambda message, code: said.append(message) or code)
        patch.setattr(sys, "argv", ["bitsmith", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
    assert len(said) <= 1
    return int(stopped.value.code or 0), "".join(said)


def partials(folder: Path) -> list[str]:
    return [file.name for file in folder.rglob("*") if file.name.endswith((".partial", ".part"))]


DAMAGE = {
    "empty": lambda data, rng: b"",
    "half": lambda data, rng: data[: len(data) // 2],
    "junk": lambda data, rng: rng.randbytes(3000),
    "list": lambda data, rng: b"[1, [2]]",
    "utf-16": lambda data, rng: "{}".encode("utf-16"),
    "flipped": lambda data, rng: data[: (at := rng.randrange(len(data)))] + bytes([data[at] ^ 16]) + data[at + 1 :],
}


def test_every_damaged_file_of_a_run_is_one_message(finished, run, full):
    """Each file in each way, by each command of the full tier; a draw of them otherwise."""
    rng = random.Random(7)
    files = [f.relative_to(run) for f in run.rglob("*") if f.is_file() and f.name not in (".lock", "report.html")]
    cases = [(file, how, name) for file in sorted(files) for how in DAMAGE for name in COMMANDS]
    for file, how, name in cases if full else rng.sample(cases, 24):
        before = (run / file).read_bytes()
        (run / file).write_bytes(DAMAGE[how](before, rng))
        with contextlib.chdir(finished):
            code, said = command(name, run, "--quiet")
        assert (code, bool(said)) in ((0, False), (1, True)) or name == "verify", (file, how, name, code, said)
        assert not partials(run)
        shutil.rmtree(run)
        shutil.copytree(finished / "run", run)


COMMANDS = ("train", "export", "verify", "report")


def test_blueprints_name_their_file(tmp_path):
    for content, said in ((b"\xff\xfe{", "is not JSON"), (b"{}", "schema None"), (b"[", "not JSON")):
        (tmp_path / "blueprint.json").write_bytes(content)
        with pytest.raises(BitsmithError, match=said) as caught:
            read_blueprint(tmp_path / "blueprint.json", "search again")
        assert str(tmp_path / "blueprint.json") in str(caught.value)


def test_trials_that_are_damaged(run, entry):
    (run / "trials.jsonl").write_text("[1]\n")
    (run / entry / "training.json").unlink()
    code, said = command("train", run, "--quiet")
    assert code == 1
    assert "trials.jsonl is damaged" in said
    (run / "trials.jsonl").unlink()
    assert command("train", run, "--quiet") == (0, "")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(number, run, entry, finished, tmp_path):
    """In a trained network, its steps, and in a file that somebody gives: named, never exported."""
    state = load_state(run / entry / "network.safetensors")
    for name in ("0.weight", "3.quantize_input.log_step", "1.running_var"):
        if name not in state:
            continue
        save_state(state | {name: torch.full_like(state[name], number)}, run / entry / "network.safetensors")
        with pytest.raises(ExportError, match="not finite"):
            exported.export(exported.load(run / entry), tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with contextlib.chdir(finished):
        net, _ = load_model("faultynet:make", classes=10, shape=(1, 8, 8))
        torch.save(net.state_dict() | {"0.bias": torch.full((8,), number)}, tmp_path / "weights.pt")
        with pytest.raises(RecipeError, match=r"NaN or infinite: 0\.bias"):
            load_model("faultynet:make", classes=10, shape=(1, 8, 8), weights=tmp_path / "weights.pt")


@pytest.fixture
def small_disk(tmp_path, finished) -> Iterator[Path]:
    """A file system of 24 MB of its own, with the run on it."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    if os.geteuid() or shutil.which("mount") is None or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("only root can mount a file system, and not in every container")
    shutil.copytree(finished / "run", place / "run")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(small_disk, entry, finished):
    """Every command says so and leaves whole files; with room again, the same commands go on."""
    run = small_disk / "run"
    (run / entry / "training.json").unlink()
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name != ".lock"}
    with (small_disk / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    with contextlib.chdir(finished):
        code, said = command("train", run, "--quiet")
        assert code == 1
        assert said.startswith("No space left on device: ")
        assert "train.checkpoint; free some space, then the same command goes on" in said
        assert not partials(run)
        assert {file: file.read_bytes() for file in before} == before
        (small_disk / "ballast").unlink()
        for name in COMMANDS:
            assert command(name, run, "--quiet") == (0, ""), name


def test_a_read_only_disk(small_disk, entry, finished):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with contextlib.chdir(finished):
        for name in COMMANDS:
            code, said = command(name, small_disk / "run", "--quiet")
            assert code == 1
            assert said.startswith("Read-only file system: "), said
        code, said = command("run", "recipe.yaml", "--out", small_disk / "new", "--quiet")
        assert (code, "can't write to" in said) == (1, True)
        assert command("cost", "--blueprint", small_disk / "run" / entry / "blueprint.json") == (0, "")


@pytest.mark.parametrize("name", [os.fsdecode(b"not\xff\xfeutf-8"), "x" * 255, "a b\nc", "-dash"], ids=ascii)
def test_names_of_folders(name, finished, tmp_path):
    shutil.copytree(finished / "run", tmp_path / name)
    with contextlib.chdir(finished):
        for what in ("export", "verify", "report"):
            assert command(what, tmp_path / name, "--quiet") == (0, ""), what
    assert not partials(tmp_path)


def test_class_folders_that_are_not_utf_8(tmp_path):
    (tmp_path / os.fsdecode(b"cl\xffss")).mkdir()
    from bitsmith.data import open_data

    with pytest.raises(DataError, match="name that isn't UTF-8; rename it"):
        open_data(f"folder:{tmp_path}", shape=(3, 8, 8))


def test_the_order_of_networks_asks_no_clock(run, entry):
    """Not even one that goes backwards: each file is as old as the others are young."""
    folder, first = RunFolder(path=run), read_recipe(run / "recipe.yaml")
    found, blueprint = folder.read_entry(run / entry)
    folder.write_entry(replace(found, name="w4a8", kind="baseline", budgets=()), blueprint)
    names = [item.name for item, _ in folder.entries()]
    assert names == ["uniform", *first.baselines, "w4a8"]
    for age, file in enumerate(sorted(run.glob("*/entry.json"), reverse=True)):
        os.utime(file, (10**9 - age, 10**9 - age))
    assert [item.name for item, _ in folder.entries()] == names
    assert isinstance(found, Entry)


def test_locale_c_and_no_home(run, finished):
    """An ASCII terminal, and neither a home nor a cache that could be written."""
    nowhere = {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": "/proc/nowhere", "OMP_NUM_THREADS": "1"}
    environment = os.environ | nowhere | {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    begin = [sys.executable, "-c", "from bitsmith.cli import main; main()"]
    done = subprocess.run([*begin, "report", run], capture_output=True, cwd=finished, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Report: " in done.stdout
    assert b"elemetry" not in done.stderr  # which onnxruntime would complain about that it can't keep without a home


def test_memory_that_is_not_there(run, monkeypatch):
    """More than any machine has, as a batch that is too large asks for: one message; another error stays itself."""
    monkeypatch.setattr("bitsmith.pipeline.verify", lambda *_: torch.empty(2**60, dtype=torch.uint8))
    assert command("verify", run, "--quiet") == (
        1,
        "out of memory; take a smaller batch_size (the recipe's train, float_plan and method.plan have one each), or a "
        "smaller input",
    )
    monkeypatch.setattr("bitsmith.pipeline.verify", lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        command("verify", run, "--quiet")


def test_onnxruntime_reports_to_nobody():
    """It is loaded in one place, and by a worker that is a program of its own; both tell it so before."""
    sources = Path(bitsmith.__file__).parent
    texts = {path.relative_to(sources).as_posix(): path.read_text() for path in sources.rglob("*.py")}
    loading = {name: re.search(r"^\s*(import|from) onnxruntime", text, re.M) for name, text in texts.items()}
    places = {name: found.start() for name, found in loading.items() if found}
    assert sorted(places) == ["deploy/silent.py", "deploy/theirs_worker.py"]
    assert all('setdefault("ORT_DISABLE_TELEMETRY", "1")' in texts[name][:at] for name, at in places.items())
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path, monkeypatch):
    """What is remembered of bad images is looked for again, also where what was remembered is damaged."""
    import numpy as np
    from PIL import Image

    from bitsmith.data.bad import find_bad
    from bitsmith.data.image import Decoder

    Image.new("L", (4, 4)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    names, decoder = np.array([b"bad.png", b"good.png"]), Decoder(shape=(1, 4, 4))
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert list(find_bad(tmp_path, names, decoder)) == [0]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert list(find_bad(tmp_path, names, decoder)) == [0]
    (kept,) = (tmp_path / "cache").rglob("*.json")
    for damage in ("[1]", '{"x": 1}', "{"):
        kept.write_text(damage)
        assert list(find_bad(tmp_path, names, decoder)) == [0]


def test_a_checkpoint_of_another_shape(finished, run, entry):
    """As of another version of bitsmith: named, with the way out."""
    (run / entry / "training.json").unlink()
    place, kept = run / entry / "train.checkpoint", []
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(finished):
        patch.setattr(sys.modules[Loop.__module__], "save_checkpoint", lambda values, path: kept.append(values))
        assert command("train", run, "--quiet") == (0, "")
    for key in ("mode", "place", "seconds", "random", "learner"):
        (run / entry / "training.json").unlink(missing_ok=True)
        save_checkpoint({name: value for name, value in kept[0].items() if name != key}, place)
        with contextlib.chdir(finished):
            code, said = command("train", run, "--quiet")
        assert code == 1
        assert "train.checkpoint is damaged or of another version of bitsmith (KeyError" in said
