"""Coupled channels: worked out by hand, and by cutting them out of random networks."""

import graphs
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from bitsmith.blueprint import PRICED, Coupling, couple, keep
from bitsmith.blueprint.groups import Groups
from bitsmith.quantize import build, float_blueprint
from bitsmith.space import Narrowed


def together(coupling: Coupling, layer: str, filter: int) -> dict[str, tuple[int, ...]]:
    return coupling.filters(int(coupling.units[layer][filter]))


def readers(coupling: Coupling, layer: str, filter: int) -> dict[str, tuple[int, ...]]:
    return coupling.readers(int(coupling.units[layer][filter]))


def test_residual():
    coupling = couple(graphs.residual(channels=4))
    assert together(coupling, "stem", 2) == {"stem": (2,), "a.conv2": (2,)}
    assert readers(coupling, "stem", 2) == {"a.conv1": (2,), "b.conv1": (2,), "b.down": (2,)}
    assert together(coupling, "a.conv1", 3) == {"a.conv1": (3,)}
    assert readers(coupling, "a.conv1", 3) == {"a.conv2": (3,)}
    assert together(coupling, "b.down", 7) == {"b.conv2": (7,), "b.down": (7,)}
    assert readers(coupling, "b.conv2", 7) == {"fc": (7,)}
    # The input's 3 channels and the 5 classes stay.
    assert coupling.pinned.sum() == 3 + 5
    assert set(coupling.units["fc"]) | set(coupling.units["x"]) == set(np.flatnonzero(coupling.pinned))


def test_depthwise_goes_with_its_input():
    s = graphs.Sketch()
    y = s.conv("expand", "x", 4, kernel=1)
    y = s.conv("depth", y, 8, groups=4)  # two filters on each channel
    coupling = couple(s.graph(s.conv("project", y, 2, kernel=1)))
    assert together(coupling, "expand", 1) == {"expand": (1,), "depth": (2, 3)}
    assert readers(coupling, "expand", 1) == {"depth": (1,), "project": (2, 3)}
    kept = np.ones(len(coupling.pinned), bool)
    kept[coupling.units["expand"][1]] = False
    narrow = keep(coupling, kept)
    assert (narrow["depth"].groups, narrow["depth"].shape[0]) == (3, 6)


def test_one_output_per_group_goes_with_its_inputs():
    s = graphs.Sketch()
    coupling = couple(s.graph(s.conv("last", s.conv("sum", s.conv("stem", "x", 6), 2, groups=2), 3)))
    assert together(coupling, "sum", 1) == {"stem": (3, 4, 5), "sum": (1,)}


def test_groups_lose_a_channel_each():
    s = graphs.Sketch()
    y = s.conv("grouped", s.conv("stem", "x", 6), 4, groups=2)
    coupling = couple(s.graph(s.conv("last", y, 3)))
    assert together(coupling, "stem", 1) == {"stem": (1, 4)}
    assert readers(coupling, "stem", 1) == {"grouped": (1, 4)}
    assert together(coupling, "grouped", 0) == {"grouped": (0, 2)}


def test_concat_split_flatten():
    s = graphs.Sketch((3, 4, 4))
    y = s.concat("cat", s.conv("left", "x", 2), s.conv("right", "x", 3))
    cut = s.split("cut", y, 1, 3)  # left 1, right 0 and 1
    coupling = couple(s.graph(s.linear("fc", s.flatten("flat", s.conv("mid", cut, 2)), 5)))
    assert readers(coupling, "left", 1) == {"mid": (0,)}
    assert readers(coupling, "right", 1) == {"mid": (2,)}
    assert readers(coupling, "right", 2) == {}
    assert readers(coupling, "mid", 1) == {"fc": tuple(range(16, 32))}
    kept = np.ones(len(coupling.pinned), bool)
    kept[[coupling.units["left"][0], coupling.units["right"][1]]] = False
    narrow = keep(coupling, kept)
    assert (narrow["cat"].shape[0], narrow["cut"].start, narrow["cut"].shape[0]) == (3, 0, 2)
    assert narrow["flat"].shape == (32,)


def test_gate_and_layers_used_again():
    s = graphs.Sketch()
    y = s.gate("se", s.conv("stem", "x", 3))
    z = s.shared("again", s.conv("twice", y, 3), "twice")
    coupling = couple(s.graph(s.conv("last", z, 2)))
    # The gate multiplies stem; twice reads stem and itself.
    assert together(coupling, "stem", 0) == {"stem": (0,), "se.fc": (0,), "twice": (0,)}
    assert readers(coupling, "stem", 0) == {"se.fc": (0,), "twice": (0,), "last": (0,)}


def test_a_shuffle_ends_identity():
    s = graphs.Sketch()
    y = s.put("shuffle", "shuffle", (4, 8, 8), s.conv("stem", "x", 4), groups=2)
    coupling = couple(s.graph(s.conv("last", y, 2)))
    assert readers(coupling, "stem", 0) == {}
    assert coupling.shuffled[coupling.units["stem"]].all()
    assert coupling.shuffled[coupling.units["shuffle"]].all()
    assert not coupling.shuffled[coupling.units["last"]].any()


def test_what_is_added_to_the_input_is_pinned():
    s = graphs.Sketch()
    coupling = couple(s.graph(s.conv("last", s.same("add", "add", "x", s.conv("stem", "x", 3)), 4)))
    assert coupling.pinned.all()


@st.composite
def cuts(draw: st.DrawFn):
    """A random graph and units to keep, at least one channel of every tensor."""
    graph = draw(graphs.random_graphs())
    coupling = couple(graph)
    stays = coupling.pinned | coupling.shuffled
    kept = stays | np.array(draw(st.lists(st.booleans(), min_size=len(stays), max_size=len(stays))))
    assume(all(kept[units].any() for units in coupling.units.values()))
    assume(not kept.all())
    return coupling, kept


@given(cuts())
def test_a_network_without_units_is_the_network_that_does_not_read_them(cut):
    coupling, kept = cut
    torch.manual_seed(0)
    network = build(float_blueprint(coupling.graph)).double().eval()
    for name, value in network.state_dict().items():
        if value.is_floating_point():  # statistics too: every channel is different
            value.copy_(torch.rand_like(value) + (0.5 if "var" in name else -0.5))
    cut_out = Narrowed(graph=keep(coupling, kept), coupling=coupling, kept=kept, width=1.0)
    narrow = build(float_blueprint(cut_out.graph)).double().eval()
    narrow.load_state_dict(cut_out.state(network.state_dict()))
    for unit in np.flatnonzero(~kept).tolist():
        for layer, channels in coupling.readers(unit).items():
            node = coupling.graph[layer]
            per_group = len(coupling.units[node.inputs[0]]) // node.groups
            filters = node.shape[0] // node.groups
            for channel in channels:
                group, place = divmod(channel, per_group)
                network.layer(layer).weight.data[group * filters : (group + 1) * filters, place] = 0
    x = torch.randn(2, *coupling.graph.input_shape, dtype=torch.double)
    expected, found = network(x), narrow(x)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.detach().abs().max() + 1))


@given(graphs.random_graphs())
def test_filters_and_readers_are_whole(graph):
    """Every filter and every input of every layer belongs to exactly one unit."""
    coupling = couple(graph)
    for node in graph.nodes:
        if node.op in PRICED and not node.shares:
            places = [p for unit in range(len(coupling.pinned)) for p in coupling.filters(unit).get(node.name, ())]
            assert sorted(places) == list(range(node.shape[0]))
            places = [p for unit in range(len(coupling.pinned)) for p in coupling.readers(unit).get(node.name, ())]
            assert sorted(places) == list(range(graph[node.inputs[0]].shape[0]))


def test_keep_needs_what_is_pinned():
    coupling = couple(graphs.chain())
    with pytest.raises(AssertionError):
        keep(coupling, np.zeros(len(coupling.pinned), bool))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))))
def test_groups_are_the_connected_components(pairs):
    groups = Groups[int]()
    for a, b in pairs:
        groups.join(a, b)
    for a in range(10):
        for b in range(10):
            assert (groups.find(a) == groups.find(b)) == (b in _closure(pairs, a))


def _closure(pairs, start):
    found, grown = {start}, True
    while grown:
        more = {x for a, b in pairs for x in (a, b) if {a, b} & found}
        grown = not more <= found
        found |= more
    return found
