"""calibrate, reestimate_norms and evaluate against closed forms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bitsmith.data import LoaderSplit
from bitsmith.quantize import GaussianActivation, LsqActivation
from bitsmith.quantize.lsq import best_step
from bitsmith.train import Task, calibrate, evaluate, reestimate_norms


def listed(few, batches: list[int], size: int = 50) -> LoaderSplit:
    found = list(few.train.batches(batch_size=size))
    return LoaderSplit(loader=[found[i] for i in batches], classes=10, shape=(1, 8, 8), name="train")


def test_calibrate_sets_the_input_step_to_the_mean_of_the_best(few, fresh):
    network = fresh()
    split = listed(few, [0, 1, 2])
    calibrate(network, split)
    first = dict(network.priced())["conv0"].quantize_input
    assert isinstance(first, LsqActivation)
    best = [best_step(x.reshape(1, -1), first.lo, first.hi) for x, _ in split.batches(batch_size=0)]
    assert first.grid().step == pytest.approx(float(torch.cat(best).mean()), rel=1e-6)


@pytest.mark.parametrize("quantizer", ["lsq", "gaussian"])
def test_calibrate_is_independent_of_the_order(few, fresh, quantizer):
    steps = []
    for order in ([0, 1, 2], [2, 1, 0]):
        network = fresh(quantizer=quantizer)
        calibrate(network, listed(few, order))
        steps.append([network.input_grid(name).step for name, _ in network.priced()])
    assert steps[0][0] == pytest.approx(steps[1][0], rel=1e-6)  # sees the data itself
    # Those behind see activations that passed the running steps before them.
    assert steps[0] == pytest.approx(steps[1], rel=0.1)


def test_calibrate_finds_the_deviation(few, fresh):
    network = fresh(quantizer="gaussian")
    split = listed(few, [0, 1])
    calibrate(network, split)
    first = dict(network.priced())["conv0"].quantize_input
    assert isinstance(first, GaussianActivation)
    expected = torch.stack([x.square().mean().sqrt() for x, _ in split.batches(batch_size=0)]).mean()
    assert float(first.deviation) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_calibrate_repeats_and_restores_the_mode(few, fresh, training):
    network = fresh().train(training)
    calibrate(network, few.train, seed=3)
    first = {k: v.clone() for k, v in network.state_dict().items()}
    assert all(module.training == training for module in network.modules())
    assert not any(module.calibrating or module.seen for module in network.calibrated())
    assert all(m.momentum == 0.1 for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    calibrate(network, few.train, seed=3)
    assert all(torch.equal(first[k], v) for k, v in network.state_dict().items())
    x, _ = next(few.train.batches(batch_size=8))
    network(x)
    assert all(torch.equal(first[k], v) for k, v in network.state_dict().items() if "log_step" in k)


def test_calibrate_uses_so_many_batches(few, fresh):
    steps = []
    for order in ([0, 1, 2], [0, 1, 3]):
        network = fresh()
        calibrate(network, listed(few, order), batches=2)
        steps.append([network.input_grid(name).step for name, _ in network.priced()])
    assert steps[0] == steps[1]


def test_streams_take_the_widest(few, fresh):
    """Of the batches and of the members of a group."""
    network = fresh()
    calibrate(network, listed(few, [0, 1, 2]))
    step = network.grid("relu1").step
    alone = []
    for batch in range(3):
        one = fresh()
        one.load_state_dict(network.state_dict())
        calibrate(one, listed(few, [batch]))
        alone.append(one.grid("relu1").step)
    assert step == pytest.approx(max(alone), rel=0.1)


@pytest.mark.parametrize("training", [True, False])
def test_reestimated_norms_are_the_averages_over_the_batches(few, fresh, training):
    """First layer, in closed form; batches of equal size, so the mean is that of all data."""
    network = fresh().train(training)
    network.layer("conv0").norm.running_mean.fill_(77)
    split = listed(few, [0, 1, 2])
    reestimate_norms(network, split)
    layer = dict(network.priced())["conv0"]
    with torch.no_grad():
        ys = [
            F.conv2d(layer.quantize_input(x), layer.quantize_weight(layer.weight), padding=1).double()
            for x, _ in split.batches(batch_size=0)
        ]
    together = torch.cat(ys)
    assert layer.norm is not None
    assert torch.allclose(layer.norm.running_mean.double(), together.mean((0, 2, 3)), atol=1e-5)
    variances = torch.stack([y.var((0, 2, 3), correction=1) for y in ys]).mean(0)
    assert torch.allclose(layer.norm.running_var.double(), variances, rtol=1e-5)
    # The spread between batches is left out: small against that within.
    assert torch.allclose(layer.norm.running_var.double(), together.var((0, 2, 3)), rtol=0.02)
    assert all(module.training == training for module in network.modules())
    assert layer.norm.momentum == 0.1


def test_reestimation_changes_nothing_but_norms(few, fresh):
    network = fresh()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    reestimate_norms(network, few.train, batches=3)
    changed = {k for k, v in network.state_dict().items() if not torch.equal(before[k], v)}
    assert changed
    assert all(".norm." in k for k in changed)


@pytest.mark.parametrize("training", [True, False])
def test_evaluate(few, fresh, training):
    network, task = fresh().train(training), Task(data=few)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    metric, loss = evaluate(network, few.test, task, batch_size=100)  # 359 images: a last batch of 59
    assert network.training == training
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    x, y = next(few.test.batches(batch_size=1000))
    with torch.no_grad():
        logits = network.eval()(x)
    assert metric == float((logits.argmax(1) == y).double().mean())
    assert loss == pytest.approx(float(F.cross_entropy(logits, y)), rel=1e-5)
