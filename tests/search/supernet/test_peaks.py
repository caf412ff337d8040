"""Budgets on RAM: peaks of blocks against the memory plan, the integer program against all networks."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import descriptions, mobile

from bitsmith.blueprint import Budget
from bitsmith.cost import exact
from bitsmith.cost.memory import plan_arena
from bitsmith.errors import BudgetError
from bitsmith.search import Random, Uniform, least, random_network, reachable, some_inside
from bitsmith.search.grid import blueprints_inside
from bitsmith.search.supernet import discretize
from bitsmith.search.supernet.discretize import Discretizer
from bitsmith.search.supernet.peaks import price_peaks
from bitsmith.search.supernet.pricing import expected_costs
from bitsmith.space import MOBILE_SPACES, Mobile, MobileSpace, Stage, Stem


def few(**changes) -> Mobile:
    """1,152 networks of 144 shapes, in which blocks, not the stem, take the most."""
    plain = {"kernels": (3,), "squeeze_excite": (False,), "activations": ("relu",)}
    first = Stage(channels=(4, 6), expansions=(1.0, 2.0), **plain)
    second = Stage(channels=(4, 6), blocks=(1, 2), expansions=(2.0, 3.0), **plain)
    description = MobileSpace(
        stem=Stem(channels=3), stages=(first, second), weight_bits=(2, 8), activation_bits=(8,), divisor=2
    )
    return mobile(dataclasses.replace(description, **changes), side=5)


SPACE = few()
EVERY = [SPACE.at(i) for i in range(SPACE.count())]
RAM = np.array([plan_arena(b.graph).total for b in EVERY])
SIZE = np.array([exact("size", b.graph, b.bits) for b in EVERY])


def one_hot(space, indices):
    decisions = space.decisions.decisions
    return {d.name: torch.eye(len(d.options))[int(i)] for d, i in zip(decisions, indices, strict=True)}


@given(description=descriptions(), seed=st.integers(0, 10**6))
@settings(max_examples=12)
def test_peaks_are_the_bytes_live_at_once(description, seed):
    """Against the memory plan of whole networks; at one-hot the expectation is the same."""
    space = mobile(description, side=9)
    peaks, expected = price_peaks(space), expected_costs(space, ["ram"])["ram"]
    rng = np.random.default_rng(seed)
    for _ in range(5):
        blueprint = space.sample(rng)
        indices = space.encode(blueprint)
        bound = plan_arena(blueprint.graph).lower_bound
        assert peaks.total(space.decisions, indices) == bound
        elsewhere = np.where(space.decisions.active(indices), indices, rng.integers(0, space.sizes))
        assert float(expected(one_hot(space, elsewhere))) == bound


def test_the_expectation_leads_down():
    """Its gradient favors the narrower option of the block that takes the most."""
    expected = expected_costs(SPACE, ["ram"])["ram"]
    logits = {d.name: torch.zeros(len(d.options), requires_grad=True) for d in SPACE.decisions.decisions}
    value = expected({name: torch.softmax(v, 0) for name, v in logits.items()})
    value.backward()
    assert RAM.min() < float(value.detach()) < RAM.max()
    moved = [v.grad for v in logits.values() if v.grad is not None and v.grad.any()]
    assert moved
    assert all(g[-1] > g[0] for g in moved)


def score(space, penalties, indices):
    active = space.decisions.active(indices)
    return sum(penalties[d.name][k] for d, k, a in zip(space.decisions.decisions, indices, active, strict=True) if a)


@given(seed=st.integers(0, 10**6), share=st.floats(0.02, 0.9), alone=st.booleans())
@settings(max_examples=12)
def test_the_best_of_all_networks(seed, share, alone):
    rng = np.random.default_rng(seed)
    penalties = {d.name: rng.normal(size=len(d.options)) for d in SPACE.decisions.decisions}
    budgets = [Budget(cost="ram", limit=float(np.quantile(RAM, share, method="lower")))]
    inside = budgets[0].limit >= RAM
    if not alone:
        budgets.append(Budget(cost="size", limit=float(np.quantile(SIZE, 1 - share / 2, method="lower"))))
        inside &= budgets[1].limit >= SIZE
    discretizer = Discretizer(SPACE, budgets)
    if not inside.any():
        with pytest.raises(BudgetError):
            discretizer.best(penalties)
        return
    scores = [score(SPACE, penalties, SPACE.encode(b)) for b, fits in zip(EVERY, inside, strict=True) if fits]
    found = discretizer.best(penalties)
    assert plan_arena(found.graph).total <= budgets[0].limit
    assert score(SPACE, penalties, SPACE.encode(found)) == pytest.approx(min(scores), abs=1e-9)


def test_what_can_be_reached():
    low = least(SPACE, "ram")
    assert plan_arena(low.graph).total == RAM.min()
    assert reachable(SPACE, ["ram", "size"]) == {"ram": (RAM.min(), RAM.max()), "size": (SIZE.min(), SIZE.max())}
    some_inside(SPACE, [Budget(cost="ram", limit=float(RAM.min()))])
    with pytest.raises(BudgetError, match=rf"ram is at least {RAM.min()} B in this space, .* narrower early stages"):
        some_inside(SPACE, [Budget(cost="ram", limit=float(RAM.min() - 1))])
    smallest = SIZE[RAM.min() == RAM].min()
    both = [Budget(cost="ram", limit=float(RAM.min())), Budget(cost="size", limit=float(smallest))]
    inside = some_inside(SPACE, both)
    assert (plan_arena(inside.graph).total, exact("size", inside.graph, inside.bits)) == (RAM.min(), smallest)


def gaps() -> Mobile:
    """624 networks; in one of 12 tensors don't pack without gaps."""
    plain = {"channels": (8,), "kernels": (3,), "activations": ("relu",)}
    stages = (
        Stage(expansions=(1.0, 2.0), squeeze_excite=(False,), **plain),
        Stage(blocks=(1, 2), expansions=(1.0, 1.5, 3.0), squeeze_excite=(False, True), **plain),
    )
    description = MobileSpace(stem=Stem(channels=3), stages=stages, weight_bits=(2, 8), activation_bits=(8,), divisor=1)
    return mobile(description, side=4)


def test_where_tensors_leave_gaps_the_arena_decides():
    """Of such a network, its own peak as the limit: the program takes it at first, and must then take another."""
    space = gaps()
    every = [space.at(i) for i in range(space.count())]
    plans = [plan_arena(b.graph) for b in every]
    ram = np.array([plan.total for plan in plans])
    assert plan_arena(least(space, "ram").graph).total == ram.min()
    gapped = [i for i, plan in enumerate(plans) if plan.total > plan.lower_bound]
    assert len(gapped) > 20
    rng = np.random.default_rng(0)
    for at in rng.choice(gapped, 5, replace=False):
        wanted = space.encode(every[at])
        penalties = {d.name: rng.random(len(d.options)) for d in space.decisions.decisions}
        for decision, option in zip(space.decisions.decisions, wanted, strict=True):
            penalties[decision.name][option] = 0
        budget = Budget(cost="ram", limit=plans[at].lower_bound)
        found = Discretizer(space, [budget]).best(penalties)
        assert plan_arena(found.graph).total <= budget.limit
        best = min(
            score(space, penalties, space.encode(b)) for b, r in zip(every, ram, strict=True) if r <= budget.limit
        )
        assert score(space, penalties, space.encode(found)) == pytest.approx(best, abs=1e-9)


def thrice() -> Mobile:
    """A million networks: the blocks that leave gaps, and hundreds of shapes behind them."""
    behind = Stage(
        channels=(8,), blocks=(1, 3), stride=2, expansions=(1.0, 1.5, 2.0), kernels=(3,), activations=("relu",)
    )
    space = gaps()
    stages = (*space.description.stages, behind)
    return dataclasses.replace(space, description=dataclasses.replace(space.description, stages=stages))


def test_gaps_of_more_networks_than_tries():
    """The blocks around a gap are left out together, so that another choice of one or two of them is found."""
    space = thrice()
    rng = np.random.default_rng(0)
    drawn = (space.sample(rng) for _ in range(1000))
    at = next(b for b in drawn if plan_arena(b.graph).total > plan_arena(b.graph).lower_bound)
    wanted = dict(zip((d.name for d in space.decisions.decisions), space.encode(at), strict=True))
    penalties = {d.name: 0.01 * rng.random(len(d.options)) for d in space.decisions.decisions}
    for name in (name for name in wanted if name.startswith(("stage1", "stage2"))):
        penalties[name] += np.arange(len(penalties[name])) != wanted[name]
    budget = Budget(cost="ram", limit=plan_arena(at.graph).lower_bound)
    found = Discretizer(space, [budget]).best(penalties)
    assert plan_arena(found.graph).total <= budget.limit
    assert score(space, penalties, space.encode(found)) < 1.2


def test_giving_up_is_not_a_proof(monkeypatch):
    space, budget = gaps(), Budget.parse("ram=2kB")
    free = {d.name: np.zeros(len(d.options)) for d in space.decisions.decisions}
    with pytest.raises(BudgetError, match=r"no network of this space meets ram=10B; raise it"):
        Discretizer(space, [Budget.parse("ram=10B")]).best(free)
    monkeypatch.setattr(discretize, "_CUTS", 2)
    monkeypatch.setattr(discretize, "fits", lambda *a: False)
    with pytest.raises(
        BudgetError, match=r"doesn't prove that there is none; raise it \(alone, ram of 384 B is enough"
    ):
        Discretizer(space, [budget]).best(free)


@pytest.mark.parametrize(("tries", "proven"), [(3, False), (50, True)])
def test_the_least_ram_is_told_apart_from_the_least_found(monkeypatch, tries, proven):
    """As if every arena had a gap of a byte: all networks of the least peak have to be looked at."""
    space = gaps()
    monkeypatch.setattr(discretize, "_ram", lambda space, blueprint: plan_arena(blueprint.graph).total + 1.0)
    monkeypatch.setattr(discretize, "_CUTS", tries)
    found, bound = discretize._least_ram.__wrapped__(space)
    least = min(plan_arena(space.at(i).graph).lower_bound for i in range(space.count()))
    assert bound == least + proven
    assert plan_arena(found.graph).total == least


def test_of_equal_budgets_the_grid_has_all_inside():
    limit = float(np.quantile(RAM, 0.1))
    assert len(list(blueprints_inside(SPACE, [Budget(cost="ram", limit=limit)]))) == (limit >= RAM).sum()


@pytest.mark.parametrize("tries", [0, 50])
def test_random_networks_are_inside_and_leave_no_room(tries):
    space = Mobile(description=MOBILE_SPACES["mobile-32"], input_shape=(3, 32, 32), outputs=10)
    budgets = [Budget.parse("ram=40kB"), Budget.parse("size=60kB")]
    found = random_network(space, budgets, np.random.default_rng(1), tries=tries)
    assert exact("ram", found.graph, found.bits) <= 40_000
    assert exact("size", found.graph, found.bits) <= 60_000


def test_baselines_take_it():
    limit = [Budget(cost="ram", limit=float(np.quantile(RAM, 0.5)))]
    for method in (Uniform(), Uniform(fill=True), Random()):
        method.check(SPACE, limit, trained=False)
        with pytest.raises(BudgetError, match="ram is at least"):
            method.check(SPACE, [Budget.parse("ram=10B")], trained=False)
