"""The two searches of widths: the contract of every method, and what is their own."""

import dataclasses
from functools import partial

import pytest
import torch
from conftest import FULL
from splits import assert_searched

from bitsmith.blueprint import Budget
from bitsmith.cost import exact, fits
from bitsmith.errors import BudgetError, RecipeError
from bitsmith.recipe.methods import make_method
from bitsmith.search import Found, Method, Problem
from bitsmith.search.searching import open_loop
from bitsmith.search.widths import Binomial, BlockBinomial, width_groups
from bitsmith.search.widths.learner import WidthLearner
from bitsmith.search.widths.method import at_bits
from bitsmith.space import cut_state
from bitsmith.testing import MethodContract
from bitsmith.testing.methods import example_problem
from bitsmith.train import TrainPlan

PLAN = TrainPlan(epochs=2, batch_size=64, lr=0.05, device="cpu", compile="none")
SETTINGS = {
    "plan": PLAN, "weight_bits": 4, "activation_bits": 8, "norm_batches": 1, "loss_batches": 1, "samples": 2,
    "sample_steps": 1,
}  # fmt: skip


class WidthContract(MethodContract):
    """What both share; the example's budgets are those of 4 bits, so that half of its weights have to go."""

    @pytest.fixture(scope="class")
    @classmethod
    def problem(cls) -> Problem:
        problem = example_problem()
        at = problem.space.uniform(4, 8)
        limits = [Budget(cost=c, limit=0.5 * exact(c, at.graph, at.bits)) for c in ("bops", "weights")]
        return dataclasses.replace(problem, budgets=limits)

    def test_result_is_inside_every_budget(self, found: Found, problem: Problem) -> None:
        """Its networks are narrower, so that the space of bits alone doesn't hold them."""
        assert fits(found.best.graph, found.best.bits, problem.budgets, problem.space.costs)
        assert max(found.costs[b.cost] / b.limit for b in problem.budgets) > 0.8
        assert {bits.weight for bits in found.best.bits.values()} == {4, 8}  # ends are pinned
        for old, new in zip(problem.space.template.graph.layers, found.best.graph.layers, strict=True):
            told = found.details["filters"][old.name]
            assert told.get("0", 0) == old.out_channels - new.out_channels
        for group in found.details["widths"]:
            for layer in group["layers"]:
                assert found.best.graph[layer].shape[0] == group["kept"]

    def test_no_group_can_be_wider(self, found: Found, method: Method, problem: Problem) -> None:
        groups = width_groups(problem.space.template.graph, blocks=method.blocks)
        widths = [group["kept"] for group in found.details["widths"]]
        for d, channels in enumerate(groups.channels):
            if widths[d] < channels:
                wider = groups.network([w + (i == d) for i, w in enumerate(widths)])
                assert not fits(wider, found.best.bits, problem.budgets, problem.space.costs)

    def test_refuses_beforehand(self, method: Method, problem: Problem) -> None:
        method.check(problem.space, problem.budgets, trained=True)
        with pytest.raises(BudgetError, match="with one channel wherever widths can be chosen, weights is at least"):
            method.check(problem.space, [Budget(cost="weights", limit=1)], trained=True)

    def test_a_tight_budget_leaves_the_least_blueprint(self, method: Method, problem: Problem) -> None:
        """One channel in every layer but the last."""
        space = method.narrowest(problem.space)
        least = Budget(cost="weights", limit=exact("weights", space.template.graph, space.uniform(4, 8).bits))
        best = method.search(dataclasses.replace(problem, budgets=[least])).best
        assert {layer.out_channels for layer in best.graph.layers} == {1, 10}

    def test_a_cost_that_no_bits_change(self, method: Method, problem: Problem) -> None:
        """Widths change RAM: it is met, if not led to."""
        with pytest.raises(RecipeError, match="can't be led to avg_bits=4"):
            method.check(problem.space, [Budget.parse("avg_bits=4")], trained=True)
        graph, bits = problem.space.template.graph, problem.space.uniform(4, 8).bits
        ram = Budget(cost="ram", limit=0.5 * exact("ram", graph, bits))
        assert method.search(dataclasses.replace(problem, budgets=[ram])).costs["ram"] <= ram.limit

    def test_curves_follow_the_limits(self, found: Found, problem: Problem) -> None:
        for budget in problem.budgets:
            assert found.curves[f"limit {budget.cost}"][-1] == pytest.approx(budget.limit)
        assert all(0 < mean <= 1 for mean in found.curves["mean width"])

    def test_weights_are_slices(self, found: Found, method: Method, problem: Problem) -> None:
        """With steps of next to no length they are the float network's own first channels."""
        frozen = dataclasses.replace(method, plan=dataclasses.replace(PLAN, lr=1e-9))
        still = frozen.search(problem)
        groups = width_groups(problem.space.template.graph, blocks=method.blocks)
        for result in (found, still):
            kept = groups.kept([group["kept"] for group in result.details["widths"]])
            cut = cut_state(groups.coupling.graph, partial(groups.coupling.left, kept), problem.float_state)
            own = {name: value for name, value in result.state.items() if "step" not in name}
            assert {name: value.shape for name, value in own.items()} == {n: v.shape for n, v in cut.items()}
        for name in (name for name in cut if "running" not in name and "num_batches" not in name):
            torch.testing.assert_close(still.state[name], cut[name], rtol=1e-4, atol=1e-4)


class TestBinomial(WidthContract):
    @staticmethod
    def make() -> Method:
        return Binomial(**SETTINGS)


@pytest.mark.skipif(not FULL, reason="the same code with fewer groups")
class TestBlockBinomial(WidthContract):
    @staticmethod
    def make() -> Method:
        return BlockBinomial(**SETTINGS)


def test_as_published_takes_the_likeliest_widths():
    """No budget is looked at; layers of equal channel count have equally many left."""
    method = BlockBinomial(**SETTINGS | {"as_published": True, "start": 0.0})
    problem = dataclasses.replace(example_problem(), budgets=[Budget.parse("bops=1")])
    method.check(problem.space, problem.budgets, trained=True)
    found = method.search(problem)
    assert found.method == "block-binomial-as-published"
    for group in found.details["widths"]:
        assert group["kept"] == pytest.approx(group["expected"], abs=1)
        assert {found.best.graph[layer].shape[0] for layer in group["layers"]} == {group["kept"]}
    assert not any(name.startswith("limit") for name in found.curves)
    assert found.costs["bops"] > 1


def test_as_published_looks_at_no_budget():
    for method in (Binomial(**SETTINGS | {"as_published": True}), BlockBinomial(**SETTINGS | {"as_published": True})):
        method.check(example_problem().space, [Budget.parse("avg_bits=4")], trained=True)


def learner_of(problem, method):
    groups = width_groups(problem.space.template.graph, blocks=method.blocks)
    loop = open_loop(method, problem, depends_on={})
    return WidthLearner(method, problem, loop, at_bits(problem.space, 4, 8, method.name), groups)


def test_log_odds_learn_on_the_search_split():
    problem = example_problem()
    x, _ = learner_of(problem, Binomial(**SETTINGS))._search_batch(0)
    assert_searched(x, problem.task.data)


def test_published_steps_are_of_sgd_with_momentum_and_decay():
    """By hand: v = .9 v + gradient + 4e-5 logits, and a step of -lr v."""
    problem = dataclasses.replace(example_problem(), budgets=[Budget.parse("avg_bits=4")])
    learner = learner_of(problem, BlockBinomial(**SETTINGS | {"as_published": True, "architecture_lr": 0.1}))
    logits = learner.slim.logits
    velocity = torch.zeros_like(logits)
    for step in (0, 1, 2):
        before = logits.detach().clone()
        learner._choose(step, 0)
        assert logits.grad is not None
        velocity = 0.9 * velocity + logits.grad + 4e-5 * before
        torch.testing.assert_close(logits.detach(), before - 0.1 * velocity)


def test_homogeneous_networks_are_no_better_than_themselves():
    """Scored as if they were drawn; and one between two of them is measured by the line through both."""
    problem, method = example_problem(), Binomial(**SETTINGS)
    learner = learner_of(problem, method)
    batches = list(problem.task.data.search.batches(batch_size=64, seed=0))
    relative = learner.measure([*learner.slim.homogeneous, (4, 8, 12, 12)[: len(learner.groups.channels)]], batches)
    assert relative[:4] == pytest.approx([0, 0, 0, 0], abs=1e-6)
    assert relative[4] != 0
    assert learner.costs == sorted(learner.costs)


def test_too_short_for_a_round():
    """Two epochs of n steps, the first of weights alone: a round of 2 n ends with the last step; longer ones do not."""
    problem = example_problem()
    epoch = problem.task.data.train.steps(batch_size=PLAN.batch_size)
    method = Binomial(**SETTINGS | {"samples": 2, "sample_steps": epoch})
    assert method.search(problem).details["rounds"] == 1
    with pytest.raises(RecipeError, match=r"no round of samples x sample_steps .* no widths would be learned"):
        dataclasses.replace(method, sample_steps=epoch + 1).search(problem)


def test_bits_that_no_layer_has_a_choice_of():
    space = example_problem().space
    fixed = at_bits(space, 4, 8, "binomial")
    for settings, what in (({"weight_bits": 4}, "weight"), ({"activation_bits": 8}, "activation")):
        with pytest.raises(RecipeError, match=f"no layer of the space has a choice of {what} bits"):
            Binomial(**settings).check(fixed, [], trained=True)
    Binomial().check(fixed, [], trained=True)


def test_by_name():
    assert make_method({"name": "binomial"}) == Binomial()
    assert make_method({"name": "block-binomial", "plan": {"epochs": 3}}).plan == TrainPlan(epochs=3, lr=0.1)


def test_settings_out_of_range():
    for values, text in (
        ({"samples": 1}, "samples of method 'binomial' must be at least 2"),
        ({"weights_first": 8}, "no widths would be learned"),
        ({"start": 30.0}, "log-odds"),
        ({"norm_batches": 0}, "norm_batches"),
    ):
        with pytest.raises(RecipeError, match=text):
            Binomial(**values)
