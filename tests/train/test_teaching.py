"""Distillation and averaged weights against formulas of their own."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.errors import RecipeError, TrainingError
from bitsmith.quantize import build, float_blueprint
from bitsmith.train import Event, Task, TrainPlan, distill, evaluate, fit, reestimate_norms

PLAN = TrainPlan(epochs=2, batch_size=64, lr=0.05, device="cpu", compile="none")


def test_the_docstrings_example():
    found = distill(torch.tensor(7.0), torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]]), share=1, temperature=1)
    assert float(found) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert float(found) == pytest.approx(0.1308, abs=5e-5)


@given(seed=st.integers(0, 1000), share=st.floats(0, 1), temperature=st.floats(0.5, 10))
def test_distillation_is_its_formula(seed, share, temperature):
    """In float64 by sums of p log(p / q); its gradient is (1 - d) dL + d T (q - p) / N, Hinton et al. eq. 2."""
    generator = torch.Generator().manual_seed(seed)
    logits, taught = (3 * torch.randn(4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    logits.requires_grad_()
    labels = torch.randint(5, (4,), generator=generator)
    loss = F.cross_entropy(logits, labels)
    found = distill(loss, logits, taught, share=share, temperature=temperature)
    p, q = ((x / temperature).exp() / (x / temperature).exp().sum(1, keepdim=True) for x in (taught, logits.detach()))
    expected = (1 - share) * loss.item() + share * temperature**2 * float((p * (p / q).log()).sum(1).mean())
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    (gradient,) = torch.autograd.grad(found, logits)
    hard = (torch.softmax(logits.detach(), 1) - F.one_hot(labels, 5)) / 4
    assert torch.allclose(gradient, (1 - share) * hard + share * temperature * (q - p) / 4, atol=1e-12)


def test_it_learns_from_the_teacher_alone(few, two_convs, fresh):
    """With labels that say nothing, the student comes to agree with its teacher, by any loss of the task."""
    torch.manual_seed(0)
    teacher = build(float_blueprint(two_convs(8)))
    fit(teacher, Task(data=few), dataclasses.replace(PLAN, epochs=12, lr=0.3))
    student, nothing = fresh(4, 4), Task(data=few, loss=lambda logits, labels: 0 * logits.sum())
    before = [parameter.clone() for parameter in teacher.parameters()]
    plan = dataclasses.replace(PLAN, epochs=12, lr=0.2, distill=0.9)
    history = fit(student, nothing, plan, teacher=teacher)
    assert history.curves["loss"][-1] < 0.7 * history.curves["loss"][0]
    x, _ = next(few.test.batches(batch_size=1000))
    with torch.no_grad():
        agreed = (student.eval()(x).argmax(1) == teacher(x).argmax(1)).double().mean()
    assert agreed > 0.5
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert not teacher.training


def test_a_teacher_is_needed_and_must_fit(few, fresh, two_convs):
    plan = dataclasses.replace(PLAN, distill=0.5)
    with pytest.raises(RecipeError, match=r"train: distill = 0\.5 needs a trained network"):
        fit(fresh(), Task(data=few), plan)
    with pytest.raises(TrainingError, match=r"teacher gives outputs of shape \(\d+, 3\), the network of \(\d+, 10\)"):
        fit(fresh(), Task(data=few), plan, teacher=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)))


@pytest.mark.parametrize("name", ["distill", "distill_temperature", "ema"])
def test_settings_out_of_range(name):
    with pytest.raises(RecipeError, match=f"{name} of a training must be"):
        dataclasses.replace(PLAN, **{name: -0.5})


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_averaged_weights_follow_their_recurrence(few, fresh, decay):
    """Written down step by step in float64; steps of quantizers by their logarithms."""
    network, seen = fresh(), []

    def watch(event: Event) -> None:
        if not event.epoch_end and not event.note:
            seen.append({name: p.detach().double().clone() for name, p in network.named_parameters()})

    history = fit(network, Task(data=few), dataclasses.replace(PLAN, ema=decay), watch=watch)
    for name, parameter in network.named_parameters():
        average = seen[0][name]
        for t, weights in enumerate(seen[1:], start=1):
            d = min(decay, (1 + t) / (10 + t))
            average = d * average + (1 - d) * weights[name]
        assert torch.allclose(parameter.double(), average, rtol=1e-4, atol=1e-6), name
        assert not torch.equal(parameter, seen[-1][name].float())
    metric, loss = evaluate(network, few.validation, Task(data=few))
    assert history.curves["validation_accuracy"][-1] == metric
    assert history.curves["validation_loss"][-1] == loss


def test_norms_are_those_of_the_averaged_weights(few, fresh):
    """Estimated anew on the whole split, they barely change: they are no leftover of other weights."""
    network = fresh()
    fit(network, Task(data=few), dataclasses.replace(PLAN, ema=0.9))
    before = {k: v.clone() for k, v in network.state_dict().items() if "running" in k}
    reestimate_norms(network, few.training, batch_size=64, seed=7)
    assert before
    for key, value in before.items():
        assert torch.allclose(network.state_dict()[key], value, rtol=0.1, atol=0.05), key


def test_without_an_average_nothing_changes(few, fresh):
    """ema = 0 trains as ever; an average does not touch what is trained under it."""
    a, b = fresh(), fresh()
    losses = [fit(n, Task(data=few), dataclasses.replace(PLAN, ema=e)).curves["loss"] for n, e in ((a, 0.0), (b, 0.9))]
    assert losses[0] == losses[1]
