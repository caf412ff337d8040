"""Baselines, feasibility and grid on spaces of whole networks, against all networks of small ones."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from spaces import mobile, tiny

from bitsmith.blueprint import Budget
from bitsmith.cost import COSTS, ENERGY_MODELS, exact, fits
from bitsmith.data import open_data
from bitsmith.errors import BudgetError, RecipeError
from bitsmith.search import (
    Composite,
    GridSearch,
    Problem,
    Random,
    Sensitivity,
    Supernet,
    Uniform,
    fill,
    largest_uniform,
    least,
    random_network,
    reachable,
    some_inside,
)
from bitsmith.search.mobile_random import stratified
from bitsmith.space import MOBILE_SPACES, Mobile, MobileSpace, Space, Stage, Stem, precision
from bitsmith.train import Task, TrainPlan

STAGE = Stage(channels=(4, 8), blocks=(1, 2), expansions=(1.0, 2.0), kernels=(3,), squeeze_excite=(False,))
FEW = MobileSpace(
    stem=Stem(channels=4), stages=(dataclasses.replace(STAGE, activations=("relu",)),), weight_bits=(2, 8),
    activation_bits=(4, 8), divisor=2,
)  # fmt: skip
WITH_ENERGY = COSTS | {"energy": ENERGY_MODELS["bitops-energy"]()}
NAMES = ("size", "bitops", "avg_bits", "energy")


@pytest.fixture(scope="module")
def few() -> Mobile:
    """144 networks."""
    return mobile(FEW, side=6, costs=WITH_ENERGY)


@pytest.fixture(scope="module")
def every(few):
    """All of them, with their costs [networks, NAMES]."""
    found = [few.at(i) for i in range(few.count())]
    return found, np.array([[exact(c, b.graph, b.bits, few.costs) for c in NAMES] for b in found])


def budgets_at(every, share, names=("size", "bitops")):
    costs = every[1]
    return [Budget(cost=c, limit=float(np.quantile(costs[:, NAMES.index(c)], share, method="lower"))) for c in names]


def test_both_kinds_are_spaces(few):
    assert isinstance(few, Space)
    assert isinstance(precision(few.at(0), (2, 8), (8,)), Space)
    assert len({few.key(few.at(i)) for i in range(few.count())}) == few.count()
    wider = mobile(dataclasses.replace(FEW, divisor=1), side=6)
    assert few.identity() != wider.identity()
    assert few.identity() == mobile(FEW, side=6).identity()


def test_graphs_hold_every_operator_whatever_comes_last():
    stage = dataclasses.replace(STAGE, squeeze_excite=(True, False), activations=("hard_swish", "relu"))
    space = mobile(dataclasses.replace(FEW, stages=(stage,)))
    held = {node.op for graph in space.graphs for node in graph.nodes}
    rng = np.random.default_rng(0)
    assert held == {node.op for _ in range(60) for node in space.sample(rng).graph.nodes}


def test_what_can_be_reached(few, every):
    """avg_bits is no sum but a ratio of two."""
    _, costs = every
    found = reachable(few, NAMES)
    for k, cost in enumerate(NAMES):
        assert found[cost] == (costs[:, k].min(), costs[:, k].max())
        low = least(few, cost)
        assert exact(cost, low.graph, low.bits, few.costs) == costs[:, k].min()
    inside = some_inside(few, budgets_at(every, 0.1))
    assert fits(inside.graph, inside.bits, budgets_at(every, 0.1))
    with pytest.raises(BudgetError, match="size is at least"):
        some_inside(few, [Budget(cost="size", limit=costs[:, 0].min() - 1)])


def test_uniform_networks_are_scaled_by_one_number(few, every):
    """Three sizes: of two options each, the half point is the only step; bits in all pairs."""
    points = few.uniforms()
    assert len(points) == 2 * 4
    options = [few.decisions.options(few.encode(point)) for point in points]
    for chosen in options:
        sizes = {chosen["stage1.channels"] == 8, chosen["stage1.blocks"] == 2, chosen["stage1.block1.expansion"] == 2}
        assert len(sizes) == 1
        assert len({v for name, v in chosen.items() if name.endswith(".weight_bits")}) == 1
    budgets = budgets_at(every, 0.6)
    inside = [b for b in points if fits(b.graph, b.bits, budgets)]
    best = largest_uniform(few, budgets)
    assert best is not None
    assert best in inside
    assert exact("bitops", best.graph, best.bits) == max(exact("bitops", b.graph, b.bits) for b in inside)
    filled = fill(few, best, budgets)
    assert filled.graph == best.graph
    assert not any(fits(few.decode(up).graph, few.decode(up).bits, budgets) for up in few.raised(few.encode(filled)))


def test_random_networks_are_inside_and_leave_no_room(few, every):
    for share in (0.02, 0.3, 0.9):
        budgets = budgets_at(every, share)
        for tries in (0, 100):  # 0: repaired
            found = random_network(few, budgets, np.random.default_rng(1), tries=tries)
            assert found == random_network(few, budgets, np.random.default_rng(1), tries=tries)
            assert fits(found.graph, found.bits, budgets)
            grown = few.moved(few.encode(found), ("channels", "expansion", "weight_bits", "activation_bits"), 1)
            assert not any(fits(few.decode(up).graph, few.decode(up).bits, budgets) for up in grown)
    with pytest.raises(BudgetError, match="size is at least"):
        random_network(few, [Budget.parse("size=1B")], np.random.default_rng(0), tries=3)


def test_random_networks_of_a_large_space_are_of_every_depth_at_nearly_equal_cost():
    """A uniform draw has all stages of the most blocks in 9 of 10; these have each number as often."""
    space = Mobile(description=MOBILE_SPACES["mobile-32"], input_shape=(3, 32, 32), outputs=10)
    budgets = [Budget.parse("size=60kB"), Budget.parse("bitops=300e6")]
    found = [random_network(space, budgets, np.random.default_rng(seed)) for seed in range(8)]
    used = [max(exact(b.cost, n.graph, n.bits) / b.limit for b in budgets) for n in found]
    assert all(0.95 < share <= 1 for share in used)
    blocks = [space.decisions.options(space.encode(n))["stage3.blocks"] for n in found]
    bits = [np.mean([b.weight for b in n.bits.values()]) for n in found]
    assert set(blocks) == {1, 2, 3}
    assert max(bits) - min(bits) > 2
    assert len({n.to_json() for n in found}) == len(found)


def test_the_distribution_before_budgets():
    space = mobile(tiny())
    rng = np.random.default_rng(0)
    drawn = np.array([stratified(space, rng) for _ in range(3000)])
    at = space.decisions.index
    # Binomial(1, u) with u uniform: even; blocks uniform; an inactive decision stands at 0.
    for name in ("stage1.channels", "stage2.blocks", "stage2.block1.weight_bits"):
        share = Counter(drawn[:, at[name]])[1] / len(drawn)
        assert abs(share - 0.5) < 4 * np.sqrt(0.25 / len(drawn))
    alone = drawn[drawn[:, at["stage2.blocks"]] == 0]
    assert not alone[:, at["stage2.block2.weight_bits"]].any()
    # Sizes share a level, and so do bits, each their own.
    pairs = {(a, b): np.corrcoef(drawn[:, at[a]], drawn[:, at[b]])[0, 1] for a, b in (
        ("stage1.channels", "stage1.block1.expansion"),
        ("stage1.block1.weight_bits", "stage2.block1.weight_bits"),
        ("stage1.channels", "stage1.block1.weight_bits"),
    )}  # fmt: skip
    correlated, same, apart = pairs.values()
    assert correlated == pytest.approx(1 / 3, abs=0.08)  # Var(u) / Var(Bernoulli) = (1 / 12) / (1 / 4)
    assert same == pytest.approx(1 / 3, abs=0.08)
    assert abs(apart) < 0.08


def test_draws_of_one_seed_are_independent(few):
    space = mobile(tiny())
    low = reachable(space, ["size"])["size"][0]
    task = Task(data=open_data("digits", limit=120))
    problem = Problem(task=task, space=space, budgets=[Budget(cost="size", limit=1.3 * low)], seed=4)
    found = [Random(index=index).search(problem) for index in range(6)]
    assert [f.method for f in found[:2]] == ["random", "random (2)"]
    assert len({f.best.to_json() for f in found}) > 2
    assert Random(index=3).search(problem).best == found[3].best


def test_what_takes_another_kind_of_space_says_so(few, every):
    budgets = budgets_at(every, 0.5)
    for method in (Composite(), Sensitivity()):
        with pytest.raises(RecipeError, match=r"a mobile space holds many networks; search it with method: supernet"):
            method.check(few, budgets, trained=True)
    with pytest.raises(RecipeError, match=r"not the bits of a given network; .* method: composite"):
        Supernet().check(precision(few.at(0), (2, 8), (8,)), budgets, trained=False)
    for method in (Uniform(), Uniform(fill=True), Random()):
        method.check(few, budgets, trained=False)
        with pytest.raises(BudgetError):
            method.check(few, [Budget.parse("size=1B")], trained=False)


def test_grid_measures_every_network_inside(few, every):
    plan = TrainPlan(epochs=1, batch_size=64, device="cpu", compile="none")
    space = mobile(FEW, side=8, input_shape=(1, 8, 8), outputs=10)
    sizes = sorted(exact("size", space.at(i).graph, space.at(i).bits) for i in range(space.count()))
    budgets = [Budget(cost="size", limit=sizes[1])]
    inside = sum(size <= sizes[1] for size in sizes)
    task = Task(data=open_data("digits", limit=120).without_test())
    found = GridSearch(plan=plan).search(Problem(task=task, space=space, budgets=budgets))
    assert found.details["measured"] == inside
    assert fits(found.best.graph, found.best.bits, budgets)
    with pytest.raises(RecipeError, match="no float weights to round; give the method a plan"):
        GridSearch().check(space, budgets, trained=False)
    with pytest.raises(RecipeError, match="float weights are those of one network"):
        GridSearch(plan=plan).check(space, budgets, trained=True)
    large = Mobile(description=MOBILE_SPACES["mobile-32"], input_shape=(3, 32, 32), outputs=10)
    with pytest.raises(RecipeError, match="grid looks at every network, and the space has 1"):
        GridSearch(plan=plan).check(large, [Budget.parse("size=40kB")], trained=False)
