"""The search: the contract of every method, budgets, inheritance, resume."""

import dataclasses
from importlib import import_module

import numpy as np
import pytest
import torch
from spaces import mobile
from splits import assert_searched

from bitsmith.blueprint import Budget
from bitsmith.cost import exact, fits
from bitsmith.data import open_data
from bitsmith.errors import BudgetError, RecipeError, TrainingError
from bitsmith.quantize import build
from bitsmith.search import Problem, reachable
from bitsmith.search.searching import open_loop
from bitsmith.search.supernet import (
    Discretizer,
    Scoring,
    SharedNetwork,
    Supernet,
    published,
    score_inherited,
    slices,
)
from bitsmith.search.supernet.learner import SupernetLearner
from bitsmith.search.supernet.scoring import to_penalties
from bitsmith.seeding import derive
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
        """No bits change ram, but widths do: it leads the search, and what is found is the arena's own."""
        ends = reachable(problem.space, ["ram"])["ram"]
        budget = Budget(cost="ram", limit=ends[0] + 0.2 * (ends[1] - ends[0]))
        found = method.search(dataclasses.replace(problem, budgets=[budget]))
        assert exact("ram", found.best.graph, found.best.bits) <= budget.limit
        assert found.curves["limit ram"][-1] <= budget.limit
        with pytest.raises(BudgetError, match="ram is at least"):
            method.search(dataclasses.replace(problem, budgets=[Budget(cost="ram", limit=ends[0] - 1)]))


class TestRefined(MethodContract):
    """All of a search, with an evolution behind it, stopped and gone on."""

    @staticmethod
    def make():
        return tiny_method(refine=5, population=3)

    @pytest.fixture(scope="class")
    @classmethod
    def problem(cls):
        return mobile_problem()

    # As without; and these take seconds each.
    test_a_tight_budget_leaves_the_least_blueprint = None
    test_a_cost_that_no_bits_change = None
    test_without_float_weights = None

    def test_its_choice_is_told(self, found, problem):
        details = found.details["refinement"]
        assert len(details["losses"]) == 5
        assert details["chosen"][0] == details["losses"][0]
        assert details["accepted"] == (details["confirmed"][-1] < details["confirmed"][0])
        for point in details["front"]:
            assert all(point[budget.cost] <= budget.limit for budget in problem.budgets)


class TestAsPublished(MethodContract):
    @staticmethod
    def make():
        return tiny_method(as_published=True, weights_first=0.5)

    @pytest.fixture(scope="class")
    @classmethod
    def problem(cls):
        problem = mobile_problem()
        return dataclasses.replace(problem, budgets=[Budget(cost="bitops", limit=1e12)])

    # As without; and these take seconds each.
    test_a_tight_budget_leaves_the_least_blueprint = None
    test_a_cost_that_no_bits_change = None
    test_without_float_weights = None
    test_infeasible_budgets_are_refused_before_any_training = None

    def test_no_budget_is_enforced(self, method, problem, found):
        method.check(problem.space, [Budget(cost="bitops", limit=1)], trained=False)
        p = found.details["probabilities"]
        most = problem.space.decode(np.array([int(np.argmax(values)) for values in p.values()]))
        assert found.best == most
        assert len(found.curves["soft bitops"]) == 2
        assert len(set(found.curves["soft bitops"])) > 1

    def test_it_has_one_soft_cost(self, method, problem):
        two = [Budget(cost=cost, limit=1e12) for cost in ("bitops", "size")]
        with pytest.raises(RecipeError, match="one soft cost"):
            method.check(problem.space, two, trained=False)
        method.check(problem.space, [Budget(cost="ram", limit=1e9)], trained=False)


def test_the_soft_cost():
    """FBNet, eq. 2, by hand; its gradient falls to the choices in proportion to the loss."""
    loss, expected = torch.tensor(2.0), torch.tensor(1e6, dtype=torch.float64, requires_grad=True)
    total = published.soft_cost(loss, expected, "size", 0.2, 0.6)
    assert float(total.detach()) == pytest.approx(2 * 0.2 * np.log(1e6) ** 0.6, rel=1e-12)
    total.backward()
    assert float(expected.grad) == pytest.approx(2 * 0.2 * 0.6 * np.log(1e6) ** -0.4 / 1e6, rel=1e-9)
    small = published.soft_cost(loss, torch.tensor(40e-6, dtype=torch.float64), "energy", 0.2, 0.6)
    assert float(small) == pytest.approx(2 * 0.2 * np.log(40) ** 0.6, rel=1e-12)
    assert published.temperature(0) == 5
    assert published.temperature(89) == pytest.approx(0.0911, abs=1e-4)


def test_a_pass_of_the_choices_ends_every_epoch(problem):
    """As published: weights for an epoch, then each search batch once; none while weights learn alone."""
    method = tiny_method(as_published=True, weights_first=0.5)
    loop = open_loop(method, problem, depends_on={})
    learner = SupernetLearner(method, dataclasses.replace(problem, budgets=problem.budgets[:1]), loop)
    a_pass = problem.task.data.search.steps(batch_size=64)
    taken = [list(learner._choices(step)) for step in range(loop.steps)]
    assert all(not numbers for numbers in taken[:-1])
    assert taken[-1] == list(range(a_pass, 2 * a_pass))


def learner_of(problem, **changes):
    method = tiny_method(**changes)
    return SupernetLearner(method, problem, open_loop(method, problem, depends_on={}))


def test_the_choices_follow_the_slope_of_the_soft_cost(problem, monkeypatch):
    """As published their loss is a product: both factors' slopes, by autograd on the same draw and batch."""
    learner = learner_of(dataclasses.replace(problem, budgets=problem.budgets[1:]), as_published=True)
    with torch.no_grad():
        for logits in learner.logits.values():
            logits.copy_(torch.linspace(0, 1, len(logits)))
    monkeypatch.setattr(learner.architecture, "step", lambda: None)
    torch.manual_seed(5)
    learner._choose(0, 0)
    found = {name: logits.grad.clone() for name, logits in learner.logits.items() if logits.grad is not None}
    torch.manual_seed(5)
    learner.network.present = learner._draw(0, learner._noise())
    x, y = learner._next_batch(0)
    loss = torch.nn.functional.cross_entropy(learner.network(x), y).double()
    (cost,) = (expected(learner.probabilities()) for expected in learner.costs)
    product = loss * 0.2 * cost.log() ** 0.6
    named = {name: logits for name, logits in learner.logits.items() if name in found}
    slopes = torch.autograd.grad(product, list(named.values()))
    assert len(named) > 5
    for name, slope in zip(named, slopes, strict=True):
        torch.testing.assert_close(found[name], slope, rtol=1e-4, atol=1e-7)


def test_a_loss_of_the_choices_that_is_not_finite_ends_the_search(problem, monkeypatch):
    """It is looked at beside that of the weights, since as published a pass of the choices is a search's last."""
    learner = learner_of(problem)
    monkeypatch.setattr(learner, "_loss_of", lambda piece: next(iter(learner.network.present.values())).sum() * np.nan)
    with pytest.raises(TrainingError, match=r"the choices' loss became nan in epoch 1, step 4, at learning rate"):
        learner._choose(3, 0)


def test_choices_that_learn_at_once_are_tried_on_as_few_images(problem, monkeypatch):
    """Memory is foretold from steps on a few images; a step of the choices in them is on no more."""
    learner = learner_of(problem, weights_first=0.0)
    seen, whole = [], learner._loss_of
    monkeypatch.setattr(learner, "_loss_of", lambda piece: (seen.append(len(piece.x)), whole(piece))[1])
    monkeypatch.setattr(import_module("bitsmith.train.loop"), "foretell", lambda attempt, **_: attempt(6))
    learner.loop._plan_memory(learner)
    assert seen == [6, 6]  # weights, choices
    x, y = learner._next_batch(0)
    learner.begin(0)
    learner.loop.gradients(x, y, learner._loss_of, learner.parameters())
    assert seen == [6, 6, 64]


def test_choices_learn_on_the_search_split(problem):
    x, _ = learner_of(problem)._next_batch(0)
    assert_searched(x, problem.task.data)


def test_choices_are_drawn_by_gumbel_softmax(problem):
    """The noise has Gumbel's mean and variance, .5772 and pi^2 / 6; the colder, the nearer one-hot."""
    learner = learner_of(problem, temperature=(5.0, 0.5))
    torch.manual_seed(0)
    noise = torch.cat([torch.cat(list(learner._noise().values())) for _ in range(2000)])
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.03)
    assert float(noise.var()) == pytest.approx(np.pi**2 / 6, abs=0.1)
    name = "stage2.blocks"
    with torch.no_grad():
        learner.logits[name].copy_(torch.tensor([0.5, -0.5]))
    given = {each: torch.zeros_like(logits) for each, logits in learner.logits.items()} | {name: torch.tensor([1.0, 3])}
    for step, temperature in ((0, 5.0), (learner.loop.steps - 1, 0.5)):
        found = learner._draw(step, given)[name].detach()
        torch.testing.assert_close(found, torch.softmax(torch.tensor([1.5, 2.5]) / temperature, 0))


def test_a_single_path_has_one_option_of_each_and_the_gradient_of_all(problem):
    soft, hard = learner_of(problem), learner_of(problem, path="single")
    torch.manual_seed(0)
    noise = soft._noise()
    mixed, single = soft._draw(0, noise), hard._draw(0, noise)
    for name, p in single.items():
        assert sorted(p.tolist()) == pytest.approx([0.0] * (len(p) - 1) + [1.0], abs=1e-6)
        assert int(p.argmax()) == int(mixed[name].argmax())
        weights = torch.arange(len(p), dtype=torch.float32)
        slopes = [
            torch.autograd.grad((drawn[name] * weights).sum(), learner.logits[name], retain_graph=True)[0]
            for drawn, learner in ((mixed, soft), (single, hard))
        ]
        torch.testing.assert_close(slopes[0], slopes[1])


def test_settings_that_contradict_each_other():
    with pytest.raises(RecipeError, match="nothing is refined"):
        Supernet(as_published=True, refine=10)
    with pytest.raises(RecipeError, match="population at least 2"):
        Supernet(refine=10, population=1)
    with pytest.raises(RecipeError, match="compile: quantizers"):
        Supernet(plan=TrainPlan(compile="network"))


def test_a_trained_supernet_for_others(problem, tmp_path):
    """`learn` gives what `search` used: a network of one's own is scored by it, and the winner's slice is its."""
    method = tiny_method(score="probability")
    found = method.search(dataclasses.replace(problem, folder=tmp_path))
    events = []
    network = method.learn(dataclasses.replace(problem, folder=tmp_path, watch=events.append))
    assert events == [], "it was trained already"
    state = slices(network, found.best)
    anew = build(found.best)
    anew.load_float({name: state[name] for name in anew.float_names})
    seed = derive(problem.seed, "sensitivities")
    calibrate(anew, problem.task.data.train, batch_size=method.plan.batch_size, seed=seed)
    for name, value in found.state.items():
        if name.endswith("step"):  # calibrated to the one option that is left
            assert torch.equal(value, anew.state_dict()[name]), name
        elif "running" not in name and "num_batches" not in name:
            assert torch.equal(value, state[name]), name
    assert any(not torch.equal(found.state[name], state[name]) for name in state if "quantize_input" in name)
    other = problem.space.sample(np.random.default_rng(1))
    assert score_inherited(network, other, problem.task, Scoring(norm_batches=1, loss_batches=1, batch_size=64)) > 0


@pytest.mark.parametrize("changes", [{"path": "single"}, {"scaling": "branch"}])
def test_settings(problem, changes):
    method = tiny_method(**changes)
    found = method.search(problem)
    assert fits(found.best.graph, found.best.bits, problem.budgets)
    assert all(np.isfinite(values).all() for values in found.curves.values())
    assert {"rms stem", "gradient rms stage2.block1.depthwise"} <= set(found.curves)


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
    losses = {d.name: rng.normal(size=len(d.options)) for d in space.decisions.decisions if len(d.options) > 1}
    even = {d.name: np.full(len(d.options), 1 / len(d.options)) for d in space.decisions.decisions}
    penalties = to_penalties(space, losses, even)
    assert set(penalties) == {d.name for d in space.decisions.decisions}
    for name, penalty in penalties.items():
        assert penalty.mean() == pytest.approx(0, abs=1e-12)
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
