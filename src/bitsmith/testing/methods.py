"""The contract of every search method, on a small real problem."""

from __future__ import annotations

import copy
import dataclasses
import json
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bitsmith.blueprint import Budget
from bitsmith.capture import capture
from bitsmith.cost import exact, fits
from bitsmith.data import open_data
from bitsmith.errors import BudgetError, RecipeError
from bitsmith.pipeline.verbs import template
from bitsmith.quantize import build, float_blueprint
from bitsmith.search import Found, Method, Problem
from bitsmith.space import precision
from bitsmith.train import Event, Task, TrainPlan, fit, load_into


class _Small(nn.Module):
    """Six layers with one residual block; seconds to search on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.tail, self.deep = (
            nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o))
            for i, o, stride in ((1, 8, 1), (8, 8, 1), (8, 8, 1), (8, 12, 2), (12, 12, 1))
        )
        self.fc = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (self.b(self.a(x).relu()) + x).relu()
        x = self.deep(self.tail(x).relu()).relu()
        return self.fc(x.mean((2, 3)))


@cache
def example_problem() -> Problem:
    """400 images of digits, a network with four free layers at 1, 2, 4 or 8 bits, two budgets, trained float weights.

    4^8 blueprints; weights and bitops of 4 bits everywhere, less a tenth, are the budgets. Reading the test split is an
    error, as in every search.
    """
    torch.manual_seed(0)
    data = open_data("digits", limit=400)
    captured = capture(_Small(), data.shape)
    task = Task(data=data.without_test())
    trained = build(float_blueprint(captured.graph))
    load_into(trained, captured.state, "the example")
    fit(trained, task, TrainPlan(epochs=6, batch_size=32, lr=0.1, device="cpu", compile="none"))
    space = precision(template(captured, data), (1, 2, 4, 8), (1, 2, 4, 8))
    at = space.uniform(4, 4)
    budgets = [Budget(cost=c, limit=0.9 * exact(c, at.graph, at.bits)) for c in ("weights", "bitops")]
    return Problem(task=task, space=space, budgets=budgets, seed=3, float_state=trained.state_dict())


class MethodContract:
    """Checks that every search method passes: subclass it and supply `make`.

    The method is run some ten times on `example_problem`, so give it settings for a search of seconds.

    Example: see `bitsmith.testing`.
    """

    @staticmethod
    def make() -> Method:
        """The method."""
        raise NotImplementedError("a contract test returns its method from make()")

    @pytest.fixture(scope="class")
    @classmethod
    def method(cls) -> Method:
        return cls.make()

    @pytest.fixture(scope="class")
    @classmethod
    def problem(cls) -> Problem:
        return example_problem()

    @pytest.fixture(scope="class")
    @classmethod
    def events(cls) -> list[Event]:
        """What `found` told."""
        return []

    @pytest.fixture(scope="class")
    @classmethod
    def found(cls, method: Method, problem: Problem, events: list[Event]) -> Found:
        return method.search(dataclasses.replace(problem, watch=events.append))

    def test_is_a_frozen_dataclass_of_its_settings(self, method: Method) -> None:
        assert isinstance(method, Method)
        assert dataclasses.is_dataclass(method)
        assert type(method).__dataclass_params__.frozen  # pyright: ignore[reportAttributeAccessIssue]
        assert isinstance(hash(method), int)
        assert method == dataclasses.replace(method)
        assert method.name
        assert method.epochs >= 0

    def test_result_is_inside_every_budget(self, found: Found, problem: Problem) -> None:
        assert problem.space.contains(found.best)
        assert fits(found.best.graph, found.best.bits, problem.budgets, problem.space.costs)
        assert all(found.costs[budget.cost] <= budget.limit for budget in problem.budgets)

    def test_refuses_beforehand(self, method: Method, problem: Problem) -> None:
        method.check(problem.space, problem.budgets, trained=True)
        if not getattr(method, "as_published", False):
            with pytest.raises(BudgetError):
                method.check(problem.space, [Budget(cost="weights", limit=1)], trained=True)

    def test_names_itself(self, found: Found, method: Method) -> None:
        assert found.method == method.name
        assert found.seconds > 0
        assert found.epochs >= 0

    def test_curves_are_of_equal_length(self, found: Found) -> None:
        assert len({len(values) for values in found.curves.values()}) <= 1
        if found.curves:
            assert "step" in found.curves

    def test_deterministic_by_seed(self, method: Method, found: Found, problem: Problem) -> None:
        """Whatever the global generator says; and the problem stays as it was."""
        before = copy.deepcopy(problem.space)
        torch.manual_seed(12345)
        second = method.search(problem)
        assert problem.space == before
        _assert_same(second, found)

    def test_goes_on_where_it_was_stopped(
        self, method: Method, found: Found, events: list[Event], problem: Problem, tmp_path: Path
    ) -> None:
        """Stopped at half of what it tells, and again behind it, it comes to the same result."""
        seen: list[Event] = []

        def stop(event: Event) -> None:
            seen.append(event)
            if len(seen) in (len(events) // 2, len(events) // 2 + 1):
                raise _StoppedError

        stopped = dataclasses.replace(problem, folder=tmp_path, watch=stop)
        for _ in range(3):
            torch.manual_seed(len(seen))
            try:
                _assert_same(method.search(stopped), found)
                return
            except _StoppedError:
                continue
        raise AssertionError("the method was stopped twice, not three times")

    def test_details_are_json(self, found: Found) -> None:
        assert json.loads(json.dumps(dict(found.details))) == found.details

    def test_state_loads_into_the_network(self, found: Found) -> None:
        network = build(found.best)
        if found.state is not None:
            load_into(network, found.state, "found")
        shape = found.best.graph.input_shape
        assert network.eval()(torch.randn(2, *shape)).isfinite().all()

    def test_without_float_weights(self, method: Method, problem: Problem) -> None:
        """It searches all the same, or says what it needs."""
        bare = dataclasses.replace(problem, float_state=None)
        try:
            best = method.search(bare).best
        except RecipeError as error:
            assert "float" in str(error)  # noqa: PT017 - either is right
            return
        assert fits(best.graph, best.bits, problem.budgets, problem.space.costs)

    def test_infeasible_budgets_are_refused_before_any_training(self, method: Method, problem: Problem) -> None:
        events: list[Event] = []
        impossible = dataclasses.replace(problem, budgets=[Budget.parse("weights=10B")], watch=events.append)
        with pytest.raises(BudgetError, match="weights is at least"):
            method.search(impossible)
        assert events == []

    def test_a_tight_budget_leaves_the_least_blueprint(self, method: Method, problem: Problem) -> None:
        at = problem.space.uniform(1, 1)
        least = [Budget(cost=c, limit=exact(c, at.graph, at.bits)) for c in ("weights", "bitops")]
        assert method.search(dataclasses.replace(problem, budgets=least)).best == at

    def test_a_cost_that_no_bits_change(self, method: Method, problem: Problem) -> None:
        """RAM is a constant of the space: met or refused, never searched."""
        ram = exact("ram", problem.space.template.graph, problem.space.uniform(8, 8).bits)
        ample = [Budget(cost="ram", limit=ram), Budget.parse("avg_bits=4")]
        assert method.search(dataclasses.replace(problem, budgets=ample)).costs["avg_bits"] <= 4
        with pytest.raises(BudgetError, match="whatever the bits are"):
            method.search(dataclasses.replace(problem, budgets=[Budget(cost="ram", limit=ram - 1)]))


class _StoppedError(Exception):
    """What stops a search from outside."""


def _assert_same(second: Found, first: Found) -> None:
    assert second.best == first.best
    assert second.epochs == first.epochs
    assert second.curves == first.curves
    assert second.details == first.details
    assert (second.state is None) == (first.state is None)
    if first.state is not None and second.state is not None:
        assert all(torch.equal(first.state[k], second.state[k]) for k in first.state)
