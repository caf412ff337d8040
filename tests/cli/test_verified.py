"""bitsmith verify with a file of others and with honest speed, as a person types it."""

import json

import onnx
import pytest
from onnx import TensorProto

import bitsmith as bs
from bitsmith.report import read_record


@pytest.fixture
def run_folder(bitsmith, own, trained):
    options = ["--model", "ownnet:make", "--weights", trained, "--data", "digits", "--weight-bits", "2,8"]
    bitsmith("quantize", *options, "--budget", "size=2.3kB", "--train-epochs", "1", "--out", "q", "--quiet", cwd=own)
    return own / "q"


def test_a_file_of_others_and_honest_speed(bitsmith, own, run_folder):
    file = next(run_folder.glob("sens*/model.onnx"))
    options = ["verify", "q", "--against", file, "--speed"]
    facts = json.loads(bitsmith(*options, "--json", cwd=own).stdout)
    assert facts["ok"]
    own_row = next(row for row in facts["against"] if row["network"] == file.parent.name)
    assert (own_row["differing_outputs"], own_row["agreement"], own_row["first_difference"]) == (0, 1.0, None)
    assert [layer["layer"] for layer in own_row["layers"]] == ["0", "3", "6", "11"]
    speed = next(row for row in facts["speed"] if row["network"] == file.parent.name)
    assert {layer["kernel"] for layer in speed["layers"]} == {"QLinearConv", "MatMulInteger"}
    assert {layer["executed_weight_bits"] for layer in speed["layers"]} == {8}
    assert any(layer["weight_bits"] == 2 for layer in speed["layers"])
    text = bitsmith(*options, cwd=own).stdout
    rows = [line.split("│")[1:3] for line in text.splitlines() if line.startswith("│")]  # of 80 characters
    assert ["0", "8/8"] in [[name.strip(), asked.strip()] for name, asked in rows]
    said = " ".join(text.split())
    assert "100.00 %" in said
    assert "were asked for fewer bits than they run in" in said
    assert speed["words"].split(";")[0] in said  # measured once
    bitsmith("report", "q", "--quiet", cwd=own)
    assert len(read_record(run_folder).speeds) == len(facts["speed"])
    assert "Bits asked and bits executed" in (run_folder / "report.html").read_text(encoding="utf-8")

    # What can't be compared is one message, before anything is verified.
    model = onnx.load(file)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.save(model, own / "float.onnx")
    refused = bitsmith("verify", "q", "--against", "float.onnx", cwd=own, check=1)
    assert "say --feed pixels" in " ".join(refused.stderr.split())
    refused = bitsmith("verify", "q", "--feed", "unit", cwd=own, check=1)
    assert "--against FILE" in " ".join(refused.stderr.split())
    refused = bitsmith("verify", "q", "--against", file, "--layout", "CHW", cwd=own, check=1)
    assert "NCHW or NHWC" in " ".join(refused.stderr.split())

    test = bs.open_data("digits").test
    found = bs.verify_against(file.parent, file, test, limit=20)
    assert (found.images, found.differing_outputs) == (20, 0)
    assert {name: check.ok for name, check in bs.verify_all(file.parent, test, limit=20).items()} == {"onnx": True}
