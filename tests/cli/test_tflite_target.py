"""A run on target ethos-u: a TFLite file beside every ONNX file without being asked, among the checks."""

import json

import pytest

import bitsmith as bs

pytest.importorskip("ai_edge_litert", reason="LiteRT isn't installed: pip install 'bitsmith[tflite]'")


def test_a_tflite_file_is_part_of_a_run_on_target_ethos_u(bitsmith, own, trained, monkeypatch):
    options = ["--model", "ownnet:make", "--weights", trained, "--data", "digits", "--weight-bits", "2,8"]
    options += ["--budget", "size=2.3kB", "--train-epochs", "1", "--target", "ethos-u", "--out", "q", "--json"]
    record = json.loads(bitsmith("quantize", *options, cwd=own).stdout)
    files = {check["artefact"].partition("/")[2]: check for check in record["verification"]}
    assert files.keys() == {"model.onnx", "model.tflite"}
    tflite = files["model.tflite"]
    assert tflite["ok"]
    assert tflite["first_difference"] is None
    assert tflite["integer_layers"] == files["model.onnx"]["integer_layers"]
    assert "operator by operator, by at most one level differ" in tflite["level"]
    assert abs(tflite["score"] - files["model.onnx"]["score"]) < 0.02

    folder = next((own / "q").glob("sens*/model.tflite")).parent
    found = bs.verify_all(folder, bs.open_data("digits").test, limit=30)
    assert {name: check.ok for name, check in found.items()} == {"onnx": True, "tflite": True}

    # Asked for by nobody but the target, it is left out where LiteRT is missing, and that is said.
    file = folder / "model.tflite"
    monkeypatch.setattr("bitsmith.pipeline.artefacts.litert_missing", lambda: "LiteRT is away")
    assert "no TFLite file is written: LiteRT is away" in " ".join(bitsmith("export", "q", cwd=own).stderr.split())

    # What is not the network any more is not verified, and nothing hides the ONNX file's result.
    file.write_bytes(file.read_bytes()[:2000])
    monkeypatch.setattr("bitsmith.pipeline.artefacts.vela_missing", lambda: "not here")
    said = json.loads(bitsmith("verify", "q", "--json", cwd=own, check=1).stdout)["artefacts"]
    bad = [check for check in said if not check["ok"]]
    assert [check["artefact"].rpartition("/")[2] for check in bad] == ["model.tflite"]
    assert "can't load" in bad[0]["problems"][0]
    bitsmith("report", "q", "--quiet", cwd=own)
    assert "not run: LiteRT can" in (own / "q" / "report.html").read_text(encoding="utf-8")
