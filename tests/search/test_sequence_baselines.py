"""Baselines and feasibility on sequences, against all networks of a small space."""

import numpy as np
import pytest
from sequences import sequences, tiny_sequences

from bitsmith.blueprint import Budget
from bitsmith.cost import exact, fits
from bitsmith.data import open_data
from bitsmith.errors import BudgetError, RecipeError
from bitsmith.search import (
    Composite,
    GridSearch,
    Problem,
    Random,
    Supernet,
    Uniform,
    fill,
    least,
    random_sequence,
    reachable,
    some_inside,
)
from bitsmith.space import ADDITIVE
from bitsmith.train import Task, TrainPlan

NAMES = ("size", "ram", "macs", "bitops")


@pytest.fixture(scope="module")
def few():
    return sequences(tiny_sequences(operators=("conv", "max_pool"), layers=(1, 2), skips=(0, 1), weight_bits=(2, 8)))


@pytest.fixture(scope="module")
def every(few):
    """All of them, with their costs [networks, NAMES]."""
    found = [few.at(i) for i in range(few.count())]
    return found, np.array([[exact(c, b.graph, b.bits) for c in NAMES] for b in found])


def test_least_and_most(few, every):
    """Sums exactly; others by descent, which ends near: here 16 of 1,952 bytes short of the largest."""
    low, high = every[1].min(0), every[1].max(0)
    found = reachable(few, NAMES)
    for k, name in enumerate(NAMES):
        smallest = least(few, name)
        assert exact(name, smallest.graph, smallest.bits) == found[name][0]
        if name in ADDITIVE:
            assert found[name] == (low[k], high[k])
        assert low[k] <= found[name][0] <= 1.02 * low[k]
        assert 0.98 * high[k] <= found[name][1] <= high[k]


def test_some_inside_wherever_there_is_one(few, every):
    generator = np.random.default_rng(0)
    for _ in range(8):  # limits that just let one network in
        at = generator.integers(len(every[0]))
        budgets = [Budget(cost=c, limit=every[1][at, k]) for k, c in enumerate(NAMES[:3])]
        found = some_inside(few, budgets)
        assert fits(found.graph, found.bits, budgets)
    with pytest.raises(BudgetError, match=r"macs is at least .* in this space, the budget is 100"):
        some_inside(few, [Budget.parse("macs=100")])
    with pytest.raises(BudgetError, match=r"size is not found below .* in this space, the budget is 1 B"):
        some_inside(few, [Budget.parse("size=1B")])


def test_random_and_filled_are_inside(few, every):
    budgets = [Budget(cost=c, limit=np.quantile(every[1][:, NAMES.index(c)], 0.4)) for c in ("size", "macs")]
    drawn = [random_sequence(few, budgets, np.random.default_rng(seed)) for seed in range(20)]
    assert all(fits(b.graph, b.bits, budgets) for b in drawn)
    assert len({few.key(b) for b in drawn}) > 5
    filled = fill(few, drawn[0], budgets)
    assert fits(filled.graph, filled.bits, budgets)
    assert not any(fits(b.graph, b.bits, budgets) for b in map(few.decode, few.raised(few.encode(filled))))


def test_methods(few, every):
    task = Task(data=open_data("digits", limit=300))
    budget = Budget(cost="size", limit=float(np.quantile(every[1][:, 0], 0.5)))
    for method in (Random(), Random(index=1), Uniform(), Uniform(fill=True)):
        method.check(few, [budget], trained=False)
        found = method.search(Problem(task=task, space=few, budgets=[budget], seed=1))
        assert found.costs["size"] <= budget.limit
        assert few.contains(found.best)
    with pytest.raises(RecipeError, match="a sequence space holds many networks; search it with method: latent"):
        Composite().check(few, [budget], trained=True)
    with pytest.raises(RecipeError, match="whole networks of a mobile space"):
        Supernet().check(few, [budget], trained=False)
    grid = GridSearch(plan=TrainPlan(epochs=1), most=5)
    with pytest.raises(RecipeError, match="its most is 5"):
        grid.check(few, [budget], trained=False)
    with pytest.raises(RecipeError, match="networks of a sequence space have no float weights to round"):
        GridSearch(points="uniform").check(few, [budget], trained=False)
