"""The packing layout, byte by byte."""

import dataclasses

import graphs
import pytest

from bitsmith.blueprint import FLOAT, OPERATORS, Bits, NetworkGraph, Norm, plan_grids
from bitsmith.blueprint import graph as graph_module
from bitsmith.cost import COSTS, costs_at_streams, exact, plan_arena
from bitsmith.cost.layout import STORED
from bitsmith.errors import CaptureError


def test_the_price_list_is_the_vocabulary():
    assert set(STORED) == OPERATORS


def test_an_unknown_operator_is_never_free(monkeypatch):
    monkeypatch.setattr(graph_module, "OPERATORS", OPERATORS | {"mystery"})
    known = graphs.chain()
    odd = dataclasses.replace(known.nodes[2], op="mystery", source="net.py:7")
    graph = NetworkGraph(nodes=(*known.nodes[:2], odd, *known.nodes[3:]), output=known.output)
    for cost in COSTS:
        with pytest.raises(CaptureError, match=r"'relu0' \(net.py:7\): operator 'mystery' has no price"):
            exact(cost, graph, graphs.uniform_bits(graph, 8, 8))
    with pytest.raises(CaptureError, match="mystery"):
        plan_arena(graph)


def test_a_network_without_priced_layers_is_refused():
    s = graphs.Sketch((3, 4, 4))
    with pytest.raises(CaptureError, match="no conv or linear layer"):
        exact("avg_bits", s.graph(s.same("relu", "relu", "x")), {})


def test_size_of_a_residual_network_by_hand():
    graph = graphs.residual(channels=4)
    bits = graphs.uniform_bits(graph, 3, 8)
    n = {layer.name: layer.weights for layer in graph.layers}
    assert n == {
        "stem": 108, "a.conv1": 144, "a.conv2": 144, "b.conv1": 288, "b.conv2": 576, "b.down": 32, "fc": 40,
    }  # fmt: skip
    channels = 4 + 4 + 4 + 8 + 8 + 8 + 5
    layers = 7 * 16 + (41 + 54 + 54 + 108 + 216 + 12 + 15) + 4 * channels
    pixels, adds, pool = 3 * 256, 2 * 16, 16
    assert exact("size", graph, bits) == layers + pixels + adds + pool


def test_float_streams_store_no_tables():
    """By hand: 256 bytes less where a stream was narrowed, clipped or mapped, 3 more per channel of an affine."""
    graph = graphs.every_operator()
    bits = graphs.uniform_bits(graph, 4, 4)
    plan = plan_grids(graph)
    tables = sum(plan.narrows(layer.name) for layer in graph.layers)
    assert tables == 1  # deep reads a stream; the others have grids of their own
    size = exact("size", graph, bits)
    clips = 1  # that stand apart
    assert exact("size", graph, bits, costs_at_streams(FLOAT)) == size - 256 * (tables + clips) + 3 * 4
    s = graphs.Sketch((3, 4, 4))
    y = s.same("hard_swish", "swish", s.conv("a", "x", 4))
    z = s.concat("concat", s.same("sigmoid", "gate", y), y)
    graph = s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", z)), 5))
    bits = graphs.uniform_bits(graph, 4, 8)
    tables = 2 + 1  # of functions, and of the operand without sign
    assert exact("size", graph, bits, costs_at_streams(FLOAT)) == exact("size", graph, bits) - 256 * tables


@pytest.mark.parametrize(
    ("layer", "table"),
    # The stem's output feeds an add too, and so does the first block's: who reads these narrows by a table.
    [("stem", 0), ("a.conv1", 256), ("a.conv2", 0), ("b.conv1", 256), ("b.conv2", 0), ("b.down", 256), ("fc", 0)],
)
def test_a_table_narrows_a_stream_below_8_bits(layer, table):
    graph = graphs.residual()
    bits = graphs.uniform_bits(graph, 4, 8)
    full = exact("size", graph, bits)
    for activation, extra in ((7, table), (1, table), (8, 0)):
        assert exact("size", graph, bits | {layer: Bits(weight=4, activation=activation)}) == full + extra


def test_a_float_layer_stores_32_bits_for_each_number():
    graph = graphs.residual()
    bits = graphs.uniform_bits(graph, 4, 3)
    full = exact("size", graph, bits)
    weights, channels = 288, 8  # of b.conv1, which reads a stream: 4 bits each, 4 bytes, a table
    quantized = weights // 2 + 4 * channels + 256
    for weight, activation, stored in (
        (FLOAT, FLOAT, 4 * weights + 4 * channels),  # a float32 bias
        (FLOAT, 3, 4 * weights + 4 * channels + 256),
        (4, FLOAT, weights // 2 + 8 * channels),  # codes, a float32 scale and bias
    ):
        changed = bits | {"b.conv1": Bits(weight=weight, activation=activation)}
        assert exact("size", graph, changed) == full - quantized + stored


def test_clips_affine_and_pools():
    s = graphs.Sketch((1, 4, 4))
    y = s.same("relu", "merged", s.conv("conv", "x", 2, norm=False))
    plain = s.graph(y)
    bits = graphs.uniform_bits(plain, 8, 8)
    assert exact("size", plain, bits) == 256 + 16 + 18 + 4 * 2  # one pixel table; header, weights, channels
    y = s.max_pool("pool", y)
    assert exact("size", s.graph(y), bits) - exact("size", plain, bits) == 16
    y = s.same("relu6", "apart", y)  # reads a pool, so it can't merge: header and table
    assert exact("size", s.graph(y), bits) - exact("size", plain, bits) == 16 + 16 + 256
    y = s.affine("affine", y)
    assert exact("size", s.graph(y), bits) - exact("size", plain, bits) == 16 + 16 + 256 + 16 + 5 * 2
    y = s.same("dropout", "dropout", s.flatten("flat", s.global_pool("avg", y)))
    assert exact("size", s.graph(y), bits) - exact("size", plain, bits) == 16 + 16 + 256 + 16 + 5 * 2 + 16
    assert s.nodes["affine"].norm == Norm()
    assert exact("params", s.graph(y), bits) == 18 + 4


def test_the_wider_vocabulary_by_hand():
    graph = graphs.modern()
    bits = graphs.uniform_bits(graph, 4, 8)
    weights = {"stem": 108, "se.fc": 16, "twice": 36, "deep": 4, "side": 144, "last": 216, "fc": 30}
    assert {layer.name: layer.weights for layer in graph.layers} == weights
    channels = 4 + 4 + 2 + 2 + 4 + 6 + 5
    layers = 7 * 16 + sum(weights.values()) // 2 + 4 * channels
    functions = 7 * (16 + 256)  # hard_swish, hard_sigmoid, silu, tanh, gelu, leaky_relu, sigmoid
    pools, joins, moves = 4 * 16, 3 * 16, 5 * 16  # and multiply; two splits, two pads, shuffle
    sign = 0  # both halves of the concat are signed already
    assert exact("size", graph, bits) == 3 * 256 + layers + functions + pools + joins + moves + sign


def test_signs_that_differ_cost_a_table():
    s = graphs.Sketch((1, 4, 4))
    a, b = s.same("relu", "relu", s.conv("a", "x", 2)), s.conv("b", "x", 2)
    both = s.graph(s.linear("fc", s.flatten("flat", s.concat("cat", a, b)), 1))
    same = s.graph(s.linear("fc", s.flatten("flat", s.concat("cat", b, b)), 1))
    bits = graphs.uniform_bits(both, 8, 8)
    layer = 16 + 18 + 4 * 2
    assert exact("size", both, bits) - exact("size", same, {name: bits[name] for name in ("b", "fc")}) == layer + 256


def test_a_layer_used_twice_is_stored_once_and_computed_twice():
    s = graphs.Sketch((1, 4, 4))
    y = s.conv("b", s.same("relu", "relu", s.conv("a", "x", 2)), 2)
    once, twice = s.graph(s.max_pool("pool", y)), s.graph(s.shared("c", y, "b"))
    bits = graphs.uniform_bits(once, 4, 4)
    # Reading with and without sign takes a narrowing table for each.
    assert exact("size", twice, bits) == exact("size", once, bits) - 16 + 2 * 256
    assert exact("macs", twice, bits) - exact("macs", once, bits) == 36 * 16
    assert exact("params", twice, bits) == exact("params", once, bits)
