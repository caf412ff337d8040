"""A small sequence space with its trained autoencoder, and evaluations that take no training."""

import math

import numpy as np
import pytest
from latents import SMALL, closed_form
from sequences import sequences, tiny_sequences

from bitsmith.data import open_data
from bitsmith.search import Problem, Score
from bitsmith.search.latent import LatentPlan, ladder, proposals, save_autoencoder, surrogate, train_autoencoder
from bitsmith.space import ADDITIVE, Stem
from bitsmith.train import Task

PLAN = LatentPlan(steps=250, batch_size=64, lr=0.01, widths=SMALL)


@pytest.fixture(scope="session")
def space():
    """2,472 networks for digits."""
    description = tiny_sequences(
        stem=Stem(channels=4), channels=(4, 8), layers=(1, 3), skips=(0, 1), weight_bits=(2, 8), strided=(1, 1),
        operators=("conv", "separable"),
    )  # fmt: skip
    return sequences(description, input_shape=(1, 8, 8), outputs=10)


@pytest.fixture(scope="session")
def model(space):
    return train_autoencoder(space, PLAN, seed=0)[0]


@pytest.fixture(scope="session")
def kept_model(space, model, tmp_path_factory):
    """The folder of the autoencoder."""
    folder = tmp_path_factory.mktemp("autoencoder")
    save_autoencoder(model, space, folder)
    return str(folder)


@pytest.fixture(scope="session")
def every(space):
    """All networks [n, length], their params, and a closed-form score that is no cost and has one best network."""
    rows = np.array([space.automaton.at(number) for number in range(space.count())])
    return rows, space.additive.of(rows)[:, ADDITIVE.index("params")], np.array([closed_form(space, r) for r in rows])


@pytest.fixture
def problem(space):
    task = Task(data=open_data("digits", limit=120).without_test())

    def make(**changes) -> Problem:
        return Problem(**({"task": task, "space": space, "budgets": [], "seed": 3} | changes))

    return make


@pytest.fixture
def scored(space, monkeypatch):
    """Evaluations are the closed form of a network, proposals are quick, and what was evaluated is listed."""
    monkeypatch.setattr(proposals, "_POOL", 100)
    monkeypatch.setattr(proposals, "_FRONT_POOL", 40)
    monkeypatch.setattr(proposals, "_CLIMBING", 2)
    monkeypatch.setattr(surrogate, "_FITTING", 15)
    met: list[tuple[str, int]] = []

    def evaluate(problem, blueprint, plan, **_):
        value = closed_form(space, space.encode(blueprint))
        met.append((space.key(blueprint), plan.epochs))
        return Score(metric=value / 10, loss=math.exp(-value), epochs=plan.epochs, seconds=0.5)

    monkeypatch.setattr(ladder, "evaluate_blueprint", evaluate)
    return met
