"""Files: whole or not there, damaged ones refused by name, nothing executed."""

from __future__ import annotations

import json
import os
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.errors import RunError
from bitsmith.train import (
    load_checkpoint,
    load_into,
    load_state,
    read_json,
    save_checkpoint,
    save_state,
    write_json,
    write_text,
)

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "n": torch.tensor(3)}
VALUES = {"epoch": 2, "network": STATE, "curves": {"loss": [1.5, 0.5]}, "rng": torch.get_rng_state()}


def test_states_come_back(tmp_path):
    path = tmp_path / "deep" / "er" / "net.safetensors"
    save_state({**STATE, "view": torch.arange(6.0).view(2, 3).T}, path)
    loaded = load_state(path)
    assert loaded.keys() == {*STATE, "view"}
    assert all(torch.equal(loaded[k], STATE[k]) for k in STATE)
    assert torch.equal(loaded["view"], torch.arange(6.0).view(2, 3).T)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_checkpoints_come_back(tmp_path):
    path = tmp_path / "deep" / "train.checkpoint"
    assert load_checkpoint(path) is None
    save_checkpoint(VALUES, path)
    loaded = load_checkpoint(path)
    assert loaded is not None
    assert loaded["epoch"] == 2
    assert loaded["curves"] == VALUES["curves"]
    assert torch.equal(loaded["rng"], VALUES["rng"])


def test_json_comes_back(tmp_path):
    write_json(tmp_path / "deep" / "x.json", {"ü": [1, 2.5, None]})
    assert read_json(tmp_path / "deep" / "x.json", "numbers") == {"ü": [1, 2.5, None]}


def test_missing_files_say_what_they_would_hold(tmp_path):
    with pytest.raises(RunError, match=r"x\.json is missing: the blueprint"):
        read_json(tmp_path / "x.json", "the blueprint")
    with pytest.raises(RunError, match=r"x\.safetensors is missing"):
        load_state(tmp_path / "x.safetensors")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"nonsense"])
def test_damaged_json(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"x\.json is damaged"):
        read_json(path, "numbers")


@given(st.data())
def test_damaged_states_and_checkpoints(tmp_path_factory, data):
    """Cut anywhere, or with bytes overwritten: either the same values come back or a RunError names the file."""
    folder = tmp_path_factory.mktemp("damaged")
    for name, save, load in (("s", save_state, load_state), ("c", save_checkpoint, load_checkpoint)):
        path = folder / name
        save(STATE if name == "s" else VALUES, path)
        whole = path.read_bytes()
        cut = data.draw(st.integers(0, len(whole) - 1))
        junk = data.draw(st.binary(min_size=1, max_size=8))
        for spoiled in (whole[:cut], whole[:cut] + junk + whole[cut + len(junk) :]):
            path.write_bytes(spoiled)
            try:
                load(path)
            except RunError as error:
                assert str(path) in str(error)  # noqa: PT017


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04", pickle.dumps([1, 2]), pickle.dumps({"a": 1})[:-1]])
def test_files_that_are_no_checkpoint(tmp_path, content):
    path = tmp_path / "train.checkpoint"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"train\.checkpoint is damaged.*delete it"):
        load_checkpoint(path)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pickle_bomb_does_not_go_off(tmp_path, legacy):
    mark, path = tmp_path / "boom", tmp_path / "train.checkpoint"
    if legacy:
        path.write_bytes(pickle.dumps({"network": Bomb(mark)}))
    else:
        torch.save({"network": Bomb(mark)}, path)
    with pytest.raises(RunError, match="damaged"):
        load_checkpoint(path)
    assert not mark.exists()
    if legacy:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert mark.exists()  # it was a live one
    with pytest.raises(RunError):
        load_state(path)


@pytest.mark.parametrize("kind", ["text", "json", "state", "checkpoint"])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, kind, monkeypatch):
    path = tmp_path / "file"
    good, bad = {
        "text": (lambda: write_text(path, "old"), lambda: write_text(path, "\ud800")),
        "json": (lambda: write_json(path, [1]), lambda: write_json(path, [1, object()])),
        "state": (lambda: save_state(STATE, path), lambda: save_state({"a": None}, path)),  # type: ignore[dict-item]
        "checkpoint": (lambda: save_checkpoint(VALUES, path), lambda: save_checkpoint({"f": lambda: 1}, path)),
    }[kind]
    good()
    before = path.read_bytes()
    with pytest.raises((ValueError, TypeError, AttributeError, pickle.PicklingError)):
        bad()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_write_replaces_in_one_step(tmp_path, monkeypatch):
    """Until the rename, readers see the old file."""
    from pathlib import Path

    path, seen = tmp_path / "x.json", []
    write_json(path, 1)
    rename = Path.replace

    def watched(self, target):
        seen.append(json.loads(path.read_text()))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    write_json(path, 2)
    assert seen == [1]
    assert read_json(path, "a number") == 2


def test_load_into_wants_all_names_and_shapes():
    layer = torch.nn.Linear(2, 3)
    load_into(layer, {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}, "w.safetensors")
    assert torch.equal(layer.weight, torch.ones(3, 2))
    for wrong in ({"weight": torch.ones(3, 2)}, {"weight": torch.ones(2, 2), "bias": torch.zeros(3)}):
        with pytest.raises(RunError, match=r"w\.safetensors don't fit.*(bias|weight)"):
            load_into(layer, wrong, "w.safetensors")
