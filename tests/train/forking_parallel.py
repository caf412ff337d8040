"""Several processes train one network as one process does, and hold the same numbers."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import graphs
import pytest
import torch
from together import together

from bitsmith.data import Augment
from bitsmith.errors import RecipeError, TrainingError
from bitsmith.quantize import Part, build, computing, float_blueprint
from bitsmith.quantize.parts import BatchNorm2d
from bitsmith.train import (
    Event,
    Task,
    TrainPlan,
    agree,
    calibrate,
    fit,
    load_checkpoint,
    memory,
    processes,
)
from bitsmith.train.memory import Forecast

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="forks, which a process that has used CUDA can't")
PLAN = TrainPlan(epochs=2, batch_size=64, lr=0.02, device="cpu", compile="none")
LOOP = sys.modules["bitsmith.train.loop"]


class HaltError(Exception):
    pass


def make(few, quantizer: str = ""):
    """A fresh network with BatchNorm and dropout, the same each time; float without a quantizer."""
    s = graphs.Sketch((1, 8, 8))
    y = s.same("relu", "relu0", s.conv("conv0", "x", 6))
    y = s.same("relu", "relu1", s.same("dropout", "drop", s.conv("conv1", y, 8, stride=2)))
    graph = s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", y)), 10))
    nodes = tuple(dataclasses.replace(n, rate=0.2) if n.op == "dropout" else n for n in graph.nodes)
    blueprint = graphs.blueprint(dataclasses.replace(graph, nodes=nodes), 4, 8)
    torch.manual_seed(5)
    if not quantizer:
        return build(float_blueprint(blueprint.graph))
    network = build(dataclasses.replace(blueprint, quantizer=quantizer))
    calibrate(network, few.train, batches=1, batch_size=64)
    return network


def trained(few, quantizer: str = "", checkpoint: Path | None = None, watch=lambda event: None, **settings):
    network = make(few, quantizer)
    plan = dataclasses.replace(PLAN, **settings)
    task = Task(data=few, augment=Augment(flip=True), label_smoothing=0.1, class_weights="balanced")
    teacher = make(few) if plan.distill else None
    history = fit(
        network, task, plan, teacher=teacher, checkpoint=checkpoint, checkpoint_seconds=0 if checkpoint else 60,
        watch=watch,
    )  # fmt: skip
    return {name: value.numpy().copy() for name, value in network.state_dict().items()}, history


def close(found, wanted, tolerance: float) -> None:
    (state, history), (whole, alone) = found, wanted
    assert history.curves["loss"] == pytest.approx(alone.curves["loss"], rel=tolerance)
    for name, value in whole.items():
        assert state[name] == pytest.approx(value, rel=tolerance, abs=4 * tolerance), name


@pytest.mark.parametrize(
    ("quantizer", "settings", "parts", "tolerance"),
    [
        ("", {}, False, 2e-5),
        ("", {"distill": 0.5, "ema": 0.9, "optimizer": "adamw"}, True, 5e-4),
        ("lsq", {}, False, 2e-2),  # codes are rounded, so that now and then one of them is another
        ("gaussian", {}, False, 2e-2),
    ],
)
def test_two_processes_train_as_one(few, tmp_path, monkeypatch, quantizer, settings, parts, tolerance):
    """BatchNorm, dropout, augmentation, weighted and smoothed losses, a last small batch; also in parts."""
    if parts:
        monkeypatch.setattr(LOOP, "foretell", lambda *_, **__: Forecast(held=0, per_image=1e6))
        monkeypatch.setattr(memory, "limit", lambda device, share=1: 40e6 if processes().count == 1 else 20e6)
    alone = trained(few, quantizer, **settings)
    first, second = together(tmp_path / "2", lambda: trained(few, quantizer, **settings))
    assert (first[1].memory["part"] == 32) == parts
    close(first, alone, tolerance)
    assert first[1].curves == second[1].curves
    assert all((value == second[0][name]).all() for name, value in first[0].items())


def test_a_training_goes_on_in_another_number_of_processes(few, tmp_path):
    """From one to two and back; only the first process writes."""

    def stop(at: int):
        def watch(event: Event) -> None:
            if event.step == at and not event.epoch_end and not event.note:
                raise HaltError

        return watch

    whole = trained(few)
    with pytest.raises(HaltError):
        trained(few, checkpoint=tmp_path / "0", watch=stop(3))
    (tmp_path / "1").write_bytes((tmp_path / "0").read_bytes())
    before = (tmp_path / "1").read_bytes()

    def two():
        return trained(few, checkpoint=tmp_path / str(processes().rank), watch=stop(7))

    halted = together(tmp_path / "two", two)
    assert all(isinstance(error, HaltError) for error in halted)
    assert (tmp_path / "1").read_bytes() == before
    saved = load_checkpoint(tmp_path / "0")
    assert saved is not None
    assert saved["place"]["epoch"] * 5 + saved["place"]["batch"] == 7
    close(trained(few, checkpoint=tmp_path / "0"), whole, 2e-5)


@pytest.mark.parametrize("count", [2, 3])
def test_shared_batch_norm_is_batch_norm_of_all(tmp_path, count):
    """Values, gradients and running statistics, in shares that differ in size."""
    torch.manual_seed(0)
    x = (torch.randn(7, 3, 4, 5, dtype=torch.float64) + 5).requires_grad_()
    weigh = torch.randn(7, 3, 4, 5, dtype=torch.float64)

    def norm_of(samples, part, weight):
        norm = BatchNorm2d(3).double()
        torch.nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(1))
        leaf = samples.detach().requires_grad_()
        with computing(part):
            y = norm(leaf)
            (y * weight).sum().backward()
        return [
            t.detach() for t in (y, leaf.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var)
        ]

    def work():
        own = processes().own(len(x))
        assert own is not None
        mine = slice(own.start, own.stop)
        return norm_of(x[mine], Part(share=1.0, before=0.0, own=own), weigh[mine])

    every, whole = together(tmp_path / "group", work, count), norm_of(x, None, weigh)
    for i in (0, 1):
        torch.testing.assert_close(torch.cat([found[i] for found in every]), whole[i])
    for i in (2, 3):
        torch.testing.assert_close(sum(found[i] for found in every), whole[i])
    for i in (4, 5):
        for found in every:
            torch.testing.assert_close(found[i], whole[i])


def test_fewer_samples_than_processes_are_computed_by_all(few, tmp_path):
    """A last batch of 2 samples for 3 processes."""
    data = dataclasses.replace(few, train=few.train.take(torch.arange(34)), search=few.train.take(torch.arange(34)))
    task, plan = Task(data=data), dataclasses.replace(PLAN, batch_size=32, epochs=1)

    def work():
        network = make(few)
        history = fit(network, task, plan, split=data.train)
        return {name: value.numpy().copy() for name, value in network.state_dict().items()}, history

    alone = work()
    for found in together(tmp_path / "group", work, 3):
        close(found, alone, 2e-5)


def test_processes_that_differ_are_named(tmp_path):
    def work():
        rank = processes().rank
        agree({"step": 3, "network": {"fc.weight": torch.zeros(2)}}, "train")
        agree({"network": {"fc.weight": torch.zeros(2), "fc.bias": torch.full((2,), float(rank))}}, "train")

    for error in together(tmp_path / "group", work):
        assert isinstance(error, TrainingError)
        assert "train: process 1 has another network.fc.bias than process 0" in str(error)


def test_what_processes_cannot_share_is_refused_by_name(few, tmp_path):
    def work():
        fit(make(few, "lsq"), Task(data=few), dataclasses.replace(PLAN, noise=0.05))

    for error in together(tmp_path / "group", work):
        assert isinstance(error, RecipeError)
        assert "train with noise can't be done by several processes yet: it starts the steps" in str(error)
