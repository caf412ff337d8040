"""The sensitivity method: what it measures, by hand; and how far it can be believed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from bitsmith.blueprint import Bits
from bitsmith.errors import RecipeError
from bitsmith.quantize import build
from bitsmith.search import Measured, Sensitivity
from bitsmith.search.integer_program import calibrating_all, fix_highest
from bitsmith.search.mixed import build_mixed, decisions
from bitsmith.seeding import derive
from bitsmith.testing import example_problem
from bitsmith.train import calibrate, reestimate_norms

METHOD = Sensitivity(norm_batches=2, loss_batches=2, batch_size=32, calibration_batches=2)


@pytest.fixture(scope="module")
def found():
    return METHOD.search(example_problem())


@pytest.mark.parametrize(("layer", "kind", "option"), [("tail.0", "weight", 1), ("deep.0", "activation", 2)])
def test_a_sensitivity_by_hand(found, layer, kind, option):
    """The ordinary network of the blueprint with 8 bits everywhere and one decision lower."""
    problem = example_problem()
    highest = problem.space.uniform(8, 8)
    bits = dict(highest.bits)
    bits[layer] = dataclasses.replace(bits[layer], **{kind: (1, 2, 4, 8)[option]})
    network = build(highest.with_bits(bits))
    network.load_float(problem.float_state)
    data, seed = problem.task.data, derive(problem.seed, "sensitivities")
    calibrate(network, data.train, batches=2, batch_size=32, seed=derive(problem.seed, "calibrate"))
    # The steps of all others are those of the network at 8 bits.
    reference = build(highest)
    reference.load_float(problem.float_state)
    calibrate(reference, data.train, batches=2, batch_size=32, seed=derive(problem.seed, "calibrate"))
    own = f"{layer}.quantize_{'input' if kind == 'activation' else 'weight'}."
    steps = {k: v for k, v in reference.state_dict().items() if "log_step" in k and not k.startswith(own)}
    network.load_state_dict({**network.state_dict(), **steps})
    reestimate_norms(network, data.train, batches=2, batch_size=32, seed=seed)
    network.eval()
    losses, images = [], []
    with torch.no_grad():
        for i, (x, y) in enumerate(data.search.batches(batch_size=32, seed=seed)):
            if i < 2:
                losses.append(float(torch.nn.functional.cross_entropy(network(x), y)))
                images.append(len(y))
    by_hand = np.average(losses, weights=images)
    assert found.details["sensitivities"][layer][kind][option] == pytest.approx(by_hand, rel=1e-5)


def test_lower_bits_lose_more(found):
    """Of every decision, one bit against eight; and all agree on the loss at eight bits, which is measured once."""
    at_eight = set()
    for layer, kinds in found.details["sensitivities"].items():
        for options in kinds.values():
            if len(options) > 1:
                assert options[0] > options[-1], layer
                at_eight.add(options[-1])
    assert len(at_eight) == 1
    assert found.epochs == 0


def test_images_are_counted(found):
    """24 lowered options and the network as it is: 2 batches re-estimate, 2 are scored; 2 calibrate."""
    search = len(example_problem().task.data.search)
    assert found.details["forward_images"] == 25 * (64 + min(64, search)) + 64
    assert found.details["noise"]["images"] == min(64, search)
    assert found.details["noise"]["steps"] == 24


def test_all_candidates_are_calibrated_at_the_highest_bits():
    problem = example_problem()
    mixed = build_mixed(problem.space)
    mixed.load_float(problem.float_state)
    fix_highest(mixed)
    with calibrating_all(mixed):
        calibrate(mixed, problem.task.data.train, batches=1)
    plain = build(problem.space.template.with_bits({n: Bits(weight=8, activation=8) for n in problem.space.options}))
    plain.load_float(problem.float_state)
    calibrate(plain, problem.task.data.train, batches=1)
    state = plain.state_dict()
    for decision in decisions(mixed):
        if decision.kind == "activation" and len(decision.mixture.bits) > 1:
            steps = [float(c.log_step.detach()) for c in decision.mixture.candidates if hasattr(c, "log_step")]
            assert sorted(steps, reverse=True) == steps, "fewer bits take wider steps"
            name = f"{decision.layer}.quantize_input.log_step"
            assert name not in state or steps[-1] == float(state[name])
        assert not decision.mixture._forward_pre_hooks


def test_noise_is_paired_by_batch():
    """A difference that is the same in every batch is no noise, however much the batches differ."""
    rng = np.random.default_rng(0)
    base = rng.normal(2, 1, 16)
    chance = rng.normal(size=16)
    chance = base + 0.5 * (chance - chance.mean()) + 0.01
    sure = base - 0.1 + 0.001 * rng.normal(size=16)
    losses = {"a": {"weight": [base.tolist(), sure.tolist()], "activation": [base.tolist(), chance.tolist()]}}
    measured = Measured(losses=losses, images=(128,) * 16, passes=0)
    noise = measured.noise()
    assert (noise["steps"], noise["within"], noise["images"]) == (2, 1, 2048)
    errors = [np.std(base - other, ddof=1) / 4 for other in (sure, chance)]
    assert noise["standard_error"] == pytest.approx(np.median(errors))
    single = Measured(losses={"a": {"weight": [[1.0], [2.0]], "activation": [[]]}}, images=(64,), passes=0)
    assert single.noise() == {"images": 64, "steps": 1, "within": None, "standard_error": None}
    assert single.means() == {"a": {"weight": [1.0, 2.0], "activation": [0.0]}}


def test_needs_float_weights():
    with pytest.raises(RecipeError, match="measures a trained float network"):
        METHOD.search(dataclasses.replace(example_problem(), float_state=None))
    with pytest.raises(RecipeError, match="loss_batches of the sensitivity method must be at least 1"):
        Sensitivity(loss_batches=0)
