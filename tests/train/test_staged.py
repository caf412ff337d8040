"""Noise training: which layer is in which stage, what it computes, that it resumes, and that it ends hard."""

import dataclasses

import graphs
import pytest
import torch
from torch import nn

import bitsmith as bs
from bitsmith.errors import RecipeError
from bitsmith.quantize import build, float_blueprint
from bitsmith.recipe import parse_recipe
from bitsmith.train import Event, Stages, Task, TrainPlan, fit

PLAN = TrainPlan(epochs=4, batch_size=64, lr=0.05, device="cpu", compile="none", noise=0.05)
STEPS = 5  # of an epoch


class HaltError(Exception):
    pass


def equal(a: nn.Module, b: nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return list(x) == list(y) and all(torch.equal(x[k], y[k]) for k in x)


def phases(stages: Stages) -> str:
    return "".join("f" if layer.is_float else "n" if layer.noise else "h" for _, layer in stages.layers)


def test_the_stage_of_every_layer_over_time(fresh):
    stages = Stages(fresh(), 0.05, 9)
    seen = []
    for step in range(9):
        stages.hold(step)
        seen.append(phases(stages))
    assert seen == ["nff", "nff", "nff", "hnf", "hnf", "hhn", "hhn", "hhh", "hhh"]
    stages.hold(0)
    stages.finish()
    assert phases(stages) == "hhh"


def test_layers_behind_are_float(fresh):
    """Against the same network without their quantizers; the ReLU that was left to a quantizer stays."""
    network, other = fresh(quantizer="nice"), fresh(quantizer="nice")
    Stages(network, 0.05, 8).hold(0)
    for name in ("conv1", "fc"):
        other.layer(name).quantize_weight = None
    other.layer("conv1").quantize_input = nn.ReLU()
    other.layer("fc").quantize_input = None
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(network.eval()(x), other.eval()(x))  # without noise, as nothing is trained
    network.train()
    assert not torch.equal(network(x), network(x))


def test_steps_start_where_the_stage_begins(fresh):
    network = fresh()
    stages = Stages(network, 0.05, 8)
    layer = network.layer("conv1")
    with torch.no_grad():
        layer.weight.mul_(3)
    before = layer.quantize_weight.log_step.clone(), layer.quantize_input.log_step.clone()
    x = 5 * torch.randn(16, 1, 8, 8)
    for step, started in ((0, False), (1, False), (2, True)):
        stages.begin(step)
        network(x)
        stages.passed()
        assert not any(module.calibrating for module in network.calibrated())
        assert torch.equal(layer.quantize_weight.log_step, before[0]) != started
        assert torch.equal(layer.quantize_input.log_step, before[1]) != started
    torch.testing.assert_close(layer.quantize_weight.log_step, before[0] + torch.log(torch.tensor(3.0)))


def test_it_goes_on_to_the_same_bits(task, fresh, tmp_path):
    """Stopped in three stages, once between an epoch's last step and its end."""
    whole = fresh()
    history = fit(whole, task, PLAN, seed=3)
    checkpoint, stops = tmp_path / "checkpoint", [2, 2 * STEPS, 16]

    def stop(event: Event) -> None:
        if stops and event.step == stops[0] and not event.epoch_end:
            stops.pop(0)
            raise HaltError

    for _ in range(3):
        torch.manual_seed(99)
        with pytest.raises(HaltError):
            fit(fresh(), task, PLAN, seed=3, checkpoint=checkpoint, checkpoint_seconds=0, watch=stop)
    parts = fresh()
    again = fit(parts, task, PLAN, seed=3, checkpoint=checkpoint, checkpoint_seconds=0)
    assert equal(whole, parts)
    assert again.curves == history.curves
    with pytest.raises(bs.BitsmithError, match=r"noise = 0\.05, now it is None"):
        fit(fresh(), task, dataclasses.replace(PLAN, noise=0.0), seed=3, checkpoint=checkpoint)


def test_it_ends_hard_in_all_layers_and_is_verified(few, tmp_path):
    """Filters of their own bits included: trained, written, proved."""
    s = graphs.Sketch((1, 8, 8))
    y = graphs.basic_block(s, "a", s.same("relu", "relu", s.conv("stem", "x", 4)), 4)
    graph = s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", y)), 10))
    template = dataclasses.replace(graphs.blueprint(graph, 2, 4), quantizer="nice", input=few.input)
    bits = dict(template.bits) | {"a.conv1": bs.Bits(weight=(2, 3, 3, 8), activation=(2, 4, 4, 2))}
    bits |= {name: bs.Bits(weight=8, activation=8) for name in ("stem", "fc")}
    net = bs.train(Task(data=few), template.with_bits(bits), PLAN)
    assert all(not layer.is_float and not layer.noise for _, layer in net.priced())
    network = build(template.with_bits(bits))
    network.load_state_dict(net.state_dict())
    x, _ = next(few.test.batches(batch_size=8))
    assert torch.equal(network.eval()(x), net.eval()(x))
    layer = net.layer("a.conv1")
    for row, most in zip(layer.quantize_weight(layer.weight), (2, 3, 3, 8), strict=True):
        assert row.unique().numel() <= 2**most - 1
    assert bs.verify(bs.export(net, tmp_path), few.test).ok


def test_refusals(task, fresh, two_convs):
    with pytest.raises(RecipeError, match="no quantized weights"):
        fit(build(float_blueprint(two_convs(4))), task, PLAN)
    with pytest.raises(RecipeError, match="'conv0' has another quantizer"):
        fit(fresh(quantizer="pact"), task, PLAN)
    with pytest.raises(RecipeError, match="give it more epochs"):
        Stages(fresh(), 0.05, 3)
    with pytest.raises(RecipeError, match="which ema would average"):
        TrainPlan(noise=0.05, ema=0.9)
    with pytest.raises(RecipeError, match="can't take compile: network"):
        TrainPlan(noise=0.05, compile="network")
    with pytest.raises(RecipeError, match="noise belong to the final training"):
        bs.Composite(plan=TrainPlan(noise=0.05))
    values = {"model": {"spec": "resnet8_slim"}, "data": {"source": "digits"}, "budgets": ["weights=20kB"]}
    assert parse_recipe({**values, "train": {"noise": 0.05}}, "here").train.noise == 0.05
    with pytest.raises(RecipeError, match=r"float_plan\.noise"):
        parse_recipe({**values, "float_plan": {"noise": 0.05}}, "here")
