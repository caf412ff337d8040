"""Energy and latency: worked examples, expected against exact, monotone in bits, limits of huge totals."""

import dataclasses
import itertools
import time
from fractions import Fraction

import graphs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.blueprint import FLOAT, Bits, Budget, Options, plan_grids
from bitsmith.cost import COSTS, TARGETS, Cycles, ExpectedCost, PerMac, exact, fractional, tabulate
from bitsmith.cost.energy import at_bits, bitops_energy, free_bits, moved_bits
from bitsmith.errors import BudgetError, RecipeError
from bitsmith.search.allocate import allocate
from bitsmith.space.precision import Precision, precision

MPIC = TARGETS["mpic"]
# A target whose every own cost comes from another model than those of the built-in ones.
TABLED = dataclasses.replace(
    TARGETS["c"],
    name="tabled",
    energy=PerMac(
        joules={(a, w): 1e-13 * a + 3e-14 * w for a in (2, 8) for w in (1, 3, 8)},
        weight_byte=5e-12,
        activation_byte=2e-12,
    ),
    cycles=Cycles(rates={(a, w): 16 / (a + w) for a in (2, 8) for w in (1, 3, 8)}, hertz=216e6),
)
EVERY = {**TARGETS, "tabled": TABLED}


def held_options(target):
    def some(bits):
        return st.lists(st.sampled_from(bits), min_size=1, max_size=4, unique=True).map(lambda v: tuple(sorted(v)))

    return st.builds(Options, weight=some(target.weight_bits), activation=some(target.activation_bits))


@given(data=st.data())
def test_expected_at_one_hot_is_exact_for_every_cost_of_every_target(data):
    target = EVERY[data.draw(st.sampled_from(sorted(EVERY)))]
    graph = data.draw(graphs.random_graphs())
    options = {layer.name: data.draw(held_options(target)) for layer in graph.layers}
    bits, p, q = {}, {}, {}
    for name, o in options.items():
        w, a = data.draw(st.integers(0, len(o.weight) - 1)), data.draw(st.integers(0, len(o.activation) - 1))
        bits[name] = Bits(weight=o.weight[w], activation=o.activation[a])
        p[name] = torch.nn.functional.one_hot(torch.tensor(w), len(o.weight)).float()
        q[name] = torch.nn.functional.one_hot(torch.tensor(a), len(o.activation)).float()
    for cost in target.costs:
        assert ExpectedCost(cost, graph, options, target.costs)(p, q).item() == exact(cost, graph, bits, target.costs)


@given(data=st.data())
def test_more_bits_never_cost_less(data):
    """mpic's table falls in rate with either width, so it is monotone too; the general costs are tested elsewhere.

    What a layer reads at a stream's own 8 bits isn't narrowed: where it is small, that can be worth more than the bits.
    """
    target = EVERY[data.draw(st.sampled_from(["mpic", "bitops-energy", "tabled"]))]
    graph = data.draw(graphs.random_graphs())
    width = st.tuples(st.sampled_from(target.weight_bits), st.sampled_from(target.activation_bits))
    bits = {layer.name: Bits(weight=w, activation=a) for layer in graph.layers for w, a in [data.draw(width)]}
    name = data.draw(st.sampled_from(sorted(bits)))
    more_w = [w for w in target.weight_bits if w >= bits[name].weight]
    more_a = [a for a in target.activation_bits if a >= bits[name].activation]
    if bits[name].activation < 8:
        more_a = [a for a in more_a if a < 8] or [bits[name].activation]
    raised = Bits(weight=data.draw(st.sampled_from(more_w)), activation=data.draw(st.sampled_from(more_a)))
    for cost in set(target.costs) - set(COSTS):
        before = exact(cost, graph, bits, target.costs)
        assert exact(cost, graph, {**bits, name: raised}, target.costs) >= before


def test_mpic_by_hand():
    """One conv of 442,368 MACs: 6.5 a cycle are 68,057 cycles of 4 ns and 21.52 pJ."""
    s = graphs.Sketch((3, 32, 32))
    graph = s.graph(s.conv("conv", "x", 16))
    assert graph.layers[0].macs == 442_368
    for w, a, rate in ((2, 2, 6.5), (8, 4, 2.1), (4, 8, 2.3), (8, 8, 2.1)):
        cycles = -(-442_368 * 10 // round(10 * rate))
        bits = {"conv": Bits(weight=w, activation=a)}
        assert exact("latency", graph, bits, MPIC.costs) == pytest.approx(cycles * 4e-9, rel=1e-12)
        assert exact("energy", graph, bits, MPIC.costs) == pytest.approx(cycles * 5.38e-3 / 250e6, rel=1e-12)


def test_docstring_of_cycles():
    s = graphs.Sketch((10, 1, 1))
    graph = s.graph(s.conv("conv", "x", 1, kernel=1))
    assert graph.layers[0].macs == 10
    bits = {"conv": Bits(weight=8, activation=8)}
    assert exact("latency", graph, bits, MPIC.costs) == 20e-9
    assert exact("energy", graph, bits, MPIC.costs) == pytest.approx(0.1076e-9, rel=1e-12)


def test_bits_in_between_take_the_next_entry_and_floats_none():
    assert MPIC.cycles
    table = MPIC.cycles.rates
    assert at_bits(table, (3, 5), "conv") == table[8, 4]
    assert at_bits(table, (1, 1), "conv") == table[2, 2]
    with pytest.raises(RecipeError, match=r"layer 'conv' at w32a8 has no entry .* up to w8a8"):
        at_bits(table, (FLOAT, 8), "conv")


def test_bitops_energy_by_hand():
    """A 1x1 conv of 4 to 2 channels on 5x5 pixels, then the classifier on 50 numbers."""
    s = graphs.Sketch((4, 5, 5))
    graph = s.graph(s.linear("fc", s.flatten("flat", s.same("relu", "act", s.conv("conv", "x", 2, kernel=1))), 3))
    bits = {"conv": Bits(weight=2, activation=8), "fc": Bits(weight=4, activation=3)}
    conv = 200 * (200 * 16 / 64 + 100) + 156.25 * (8 * 2 + 2 * 100 * 8)  # 200 MACs, 8 weights, 100 pixels in
    fc = 150 * (200 * 12 / 64 + 100) + 156.25 * (150 * 4 + 2 * 50 * 3)  # 50 activations, this layer's own
    logits = 156.25 * 3 * 32
    wanted = sum(int(-(-part // 1)) for part in (conv, fc, logits))
    assert exact("energy", graph, bits, TARGETS["bitops-energy"].costs) == wanted / 1e15


def test_streams_are_moved_at_8_bits_whatever_reads_them():
    """A residual: the conv's output is read by an add and by another conv, so it lies on a stream."""
    s = graphs.Sketch((2, 4, 4))
    first = s.conv("first", "x", 2)
    graph = s.graph(s.same("add", "sum", first, s.conv("second", first, 2)))
    plan = plan_grids(graph)
    layer = graph.layers[1]
    assert plan.narrows("second")
    for a in (2, 8):
        assert moved_bits(graph, plan, layer, Bits(weight=1, activation=a)) == (36, 32 * 8)
    # first written, second written, both read by the add, the sum written; what the network gives is 32 bits wide
    assert free_bits(graph, plan) == 5 * 32 * 8 + 32 * 32


@given(total=st.integers(0, 2**52), parts=st.sampled_from([1e15, 1e12, 1e9]))
def test_a_limit_that_is_met_exactly_admits_its_own_total(total, parts):
    s = graphs.Sketch((1, 1, 1))
    graph = s.graph(s.conv("conv", "x", 1, kernel=1))
    cost = fractional("energy", parts, lambda graph, plan, layer, bits: total + bits.weight)
    options = {"conv": Options(weight=(1, 8), activation=(8,))}
    tables = tabulate("energy", graph, options, {"energy": cost})
    value = cost.value(graph, total + 1)
    assert tables.whole_limit(value) >= total + 1
    assert cost.value(graph, tables.whole_limit(value)) == value


@pytest.mark.parametrize("cost", ["energy", "latency", "avg_bits", "bitops"])
def test_whole_limit_of_huge_totals_takes_no_steps_of_one(cost):
    """Totals of 10^15, where the inverse in floats misses by many units of a square root."""
    s = graphs.Sketch((512, 200, 200))
    graph = s.graph(s.conv("b", s.conv("a", "x", 2048), 4096))
    options = {layer.name: Options(weight=(2, 8), activation=(2, 8)) for layer in graph.layers}
    tables = tabulate(cost, graph, options, MPIC.costs)
    assert tables.total(np.ones((2, 2), dtype=int)) > 1e12
    began = time.perf_counter()
    for share in (0.3, 0.5, 0.999999):
        limit = share * tables.greatest()
        total = tables.whole_limit(limit)
        assert tables.value(total) <= limit < tables.value(total + max(1, total // 10**12))
    assert time.perf_counter() - began < 1


SETS = st.sampled_from([(2,), (8,), (2, 4), (4, 8), (2, 4, 8)])


@given(data=st.data())
def test_allocate_on_energy_and_latency_against_brute_force(data):
    target = EVERY[data.draw(st.sampled_from(["mpic", "bitops-energy", "tabled"]))]
    graph = data.draw(st.sampled_from([graphs.chain((3, 5)), graphs.chain((2, 7), side=4), graphs.chain((4,))]))
    options = {layer.name: Options(weight=data.draw(SETS), activation=data.draw(SETS)) for layer in graph.layers}
    space = Precision(template=graphs.blueprint(graph), options=options, costs=target.costs)
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    penalty = {
        name: rng.integers(0, 4, size=shape).astype(float) for name, shape in zip(options, space.sizes, strict=True)
    }
    own = sorted(set(target.costs) & {"energy", "latency"})
    at = space.sample(rng)
    budgets = [Budget(cost=cost, limit=exact(cost, at.graph, at.bits, target.costs)) for cost in own]
    if data.draw(st.booleans()):  # below what any choice reaches, or between two choices
        budgets[0] = dataclasses.replace(budgets[0], limit=budgets[0].limit * data.draw(st.floats(0.2, 0.999)))
    least = np.inf
    for flat in itertools.product(*(range(n) for n in space.sizes.flat)):
        indices = np.array(flat).reshape(-1, 2)
        bits = space.decode(indices).bits
        if all(exact(b.cost, graph, bits, target.costs) <= b.limit for b in budgets):
            least = min(least, sum(penalty[name][w, a] for name, (w, a) in zip(options, indices, strict=True)))
    if least == np.inf:
        with pytest.raises(BudgetError):
            allocate(space, penalty, budgets)
        return
    found = space.encode(allocate(space, penalty, budgets))
    assert sum(penalty[name][w, a] for name, (w, a) in zip(options, found, strict=True)) == least


def test_power_at_a_rate_is_the_same_limit_as_its_energy():
    space = precision(graphs.blueprint(graphs.resnet8()), (2, 4, 8), (2, 4, 8), costs=MPIC.costs)
    free = {name: np.zeros((len(o.weight), len(o.activation))) for name, o in space.options.items()}
    for name, matrix in free.items():
        free[name] = matrix - np.add.outer(np.arange(matrix.shape[0]), np.arange(matrix.shape[1]))
    power, energy = Budget.parse("power=2.7mW@30fps"), Budget.parse("energy=90uJ")
    assert power.limit == energy.limit == float(Fraction(27, 10**4) / 30)
    assert allocate(space, free, [power]) == allocate(space, free, [energy])
    with pytest.raises(
        BudgetError, match=r"energy is at least .* uJ \(.* mW at 30fps\).* is 3\.333 uJ \(100 uW at 30fps\)"
    ):
        allocate(space, free, [Budget.parse("power=0.1mW@30fps")])


def test_a_cost_that_nobody_priced_is_named():
    graph = graphs.chain((4,))
    with pytest.raises(BudgetError, match="there is no cost 'energy' here; there are params, weights"):
        exact("energy", graph, graphs.blueprint(graph).bits)


def test_energy_model_needs_no_target():
    graph = graphs.chain((4,))
    bits = graphs.blueprint(graph).bits
    assert bitops_energy().value(graph, 1e9) == 1e-6
    assert exact("energy", graph, bits, {"energy": bitops_energy()}) > 0
