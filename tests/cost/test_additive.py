"""Exact costs against published counts and closed forms."""

import dataclasses

import graphs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models import MobileNet_V2_Weights, ResNet18_Weights

from bitsmith.blueprint import FLOAT, UNITS, Bits, Budget, plan_grids
from bitsmith.cost import COSTS, TARGETS, exact, fits, price

BITS = st.builds(Bits, weight=st.sampled_from([*range(1, 9), FLOAT]), activation=st.sampled_from([*range(1, 9), FLOAT]))


def test_every_cost_that_has_a_unit_has_a_price():
    own = {cost for target in TARGETS.values() for cost in target.costs}
    assert own | set(COSTS) == set(UNITS)
    assert [cost for cost in UNITS if cost in COSTS] == list(COSTS)
    assert all(name == cost.name for name, cost in COSTS.items())


@pytest.mark.parametrize(
    ("draw", "weights", "macs"),
    [
        (graphs.resnet18, ResNet18_Weights.DEFAULT, 1_814_073_344),
        (graphs.mobilenet_v2, MobileNet_V2_Weights.DEFAULT, 300_774_272),
    ],
)
def test_params_and_macs_are_torchvisions(draw, weights, macs):
    graph = draw()
    costs = price(graph, graphs.uniform_bits(graph, 8, 8))
    assert costs["params"] == weights.meta["num_params"]
    assert costs["macs"] == macs
    assert round(costs["macs"] / 1e9, 3) == weights.meta["_ops"]


@pytest.mark.parametrize(("inner", "expected"), [(2, 20_144), (3, 29_680), (4, 39_216)])
def test_weights_of_resnet8_with_8_bit_ends(inner, expected):
    graph = graphs.resnet8()
    assert sum(layer.weights for layer in graph.layers) == 77_360
    bits = graphs.uniform_bits(graph, inner, 8) | dict.fromkeys(("stem", "fc"), Bits(weight=8, activation=8))
    assert exact("weights", graph, bits) == expected


@given(weight=st.integers(1, 8), activation=st.integers(1, 8))
def test_closed_forms_of_a_uniform_chain(weight, activation):
    graph = graphs.chain(channels=(4, 6), side=8, classes=5)
    # conv0 3->4, conv1 4->6, both 3x3 on 8x8; fc 6->5 with bias; BatchNorm on both convs.
    n0, n1, n2 = 3 * 4 * 9, 4 * 6 * 9, 6 * 5
    macs = 64 * (n0 + n1) + n2
    costs = price(graph, graphs.uniform_bits(graph, weight, activation))
    assert costs["params"] == n0 + 8 + n1 + 12 + n2 + 5
    assert costs["weights"] == sum((n * weight + 7) // 8 for n in (n0, n1, n2))
    assert costs["macs"] == macs
    assert costs["bitops"] == macs * weight * activation
    assert costs["avg_bits"] == pytest.approx((weight * activation) ** 0.5, rel=1e-15)
    # conv1's output (384) beside its input (256).
    assert costs["ram"] == 256 + 384
    # Tables for 3 input channels; avg_pool's header; three layers, which all read a grid of their own.
    assert costs["size"] == 3 * 256 + 16 + costs["weights"] + 3 * 16 + 4 * (4 + 6 + 5)


def test_float_counts_as_32_bits():
    graph = graphs.chain()
    float_bits, byte_bits = graphs.uniform_bits(graph, FLOAT, FLOAT), graphs.uniform_bits(graph, 8, 8)
    assert exact("weights", graph, float_bits) == 4 * exact("weights", graph, byte_bits)
    assert exact("bitops", graph, float_bits) == 16 * exact("bitops", graph, byte_bits)
    assert exact("avg_bits", graph, float_bits) == 32


@given(data=st.data())
def test_monotone_in_bits(data):
    """More weight bits never cost less; more activation bits neither, but for the table that 8 bits do without.

    Codes that multiply floats need a scale of 4 bytes beside them, which float weights don't.
    """
    graph = data.draw(graphs.random_graphs())
    bits = {layer.name: data.draw(BITS) for layer in graph.layers}
    name = data.draw(st.sampled_from(sorted(bits)))
    scale = 4 * next(layer.out_channels for layer in graph.layers if layer.name == name)
    more_weight = dataclasses.replace(
        bits[name], weight=data.draw(st.sampled_from([*range(bits[name].weight, 9), FLOAT]))
    )
    more_activation = dataclasses.replace(
        bits[name], activation=data.draw(st.sampled_from([*range(bits[name].activation, 9), FLOAT]))
    )
    before = price(graph, bits)
    wider = price(graph, bits | {name: more_weight})
    finer = price(graph, bits | {name: more_activation})
    assert all(before[cost] <= wider[cost] for cost in COSTS if cost != "size")
    drops = bits[name].activation == FLOAT != bits[name].weight and more_weight.weight == FLOAT
    assert before["size"] <= wider["size"] + drops * scale
    assert all(before[cost] <= finer[cost] for cost in COSTS if cost not in ("size", "ram"))
    adds = more_activation.activation == FLOAT != bits[name].activation and bits[name].weight != FLOAT
    tables = len({plan_grids(graph).signed[c] for c in plan_grids(graph).layer_reads[name]})
    assert before["size"] - finer["size"] + adds * scale in (0, 256 * tables)


@given(graph=graphs.random_graphs(), bits=BITS)
def test_what_no_bits_change(graph, bits):
    at_8, at_bits = (
        price(graph, graphs.uniform_bits(graph, 8, 8)),
        price(graph, dict.fromkeys(map(_name, graph.layers), bits)),
    )
    assert {c for c in COSTS if at_8[c] == at_bits[c]} >= {"params", "macs"}
    assert at_8["ram"] == at_bits["ram"] or bits.activation == FLOAT


def _name(layer):
    return layer.name


def test_a_value_equal_to_its_limit_is_inside():
    graph = graphs.resnet8()
    bits = graphs.uniform_bits(graph, 3, 4)
    budgets = [Budget(cost=cost, limit=value) for cost, value in price(graph, bits).items()]
    assert fits(graph, bits, budgets)
    for budget in budgets:
        assert not fits(graph, bits, [*budgets, Budget(cost=budget.cost, limit=budget.limit * (1 - 1e-12))])
