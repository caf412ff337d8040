"""bitsmith profile as a person types it, and a latency budget from the table to the report."""

import json

import pytest
import yaml

from bitsmith.deploy.tflite import vela_missing

RECIPE = {
    "name": "timed",
    "model": {"spec": "ownnet:make"},
    "data": {"source": "digits", "limit": 200},
    "space": {"weight_bits": [2, 8], "activation_bits": [4, 8]},
    "target": {"name": "here", "extends": "onnx", "latency": "latency.json"},
    "budgets": ["latency=1s"],
    "method": {"name": "uniform"},
    "baselines": [],
    "train": {"epochs": 1, "compile": "none"},
    "verify_images": 20,
}


@pytest.fixture
def recipe(own, monkeypatch):
    monkeypatch.syspath_prepend(str(own))
    (own / "timed.yaml").write_text(yaml.safe_dump(RECIPE))
    return own


def test_a_budget_of_latency_from_the_table_to_the_report(bitsmith, recipe):
    asked = bitsmith("run", "timed.yaml", cwd=recipe, check=1)
    assert "bitsmith profile" in asked.stderr
    made = bitsmith("profile", "timed.yaml", "--rounds", 2, cwd=recipe)
    assert "latency.json: " in made.stdout
    table = json.loads((recipe / "latency.json").read_text())
    assert table["entries"]["conv 1x8x8 to 8x8x8, kernel 3x3, padding 1 1 1 1"]["measured"] >= 1
    bitsmith("run", "timed.yaml", "--out", "run", "--quiet", cwd=recipe)
    report = json.loads((recipe / "run" / "report.json").read_text())
    [line], [row] = report["latencies"], report["rows"]
    assert line["predicted"] == row["costs"]["latency"]
    assert line["measured"] > 0
    assert "Latency, predicted and measured" in (recipe / "run" / "report.html").read_text()

    before = (recipe / "run" / line["network"] / "latency.json").read_text()
    shown = json.loads(bitsmith("profile", "run", "--check", "--random", 1, "--json", cwd=recipe).stdout)
    assert [check["network"] for check in shown["checked"]] == [line["network"], "random 1"]
    assert (
        recipe / "run" / line["network"] / "latency.json"
    ).read_text() == before  # the same file on the same machine

    table["setting"]["cpu"] = "an abacus"
    (recipe / "elsewhere.json").write_text(json.dumps(table))
    shown = bitsmith("profile", "run", "--check", "--out", "elsewhere.json", cwd=recipe)
    assert "cpu: an abacus there" in " ".join(shown.stdout.split())
    refused = bitsmith("profile", "timed.yaml", "--out", "elsewhere.json", cwd=recipe, check=1)
    assert "another setting" in refused.stderr


def test_a_model_alone_is_measured_and_its_table_extended(bitsmith, recipe):
    arguments = ("profile", "--model", "ownnet:make", "--input", "1x8x8", "--rounds", 1, "--json")
    first = json.loads(bitsmith(*arguments, cwd=recipe).stdout)
    more = json.loads(bitsmith(*arguments, "--activation-bits", "4,8", cwd=recipe).stdout)
    assert more["entries"] > first["entries"]
    assert json.loads(bitsmith(*arguments, cwd=recipe).stdout)["entries"] == more["entries"]
    floats = bitsmith(*arguments, "--float-input", cwd=recipe, check=1)
    assert "input: uint8 there, float here" in floats.stderr


@pytest.mark.skipif(vela_missing() is not None, reason="Vela isn't installed")
def test_velas_estimates_are_a_budget(bitsmith, recipe):
    asked = ("profile", "--model", "ownnet:make", "--input", "1x8x8", "--vela", "ethos-u55-128", "--out", "vela.json")
    bits = ("--weight-bits", "2,8")
    made = bitsmith(*asked, *bits, "--random", 1, "--json", cwd=recipe)
    [check] = json.loads(made.stdout)["checked"]
    assert abs(check["error"]) < 0.05
    table = json.loads((recipe / "vela.json").read_text())
    assert {key.rpartition(", ")[2] for key in table["entries"] if key.startswith("conv 8x8x8")} == {
        "weights of 2 bits", "weights of 8 bits"
    }  # fmt: skip
    (recipe / "npu.yaml").write_text(yaml.safe_dump({"name": "npu", "extends": "ethos-u", "latency": "vela.json"}))
    shown = bitsmith(
        "check", "--model", "ownnet:make", "--input", "1x8x8", *bits, "--target", "npu.yaml", "--budget", "latency=1us",
        cwd=recipe, check=1,
    )  # fmt: skip
    assert "latency" in shown.stdout + shown.stderr
    assert "--threads" in bitsmith(*asked, "--threads", 1, cwd=recipe, check=1).stderr
    assert "--random 5" in bitsmith(*asked, *bits, "--check", cwd=recipe, check=1).stderr
    assert "ethos-u55-128 there" in bitsmith("profile", *asked[1:5], "--out", "vela.json", cwd=recipe, check=1).stderr
    narrow = bitsmith(*asked, "--activation-bits", "4,8", cwd=recipe, check=1).stderr
    assert "may read fewer than 8 bits" in " ".join(narrow.split())


def test_wrong_usage_says_what_to_give(bitsmith, recipe):
    assert "--model with --input" in bitsmith("profile", cwd=recipe, check=1).stderr
    assert "not both" in bitsmith("profile", "timed.yaml", "--model", "resnet8", cwd=recipe, check=1).stderr
    bitsmith("profile", "timed.yaml", "--rounds", 1, "--quiet", cwd=recipe)
    assert "--random 5" in bitsmith("profile", "timed.yaml", "--check", cwd=recipe, check=1).stderr
