"""Grid against brute force by hand: what is inside, what is best, what is measured once."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.blueprint import Budget
from bitsmith.cost import exact, fits
from bitsmith.errors import BudgetError, RecipeError, RunError
from bitsmith.search import GridSearch, Problem, blueprints_inside, evaluate_blueprint, least
from bitsmith.space import precision
from bitsmith.testing import example_problem
from bitsmith.train import Event, TrainPlan

PLAN = TrainPlan(epochs=1, batch_size=64, device="cpu", compile="none")


@pytest.fixture(scope="module")
def few() -> Problem:
    """Four blueprints: two layers at 2 or 4 bits of weights."""
    problem = example_problem()
    space = precision(problem.space.template, (2, 4), (8,), pins={"a.0": 4, "b.0": 4})
    return dataclasses.replace(problem, space=space, budgets=[Budget.parse("weights=1MB")])


@given(st.floats(0, 1), st.floats(0, 1))
def test_blueprints_inside_are_those_of_a_full_enumeration(first, second):
    problem = example_problem()
    space = precision(problem.space.template, (1, 4), (2, 8), pins={"a.0": 4, "deep.0": 2})
    budgets = []
    for cost, share in (("size", first), ("bitops", second)):
        low, high = (exact(cost, b.graph, b.bits) for b in (least(space, cost), space.uniform(4, 8)))
        budgets.append(Budget(cost=cost, limit=low + share * (high - low)))
    everything = [space.decode(np.array(at).reshape(space.sizes.shape)) for at in np.ndindex(*space.sizes.ravel())]
    inside = list(blueprints_inside(space, budgets))
    assert [b.bits for b in inside] == [b.bits for b in everything if fits(b.graph, b.bits, budgets)]


@pytest.mark.parametrize("plan", [None, PLAN])
def test_the_best_of_all(few, plan, full):
    """And every score is that of the blueprint evaluated alone."""
    if plan is None and not full:
        pytest.skip("full tier")
    found = GridSearch(plan=plan).search(few)
    indices = [np.array(at).reshape(few.space.sizes.shape) for at in np.ndindex(*few.space.sizes.ravel())]
    blueprints = [few.space.decode(at) for at in indices]
    assert len(blueprints) == 4
    scores = [evaluate_blueprint(few, blueprint, plan) for blueprint in blueprints]
    assert found.curves["validation_accuracy"] == [score.metric for score in scores]
    assert found.curves["validation_loss"] == [score.loss for score in scores]
    best = sorted(range(4), key=lambda i: (-scores[i].metric, scores[i].loss))[0]
    assert found.best == blueprints[best]
    assert found.epochs == (4 if plan else 0)
    assert len(set(found.curves["validation_loss"])) == 4


def test_training_changes_the_scores(few):
    at = few.space.uniform(2, 8)
    plan = dataclasses.replace(PLAN, epochs=6, batch_size=32, lr=0.05)
    rounded, trained = evaluate_blueprint(few, at, None), evaluate_blueprint(few, at, plan)
    assert trained.loss < rounded.loss
    assert (rounded.epochs, trained.epochs) == (0, 6)
    assert 0 <= trained.metric <= 1


def test_uniform_points():
    problem = example_problem()
    points = list(problem.space.uniforms())
    assert len(points) == 16  # bits 1, 2, 4, 8 of weights times those of activations
    pinned = precision(problem.space.template, (2, 4), (8,), pins=dict.fromkeys(["a.0", "b.0", "tail.0", "deep.0"], 4))
    assert len(pinned.uniforms()) == 1


def test_too_many_are_refused_with_their_number(few):
    problem = example_problem()
    events: list[Event] = []
    with pytest.raises(
        RecipeError, match=r"grid would measure 4 blueprints inside weights=1MB \(of 4 .* most is 3: .*"
    ):
        GridSearch(most=3).search(dataclasses.replace(few, watch=events.append))
    with pytest.raises(RecipeError, match=r"more than 10,000 blueprints inside .*65,536 in the space.*points: uniform"):
        GridSearch().search(dataclasses.replace(problem, watch=events.append))
    with pytest.raises(RecipeError, match=r"grid would measure \d+ blueprints.*pin layers"):
        GridSearch(points="uniform", most=2).search(dataclasses.replace(problem, watch=events.append))
    assert events == []
    with pytest.raises(RecipeError, match="at least 1"):
        GridSearch(most=0)


def test_where_only_mixed_bits_fit(few):
    space = precision(few.space.template, (2, 4), (4, 8))
    smallest = least(space, "size")
    budgets = [Budget(cost=c, limit=exact(c, smallest.graph, smallest.bits)) for c in ("size", "bitops")]
    problem = dataclasses.replace(few, space=space, budgets=budgets)
    with pytest.raises(BudgetError, match=r"no uniform bits meet size=.* mixed bits do"):
        GridSearch(points="uniform").search(problem)
    assert GridSearch().search(problem).best == smallest


def test_a_training_within_goes_on_where_it_was_stopped(few, tmp_path):
    """To the same scores, without the steps that were done."""
    plan = dataclasses.replace(PLAN, epochs=3)
    whole: list[Event] = []
    wanted = GridSearch(plan=plan).search(dataclasses.replace(few, watch=whole.append))
    steps = [event for event in whole if event.stage == "grid, 1 of 4" and not event.epoch_end and not event.note]
    seen: list[Event] = []

    def stop(event: Event) -> None:
        seen.append(event)
        if event.stage == "grid, 1 of 4" and event.step == len(steps) - 1:
            raise KeyboardInterrupt

    kept = dataclasses.replace(few, folder=tmp_path, checkpoint_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        GridSearch(plan=plan).search(dataclasses.replace(kept, watch=stop))
    assert list(tmp_path.glob("grid-*.checkpoint"))
    after: list[Event] = []
    found = GridSearch(plan=plan).search(dataclasses.replace(kept, watch=after.append))
    assert found.curves == wanted.curves
    assert sum(event.stage == "grid, 1 of 4" and not event.epoch_end and not event.note for event in after) == 1
    assert not list(tmp_path.glob("grid-*.checkpoint"))


def test_refusals_come_before_anything_is_trained(few):
    with pytest.raises(RecipeError, match="grid would measure 4 blueprints"):
        GridSearch(most=3).check(few.space, few.budgets, trained=True)
    with pytest.raises(RecipeError, match="without trained float weights"):
        GridSearch().check(few.space, few.budgets, trained=False)
    GridSearch(plan=PLAN).check(few.space, few.budgets, trained=False)


def test_what_was_measured_is_measured_once(few, tmp_path, monkeypatch):
    """Also for another budget; but not with other weights, another seed or another plan."""
    counted = []
    module = __import__(GridSearch.__module__, fromlist=["evaluate_blueprint"])

    def counting(*arguments, **options):
        counted.append(1)
        return evaluate_blueprint(*arguments, **options)

    monkeypatch.setattr(module, "evaluate_blueprint", counting)
    kept = dataclasses.replace(few, shared=tmp_path)
    first = GridSearch().search(kept)
    assert len(counted) == 4
    lines = (tmp_path / "grid.json").read_text().splitlines()
    assert sum('"seconds"' in line for line in lines) == 4  # one line each
    assert len(json.loads((tmp_path / "grid.json").read_text())["values"]) == 4
    assert GridSearch().search(kept).curves == first.curves
    tighter = least(few.space, "weights")
    limit = exact("weights", tighter.graph, tighter.bits)
    budgets = [Budget(cost="weights", limit=limit)]
    assert GridSearch().search(dataclasses.replace(kept, budgets=budgets)).best == tighter
    assert len(counted) == 4
    GridSearch().search(dataclasses.replace(kept, seed=4, budgets=budgets))
    assert len(counted) == 5
    (tmp_path / "grid.json").write_text("[1]")
    with pytest.raises(RunError, match=r"grid\.json is damaged"):
        GridSearch().search(kept)


def test_nothing_to_score(few):
    with pytest.raises(RecipeError, match="without trained float weights"):
        GridSearch().search(dataclasses.replace(few, float_state=None))
    score = evaluate_blueprint(dataclasses.replace(few, float_state=None), few.space.uniform(4, 8), PLAN)
    assert math.isfinite(score.loss)
