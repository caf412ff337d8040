"""The commands about targets, as a user would run them, and a whole run under an energy budget."""

import json

import pytest

from bitsmith.cost import TARGETS

MODEL = ("--model", "resnet8", "--input", "3x32x32")
BOARD = "extends: mpic\nmemories: {flash: 64kB, ram: 60kB}\ncode: 12kB\n"


def test_targets_are_listed_and_shown(bitsmith, tmp_path):
    listed = json.loads(bitsmith("targets", "--json").stdout)
    assert [target["name"] for target in listed] == list(TARGETS)
    assert [target["name"] for target in listed if target["float_layers"]] == ["onnx"]
    for name, target in TARGETS.items():
        words = " ".join(bitsmith("targets", name).stdout.replace("│", " ").split())
        assert ("bits per filter" in words) == target.per_filter
        assert ("one for all filters of a layer" in words) != target.per_filter
    assert "1-8 bits; float layers; bits per filter" in " ".join(
        bitsmith("targets", "onnx").stdout.replace("│", " ").split()
    )
    shown = bitsmith("targets").stdout
    assert shown.count("filter") >= len(TARGETS)  # the list says it of each
    assert all(name in shown for name in TARGETS)
    one = bitsmith("targets", "mpic").stdout
    assert "arXiv 2010.04073" in one
    assert "a2: w2 6.5" in one
    (tmp_path / "my-board.yaml").write_text(BOARD)
    mine = json.loads(bitsmith("targets", "my-board.yaml", "--json", cwd=tmp_path).stdout)
    assert mine["name"] == "my-board"
    assert mine["memories"] == {"flash": 64_000, "ram": 60_000}


def test_check_of_a_model_alone_says_what_it_can_cost(bitsmith, tmp_path):
    found = json.loads(bitsmith("check", *MODEL, "--target", "mpic", "--json").stdout)
    assert found["ok"]
    assert found["target"] == "mpic"
    rows = {row["cost"]: row for row in found["costs"]}
    assert set(rows) == set(TARGETS["mpic"].costs)
    assert rows["energy"]["least"] < rows["energy"]["most"]
    assert rows["weights"]["most"] == 77_360
    (tmp_path / "board.yaml").write_text(BOARD)
    fits = json.loads(bitsmith("check", *MODEL, "--target", "board.yaml", "--json", cwd=tmp_path).stdout)
    assert {row["cost"]: row["state"] for row in fits["costs"] if row["budget"]} == {
        "flash": "binds",
        "ram": "always met",
    }
    assert "It fits" in bitsmith("check", *MODEL, "--target", "board.yaml", cwd=tmp_path).stdout
    tight = bitsmith("check", *MODEL, "--target", "mpic", "--budget", "latency=1ms", "--json", check=1)
    assert "latency is at least" in json.loads(tight.stdout)["problem"]


def test_energy_tables_are_shown(bitsmith, tmp_path):
    table = "{a8: {w2: 0.4pJ, w8: 1.1pJ}}"
    (tmp_path / "t.yaml").write_text(f"bits: {{activations: [8]}}\nenergy_per_mac: {table}\n")
    assert "a8: w2 0.4, w8 1.1" in bitsmith("targets", "t.yaml", cwd=tmp_path).stdout


def test_check_of_a_float_layer_gives_the_target_s_reason(bitsmith):
    """mpic has no price for floats either; that it can't run them goes first."""
    refused = bitsmith("check", *MODEL, "--target", "mpic", "--pin", "conv1=float", check=1)
    said = "the pin 'conv1=float' is in the way: layer 'conv1' would stay float, and target 'mpic' runs integers alone"
    assert said in refused.stderr


def test_budgets_typed_for_another_target_replace_the_recipe_s(bitsmith, tmp_path):
    (tmp_path / "r.yaml").write_text(
        "model: {spec: resnet8_slim}\ndata: {source: digits, limit: 200}\ntarget: mpic\n"
        "budgets: energy=2uJ\nmethod: {name: uniform}\n"
    )
    assert "can't meet energy=2uJ" in bitsmith("check", "r.yaml", "--target", "onnx", cwd=tmp_path, check=1).stderr
    options = ("--target", "onnx", "--budget", "size=20kB", "--json")
    assert json.loads(bitsmith("check", "r.yaml", *options, cwd=tmp_path).stdout)["ok"]


def test_check_counts_choices_in_words(bitsmith):
    one = bitsmith("check", *MODEL, "--target", "ethos-u", "--weight-bits", "8").stdout
    assert "; one choice of bits for target ethos-u." in one
    many = bitsmith("check", *MODEL, "--weight-bits", "1,2,3,4,5,6,7,8", "--activation-bits", "1,2,3,4,5,6,7,8").stdout
    assert "; more than 10^14 choices of bits for target onnx." in many  # 64 pairs in 8 layers: 2.8e14


def test_check_refuses_operators_with_their_places(bitsmith):
    options = ("check", "--model", "torchvision:mobilenet_v3_small", "--input", "3x32x32", "--target", "finn")
    found = json.loads(bitsmith(*options, "--json", check=1).stdout)
    assert not found["ok"]
    assert any("hard_swish at" in text and "mobilenetv3.py:" in text for text in found["refused"])
    assert found["problem"].startswith("target 'finn' can't hold this network: hard_swish at")


def test_check_with_data_takes_the_options_of_a_run(bitsmith):
    options = ("--limit", "200", "--float-epochs", "2", "--metric", "balanced_accuracy", "--quantizer", "pact")
    data = ("--model", "resnet8_slim", "--data", "digits", "--target", "mpic", *options)
    found = json.loads(bitsmith("check", *data, "--budget", "energy=1.8uJ", "--json").stdout)
    assert found["ok"]
    assert found["budgets"][0]["state"] == "binds"
    assert found["seconds"]["float"] > 0
    assert json.loads(bitsmith("check", *data, "--json").stdout)["costs"][0]["budget"] is None


def test_cost_on_a_target(bitsmith):
    costs = json.loads(bitsmith("cost", *MODEL, "--target", "mpic", "--json").stdout)
    assert costs["latency_seconds"] == pytest.approx(costs["macs"] / 2.1 * 4e-9, rel=1e-5)
    assert costs["energy_joules"] == pytest.approx(costs["latency_seconds"] * 5.38e-3, rel=1e-5)
    assert "energy" in bitsmith("cost", *MODEL, "--target", "bitops-energy").stdout


def test_a_run_under_an_energy_budget_and_a_board_s_memories(bitsmith, tmp_path):
    board = tmp_path / "board.yaml"
    board.write_text(BOARD)
    options = ["--model", "resnet8_slim", "--data", "digits", "--limit", "200", "--method", "uniform"]
    options += ["--train-epochs", "1", "--compile", "none", "--target", "board.yaml", "--budget", "power=55uW@30fps"]
    found = json.loads(bitsmith("search", *options, "--out", "a", "--json", cwd=tmp_path).stdout)
    assert found[0]["budget"] == "power=55uW@30fps, flash=64kB, ram=60kB"
    assert found[0]["costs"]["energy"] <= 55e-6 / 30
    assert all(w in (2, 4, 8) for w, _ in found[0]["bits"].values())
    board.write_text(BOARD + "clock: 1MHz\n")  # the run keeps the board that it was made for
    for command in ("train", "export", "verify", "report"):
        bitsmith(command, "a", "--quiet", cwd=tmp_path)
    record = json.loads((tmp_path / "a" / "report.json").read_text())
    rows = {row["kind"]: row for row in record["rows"]}
    assert rows["found"]["costs"]["energy"] == found[0]["costs"]["energy"]
    assert {line["cost"] for line in record["requested"]} == {"energy", "flash", "ram"}
    assert all(line["met"] for line in record["requested"])
    page = (tmp_path / "a" / "report.html").read_text()
    assert "power=55uW@30fps" in page
    again = bitsmith("search", *options, "--out", "a", cwd=tmp_path, check=1)
    assert "another recipe" in again.stderr
