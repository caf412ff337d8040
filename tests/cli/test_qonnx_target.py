"""A run on target finn: a QONNX file beside every ONNX file without being asked, among the checks and in the report."""

import json
import sys

import pytest

from bitsmith.deploy import qonnx
from bitsmith.report import read_record

pytest.importorskip("qonnx", reason="qonnx isn't installed: pip install 'bitsmith[qonnx]'")


def test_a_qonnx_file_is_part_of_a_run_on_target_finn(bitsmith, own, trained, monkeypatch):
    options = ["--model", "ownnet:make", "--weights", trained, "--data", "digits", "--weight-bits", "2,4"]
    options += ["--budget", "size=1.5kB", "--train-epochs", "1", "--target", "finn", "--out", "q", "--json"]
    record = json.loads(bitsmith("quantize", *options, cwd=own).stdout)
    files = {check["artefact"].partition("/")[2]: check for check in record["verification"]}
    assert files.keys() == {"model.onnx", "model.qonnx.onnx"}
    file = files["model.qonnx.onnx"]
    assert file["ok"]
    assert file["level"].startswith("layer by layer at most one level beside the reference's, in ")
    assert abs(file["score"] - files["model.onnx"]["score"]) < 0.01
    assert {(check["integer_layers"], check["float_layers"]) for check in files.values()} == {(5, 0)}  # a pool too

    # Without the package the ONNX results stay, and the QONNX file is what isn't verified.
    monkeypatch.delattr(qonnx, "package", raising=False)
    monkeypatch.setitem(sys.modules, "bitsmith.deploy.qonnx.package", None)
    said = json.loads(bitsmith("verify", "q", "--json", cwd=own, check=1).stdout)
    checks = {check["artefact"].rpartition("/")[2]: check for check in said["artefacts"]}
    assert (checks["model.onnx"]["ok"], checks["model.qonnx.onnx"]["ok"]) == (True, False)
    assert "pip install 'bitsmith[qonnx]'" in checks["model.qonnx.onnx"]["problems"][0]
    bitsmith("report", "q", cwd=own)
    assert {(check.score is None, check.ok) for check in read_record(own / "q").verification} == {
        (False, True),
        (True, False),
    }
