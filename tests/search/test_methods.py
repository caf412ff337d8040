"""Every search method passes the public contract; and what each does beside it."""

from __future__ import annotations

from typing import final

import numpy as np
import pytest

from bitsmith.blueprint import Budget
from bitsmith.cost import exact, fits
from bitsmith.data import open_data
from bitsmith.errors import BudgetError
from bitsmith.search import Composite, GridSearch, Random, Sensitivity, Uniform, least
from bitsmith.space import precision
from bitsmith.testing import MethodContract
from bitsmith.train import TrainPlan

PLAN = TrainPlan(epochs=2, batch_size=64, lr=0.05, device="cpu", compile="none")


class TestUniform(MethodContract):
    @staticmethod
    def make():
        return Uniform()


class TestUniformFill(MethodContract):
    @staticmethod
    def make():
        return Uniform(fill=True)


class TestRandom(MethodContract):
    @staticmethod
    def make():
        return Random(tries=200)


class TestComposite(MethodContract):
    @staticmethod
    def make():
        return Composite(plan=PLAN, norm_batches=2, loss_batches=1, weights_first=1)


class TestSensitivity(MethodContract):
    @staticmethod
    def make():
        return Sensitivity(norm_batches=2, loss_batches=2, batch_size=64, calibration_batches=2)


class TestGrid(MethodContract):
    @staticmethod
    def make():
        return GridSearch(points="uniform")


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
    for kind in (Uniform, Random, Composite, Sensitivity, GridSearch):
        assert kind is final(kind)
        assert getattr(kind, "__final__", False)
