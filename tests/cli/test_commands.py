"""The command line: what commands do and print."""

import importlib
import json

import numpy as np
import onnx
import pytest
from PIL import Image
from torch import nn

from bitsmith import pipeline
from bitsmith.blueprint import Bits, Blueprint
from bitsmith.capture import capture
from bitsmith.recipe import make_method, read_recipe
from bitsmith.report import read_record


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
    """Float ends and sums are searched, exported and verified, and the file says what is float in it."""
    options = ["--model", "resnet8_slim", "--data", "digits", "--budget", "bitops=900M", "--weight-bits", "1,2,3,4"]
    options += ["--activation-bits", "2,3,4", "--as-published", "--epochs", "1", "--train-epochs", "1", "--out", "a"]
    rows = json.loads(bitsmith("search", *options, "--json", cwd=tmp_path).stdout)
    assert [row["name"] for row in rows] == ["composite-as-published", "uniform", "uniform+fill"]
    assert all(row["bits"]["conv1"] == row["bits"]["fc"] == [32, 32] for row in rows)
    bitsmith("train", "a", "--quiet", cwd=tmp_path)
    said = " ".join(bitsmith("export", "a", cwd=tmp_path).stderr.split())
    assert "all integer but 2 float layers: conv1, fc, and float sums between layers" in said
    verified = json.loads(bitsmith("verify", "a", "--json", cwd=tmp_path).stdout)
    assert verified["ok"]
    assert [artefact["excluded"] for artefact in verified["artefacts"]] == [["conv1", "fc"]] * 3
    assert all(artefact["largest_difference"] < 1e-3 for artefact in verified["artefacts"])


FLOAT_RECIPE = """
model: {spec: "nets:make"}
data: {source: digits}
space: {weight_bits: [2, 4, 8], pins: {classifier: float}}
budgets: ["weights=1800B"]
method: {name: uniform}
baselines: []
train: {epochs: 1, batch_size: 64}
"""


def test_a_run_with_a_float_classifier(bitsmith, tmp_path):
    (tmp_path / "nets.py").write_text(
        "from collections import OrderedDict\n"
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(OrderedDict(\n"
        "        stem=nn.Conv2d(1, 8, 3), a=nn.ReLU(), conv=nn.Conv2d(8, 8, 3, stride=2), b=nn.ReLU(),\n"
        "        f=nn.Flatten(), classifier=nn.Linear(32, 10)))\n"
    )
    (tmp_path / "r.yaml").write_text(FLOAT_RECIPE)
    said = " ".join(bitsmith("run", "r.yaml", "--out", "a", cwd=tmp_path).stderr.split())
    assert "all integer but 1 float layer: classifier" in said
    found = read_record(tmp_path / "a")
    row, check = found.rows[0], found.verification[0]
    assert row.bits == "w4-8+float a8+float"
    assert row.source == "onnx"
    assert row.costs["weights"] == 72 + 576 / 2 + 4 * 320  # at 8, 4 and 32 bits
    assert (check.integer_layers, check.float_layers, check.ok) == (2, 1, True)
    assert check.level.startswith("all integer but 1 float layer: classifier; layer by layer")
    bits = {layer.name: (layer.weight_bits, layer.activation_bits) for layer in found.layers[row.folder]}
    assert bits["classifier"] == (32, 32)
    page = (tmp_path / "a" / "report.html").read_text()
    assert "all integer but 1 float layer: classifier" in page
    assert "bit-identical" not in page
    artefact = json.loads(bitsmith("verify", "a", "--json", cwd=tmp_path).stdout)["artefacts"][0]
    assert artefact["excluded"] == ["classifier"]
    path = tmp_path / "a" / row.folder / "model.onnx"
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == "classifier.weight")
    tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]
    onnx.save(model, path)
    broken = json.loads(bitsmith("verify", "a", "--json", cwd=tmp_path, check=1).stdout)["artefacts"][0]
    assert broken["first_difference"] == "classifier"


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


WHOLE = """
data: {source: digits, limit: 100}
space:
  kind: mobile
  description:
    stem: {channels: 4}
    stages: [{channels: [4, 8], kernels: 3, expansions: [1, 2], squeeze_excite: false, activations: relu}]
    weight_bits: [2, 8]
    activation_bits: [8]
budgets: ["size=5kB"]
method: {name: supernet, plan: {epochs: 1, batch_size: 16}, norm_batches: 1, loss_batches: 1}
train: {epochs: 1, batch_size: 16}
"""


def test_check_of_whole_networks_says_what_is_out_of_reach(bitsmith, tmp_path):
    (tmp_path / "r.yaml").write_text(WHOLE)
    arguments = ("check", "r.yaml", "--budget", "size=100B")
    refused = json.loads(bitsmith(*arguments, "--json", cwd=tmp_path, check=1).stdout)
    assert [row["state"] for row in refused["budgets"]] == ["out of reach"]
    assert 100 < refused["budgets"][0]["least"] < refused["budgets"][0]["most"]
    assert "size is at least" in refused["problem"]
    assert refused["seconds"]["total"] > 0
    said = bitsmith(*arguments, cwd=tmp_path, check=1)
    assert "out of reach" in said.stdout
    assert "size is at least" in said.stderr


COMPARISON = """
model: resnet8_slim
data: {source: digits}
space: {weight_bits: [2, 4, 8], activation_bits: [8]}
budgets: ["weights=12kB"]
methods: [random]
seeds: [0]
train: {epochs: 2}
"""


def test_an_estimate_of_a_comparison_starts_nothing(bitsmith, tmp_path, monkeypatch):
    (tmp_path / "c.yaml").write_text(COMPARISON.replace("epochs: 2", "epochs: 1"))
    command = importlib.import_module("bitsmith.cli.compare")  # beside it bitsmith.cli has the function of this name
    monkeypatch.setattr(command, "estimate_hours", lambda laid_out: {("all", "random"): 0.75})
    monkeypatch.setattr(command, "compare_all", lambda *arguments, **options: pytest.fail("it was started"))
    said = bitsmith("compare", "c.yaml", "--estimate", cwd=tmp_path).stdout
    assert "1 epoch for every low-precision network, its search included; 3 epochs in all" in said
    assert "3 runs, 3 networks; epochs of each" in said
    assert "About 45 min on one core in all." in said
    assert not (tmp_path / "runs").exists()


RECIPE = """
model: {spec: resnet8_slim}
data: {source: digits}
budgets: ["size=8,9kB"]
method: {name: METHOD}
baselines: [uniform+fill]
fixed: [w8a8]
float_plan: {epochs: FLOAT, batch_size: 64}
train: {epochs: 2, batch_size: 64}
"""


def test_check_of_a_recipe_estimates_its_own_method_and_training(bitsmith, tmp_path):
    def seconds(method, floats):
        (tmp_path / "r.yaml").write_text(RECIPE.replace("METHOD", method).replace("FLOAT", str(floats)))
        found = json.loads(bitsmith("check", "r.yaml", "--json", cwd=tmp_path).stdout)
        assert found["method"] == method
        assert [row["budget"] for row in found["budgets"]] == ["size=8kB", "size=9kB"]
        assert found["seconds"]["networks"] == 5
        return found["seconds"]

    uniform, composite = seconds("uniform", 1), seconds("composite", 40)
    assert uniform["search"] == 0 < composite["search"]
    assert composite["float"] > 5 * uniform["float"]
    said = bitsmith("check", "r.yaml", "--budget", "size=9kB", cwd=tmp_path).stdout
    assert "search (composite) and training for 3 networks" in said


def test_a_front_is_one_network_per_value_each_inside_the_other_budgets(bitsmith, tmp_path):
    options = ["--model", "resnet8_slim", "--data", "digits", "--method", "random", "--out", "front"]
    budgets = ["--budget", "size=8kB,9kB,0.01MB", "--budget", "bitops=9M"]
    rows = json.loads(bitsmith("search", *options, *budgets, "--json", cwd=tmp_path).stdout)
    assert [row["budget"] for row in rows] == [f"size={kb}kB, bitops=9M" for kb in (8, 9, 10)]
    for row, limit in zip(rows, (8000, 9000, 10000), strict=True):
        assert row["costs"]["size"] <= limit
        assert row["costs"]["bitops"] <= 9e6


def test_pins_by_name_pattern_and_side(bitsmith, tmp_path):
    options = ["--model", "resnet8_slim", "--data", "digits", "--budget", "size=30kB", "--activation-bits", "4,8"]
    pins = ["--pin", "fc=w4", "--pin", "layer1*=w3", "--pin", "*conv2=a4", "--pin", "layer1.0.conv2=w8a8"]
    done = bitsmith("search", *options, *pins, "--method", "uniform", "--out", "a", "--json", cwd=tmp_path)
    bits = json.loads(done.stdout)[0]["bits"]
    assert bits == {layer: [8, 8] for layer in bits} | {
        "layer1.0.conv1": [3, 8],
        "layer2.0.conv2": [8, 4],
        "layer3.0.conv2": [8, 4],
        "fc": [4, 8],
    }


def test_another_learning_rate_only_before_any_network_is_trained(bitsmith, tmp_path):
    options = ["--model", "resnet8_slim", "--data", "digits", "--budget", "size=8kB", "--train-epochs", "1"]
    bitsmith("search", *options, "--method", "uniform", "--lr", "1e9", "--out", "a", "--quiet", cwd=tmp_path)
    diverged = bitsmith("train", "a", "--quiet", cwd=tmp_path, check=1)
    assert "the loss became" in diverged.stderr
    bitsmith("train", "a", "--lr", "0.05", "--quiet", cwd=tmp_path)
    assert read_recipe(tmp_path / "a" / "recipe.yaml").train.lr == 0.05
    refused = bitsmith("train", "a", "--lr", "0.1", cwd=tmp_path, check=1)
    assert "is already trained at lr 0.05" in refused.stderr
    bitsmith("train", "a", "--lr", "0.05", "--quiet", cwd=tmp_path)  # the same rate is no change
    assert "lr of a training must be positive" in bitsmith("train", "a", "--lr", "0", cwd=tmp_path, check=1).stderr


@pytest.fixture
def refused(bitsmith, monkeypatch):
    """Runs a command whose budget is out of reach, so that nothing is trained; the job that it had prepared."""
    seen, check = [], pipeline.check_budgets

    def watched(job):
        seen.append(job)
        check(job)

    def run(*arguments, cwd):
        bitsmith(*arguments, cwd=cwd, check=1)
        return seen[-1]

    monkeypatch.setattr(pipeline, "check_budgets", watched)
    return run


def test_options_reach_the_recipe(refused, tmp_path):
    """Every option of `search` that says how to train, in every plan that it is about."""
    options = [
        "--model",
        "resnet8_slim",
        "--data",
        "digits",
        "--budget",
        "size=1B",
        "--out",
        "a",
        "--float-epochs",
        "2",
    ]
    options += ["--compile", "none", "--precision", "bf16", "--device", "cpu", "--lr", "0.3", "--ema", "0.9"]
    options += ["--distill", "0.5", "--train-epochs", "3", "--epochs", "4", "--seed", "7", "--limit", "500"]
    options += ["--metric", "f1", "--class-weights", "balanced", "--augment", "none", "--label-smoothing", "0.1"]
    recipe = refused("search", *options, cwd=tmp_path).recipe
    for plan in (recipe.train, recipe.float_plan, make_method(recipe.method).plan):
        assert (plan.compile, plan.precision, plan.device) == ("none", "bf16", "cpu")
    assert (recipe.train.epochs, recipe.float_plan.epochs, make_method(recipe.method).epochs) == (3, 2, 4)
    assert (recipe.train.lr, recipe.train.ema, recipe.train.distill) == (0.3, 0.9, 0.5)
    assert (recipe.float_plan.ema, recipe.float_plan.distill) == (0, 0)
    assert (recipe.seed, recipe.data.limit, recipe.data.augment) == (7, 500, "none")
    assert (recipe.task.metric, recipe.task.class_weights, recipe.task.label_smoothing) == ("f1", "balanced", 0.1)
    assert recipe.command.startswith("bitsmith search --model resnet8_slim")


def test_a_device_does_not_turn_training_on(refused, tmp_path):
    """Methods whose plan is null train nothing, whatever the device; a method with a device of its own gets it."""
    options = ["--model", "resnet8_slim", "--data", "digits", "--budget", "size=1B", "--device", "cpu"]
    options += ["--float-epochs", "1", "--out", "a"]
    assert refused("search", *options, "--method", "grid", cwd=tmp_path).recipe.method == {"name": "grid"}
    assert refused("search", *options, "--method", "sensitivity", cwd=tmp_path).method.device == "cpu"


def test_run_takes_a_folder_of_images_with_its_shape(bitsmith, refused, tmp_path):
    """`run --data folder:x --input ...`, up to the budget that is out of reach."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("dark", "light"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for index in range(20):
                pixels = generator.integers(0, 100, (9, 11, 3), dtype=np.uint8) + (150 if name == "light" else 0)
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / split / name / f"{index}.png")
    (tmp_path / "r.yaml").write_text(
        "{model: {spec: resnet8_slim}, data: {source: digits}, budgets: size=1B, train: {epochs: 1}}"
    )
    options = ["run", "r.yaml", "--data", "folder:photos"]
    assert "--input" in bitsmith(*options, cwd=tmp_path, check=1).stderr
    assert refused(*options, "--input", "3x8x8", "--out", "b", cwd=tmp_path).graph.input_shape == (3, 8, 8)


def test_cost_of_a_blueprint_with_removed_filters(bitsmith, tmp_path):
    """One of 8 filters of 9 weights at 8 bits is gone, and with it an input of the next layer: 8 + 8 weights less."""
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten())\n"
    )
    net = nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten())
    graph = capture(net, (1, 3, 3)).graph
    first, last = (layer.name for layer in graph.layers)
    bits = {first: Bits(weight=(8, 8, 0, 8, 8, 8, 8, 8), activation=8), last: Bits(weight=8, activation=8)}
    (tmp_path / "b.json").write_text(Blueprint(graph=graph, bits=bits).to_json())
    alone = json.loads(bitsmith("cost", "--blueprint", "b.json", "--json", cwd=tmp_path).stdout)
    assert alone["weight_bytes"] == 7 * 9 + 8 * 7
    given = bitsmith(
        *("cost", "--model", "nets:make", "--input", "1x3x3", "--blueprint", "b.json", "--json"), cwd=tmp_path
    )
    assert json.loads(given.stdout) == alone
