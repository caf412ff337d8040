"""Baselines against enumeration."""

import itertools

import graphs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.blueprint import FLOAT, Blueprint, Budget
from bitsmith.cost import COSTS, exact, fits
from bitsmith.errors import BudgetError
from bitsmith.search.baselines import fill, largest_uniform, random_inside
from bitsmith.search.feasible import inside, least, limits_of
from bitsmith.space.precision import Precision, precision


def everything(space: Precision) -> list[Blueprint]:
    return [
        space.decode(np.array(flat).reshape(-1, 2)) for flat in itertools.product(*(range(n) for n in space.sizes.flat))
    ]


def budgets_at(blueprint: Blueprint, *costs: str) -> list[Budget]:
    return [Budget(cost=cost, limit=exact(cost, blueprint.graph, blueprint.bits)) for cost in costs]


@pytest.fixture
def residual() -> Precision:
    return precision(graphs.blueprint(graphs.residual()), (2, 3, 4, 8), (4, 8))


@pytest.mark.parametrize(("limit", "inner"), [("20144B", 2), ("29679B", 2), ("30kB", 3), ("1MB", 4)])
def test_largest_uniform_of_resnet8(limit, inner):
    space = precision(graphs.blueprint(graphs.resnet8()), (2, 3, 4))
    assert largest_uniform(space, [Budget.parse(f"weights={limit}")]) == space.uniform(inner, 8)


def test_no_uniform_fits():
    space = precision(graphs.blueprint(graphs.resnet8()), (2, 3, 4))
    assert largest_uniform(space, [Budget.parse("weights=20143B")]) is None


def test_of_equal_bitops_the_larger_weights_win(residual):
    # w8a4 and w4a8 have equal bitops in the inner layers.
    limit = budgets_at(residual.uniform(4, 8), "bitops")
    assert largest_uniform(residual, limit) == residual.uniform(8, 4)
    assert largest_uniform(residual, limit + budgets_at(residual.uniform(4, 8), "weights")) == residual.uniform(4, 8)


@given(seed=st.integers(0, 10**6), costs=st.sets(st.sampled_from(["weights", "size", "bitops"]), min_size=1))
def test_largest_uniform_has_the_most_bitops_inside(seed, costs):
    space = precision(graphs.blueprint(graphs.residual()), (2, 3, 4, 8), (4, 8))
    budgets = budgets_at(space.sample(np.random.default_rng(seed)), *sorted(costs))
    inside = [
        bp
        for w, a in itertools.product((2, 3, 4, 8), (4, 8))
        if fits((bp := space.uniform(w, a)).graph, bp.bits, budgets)
    ]
    found = largest_uniform(space, budgets)
    if not inside:
        assert found is None
        return
    assert found in inside
    assert exact("bitops", found.graph, found.bits) == max(exact("bitops", bp.graph, bp.bits) for bp in inside)


@given(seed=st.integers(0, 10**6), costs=st.sets(st.sampled_from(["weights", "size", "bitops"]), min_size=1))
def test_fill_raises_until_nothing_fits(seed, costs):
    space = precision(graphs.blueprint(graphs.residual()), (2, 3, 4, 8), (4, 8))
    rng = np.random.default_rng(seed)
    start, room = space.uniform(2, 8), space.sample(rng)
    budgets = budgets_at(room, *sorted(costs))
    if not fits(start.graph, start.bits, budgets):
        return
    found = fill(space, start, budgets)
    assert fits(found.graph, found.bits, budgets)
    assert np.all(space.encode(found) >= space.encode(start))
    for near in space.neighbors(found):
        raised = space.encode(near).sum() > space.encode(found).sum()
        assert not (raised and fits(near.graph, near.bits, budgets))
    assert fill(space, start, budgets) == found


def test_fill_takes_the_cheapest_raise_first():
    # conv1 has 4 x 4 x 9 weights, conv2 4 x 8 x 9; the room is for either, and the cheaper one is raised.
    space = precision(graphs.blueprint(graphs.chain((4, 4, 8))), (2, 4))
    start = space.uniform(2, 8)
    value = exact("weights", start.graph, start.bits)
    for room, raised in ((35, []), (36, ["conv1"]), (107, ["conv1"]), (108, ["conv1", "conv2"])):
        found = fill(space, start, [Budget(cost="weights", limit=value + room)])
        assert [name for name in found.bits if found.bits[name] != start.bits[name]] == raised


def test_fill_weighs_budgets_by_their_room():
    # Weights are cheaper to raise in conv1, bitops in conv2 (a quarter of the positions): the scarcer one decides.
    s = graphs.Sketch((3, 8, 8))
    y = s.conv("conv0", "x", 4)
    y = s.conv("conv1", y, 4)
    y = s.conv("conv2", y, 8, stride=4)
    graph = s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", y)), 5))
    space = precision(graphs.blueprint(graph), (2, 4))
    start = space.uniform(2, 8)
    weights, bitops = (exact(cost, graph, start.bits) for cost in ("weights", "bitops"))
    layer = {layer.name: layer for layer in graph.layers}
    wide = 10**9
    by_weights = [Budget(cost="weights", limit=weights + 72), Budget(cost="bitops", limit=bitops + wide)]
    by_bitops = [
        Budget(cost="weights", limit=weights + wide),
        Budget(cost="bitops", limit=bitops + layer["conv1"].macs * 16),
    ]
    first = fill(space, start, by_weights)
    assert (first.bits["conv1"].weight, first.bits["conv2"].weight) == (4, 2)
    second = fill(space, start, by_bitops)
    assert (second.bits["conv1"].weight, second.bits["conv2"].weight) == (2, 4)


def test_fill_without_budgets_takes_everything(residual):
    assert fill(residual, residual.uniform(2, 4), []) == residual.uniform(8, 8)
    assert fill(residual, residual.uniform(2, 4), [Budget.parse("ram=1MB")]) == residual.uniform(8, 8)


def test_random_inside_is_uniform_among_those_inside():
    space = precision(graphs.blueprint(graphs.chain((4, 4, 8))), (2, 3, 4))
    budgets = budgets_at(space.uniform(3, 8), "weights")
    inside = [bp.to_json() for bp in everything(space) if fits(bp.graph, bp.bits, budgets)]
    assert 4 <= len(inside) < space.count()
    generator = np.random.default_rng(0)
    counts = dict.fromkeys(inside, 0)
    draws = 300 * len(inside)
    for _ in range(draws):
        counts[random_inside(space, budgets, generator).to_json()] += 1
    chi2 = sum((n - 300) ** 2 / 300 for n in counts.values())
    assert chi2 < 30  # far above the 99.9 % point at up to 8 degrees of freedom


@given(seed=st.integers(0, 10**6))
def test_random_inside_repairs_where_rejection_fails(seed):
    space = precision(graphs.blueprint(graphs.residual()), (2, 3, 4, 8), (4, 8))
    budgets = [
        Budget(cost="weights", limit=exact("weights", space.template.graph, least(space, "weights").bits) + 60),
        Budget(cost="bitops", limit=1.3 * exact("bitops", space.template.graph, least(space, "bitops").bits)),
    ]
    found = random_inside(space, budgets, np.random.default_rng(seed), tries=0)
    assert fits(found.graph, found.bits, budgets)
    assert found == random_inside(space, budgets, np.random.default_rng(seed), tries=0)
    for near in space.neighbors(found):
        raised = space.encode(near).sum() > space.encode(found).sum()
        assert not (raised and fits(near.graph, near.bits, budgets))


def test_random_inside_where_lowering_costs_bytes(residual):
    """Activations below 8 bits need tables, so the least size isn't at the least bits."""
    low = least(residual, "size")
    assert {low.bits[name].activation for name in ("a.conv1", "b.conv1", "b.down")} == {8}
    budgets = budgets_at(low, "size")
    assert not fits(low.graph, residual.uniform(2, 4).bits, budgets)
    found = random_inside(residual, budgets, np.random.default_rng(0), tries=0)
    assert fits(found.graph, found.bits, budgets)


def test_random_inside_of_an_empty_set(residual):
    with pytest.raises(BudgetError, match="weights is at least"):
        random_inside(residual, [Budget.parse("weights=1B")], np.random.default_rng(0), tries=3)


@pytest.mark.parametrize("cost", COSTS)
def test_least_by_enumeration(cost):
    space = precision(graphs.blueprint(graphs.residual()), (2, 8), (4, 8))
    tiny = Precision(
        template=space.template,
        options={
            n: o if n in ("a.conv1", "b.down", "b.conv2") else precision_of_one(o) for n, o in space.options.items()
        },
    )
    found = least(tiny, cost)
    assert exact(cost, found.graph, found.bits) == min(exact(cost, bp.graph, bp.bits) for bp in everything(tiny))


def precision_of_one(options):
    return type(options)(weight=options.weight[-1:], activation=options.activation[-1:])


def test_a_start_inside_by_its_exact_ram_alone_is_filled_from_another():
    """Where layers may be float or not, tables bound `ram`: all float takes 8,192 bytes, and 11,264 by the bound."""
    space = precision(graphs.blueprint(graphs.chain((16, 16, 16, 16), side=8)), (8,), (8, FLOAT), ends=8)
    budgets = [Budget(cost="ram", limit=9000)]
    start = largest_uniform(space, budgets)
    assert start == space.uniform(8, FLOAT)
    assert exact("ram", start.graph, start.bits) == 8192
    filled = fill(space, start, budgets)
    assert fits(filled.graph, filled.bits, budgets)
    limits, indices = limits_of(space, budgets), space.encode(filled)
    assert inside(limits, indices)
    assert not any(inside(limits, moved) for moved in space.raised(indices))
    assert any(bits.activation == FLOAT for bits in filled.bits.values())
