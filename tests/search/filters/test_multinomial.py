"""The multinomial method: the contract of every method, and what is its own."""

import dataclasses
import itertools

import pytest
import torch
from splits import assert_searched

from bitsmith.blueprint import Bits, Budget
from bitsmith.cost import exact, fits
from bitsmith.errors import RecipeError
from bitsmith.search import Found, Method, Problem
from bitsmith.search.filters import Multinomial, Partitions
from bitsmith.search.filters.alternating import Alternating, base_bops
from bitsmith.search.filters.multinomial import rounded_down
from bitsmith.search.searching import open_loop
from bitsmith.testing import MethodContract, example_problem
from bitsmith.train import Event, TrainPlan

PLAN = TrainPlan(epochs=2, batch_size=64, lr=0.05, device="cpu", compile="none")
PAIRS = ((1, 1), (2, 4), (8, 8))
QUICK = {"plan": PLAN, "pairs": PAIRS, "norm_batches": 1, "architecture_steps": 5, "architecture_lr": 0.1}


class TestMultinomial(MethodContract):
    @staticmethod
    def make() -> Method:
        return Multinomial(**QUICK)

    def test_result_is_inside_every_budget(self, found: Found, problem: Problem) -> None:
        """Filters are whole pairs: what a filter's map is read at goes with the filter's weight bits."""
        assert fits(found.best.graph, found.best.bits, problem.budgets, problem.space.costs)
        assert max(found.costs[b.cost] / b.limit for b in problem.budgets) > 0.9
        assert found.best.graph == problem.space.template.graph
        bits = found.best.bits
        made = bits["tail.0"].filters(found.best.graph.layers[3])  # deep alone reads it
        read = bits["deep.0"].maps(found.best.graph.layers[4])
        assert len(set(zip(made, read, strict=True))) > 1
        assert set(zip(made, read, strict=True)) <= set(PAIRS)
        for layer in found.best.graph.layers:
            assert sum(found.details["pairs"][layer.name].values()) == layer.out_channels

    def test_a_cost_that_no_bits_change(self, method: Method, problem: Problem) -> None:
        with pytest.raises(RecipeError, match=r"can't be led to avg_bits=4.*weights, size, flash, bitops, bops:"):
            method.check(problem.space, [Budget.parse("avg_bits=4")], trained=True)
        graph = problem.space.template.graph
        ram = exact("ram", graph, problem.space.uniform(8, 8).bits)
        ample = [Budget(cost="ram", limit=ram), problem.budgets[0]]
        method.check(problem.space, ample, trained=True)

    def test_expected_costs_come_to_the_limit(self, found: Found, problem: Problem) -> None:
        for budget in problem.budgets:
            assert found.curves[f"limit {budget.cost}"][-1] == pytest.approx(budget.limit)


def test_as_published_ends_with_what_its_probabilities_say_whatever_the_budgets_do():
    problem = dataclasses.replace(example_problem(), budgets=[Budget.parse("weights=1B"), Budget.parse("avg_bits=4")])
    method = Multinomial(**QUICK | {"as_published": True, "architecture_lr": 0.01, "bops_weight": 1.0})
    assert method.taken_baseline == "none"
    found = method.search(problem)
    assert found.method == "multinomial-as-published"
    assert not fits(found.best.graph, found.best.bits, problem.budgets)
    partitions = Partitions(problem.space, PAIRS)
    p = {name: torch.tensor(values) for name, values in found.details["probabilities"].items()}
    assert any(q.max() > q.min() for q in p.values())
    assert found.best == partitions.blueprint(rounded_down(partitions, p))


def test_the_base_of_the_published_penalty(problem):
    """3 bits wherever there is a choice: weights and activations inside, activations behind the pinned stem."""
    space = problem.space
    three = space.uniform(8, 8).bits
    inner = {name: Bits(weight=3, activation=3) for name in ("a.conv1", "a.conv2", "tail", "deep")}
    graph = space.template.graph
    assert base_bops(space) == exact("bops", graph, {**three, **inner})


def test_settings_out_of_range(problem):
    with pytest.raises(RecipeError, match="no bits of filters would be learned"):
        Multinomial(plan=TrainPlan(epochs=1), weights_first=1)
    with pytest.raises(RecipeError, match="samples of method 'multinomial' must be at least 2"):
        Multinomial(samples=1)
    published = Multinomial(as_published=True, bops_weight=1.0)
    assert (published.taken_samples, Multinomial().taken_samples, Multinomial(samples=4).taken_samples) == (3, 10, 4)
    with pytest.raises(
        RecipeError, match=r"neither the paper.* the bops_weight and the architecture_lr.*is 0\.03 unless"
    ):
        Multinomial(as_published=True)
    with pytest.raises(RecipeError, match="given once each"):
        Multinomial(pairs=((2, 2), (2, 2)))
    with pytest.raises(RecipeError, match=r"can't take the weight bits of w3a3.*give other pairs"):
        Multinomial().check(problem.space, problem.budgets, trained=True)
    with pytest.raises(RecipeError, match="nothing to search"):
        Multinomial(pairs=((2, 2),)).check(problem.space, problem.budgets, trained=True)


def test_probabilities_learn_on_the_search_split_by_its_plain_loss(problem):
    """Scored without label smoothing, as everything else is."""
    task = dataclasses.replace(problem.task, label_smoothing=0.3)
    method = Multinomial(**QUICK)
    loop = open_loop(method, dataclasses.replace(problem, task=task), depends_on={})
    partitions = Partitions(problem.space, method.pairs)
    learner = Alternating(method, dataclasses.replace(problem, task=task), loop, partitions)
    x, y = learner._next_batch(0)
    assert_searched(x, task.data)
    counts = partitions.draw(learner.probabilities())
    found = learner.score(counts, x, y)
    learner.sampled.eval()
    with torch.no_grad():
        right = torch.nn.functional.cross_entropy(learner.sampled(x), y)
    assert found == pytest.approx(float(right), rel=1e-5)
    norms = [module for module in learner.sampled.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        norm.running_mean.fill_(5.0)
        norm.running_var.fill_(0.01)
    assert learner.score(counts, x, y) == pytest.approx(found, rel=1e-5)  # whatever statistics training left


class StopError(Exception):
    """What a test raises to stop a search in the middle."""


def test_steps_of_alpha_are_spread_and_a_stop_among_them_changes_nothing(problem, tmp_path, monkeypatch):
    method, scored = Multinomial(**QUICK), []
    score = Alternating.score
    monkeypatch.setattr(Alternating, "score", lambda *given: scored.append(1) or score(*given))
    seen: list[int] = []

    def note(event: Event) -> None:
        if not event.epoch_end:
            seen.append(len(scored))

    whole = method.search(dataclasses.replace(problem, watch=note))
    each = [b - a for a, b in itertools.pairwise([0, *seen])]
    assert sum(each) == 5 * method.taken_samples  # of the second epoch
    first = len(each) // 2
    assert not any(each[:first])
    assert max(each) <= -(-5 // first) * method.taken_samples

    def stop(event: Event) -> None:
        if event.step == first + 2 and not event.epoch_end:
            raise StopError

    kept = dataclasses.replace(problem, folder=tmp_path, checkpoint_seconds=0)
    with pytest.raises(StopError):
        method.search(dataclasses.replace(kept, watch=stop))
    again = method.search(kept)
    assert again.details == whole.details
    assert again.curves == whole.curves


class TestLearning:
    """On a fake loss: how many filters are not at a known best pair."""

    METHOD = Multinomial(**QUICK | {"architecture_steps": 150, "multiplier_step": 0.2})

    def search(self, problem: Problem, monkeypatch, best: int, budgets: list[Budget]) -> Found:
        def lost(self, counts, x, y) -> float:
            shares = [counts[name][best] / counts[name].sum() for name in self.partitions.free]
            return 1 - sum(shares) / len(shares)

        monkeypatch.setattr(Alternating, "score", lost)
        return self.METHOD.search(dataclasses.replace(problem, budgets=budgets))

    @pytest.mark.parametrize("best", [0, 1])
    def test_probabilities_move_to_the_best_pair(self, problem, monkeypatch, best):
        found = self.search(problem, monkeypatch, best, [Budget.parse("weights=100kB")])
        assert all(p[best] > 0.8 for p in found.details["probabilities"].values())

    def test_expected_costs_are_led_inside(self, problem, monkeypatch):
        """Against a loss that wants the most bits."""
        budgets = [dataclasses.replace(budget, limit=0.7 * budget.limit) for budget in problem.budgets]
        found = self.search(problem, monkeypatch, -1, budgets)
        for budget in budgets:
            expected = found.curves[f"expected {budget.cost}"]
            assert expected[0] > 1.05 * budget.limit
            assert expected[-1] <= 1.05 * budget.limit
        assert not found.details["fell_back"]
