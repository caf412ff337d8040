"""EBOPs by hand, and as a budget of target hls4ml."""

import graphs

from bitsmith.blueprint import Bits, Budget
from bitsmith.cost import TARGETS, exact
from bitsmith.cost.ebops import layer_ebops


def test_a_layer_by_hand():
    s = graphs.Sketch((4, 8, 8))
    graph = s.graph(s.conv("conv", "x", 8))
    (layer,) = graph.layers
    assert layer_ebops(layer, Bits(weight=4, activation=8), signed=False) == 288 * 3 * 8
    assert layer_ebops(layer, Bits(weight=4, activation=8), signed=True) == 288 * 3 * 7
    assert layer_ebops(layer, Bits(weight=1, activation=1), signed=True) == 288
    half = Bits(weight=(2,) * 4 + (8,) * 4, activation=(4, 4, 8, 8))
    assert layer_ebops(layer, half, signed=False) == 72 * (1 * 4 + 1 * 8 + 7 * 4 + 7 * 8)


def test_positions_and_uses_share_a_multiplier():
    s = graphs.Sketch((3, 8, 8))
    y = s.same("relu", "relu", s.conv("stem", "x", 5))
    once = s.graph(s.conv("conv", y, 5))
    twice = s.graph(s.shared("again", s.same("relu", "r", "conv"), "conv"))
    costs = TARGETS["hls4ml"].costs
    values = [exact("ebops", graph, graphs.uniform_bits(graph, 4, 4), costs) for graph in (once, twice)]
    assert values[0] == values[1] == 135 * 3 * 3 + 225 * 3 * 4  # the image has a sign, what a ReLU leaves has none


def test_it_can_be_a_budget():
    assert Budget.parse("ebops=20k").limit == 20_000
    assert [name for name, target in TARGETS.items() if "ebops" in target.costs] == ["hls4ml"]
