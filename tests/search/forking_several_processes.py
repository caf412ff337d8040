"""Searches by two processes find what one finds: probabilities, multipliers, steps, the network."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from spaces import mobile, tiny
from together import together

from bitsmith.blueprint import Budget
from bitsmith.cost import exact
from bitsmith.errors import RecipeError
from bitsmith.search import Filters, Multinomial, Problem, Supernet
from bitsmith.search.composite import _Searching as Searching
from bitsmith.search.searching import open_loop
from bitsmith.train import TrainPlan, agree, refuse_processes

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="forks, which a process that has used CUDA can't")
PLAN = TrainPlan(epochs=2, batch_size=64, lr=0.02, device="cpu", compile="none")


def told(found):
    """What a search found as plain values; all processes must hold the same."""
    agree({"best": found.best.to_json(), "state": dict(found.state or {}), "curves": dict(found.curves)}, "found")
    return {"best": found.best.to_json(), "curves": dict(found.curves), "details": dict(found.details)}


def test_two_processes_search_bits_as_one(problem, tiny_composite, tiny_found, tmp_path):
    method = dataclasses.replace(tiny_composite, plan=dataclasses.replace(tiny_composite.plan, compile="none"))
    first, second = together(tmp_path / "group", lambda: told(method.search(problem)))
    assert first == second
    assert first["curves"]["loss"] == pytest.approx(tiny_found.curves["loss"], rel=0.03)
    for cost in ("weights", "bitops"):
        expected, multiplier = f"expected {cost}", f"multiplier {cost}"
        assert first["curves"][expected] == pytest.approx(tiny_found.curves[expected], rel=0.01)
        # Multipliers sum up differences of costs and limits, here 1 % of either.
        assert first["curves"][multiplier] == pytest.approx(tiny_found.curves[multiplier], rel=0.2, abs=1e-5)
    for layer, parts in tiny_found.details["probabilities"].items():
        for kind, p in parts.items():
            assert first["details"]["probabilities"][layer][kind] == pytest.approx(p, abs=0.03)


def test_the_first_step_has_the_gradients_of_one_process(problem, tiny_composite, tmp_path):
    """Of weights, steps, BatchNorm and choices, each of these within 5 % of its length.

    Rounding in BatchNorm moves some activations over a threshold of the quantizers, whose steps are large here.
    """
    method = dataclasses.replace(tiny_composite, plan=dataclasses.replace(tiny_composite.plan, compile="none"))

    def work():
        loop = open_loop(method, problem, depends_on={})
        learner = Searching(method, problem, loop)
        x, y = next(iter(problem.task.data.train.batches(batch_size=64, seed=0)))
        learner.begin(0)
        loss = loop.gradients(x, y, lambda piece: learner.loss(piece, 0), learner.parameters())
        named = learner.network.named_parameters()
        return loss, {name: p.grad.numpy().copy() for name, p in named if p.grad is not None}

    (loss, alone), found = work(), together(tmp_path / "group", work)
    for shared_loss, gradients in found:
        assert shared_loss == pytest.approx(loss, rel=1e-3)
        assert list(gradients) == list(alone)
        for kind in (".logits", ".log_step", ".norm.", ".weight"):
            names = [name for name in alone if kind in name]
            wanted, got = (np.concatenate([each[name].ravel() for name in names]) for each in (alone, gradients))
            assert np.linalg.norm(got - wanted) <= 0.05 * np.linalg.norm(wanted), kind


@pytest.mark.parametrize("kind", ["filters", "multinomial", "supernet", "supernet as published"])
def test_two_processes_search_as_one(problem, search_task, tmp_path, full, kind):
    """What is drawn is drawn alike in both; the losses are those of one process."""
    if not full:
        pytest.skip("full tier: every search runs twice")
    if kind.startswith("supernet"):
        data = search_task.data
        space = mobile(
            tiny(), input_shape=data.shape, outputs=len(data.classes), input=data.input, classes=data.classes
        )
        rng = np.random.default_rng(0)
        drawn = [space.sample(rng) for _ in range(30)]
        limit = float(np.median([exact("weights", b.graph, b.bits) for b in drawn]))
        problem = Problem(task=search_task, space=space, budgets=[Budget(cost="weights", limit=limit)], seed=3)
        published = kind.endswith("published")
        method = Supernet(plan=PLAN, norm_batches=1, loss_batches=1, score="probability", as_published=published)
    elif kind == "filters":
        method = Filters(plan=PLAN, norm_batches=2)
    else:
        method = Multinomial(plan=PLAN, pairs=((1, 8), (2, 8), (8, 8)), architecture_steps=2, norm_batches=2)
    alone = told(method.search(problem))
    first, second = together(tmp_path / "group", lambda: told(method.search(problem)))
    assert first == second
    assert first["curves"]["loss"] == pytest.approx(alone["curves"]["loss"], rel=0.05)


def test_one_process_may_do_what_several_may_not(tmp_path):
    refuse_processes("a latent search", "its autoencoder is made in one")
    for error in together(tmp_path / "group", lambda: refuse_processes("a latent search", "its surrogate is one's")):
        assert isinstance(error, RecipeError)
        assert "a latent search can't be done by several processes yet: its surrogate is one's; start" in str(error)
