"""A search that takes seconds: a small residual network on a few hundred digits."""

from __future__ import annotations

import dataclasses

import graphs
import pytest

from bitsmith.blueprint import Budget
from bitsmith.cost import exact
from bitsmith.data import open_data
from bitsmith.search import Composite, Found, Problem
from bitsmith.space import Precision, precision
from bitsmith.train import Task, TrainPlan


@pytest.fixture(scope="session")
def small() -> Precision:
    """4^8 blueprints: stem and classifier pinned to 8 bits, four inner layers free."""
    s = graphs.Sketch((1, 8, 8))
    y = s.same("relu", "stem.relu", s.conv("stem", "x", 8))
    y = graphs.basic_block(s, "a", y, 8)
    y = s.same("relu", "tail.relu", s.conv("tail", y, 12, stride=2))
    y = s.same("relu", "deep.relu", s.conv("deep", y, 12))
    graph = s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", y)), 10))
    return precision(graphs.blueprint(graph), (1, 2, 4, 8), (1, 2, 4, 8))


@pytest.fixture(scope="session")
def search_task() -> Task:
    return Task(data=open_data("digits", limit=400).without_test())


@pytest.fixture(scope="session")
def problem(small, search_task) -> Problem:
    """Weights and bitops of uniform 4 bits, less a little."""
    at = small.uniform(4, 4)
    budgets = [Budget(cost=c, limit=0.9 * exact(c, at.graph, at.bits)) for c in ("weights", "bitops")]
    return Problem(task=search_task, space=small, budgets=budgets, seed=3)


@pytest.fixture(scope="session")
def tiny_composite() -> Composite:
    plan = TrainPlan(epochs=2, batch_size=64, lr=0.05, device="cpu")
    return Composite(plan=plan, norm_batches=2, loss_batches=1, weights_first=1)


@pytest.fixture(scope="session")
def tiny_found(problem, tiny_composite) -> Found:
    return tiny_composite.search(problem)


@pytest.fixture
def again(problem):
    """The same problem with other fields."""
    return lambda **fields: dataclasses.replace(problem, **fields)
