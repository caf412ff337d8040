"""`bitsmith cost` of blueprints, on targets that can't hold them."""

import json

import pytest
from torch import nn

from bitsmith.blueprint import Bits, Blueprint
from bitsmith.capture import capture

NET = (
    "from torch import nn\n"
    "def make():\n"
    "    return nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.Flatten())\n"
)


@pytest.fixture
def written(tmp_path):
    """A function that writes a blueprint of a network of 4 and 3 filters."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.Flatten())
    graph = capture(net, (1, 3, 3)).graph
    first, last = (layer.name for layer in graph.layers)

    def write(weight, classes=()):
        bits = {first: Bits(weight=weight, activation=8), last: Bits(weight=8, activation=8)}
        (tmp_path / "b.json").write_text(Blueprint(graph=graph, bits=bits, classes=classes).to_json())
        return first

    return write


def test_bits_per_filter_only_where_they_are_held(bitsmith, written, tmp_path):
    first = written((2, 4, 8, 8))
    options = ("cost", "--blueprint", "b.json", "--target")
    refused = bitsmith(*options, "finn", cwd=tmp_path, check=1).stderr
    assert f"target 'finn' has one weight bit-width for each layer, and filters of layer '{first}' differ" in refused
    assert "they have [2, 4, 8] bits; give the layer one, or choose target onnx" in refused
    assert json.loads(bitsmith(*options, "mpic", "--json", cwd=tmp_path).stdout)["energy_joules"] > 0
    written((2, 3, 8, 8))
    assert "can't hold weight bits [3]" in bitsmith(*options, "mpic", cwd=tmp_path, check=1).stderr
    written((4, 4, 0, 4))  # what is left has one bit-width
    assert bitsmith(*options, "finn", cwd=tmp_path).stdout


def test_nothing_said_is_what_the_target_holds(bitsmith, tmp_path):
    (tmp_path / "nets.py").write_text(NET)
    (tmp_path / "four.yaml").write_text("bits: {weights: [2, 4], activations: [4]}\n")
    options = ("cost", "--model", "nets:make", "--input", "1x3x3", "--json")
    assert json.loads(bitsmith(*options, cwd=tmp_path).stdout)["weight_bytes"] == 36 + 12
    four = json.loads(bitsmith(*options, "--target", "four.yaml", cwd=tmp_path).stdout)
    assert four["weight_bytes"] == (36 + 12) / 2


def test_classes_must_be_one_per_output(bitsmith, written, tmp_path):
    written(8, ("a", "b"))
    said = bitsmith("cost", "--blueprint", "b.json", cwd=tmp_path, check=1).stderr
    assert "b.json names 2 classes (a, b), and its network gives 3 outputs; name one per output, or none" in said
    written(8, ("a", "b", "c"))
    assert bitsmith("cost", "--blueprint", "b.json", cwd=tmp_path).stdout


def test_bits_of_a_network_with_other_outputs_are_told(bitsmith, written, tmp_path):
    written(8)
    (tmp_path / "nets.py").write_text(NET.replace("nn.Conv2d(4, 3, 1)", "nn.Conv2d(4, 5, 1)"))
    said = bitsmith("cost", "--model", "nets:make", "--input", "1x3x3", "--blueprint", "b.json", cwd=tmp_path).stdout
    assert "note: b.json is of 3 outputs, and nets:make, which is priced, has 5" in said
