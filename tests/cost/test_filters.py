"""Costs of filters and maps that differ in bits: by hand, and against sums over every single product."""

import dataclasses
import math

import graphs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.blueprint import FLOAT, Bits, Options
from bitsmith.cost import COSTS, TARGETS, ExpectedCost, exact, price
from bitsmith.errors import RunError


def one_layer(bits, **fields):
    s = graphs.Sketch((4, 8, 8))
    graph = s.graph(s.conv("conv", "x", 6, **fields))
    return graph, {"conv": bits}


def test_by_hand():
    """3x3, 4 maps at 8, 4, 4 and 2 bits, 6 filters at 2, 2, 8, 3, 1 and 8, 64 positions."""
    graph, bits = one_layer(Bits(weight=(2, 2, 8, 3, 1, 8), activation=(8, 4, 4, 2)))
    costs = price(graph, bits)
    assert costs["weights"] == math.ceil(36 / 8) + 18 + math.ceil(108 / 8) + 72
    assert costs["bitops"] == 64 * 9 * (2 + 2 + 8 + 3 + 1 + 8) * (8 + 4 + 4 + 2)
    # Input tables; header; weights; 4 bytes and a place per filter; three tables and a byte per map.
    assert costs["size"] == 4 * 256 + 16 + costs["weights"] + 5 * 6 + 3 * 256 + 4
    assert costs["avg_bits"] == pytest.approx(math.sqrt(4 * 4.5))
    reach = (255 + 15 + 15 + 3) * 9  # 2592
    adders = {1: reach, 2: reach, 3: 3 * reach, 8: 127 * reach}
    assert costs["bops"] == sum(
        64 * (9 * (b - 1) * 18 + 35 * math.ceil(math.log2(adders[b]))) for b in (2, 2, 8, 3, 1, 8)
    )


def test_bops_of_the_docstring():
    s = graphs.Sketch((2, 8, 8))
    graph = s.graph(s.conv("conv", "x", 1))
    assert exact("bops", graph, {"conv": Bits(weight=3, activation=4)}) == 9216 + 10880 == 20096


@pytest.mark.parametrize("weight", [2, 3, 4, 8])
def test_bops_of_uniform_bits_are_the_published_closed_form(weight):
    """Cout H W (Cin k^2 (bw - 1) ba + (Cin k^2 - 1) ceil(log2(Cin k^2 (2^ba - 1) (2^(bw - 1) - 1))))."""
    graph, activation = graphs.resnet8(), 4
    total = 0
    for layer in graph.layers:
        fan_in = layer.in_channels * layer.kernel[0] ** 2
        reach = fan_in * (2**activation - 1) * (2 ** (weight - 1) - 1)
        products = fan_in * (weight - 1) * activation
        total += layer.macs // fan_in * (products + (fan_in - 1) * math.ceil(math.log2(reach)))
    assert exact("bops", graph, graphs.uniform_bits(graph, weight, activation)) == total


@given(data=st.data())
def test_against_every_single_product(data):
    """Random networks: groups, layers used twice; each filter and each of the maps that it reads by itself."""
    graph = data.draw(graphs.random_graphs())
    bits = data.draw(graphs.filter_bits(graph, zeros=False))
    weights = bitops = bops = mpic = 0
    for layer in graph.layers:
        uses = graph.uses[layer.name]
        positions = sum(math.prod(graph[use].shape[1:]) for use in uses)
        window = layer.kernel[0] * layer.kernel[1]
        rows, columns = layer.out_channels // layer.groups, layer.in_channels // layer.groups
        streams, pairs = {}, {}
        for f, width in enumerate(bits[layer.name].filters(layer)):
            read = bits[layer.name].maps(layer)[f // rows * columns : (f // rows + 1) * columns]
            streams[width] = streams.get(width, 0) + columns * window * width
            bitops += sum(positions * window * width * a for a in read)
            largest = sum(window * (2**a - 1) * max(1, 2 ** (width - 1) - 1) for a in read)
            bops += positions * sum(window * (width - 1) * a for a in read)
            bops += positions * (columns * window - 1) * math.ceil(math.log2(largest))
            for a in read:
                pairs[width, a] = pairs.get((width, a), 0) + positions * window
        weights += sum(math.ceil(count / 8) for count in streams.values())
        table = TARGETS["mpic"].cycles.rates
        for (w, a), macs in pairs.items():
            padded = min(b for b in (2, 4, 8) if b >= a), min(b for b in (2, 4, 8) if b >= w)
            mpic += math.ceil(round(macs / table[padded], 6))
    costs = price(graph, bits, TARGETS["mpic"].costs)
    assert (costs["weights"], costs["bitops"], costs["bops"]) == (weights, bitops, bops)
    assert costs["latency"] == pytest.approx(mpic / 250e6, rel=1e-9)


@given(data=st.data())
def test_filters_of_equal_bits_cost_what_the_layer_does(data):
    """Bits per filter that come to one number are that number; a single other filter changes no other layer's cost."""
    graph = data.draw(graphs.random_graphs())
    w, a = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 8))
    spelled = {
        layer.name: Bits(weight=(w,) * layer.out_channels, activation=(a,) * layer.in_channels)
        for layer in graph.layers
    }
    assert price(graph, spelled) == price(graph, graphs.uniform_bits(graph, w, a))


@given(data=st.data())
def test_more_bits_in_one_filter_never_cost_less(data):
    graph = data.draw(graphs.random_graphs())
    bits = data.draw(graphs.filter_bits(graph, zeros=False, maps=False))
    layer = data.draw(st.sampled_from(graph.layers))
    filters = list(bits[layer.name].filters(layer))
    place = data.draw(st.integers(0, len(filters) - 1))
    filters[place] = data.draw(st.integers(filters[place], 8))
    more = bits | {layer.name: dataclasses.replace(bits[layer.name], weight=tuple(filters))}
    before, after = price(graph, bits), price(graph, more)
    for cost in ("bitops", "bops", "params", "macs", "ram"):
        assert before[cost] <= after[cost]
    # Streams of a bit-width each end in whole bytes, and equal filters need no places.
    assert after["weights"] >= before["weights"] - 1
    assert after["size"] >= before["size"] - 1 - 2 * layer.out_channels


@given(data=st.data())
def test_expected_is_exact_at_one_hot_for_bops(data):
    graph = data.draw(graphs.random_graphs())
    options = Options(weight=(1, 2, 5, 8), activation=(2, 8))
    expected = ExpectedCost("bops", graph, {layer.name: options for layer in graph.layers})
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    picked = {layer.name: (int(rng.integers(4)), int(rng.integers(2))) for layer in graph.layers}
    p = {name: torch.eye(4)[w] for name, (w, _) in picked.items()}
    q = {name: torch.eye(2)[a] for name, (_, a) in picked.items()}
    bits = {name: Bits(weight=options.weight[w], activation=options.activation[a]) for name, (w, a) in picked.items()}
    assert float(expected(p, q)) == exact("bops", graph, bits)


def test_places_of_many_filters_take_two_bytes():
    s = graphs.Sketch((3, 4, 4))
    graph = s.graph(s.conv("conv", "x", 300, kernel=1))
    mixed = exact("size", graph, {"conv": Bits(weight=(4,) * 150 + (2,) * 150, activation=8)})
    assert mixed == 3 * 256 + 16 + math.ceil(900 / 8) + 225 + 6 * 300
    rising = exact("size", graph, {"conv": Bits(weight=(2,) * 150 + (4,) * 150, activation=8)})
    assert rising == mixed - 2 * 300


def test_targets_price_what_they_know():
    """Half of the filters at 2 bits run at 2.5 MACs a cycle instead of 2.1."""
    graph = graphs.chain(channels=(4, 6))
    bits = graphs.uniform_bits(graph, 8, 8)
    mixed = bits | {"conv1": Bits(weight=(8, 2, 8, 2, 8, 2), activation=8)}
    cycles = {
        name: exact("latency", graph, b, TARGETS["mpic"].costs) * 250e6 for name, b in (("8", bits), ("2", mixed))
    }
    macs = next(layer.macs for layer in graph.layers if layer.name == "conv1")
    assert cycles["8"] - cycles["2"] == pytest.approx(macs / 2 * (1 / 2.1 - 1 / 2.5), abs=3)
    bits["conv1"] = Bits(weight=8, activation=(8, 8, 4, 4))
    with pytest.raises(RunError, match=r"the maps of layer 'conv1' differ in bits"):
        bits["conv1"].pair("conv1")
    with pytest.raises(RunError, match=r"the filters of layer 'conv' differ in bits"):
        Bits(weight=(2, 4), activation=8).pair("conv")


def test_wrong_counts_are_refused():
    graph = graphs.chain(channels=(4, 6))
    bits = graphs.uniform_bits(graph, 8, 8) | {"conv1": Bits(weight=(2, 4), activation=8)}
    with pytest.raises(RunError, match="'conv1' has 6 filters, but 2 weight bits"):
        price(graph, bits)
    assert set(COSTS) == set(price(graph, graphs.uniform_bits(graph, FLOAT, FLOAT)))
