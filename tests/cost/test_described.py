"""Targets of one's own: what YAML means, what is refused and which field is named."""

import json

import graphs
import pytest
import yaml

from bitsmith.blueprint import Bits
from bitsmith.cost import TARGETS, TargetDescription, exact, find_target, read_description
from bitsmith.cost.latency import LatencyTable, Setting, Timing
from bitsmith.errors import RecipeError

BOARD = """
extends: mpic
what: my board
bits: {weights: [8, 2, 4], activations: [8]}
memories: {flash: 64kB, ram: 16KiB}
code: 12kB
clock: 100MHz
lacks: {gelu: the driver has no table for it}
"""


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_board_is_what_its_file_says_and_else_what_it_extends(tmp_path):
    board, mpic = find_target(write(tmp_path / "my-board.yaml", BOARD)), TARGETS["mpic"]
    assert board.name == "my-board"
    assert board.weight_bits == (2, 4, 8)
    assert board.activation_bits == (8,)
    assert board.memories == {"flash": 64_000, "ram": 16_384}
    assert board.lacks == {"gelu": "the driver has no table for it"}
    assert board.cycles
    assert mpic.cycles
    assert board.cycles.rates == mpic.cycles.rates
    graph = graphs.resnet8()
    bits = graphs.uniform_bits(graph, 4, 8)
    for cost in ("energy", "latency"):  # the clock alone differs, 2.5 times slower at the same power
        assert exact(cost, graph, bits, board.costs) == pytest.approx(2.5 * exact(cost, graph, bits, mpic.costs))
    assert exact("flash", graph, bits, board.costs) == 12_000 + exact("size", graph, bits)


def test_tables_of_energy_per_mac_and_per_byte(tmp_path):
    text = """
    bits: {weights: [2, 8], activations: [8]}
    energy_per_mac: {a8: {w2: 0.4pJ, w8: 1.1pJ}}
    energy_per_byte: {weights: 5pJ, activations: 2pJ}
    """
    target = find_target(write(tmp_path / "t.yml", text))
    s = graphs.Sketch((4, 5, 5))
    graph = s.graph(s.conv("conv", "x", 2, kernel=1))
    # 200 MACs; 8 weights at 2 bits; 100 pixels written and read at 8 bits; 50 outputs of 4 bytes
    wanted = 200 * 0.4 + 8 * 2 / 8 * 5 + 200 * 2 + 50 * 4 * 2
    assert exact("energy", graph, {"conv": Bits(weight=2, activation=8)}, target.costs) == pytest.approx(wanted * 1e-12)
    assert "latency" not in target.costs


def test_a_named_energy_model(tmp_path):
    target = find_target(write(tmp_path / "t.yaml", "extends: c\nenergy: bitops-energy\n"))
    assert {"energy", "flash"} <= set(target.costs)
    graph = graphs.resnet8()
    bits = graphs.uniform_bits(graph, 2, 4)
    assert exact("energy", graph, bits, target.costs) == exact("energy", graph, bits, TARGETS["bitops-energy"].costs)


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("what: plain", True),
        ("float_layers: false", False),
        ("bits: {weights: [4, 8]}", False),
        ("memories: {ram: 16kB}", False),
        ("memories: {ram: 16kB}\nfloat_layers: true", True),
        ("extends: c", False),
        ("extends: c\nfloat_layers: true", True),
        ("energy_per_mac: {a8: {w8: 1pJ}}\nbits: {weights: [8], activations: [8]}", False),
    ],
)
def test_who_takes_float_layers(tmp_path, text, taken):
    """onnx and who extends it, but for boards and tables that price integers alone; others where they say so."""
    assert find_target(write(tmp_path / "t.yaml", text)).float_layers is taken


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("colour: red", "there is no setting 'colour'"),
        ("bits: {weights: [2, 9]}", r"bits.weights.1: .*less than or equal to 8"),
        ("bits: {weights: []}", r"bits.weights: .*at least 1"),
        ("memories: {ram: 16}", None),
        ("memories: {ram: 16kJ}", r"memories.ram: can't read '16kJ'; write a number and a unit, one of B, kB"),
        ("memories: {rom: 16kB}", "memories: there is no setting 'rom'"),
        ("memories: {flash: 16kB}", "memories.flash: say how much of it is code"),
        ("lacks: {relx: none}", "lacks: there is no operator 'relx'; there are add, affine"),
        ("extends: toaster", "extends: unknown target 'toaster'; known are onnx"),
        ("energy: magic", "energy: unknown model 'magic'; known are bitops-energy"),
        ("energy: bitops-energy\nenergy_per_mac: {a8: {w8: 1pJ}}", "both say what a MAC takes"),
        ("energy_per_byte: {weights: 1pJ}", "energy_per_byte: it belongs beside energy_per_mac"),
        ("energy_per_mac: {a8: {w8: 1pJ, w2: lots}}", r"energy_per_mac.a8.w2: can't read 'lots'"),
        ("energy_per_mac: {a8: {w8: 1pJ}, a4: {w2: 1pJ}}", "energy_per_mac: it has no entry for a4 w8, a8 w2"),
        ("energy_per_mac: {w8: {a8: 1pJ}}", r"energy_per_mac.w8.a8: rows are activation bits"),
        ("energy_per_mac: {a4: {w4: 1pJ}}", r"energy_per_mac: it goes up to w4a4, and the target holds up to w8a8"),
        ("macs_per_cycle: {a8: {w8: 2}}", "macs_per_cycle: give the clock too"),
        ("macs_per_cycle: {a8: {w8: 0}}\nclock: 1MHz", r"macs_per_cycle.a8.w8: .*greater than 0"),
        ("clock: 1MHz", "clock and power belong to macs_per_cycle"),
        ("clock: [1]", "clock: "),
        ("latency: nowhere.json", "nowhere.json is missing"),
        ("float_layers: true\nenergy: bitops-energy", "float_layers: nothing says what a float layer takes"),
        ("float_layers: true\nextends: mpic", "float_layers: nothing says what a float layer takes"),
        ("- a list", "must be a mapping"),
        ("a: [", "is not YAML"),
    ],
)
def test_wrong_descriptions_name_the_field(tmp_path, text, words):
    path = write(tmp_path / "board.yaml", text)
    if words is None:
        assert find_target(path).memories == {"ram": 16}  # a plain number is in bytes
        return
    with pytest.raises(RecipeError, match=f"board.yaml.*{words}"):
        find_target(path)


def test_a_board_does_not_pass_for_the_device_it_extends(tmp_path):
    """Sources, notes and descriptions that it doesn't give itself are said to be the other's."""
    text = "extends: mpic\nmacs_per_cycle: {a8: {w8: 2}}\nbits: {activations: [8]}\nclock: 1MHz\nsources: [our bench]\n"
    board = find_target(write(tmp_path / "board.yaml", text))
    assert board.sources[0] == "our bench"
    assert all(source.startswith("where it says nothing else, mpic: ") for source in board.sources[1:])
    assert board.what == f"as target mpic ({TARGETS['mpic'].what}) where it says nothing else"
    assert board.note.startswith("As for mpic: ")


def test_names_and_missing_files():
    with pytest.raises(RecipeError, match=r"unknown target 'toaster'; known are onnx, .*my-board.yaml"):
        find_target("toaster")
    with pytest.raises(RecipeError, match=r"can't read the target nowhere/board.yaml: No such file"):
        find_target("nowhere/board.yaml")


def test_a_description_survives_yaml_whole(tmp_path):
    described = read_description(tmp_path / write(tmp_path / "b.yaml", BOARD))
    again = TargetDescription.model_validate(yaml.safe_load(yaml.safe_dump(described.model_dump(mode="json"))))
    assert again == described
    assert again.target() == described.target()


def test_a_latency_table_is_found_beside_its_file_and_noticed_when_it_changes(tmp_path):
    setting = Setting(cpu="c", system="s", runtime="onnxruntime 1", threads=1, input="uint8")
    table = LatencyTable(setting=setting, call=Timing(nanoseconds=5, spread=0, measured=3))
    table.write(tmp_path / "table.json")
    described = read_description(tmp_path / write(tmp_path / "b.yaml", "latency: table.json"))
    assert described.latency == tmp_path / "table.json"
    assert "latency" in described.target().costs
    pinned = described.pinned()
    assert "latency" in find_target(pinned).costs
    text = json.dumps(json.loads((tmp_path / "table.json").read_text()))
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(RecipeError, match="is not the table any more that this run was made with"):
        find_target(pinned)
    assert "latency" in find_target(described).costs
