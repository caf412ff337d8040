"""The evolution against all networks of a tiny space, on losses with known answers."""

import dataclasses
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from spaces import mobile, tiny

from bitsmith.blueprint import Blueprint, Budget
from bitsmith.cost import exact, fits
from bitsmith.data import open_data
from bitsmith.errors import RecipeError
from bitsmith.search.supernet import Scoring, SharedNetwork, evolution, refine, score_inherited
from bitsmith.search.supernet.discretize import Discretizer
from bitsmith.search.supernet.evolution import halves
from bitsmith.space import MobileSpace, Stage, Stem
from bitsmith.train import Task, calibrate

SCORING = Scoring(norm_batches=1, loss_batches=2, batch_size=32, seed=5)


@pytest.fixture(scope="module")
def task() -> Task:
    return Task(data=open_data("digits", limit=400).without_test())


@pytest.fixture(scope="module")
def network(task) -> SharedNetwork:
    stages = (
        Stage(channels=(4, 8), expansions=(1.0, 2.0), kernels=(3,), squeeze_excite=(False,), activations=("relu",)),
        Stage(channels=(8,), stride=2, expansions=(1.5,), kernels=(3, 5), squeeze_excite=(False,)),
    )
    description = MobileSpace(
        stem=Stem(channels=4), stages=stages, weight_bits=(2, 8), activation_bits=(4, 8), divisor=2
    )
    data = task.data
    space = mobile(description, input_shape=data.shape, outputs=10, input=data.input, classes=data.classes)
    made = SharedNetwork(space)
    calibrate(made, data.train, batches=1, batch_size=32)
    return made


@pytest.fixture(scope="module")
def every(network) -> list[Blueprint]:
    """All networks of the space."""
    return [network.space.at(number) for number in range(network.space.count())]


def middle(every, cost: str) -> Budget:
    return Budget(cost=cost, limit=float(np.median([exact(cost, b.graph, b.bits) for b in every])))


def zeros(space):
    return {d.name: np.zeros(len(d.options)) for d in space.decisions.decisions}


def closed_form(monkeypatch, loss) -> list[tuple[int, ...]]:
    """Losses by a formula in place of measured ones; returns what was scored, as it goes."""
    scored = []

    def score(network, blueprint, task, scoring):
        indices = tuple(map(int, network.space.encode(blueprint)))
        scored.append((indices, scoring.loss_start))
        return loss(np.array(indices), scoring.loss_start)

    monkeypatch.setattr(evolution, "score_inherited", score)
    return scored


def run(network, task, start, budgets, **changes):
    settings = {"evaluations": 40, "population": 10} | changes
    return refine(network, start, budgets, zeros(network.space), task, SCORING, **settings)


def test_it_finds_the_best_inside(network, every, task, monkeypatch):
    """Against every network of the space: 256 of them, half of them inside, at most 100 scored."""
    space = network.space
    budget = middle(every, "bitops")
    rng = np.random.default_rng(0)
    weights = [rng.random(len(d.options)) for d in space.decisions.decisions]

    def loss(indices, half):
        return float(sum(w[i] for w, i in zip(weights, indices, strict=True)))

    scored = closed_form(monkeypatch, loss)
    inside = [b for b in every if fits(b.graph, b.bits, [budget])]
    start = max(inside, key=lambda b: loss(space.encode(b), 0))
    refined = run(network, task, start, [budget], evaluations=100)
    best = min(inside, key=lambda b: loss(space.encode(b), 0))
    assert refined.details["accepted"]
    assert fits(refined.best.graph, refined.best.bits, [budget])
    ranks = sorted(loss(space.encode(b), 0) for b in inside)
    assert ranks.index(loss(space.encode(refined.best), 0)) <= 2, "among the best three of all"
    assert loss(space.encode(refined.best), 0) <= 1.1 * loss(space.encode(best), 0)
    choosing = [indices for indices, half in scored if half == 0]
    assert len(choosing) == len(set(choosing)) == len(refined.details["losses"]) <= 100
    for indices in choosing:
        blueprint = space.decode(np.array(indices))
        assert fits(blueprint.graph, blueprint.bits, [budget]), "outside a budget nothing is scored"


def test_it_starts_from_the_network_found_where_hardly_any_draw_is_inside(task, monkeypatch):
    """The first generation is what was enqueued, so children are of networks inside; uniform draws would be outside.

    What is found by penalties that are half wrong is improved on toward the exact optimum of the right ones.
    """
    stages = tuple(
        Stage(channels=(8, 12, 16, 24), blocks=(1, 3), expansions=(1.0, 2.0, 3.0), kernels=(3, 5)) for _ in range(3)
    )
    description = MobileSpace(
        stem=Stem(channels=4), stages=stages, weight_bits=(2, 4, 8), activation_bits=(4, 8), divisor=2
    )
    space = mobile(description)
    rng = np.random.default_rng(0)
    samples = [space.sample(rng) for _ in range(300)]
    sizes = [exact("weights", b.graph, b.bits) for b in samples]
    budget = Budget(cost="weights", limit=0.9 * min(sizes))
    right, wrong = ({d.name: rng.random(len(d.options)) for d in space.decisions.decisions} for _ in range(2))
    penalties = {name: right[name] + wrong[name] for name in right}

    def loss(indices, half):
        active = space.decisions.active(indices)
        decisions = zip(space.decisions.decisions, indices, active, strict=True)
        return float(sum(right[decision.name][i] for decision, i, on in decisions if on))

    closed_form(monkeypatch, loss)
    discretizer = Discretizer(space, [budget])
    start, best = (discretizer.best(values) for values in (penalties, right))
    studies, make = [], evolution._make_study

    def making(*arguments):
        made = make(*arguments)
        studies.append(made[0])
        return made

    monkeypatch.setattr(evolution, "_make_study", making)
    network = SimpleNamespace(space=space)
    refined = refine(network, start, [budget], penalties, task, SCORING, evaluations=60, population=10)
    trials = studies[0].trials
    key = "NSGAIISampler:generation"
    assert [trial.system_attrs[key] for trial in trials[:11]] == 10 * [0] + [1]
    assert refined.details["outside"] < refined.details["proposals"] / 2
    found = [loss(space.encode(blueprint), 0) for blueprint in (start, refined.best, best)]
    assert found[0] > found[1] >= found[2]


def test_the_front_is_what_nothing_beats(network, every, task, monkeypatch):
    space = network.space
    budgets = [middle(every, "weights"), middle(every, "bitops")]
    closed_form(monkeypatch, lambda indices, half: float(10 - indices.sum()))
    start = next(b for b in every if fits(b.graph, b.bits, budgets))
    details = run(network, task, start, budgets).details
    points = [(p["loss"], p["weights"], p["bitops"]) for p in details["front"]]
    assert points == sorted(points)
    for one, other in product(points, points):
        assert one == other or not all(a <= b for a, b in zip(one, other, strict=True))
    for point in details["front"]:
        blueprint = space.decode(np.array(point["choice"]))
        assert exact("weights", blueprint.graph, blueprint.bits) == point["weights"] <= budgets[0].limit
        assert 10 - sum(point["choice"]) == point["loss"]
    assert details["chosen"][1] == min(details["losses"]) == points[0][0]


def test_what_the_other_half_denies_is_not_taken(network, task, monkeypatch):
    space = network.space
    start = space.at(0)
    budgets = [Budget(cost="weights", limit=1e9)]
    closed_form(monkeypatch, lambda indices, half: float(-indices.sum() if half == 0 else indices.sum()))
    refined = run(network, task, start, budgets)
    assert not refined.details["accepted"]
    assert refined.best == start
    assert refined.details["chosen"][1] < refined.details["chosen"][0]
    assert refined.details["confirmed"][1] > refined.details["confirmed"][0]


def test_measured_losses_are_kept_and_repeat(network, every, task, tmp_path, monkeypatch):
    """A second run measures nothing anew and comes to the same; other seeds propose other networks."""
    space = network.space
    budgets = [middle(every, "weights")]
    start = next(b for b in every if fits(b.graph, b.bits, budgets))
    few = {"evaluations": 4, "population": 3, "folder": tmp_path}
    first = run(network, task, start, budgets, **few)
    chosen, confirming = halves(len(task.data.search), SCORING)
    assert first.details["losses"][0] == score_inherited(network, start, task, chosen)
    assert first.details["confirmed"][0] == score_inherited(network, start, task, confirming)
    with monkeypatch.context() as patched:
        scored = closed_form(patched, lambda indices, half: 0.0)
        again = run(network, task, start, budgets, **few)
        assert scored == []
    assert again == first
    assert len(first.details["losses"]) == 4
    other = dataclasses.replace(SCORING, seed=6)
    elsewhere = refine(network, start, budgets, zeros(space), task, other, evaluations=4, population=3)
    assert elsewhere.details["front"] != first.details["front"]


@pytest.mark.parametrize(("batch_size", "loss_batches"), [(32, 2), (64, 32), (500, 1), (7, 3)])
def test_halves_share_no_image(task, batch_size, loss_batches):
    search = task.data.search
    scoring = Scoring(batch_size=batch_size, loss_batches=loss_batches, seed=1)
    found = []
    for half in halves(len(search), scoring):
        batches = list(search.batches(batch_size=half.loss_size, seed=half.seed, start=half.loss_start))
        images = [x.numpy().tobytes() for batch, _ in batches[: half.loss_batches] for x in batch]
        assert len(images) == half.loss_size * half.loss_batches
        assert half.loss_size <= batch_size
        found.append(images)
    assert not set(found[0]) & set(found[1])
    assert len(found[0]) == len(found[1])


def test_too_few_images_to_halve():
    with pytest.raises(RecipeError, match="of 3 it can't"):
        halves(3, SCORING)


def test_a_space_that_is_soon_exhausted(task, monkeypatch):
    """Where nothing new is left the evolution ends."""
    description = tiny(
        stages=(
            Stage(channels=(4, 8), expansions=(1.0,), kernels=(3,), squeeze_excite=(False,), activations=("relu",)),
        ),
        weight_bits=(8,),
        activation_bits=(8,),
    )
    data = task.data
    space = mobile(description, input_shape=data.shape, outputs=10, input=data.input, classes=data.classes)
    assert space.count() == 2
    closed_form(monkeypatch, lambda indices, half: float(indices.sum()))
    refined = run(SharedNetwork(space), task, space.at(1), [Budget(cost="weights", limit=1e9)], evaluations=8)
    assert sorted(refined.details["losses"]) == [0.0, 1.0]
    assert refined.best == space.at(0)
