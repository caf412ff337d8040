"""Removed filters: by hand, and the narrower network against the masked one in float64."""

import graphs
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from bitsmith.blueprint import PRICED, Bits, Blueprint, couple, prune
from bitsmith.cost import exact
from bitsmith.errors import RunError
from bitsmith.quantize import build, float_blueprint
from bitsmith.space.cut import cut_state


def without(graph, **filters):
    """A blueprint with some filters at 0 bits and all others at 2."""
    bits = graphs.uniform_bits(graph, 2, 8)
    for name, removed in filters.items():
        weight = tuple(0 if f in removed else 2 for f in range(graph[name].shape[0]))
        bits[name] = Bits(weight=weight, activation=8)
    return Blueprint(graph=graph, bits=bits)


def test_a_chain_by_hand():
    graph = graphs.chain(channels=(4, 6))
    bits = {
        "conv0": Bits(weight=(2, 0, 4, 2), activation=8),
        "conv1": Bits(weight=(8, 8, 0, 8, 0, 2), activation=(4, 8, 4, 4)),
        "fc": Bits(weight=(2, 3, 2, 2, 2), activation=(1, 2, 3, 4, 5, 6)),
    }
    found = prune(Blueprint(graph=graph, bits=bits))
    assert found.blueprint.bits == {
        "conv0": Bits(weight=(2, 2, 4), activation=8),
        "conv1": Bits(weight=(2, 8, 8, 8), activation=4),
        "fc": Bits(weight=(2, 3, 2, 2, 2), activation=(6, 1, 2, 4)),
    }
    assert [found.blueprint.graph[name].shape[0] for name in ("conv0", "relu0", "conv1", "flat", "fc")] == [
        3,
        3,
        4,
        4,
        5,
    ]
    assert found.left("conv0").tolist() == [0, 3, 2]
    assert found.left("conv1").tolist() == [5, 0, 1, 3]
    # 3 * 27 weights at 2, 4, 2 bits; 4 * 27 at 8 and 2; 5 * 4 at 2 and 3.
    assert exact("weights", found.blueprint.graph, found.blueprint.bits) == (14 + 14) + (81 + 7) + (4 + 2)


def test_a_residual_stream_loses_all_of_a_channel():
    found = prune(without(graphs.residual(channels=4), **{"a.conv2": {1}, "stem": {3}, "b.conv1": {0, 7}}))
    shapes = {
        name: found.blueprint.graph[name].shape[0] for name in ("stem", "a.conv1", "a.conv2", "b.conv1", "b.down")
    }
    assert shapes == {"stem": 2, "a.conv1": 4, "a.conv2": 2, "b.conv1": 6, "b.down": 8}
    assert found.left("a.add").tolist() == [0, 2]


def test_a_depthwise_filter_goes_with_its_input():
    s = graphs.Sketch()
    y = s.conv("depth", s.conv("expand", "x", 4, kernel=1), 8, groups=4)
    found = prune(without(s.graph(s.conv("project", y, 2, kernel=1)), depth={5})).blueprint.graph
    assert (found["expand"].shape[0], found["depth"].shape[0], found["depth"].groups) == (3, 6, 3)


def test_nothing_removed_is_the_blueprint_itself():
    blueprint = graphs.blueprint(graphs.residual())
    assert prune(blueprint).blueprint is blueprint


@pytest.mark.parametrize(
    ("layer", "removed", "message"),
    [
        ("fc", {2}, "filter 2 of layer 'fc' can't be removed: it makes an output"),
        ("conv0", {0, 1, 2, 3}, "no channel of 'conv0' would be left"),
    ],
)
def test_what_can_not_be_removed(layer, removed, message):
    with pytest.raises(RunError, match=message):
        prune(without(graphs.chain(channels=(4, 6)), **{layer: removed}))


def test_shuffled_channels_can_not():
    s = graphs.Sketch()
    y = s.put("shuffle", "shuffle", (4, 8, 8), s.conv("conv", "x", 4), groups=2)
    with pytest.raises(
        RunError, match="filter 1 of layer 'conv' can't be removed: it makes a channel that is shuffled"
    ):
        prune(without(s.graph(s.conv("last", y, 2)), conv={1}))


def test_removed_filters_are_not_built_nor_priced():
    blueprint = without(graphs.chain(channels=(4, 6)), conv1={2})
    for use in (build, lambda blueprint: exact("weights", blueprint.graph, blueprint.bits)):
        with pytest.raises(RunError, match=r"'conv1' are removed; go on with prune"):
            use(blueprint)


def test_the_order_of_a_sum_is_its_first_layers():
    """conv2 of the first block follows the stem, which its channels are added to; `down` agrees with conv2 of its."""
    graph = graphs.residual(channels=4)
    bits = graphs.uniform_bits(graph, 2, 8) | {
        "stem": Bits(weight=(8, 2, 4, 2), activation=8),
        "a.conv2": Bits(weight=(2, 8, 2, 4), activation=8),
        "b.conv1": Bits(weight=(2, 2, 2, 8, 8, 2, 2, 2), activation=(8, 4, 2, 1)),
        "b.conv2": Bits(weight=(8, 2, 8, 2, 8, 2, 8, 2), activation=8),
        "b.down": Bits(weight=(4, 2, 8, 1, 4, 2, 8, 1), activation=8),
        "fc": Bits(weight=(8, 2, 2, 2, 2), activation=8),
    }
    found = prune(Blueprint(graph=graph, bits=bits))
    assert found.left("stem").tolist() == found.left("a.add").tolist() == [1, 3, 2, 0]
    assert {name: found.blueprint.bits[name].weight for name in bits} == {
        "stem": (2, 2, 4, 8),
        "a.conv1": 2,
        "a.conv2": (8, 4, 2, 2),
        "b.conv1": (2, 2, 2, 2, 2, 2, 8, 8),
        "b.conv2": (2, 2, 2, 2, 8, 8, 8, 8),
        "b.down": (1, 1, 2, 2, 4, 4, 8, 8),
        "fc": (8, 2, 2, 2, 2),
    }
    assert found.blueprint.bits["b.conv1"].activation == (4, 1, 2, 8)
    # Two layers say where their filters are: conv2 and the classifier, whose outputs stay.
    places = exact("size", graph, bits) - exact("size", graph, found.blueprint.bits)
    assert places == 4 + 8 + 8 + 8


def test_filters_of_groups_stay():
    """Sorted within its groups the layer wouldn't rise, so nothing is gained by moving them."""
    s = graphs.Sketch()
    graph = s.graph(s.conv("last", s.conv("grouped", s.conv("stem", "x", 6), 4, groups=2), 3))
    bits = graphs.uniform_bits(graph, 2, 8) | {"stem": Bits(weight=(8, 4, 2, 8, 4, 2), activation=8)}
    blueprint = Blueprint(graph=graph, bits=bits)
    assert prune(blueprint).blueprint is blueprint


def test_halves_keep_to_themselves():
    s = graphs.Sketch()
    stem = s.conv("stem", "x", 4)
    left, right = s.split("left", stem, 0, 2), s.split("right", stem, 2, 2)
    graph = s.graph(s.conv("last", s.concat("both", s.conv("own", left, 2), right), 3))
    bits = graphs.uniform_bits(graph, 2, 8) | {"stem": Bits(weight=(4, 2, 8, 4), activation=8)}
    found = prune(Blueprint(graph=graph, bits=bits))
    assert found.blueprint.bits["stem"].weight == (2, 4, 4, 8)
    assert found.left("left").tolist() == found.left("right").tolist() == [1, 0]
    assert found.left("both").tolist() == [0, 1, 3, 2]


def test_parts_of_what_holds_a_channel_twice_keep_to_themselves():
    """Of [3, 4, 3, 4] the middle is [4, 3]: the first channel of one unit, the second of the other."""
    s = graphs.Sketch()
    a, b = s.conv("a", "x", 2), s.conv("b", "x", 2)
    added = s.same("add", "add", a, b)
    middle = s.split("middle", s.concat("twice", a, b), 1, 2)
    graph = s.graph(s.conv("last", s.concat("all", added, middle), 3))
    found = prune(
        Blueprint(graph=graph, bits=graphs.uniform_bits(graph, 2, 8) | {"a": Bits(weight=(8, 2), activation=8)})
    )
    network = randomized(graph)
    narrow = build(float_blueprint(found.blueprint.graph)).double().eval()
    narrow.load_state_dict(cut_state(graph, found.left, network.state_dict()))
    x = torch.randn(3, *graph.input_shape, dtype=torch.float64)
    torch.testing.assert_close(narrow(x), network(x), rtol=1e-10, atol=1e-10)


def test_a_layer_that_cannot_rise_leaves_the_order_to_others():
    """Two filters on each channel, [2, 8, 2, 4], don't rise in any order; the layer added to the stem does as it is."""
    s = graphs.Sketch()
    stem = s.conv("stem", "x", 2)
    depth = s.conv("depth", stem, 4, groups=2)
    added = s.same("add", "add", stem, s.conv("side", "x", 2))
    graph = s.graph(s.conv("last", s.concat("all", depth, added), 2))
    own = {"depth": Bits(weight=(2, 8, 2, 4), activation=8), "side": Bits(weight=(2, 8), activation=8)}
    blueprint = Blueprint(graph=graph, bits=graphs.uniform_bits(graph, 2, 8) | own)
    assert prune(blueprint).blueprint is blueprint


@given(data=st.data())
def test_what_is_in_order_stays(data):
    """What was pruned is not changed by pruning, and no layer that could rise falls."""
    graph = data.draw(graphs.random_graphs())
    try:
        found = prune(Blueprint(graph=graph, bits=data.draw(graphs.filter_bits(graph)))).blueprint
    except RunError:
        assume(False)
        return
    # Filters of groups of which one is left are free of each other from then on.
    assume(all(found.graph[node.name].groups > 1 for node in graph.nodes if node.groups > 1))
    assert prune(found).blueprint is found
    coupling = couple(found.graph)
    for units in coupling.alike:
        if coupling.pinned[units].any() or coupling.shuffled[units].any():
            continue
        makers = [layer for layer in found.graph.layers if set(coupling.units[layer.name]) & set(units)]
        first = next((m for m in makers if not isinstance(found.bits[m.name].weight, int)), None)
        if first is not None and len(coupling.units[first.name]) == len(units):
            assert list(found.bits[first.name].weight) == sorted(found.bits[first.name].weight)


ZERO_AT_ZERO = {"hard_swish", "silu", "tanh", "gelu", "leaky_relu", "relu", "relu6"}


@given(data=st.data())
def test_the_narrower_network_is_the_masked_one(data):
    """Random networks with BatchNorms, adds, concats, depthwise layers, gates; float64."""
    graph = data.draw(graphs.random_graphs())
    blueprint = Blueprint(graph=graph, bits=data.draw(graphs.filter_bits(graph)))
    coupling = couple(graph)
    try:
        found = prune(blueprint)
    except RunError:
        assume(False)
        return
    gone = ~found.kept
    assume(gone.any() or (found.order != np.arange(len(gone))).any())
    network = randomized(graph)
    # A sigmoid makes 1/2 of a removed channel, so what reads it has to go; elsewhere nothing of the readers changes.
    inputs_too = any(node.op in ("sigmoid", "hard_sigmoid") for node in graph.nodes)
    mask(network, coupling, gone, inputs_too=inputs_too)
    narrow = build(float_blueprint(found.blueprint.graph)).double().eval()
    narrow.load_state_dict(cut_state(coupling.graph, found.left, network.state_dict()))
    x = torch.randn(3, *graph.input_shape, dtype=torch.float64)
    torch.testing.assert_close(narrow(x), network(x), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def randomized(graph):
    network = build(float_blueprint(graph)).double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(-1.5, 1.5)
            module.bias.normal_()
    for _, layer in network.priced():
        if layer.bias is not None:
            layer.bias.normal_()
    return network


@torch.no_grad()
def mask(network, coupling, gone, *, inputs_too):
    """Weights, BatchNorm scale and offset of removed channels to zero."""
    for node in coupling.graph.nodes:
        if node.shares or (node.op not in PRICED and node.norm is None):
            continue
        layer, filters = network.layer(node.name), np.flatnonzero(gone[coupling.units[node.name]])
        if layer.norm is not None:
            layer.norm.weight[filters] = 0
            layer.norm.bias[filters] = 0
        if node.op in PRICED:
            layer.weight[filters] = 0
            if layer.bias is not None:
                layer.bias[filters] = 0
            if inputs_too:
                source = gone[coupling.units[node.inputs[0]]].reshape(node.groups, -1)
                for rows, columns in zip(layer.weight.chunk(node.groups), source, strict=True):
                    rows[:, np.flatnonzero(columns)] = 0


@given(data=st.data())
def test_the_bits_of_what_is_left_stay(data):
    graph = data.draw(graphs.random_graphs())
    blueprint = Blueprint(graph=graph, bits=data.draw(graphs.filter_bits(graph)))
    try:
        found = prune(blueprint)
    except RunError:
        assume(False)
        return
    for old, new in zip(graph.layers, found.blueprint.graph.layers, strict=True):
        before, after = blueprint.bits[old.name], found.blueprint.bits[old.name]
        weight = (before.weight,) * old.out_channels if isinstance(before.weight, int) else before.weight
        assert after.filters(new) == tuple(weight[f] for f in found.left(old.name))
        assert after.maps(new) == tuple(before.maps(old)[m] for m in found.left(graph[old.name].inputs[0]))
        assert 0 not in after.weight_widths
