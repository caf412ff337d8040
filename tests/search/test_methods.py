"""The contract of every search method. A new one inherits the checks: subclass `MethodContract`, supply `make`."""

from __future__ import annotations

import dataclasses
from typing import final

import numpy as np
import pytest
import torch

from bitsmith.blueprint import Budget
from bitsmith.cost import exact, fits
from bitsmith.data import open_data
from bitsmith.errors import BudgetError
from bitsmith.quantize import build
from bitsmith.search import Composite, Found, Method, Random, Uniform, least
from bitsmith.space import precision
from bitsmith.train import load_into


class MethodContract:
    """Checks that every search method passes."""

    @staticmethod
    def make(tiny_composite: Composite) -> Method:
        """The method; `tiny_composite` holds settings for a search of seconds."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def method(cls, tiny_composite) -> Method:
        return cls.make(tiny_composite)

    @pytest.fixture(scope="class")
    @classmethod
    def found(cls, method, problem) -> Found:
        return method.search(problem)

    def test_is_a_frozen_dataclass_of_its_settings(self, method):
        assert isinstance(method, Method)
        assert dataclasses.is_dataclass(method)
        assert type(method).__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert isinstance(hash(method), int)
        assert method == dataclasses.replace(method)
        assert method.name

    def test_result_is_inside_every_budget(self, found, problem):
        assert problem.space.contains(found.best)
        assert fits(found.best.graph, found.best.bits, problem.budgets)
        assert all(found.costs[budget.cost] <= budget.limit for budget in problem.budgets)

    def test_names_itself(self, found, method):
        assert found.method == method.name
        assert found.seconds > 0
        assert found.epochs >= 0

    def test_curves_are_of_equal_length(self, found):
        assert len({len(values) for values in found.curves.values()}) <= 1
        if found.curves:
            assert "step" in found.curves

    def test_deterministic_by_seed(self, method, found, problem):
        """And the problem stays as it was."""
        before = problem.space.template.to_json()
        torch.manual_seed(12345)
        second = method.search(problem)
        assert problem.space.template.to_json() == before
        assert second.best == found.best
        assert second.curves == found.curves
        assert second.details == found.details
        assert (second.state is None) == (found.state is None)
        if found.state is not None and second.state is not None:
            assert all(torch.equal(found.state[k], second.state[k]) for k in found.state)

    def test_details_are_json(self, found):
        import json

        assert json.loads(json.dumps(found.details)) == found.details

    def test_state_loads_into_the_network(self, found):
        if found.state is None:
            return
        network = build(found.best)
        load_into(network, found.state, "found")
        assert network.eval()(torch.randn(2, 1, 8, 8)).isfinite().all()

    def test_infeasible_budgets_are_refused_before_any_training(self, method, again):
        events = []
        impossible = again(budgets=[Budget.parse("weights=10B")], watch=events.append)
        with pytest.raises(BudgetError, match="weights is at least"):
            method.search(impossible)
        assert events == []

    def test_a_tight_budget_leaves_the_least_blueprint(self, method, again, small):
        at = small.uniform(1, 1)
        least = [Budget(cost=c, limit=exact(c, at.graph, at.bits)) for c in ("weights", "bitops")]
        assert method.search(again(budgets=least)).best == at

    def test_a_cost_that_no_bits_change(self, method, again, small):
        """RAM is a constant of the space: met or refused, never searched."""
        ram = exact("ram", small.template.graph, small.uniform(8, 8).bits)
        ample = again(budgets=[Budget(cost="ram", limit=ram), Budget.parse("avg_bits=4")])
        found = method.search(ample)
        assert found.costs["avg_bits"] <= 4
        with pytest.raises(BudgetError, match="whatever the bits are"):
            method.search(again(budgets=[Budget(cost="ram", limit=ram - 1)]))


class TestUniform(MethodContract):
    @staticmethod
    def make(tiny_composite):
        return Uniform()


class TestUniformFill(MethodContract):
    @staticmethod
    def make(tiny_composite):
        return Uniform(fill=True)


class TestRandom(MethodContract):
    @staticmethod
    def make(tiny_composite):
        return Random(tries=200)


class TestComposite(MethodContract):
    @staticmethod
    def make(tiny_composite):
        return tiny_composite


def test_the_guard_of_the_test_split_works(search_task):
    """What the contract relies on: a search that reads the test split fails."""
    from bitsmith.errors import DataError

    with pytest.raises(DataError, match="test split"):
        len(search_task.data.test)
    assert len(open_data("digits", limit=400).test)


def test_fill_uses_more_of_the_budget_and_keeps_the_rest(problem, small):
    plain, filled = Uniform().search(problem).best, Uniform(fill=True).search(problem).best
    assert np.all(small.encode(filled) >= small.encode(plain))
    assert exact("bitops", filled.graph, filled.bits) > exact("bitops", plain.graph, plain.bits)


def test_uniform_is_uniform(problem, small):
    best = Uniform().search(problem).best
    assert best in [small.uniform(w, a) for w in (1, 2, 4, 8) for a in (1, 2, 4, 8)]


def test_uniform_says_where_nothing_uniform_fits(again, small):
    """Narrowing a stream costs a table: the smallest network reads streams at 8 bits and all else at 4."""
    space = precision(small.template, (2, 4), (4, 8))
    smallest = least(space, "size")
    budgets = [Budget(cost=c, limit=exact(c, smallest.graph, smallest.bits)) for c in ("size", "bitops")]
    with pytest.raises(BudgetError, match=r"no uniform bits meet size=.* mixed bits do"):
        Uniform().search(again(space=space, budgets=budgets))
    assert Uniform(fill=True).search(again(space=space, budgets=budgets)).best == smallest


def test_random_differs_by_seed_and_leaves_no_room(again, small):
    found = [Random().search(again(seed=seed)) for seed in range(5)]
    assert len({f.best.to_json() for f in found}) == 5
    for f, seed in zip(found, range(5), strict=True):
        budgets = again(seed=seed).budgets
        higher = [n for n in small.neighbors(f.best) if small.encode(n).sum() > small.encode(f.best).sum()]
        assert not any(fits(n.graph, n.bits, budgets) for n in higher)


def test_methods_are_final():
    for kind in (Uniform, Random, Composite):
        assert kind is final(kind)
        assert getattr(kind, "__final__", False)
