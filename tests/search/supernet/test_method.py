"""The search: the contract of every method, budgets, inheritance, resume."""

import dataclasses

import numpy as np
import pytest
import torch
from search.supernet.spaces import mobile

from bitsmith.blueprint import Budget
from bitsmith.cost import exact, fits
from bitsmith.data import open_data
from bitsmith.errors import BudgetError, RecipeError
from bitsmith.quantize import build
from bitsmith.search import Problem
from bitsmith.search.supernet import Discretizer, Scoring, SharedNetwork, Supernet, score_inherited
from bitsmith.search.supernet.scoring import to_penalties
from bitsmith.space import MobileSpace, Stage, Stem
from bitsmith.testing import MethodContract, example_problem
from bitsmith.train import Task, TrainPlan, calibrate

PLAN = TrainPlan(epochs=2, batch_size=64, lr=0.05, device="cpu", compile="none", schedule="cosine")


def small_space():
    plain = {"squeeze_excite": (False,), "activations": ("relu",)}
    first = Stage(channels=(4, 8), expansions=(1.0,), **plain)
    second = Stage(channels=(8, 12), blocks=(1, 2), stride=2, kernels=(3,), expansions=(1.5,), **plain)
    description = MobileSpace(
        stem=Stem(channels=8),
        stages=(first, second),
        head=(24,),
        weight_bits=(2, 8),
        activation_bits=(4, 8),
    )
    data = open_data("digits", limit=400)
    return mobile(description, input_shape=data.shape, outputs=10, input=data.input, classes=data.classes)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return mobile_problem()


def mobile_problem() -> Problem:
    space = small_space()
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(30)]
    limits = [(c, float(np.median([exact(c, b.graph, b.bits) for b in drawn]))) for c in ("weights", "bitops")]
    budgets = [Budget(cost=c, limit=limit) for c, limit in limits]
    return Problem(task=Task(data=open_data("digits", limit=400).without_test()), space=space, budgets=budgets, seed=3)


def tiny_method(**changes) -> Supernet:
    return Supernet(plan=PLAN, norm_batches=1, loss_batches=1, **changes)


class TestSupernet(MethodContract):
    @staticmethod
    def make():
        return tiny_method(score="probability")

    @pytest.fixture(scope="class")
    @classmethod
    def problem(cls):
        return mobile_problem()

    def test_a_tight_budget_leaves_the_least_blueprint(self, method, problem):
        least = [Budget(cost="weights", limit=Discretizer(problem.space, [Budget(cost="weights", limit=1)]).least()[0])]
        best = method.search(dataclasses.replace(problem, budgets=least)).best
        assert exact("weights", best.graph, best.bits) == least[0].limit

    def test_a_cost_that_no_bits_change(self, method, problem):
        with pytest.raises(BudgetError, match="ram of a mobile network is no sum over its blocks"):
            method.search(dataclasses.replace(problem, budgets=[Budget.parse("ram=1MB")]))


@pytest.mark.parametrize("changes", [{"path": "single"}, {"scaling": "branch"}])
def test_settings(problem, changes):
    method = tiny_method(**changes)
    found = method.search(problem)
    assert fits(found.best.graph, found.best.bits, problem.budgets)
    assert all(np.isfinite(values).all() for values in found.curves.values())
    assert {"rms stem", "gradient rms stages.1.0.depthwise"} <= set(found.curves)


def test_expected_costs_fall_to_the_budgets(problem):
    """Only weights learn first; at the end within 15 % above the limit, which is the budget by then."""
    budget = Budget(cost="bitops", limit=0.5 * problem.budgets[1].limit)
    plan = dataclasses.replace(PLAN, epochs=8)
    method = tiny_method(architecture_lr=0.1, multiplier_step=0.3, weights_first=0.25)
    method = dataclasses.replace(method, architecture_every=1, score="probability")
    found = dataclasses.replace(method, plan=plan).search(dataclasses.replace(problem, budgets=[budget]))
    expected, limits = np.array(found.curves["expected bitops"]), np.array(found.curves["limit bitops"])
    assert expected[0] == pytest.approx(expected[1], rel=1e-12)
    assert limits[0] == pytest.approx(expected[0], rel=1e-6)
    assert expected[1] != expected[2]
    assert (np.diff(limits) <= 0).all()
    assert limits[-1] == budget.limit
    assert expected[-1] <= 1.15 * budget.limit


def test_inherited_weights_score(problem):
    """They are found: a trained supernet's network beats one of fresh weights by far, untrained."""
    plan = dataclasses.replace(PLAN, epochs=6, batch_size=16)
    found = dataclasses.replace(tiny_method(score="probability"), plan=plan, norm_batches=12).search(problem)
    network = build(found.best).eval()
    task, scoring = problem.task, Scoring(norm_batches=2, loss_batches=2, batch_size=64)
    x, y = next(task.data.search.batches(batch_size=64, seed=0))
    network.load_state_dict(found.state)
    with torch.no_grad():
        assert float(task.compute_loss(network(x), y)) < 0.8 * np.log(10)
    fresh = SharedNetwork(problem.space)
    calibrate(fresh, task.data.train, batches=1, batch_size=64)
    assert score_inherited(fresh, found.best, task, scoring) > 0.9 * np.log(10)


def test_penalties_fall_where_options_grow():
    space = small_space()
    rng = np.random.default_rng(0)
    losses = {d.name: rng.normal(size=len(d.options)).tolist() for d in space.decisions.decisions if len(d.options) > 1}
    penalties = to_penalties(space, losses)
    assert set(penalties) == {d.name for d in space.decisions.decisions}
    for name, penalty in penalties.items():
        assert penalty.min() >= 0
        if name.endswith(("bits", "channels", "blocks")):
            assert (np.diff(penalty) < 0).all() or len(penalty) == 1
    name = "stage1.block1.kernel"
    assert np.argmin(penalties[name]) == 1


def test_other_spaces_are_refused():
    bits = example_problem()
    with pytest.raises(RecipeError, match="mobile space"):
        tiny_method().check(bits.space, bits.budgets, trained=True)
    with pytest.raises(RecipeError, match="weights_first"):
        Supernet(weights_first=1.0)
