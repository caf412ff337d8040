"""A first look without training: what it makes, what it says of itself, and that training goes on from it."""

import json

import onnx
import torch

OPTIONS = ["--data", "digits", "--weight-bits", "1,2,4,8", "--train-epochs", "1"]
OPTIONS += ["--budget", "size=2,2.3kB", "--budget", "bitops=60M"]


def training_of(folder):
    """What the exported files say about training."""
    found = set()
    for file in folder.glob("*/model.onnx"):
        found.add({entry.key: entry.value for entry in onnx.load(file).metadata_props}.get("training"))
    return found


def test_a_first_look_and_then_training(bitsmith, own, trained):
    options = ["quantize", "--model", "ownnet:make", "--weights", trained, *OPTIONS, "--out", "q", "--json"]
    done = bitsmith(*options, cwd=own)
    assert done.stderr == ""
    folder, record = own / "q", json.loads(done.stdout)
    names = [row["name"] for row in record["rows"]]
    assert names == ["float as given", "sensitivity", "uniform+fill", "sensitivity", "uniform+fill"]
    floats, *rows = record["rows"]
    assert floats["test"] > 0.9
    assert floats["epochs"] == 0
    for row in rows:
        assert not row["trained"]
        assert row["epochs"] == 0
        assert all(row["meets"][budget] for budget in row["budget"].split(", "))
        assert row["source"] == "onnx"
    assert rows[2]["test"] > 0.5  # inside 2.3 kB of 2.9 at 8 bits; chance is 0.1
    assert all(check["ok"] for check in record["verification"])
    assert record["title"].endswith("post-training (not trained)")
    assert record["verdict"].startswith("All low-precision networks are post-training (not trained).")
    assert any("unknown until it is measured" in note for note in record["notes"])
    assert training_of(folder) == {"post-training (not trained)"}
    assert "post-training (not trained)" in (folder / "report.html").read_text(encoding="utf-8")
    trials = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    assert {trial["what"] for trial in trials} == {"post-training (not trained)"}

    # A front is measured once.
    assert [file.name for file in folder.glob("shared/sensitivity/*")] == ["sensitivities.json"]
    assert rows[0]["costs"]["size"] < rows[2]["costs"]["size"]

    # The same command goes on where it was, and the result is the same to the byte.
    before = {file: file.read_bytes() for file in folder.glob("*/network.safetensors")}
    assert len(before) == 4
    for name in ("post_training.json", "network.safetensors", "model.onnx"):
        (folder / "sensitivity-size_2kB-bitops_60M" / name).unlink()
    again = json.loads(bitsmith(*options, cwd=own).stdout)
    assert {file: file.read_bytes() for file in before} == before
    assert [row["test"] for row in again["rows"]] == [row["test"] for row in record["rows"]]
    assert "not trained" in bitsmith("report", "q", cwd=own).stdout

    # Training goes on from it; no file of the old weights is left meanwhile.
    bitsmith("train", "q", "--quiet", cwd=own)
    assert training_of(folder) == set()
    assert "run bitsmith verify" in bitsmith("report", "q", cwd=own, check=1).stderr
    bitsmith("export", "q", "--quiet", cwd=own)
    bitsmith("verify", "q", "--quiet", cwd=own)
    after = json.loads(bitsmith("report", "q", "--json", cwd=own).stdout)
    assert training_of(folder) == {None}
    assert all(row["trained"] and row["epochs"] == 1 for row in after["rows"][1:])
    assert "not trained" not in after["verdict"] + after["title"]
    assert sum("after training" in note for note in after["notes"]) == 4


def test_a_classifier_that_was_not_trained_is_refused(bitsmith, own, trained):
    """A head of another number of classes is replaced by a fresh one; rounding that would say nothing."""
    (own / "other.py").write_text("import ownnet\ndef make():\n    return ownnet.make(classes=7)\n")
    state = torch.load(trained, weights_only=True)
    state["11.weight"], state["11.bias"] = state["11.weight"][:7].clone(), state["11.bias"][:7].clone()
    torch.save(state, own / "seven.pt")
    options = ["--model", "other:make", "--data", "digits", "--budget", "size=3kB", "--weights", "seven.pt"]
    refused = bitsmith("quantize", *options, "--out", "x", cwd=own, check=1).stderr
    assert "newly initialized, so nobody has trained it for this data" in refused
