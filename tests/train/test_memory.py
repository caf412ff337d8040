"""Memory is foretold and measured; a batch that doesn't fit passes in parts that make the same step."""

from __future__ import annotations

import dataclasses
import sys

import graphs
import pytest
import torch
from torch import nn

from bitsmith.data import Augment, from_loaders
from bitsmith.errors import TrainingError
from bitsmith.quantize import GaussianActivation, Part, build, computing, float_blueprint
from bitsmith.quantize.parts import BatchNorm1d, BatchNorm2d
from bitsmith.train import Event, Task, TrainPlan, calibrate, fit, foretell, load_checkpoint, memory
from bitsmith.train.memory import WORKER_MEMORY, Forecast

CPU = torch.device("cpu")
PLAN = TrainPlan(epochs=2, batch_size=64, lr=0.05, device="cpu", compile="none")
LOOP = sys.modules["bitsmith.train.loop"]


def make(few, *, norm: bool = False, quantized: bool = True):
    """A fresh network, the same each time."""
    s = graphs.Sketch((1, 8, 8))
    y = s.same("relu", "relu0", s.conv("conv0", "x", 6, norm=norm))
    y = s.same("relu", "relu1", s.conv("conv1", y, 8, norm=norm))
    graph = s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", y)), 10))
    torch.manual_seed(5)
    network = build(graphs.blueprint(graph, 4, 8) if quantized else float_blueprint(graph))
    calibrate(network, few.train, batches=1, batch_size=64)
    return network


def fitting(monkeypatch, images: int):
    """A machine on which so many images fit."""
    monkeypatch.setattr(LOOP, "foretell", lambda *_, **__: Forecast(held=0, per_image=1e6))
    monkeypatch.setattr(memory, "limit", lambda device, share=1: images * 1e6)


def trained(few, **options):
    network = make(few, norm=options.pop("norm", False), quantized=options.pop("quantized", True))
    plan = dataclasses.replace(PLAN, **options)
    teacher = make(few) if plan.distill else None
    task = Task(data=few, augment=Augment(flip=True), label_smoothing=0.1, class_weights="balanced")
    return network, fit(network, task, plan, teacher=teacher)


@pytest.mark.parametrize(
    ("options", "images", "tolerance"),
    [
        ({"quantized": False}, 40, 1e-5),
        ({"quantized": False, "distill": 0.5, "ema": 0.9, "optimizer": "adamw", "lr": 0.01}, 7, 1e-5),
        ({"distill": 0.5}, 40, 5e-3),  # codes are rounded, so that now and then one of them is another
        ({}, 7, 5e-3),
    ],
)
def test_parts_make_the_step_of_their_batch(few, monkeypatch, options, images, tolerance):
    """Without BatchNorm: weights, steps and losses, in unequal parts, with smoothed and weighted losses."""
    whole, history = trained(few, **options)
    fitting(monkeypatch, images)
    parts, cut = trained(few, **options)
    assert cut.memory["part"] == {40: 32, 7: 4}[images]
    assert cut.curves["loss"] == pytest.approx(history.curves["loss"], rel=tolerance)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=0, atol=4 * tolerance, msg=name)


def test_with_batch_norm_parts_are_other_steps_and_the_message_says_so(few, monkeypatch):
    _, history = trained(few, norm=True)
    fitting(monkeypatch, 40)
    told: list[Event] = []
    fit(make(few, norm=True), Task(data=few), PLAN, watch=told.append)
    said = [event.note for event in told if event.note]
    assert len(said) == 1
    assert "passes in parts of 32 (32 MB)" in said[0]
    assert "except that BatchNorm normalizes each part by its own statistics" in said[0]
    _, cut = trained(few, norm=True)
    assert cut.curves["loss"] != pytest.approx(history.curves["loss"], rel=1e-4)
    assert cut.curves["loss"] == pytest.approx(history.curves["loss"], rel=0.1)


@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
def test_running_statistics_move_as_one_batch_moves_them(momentum):
    """To (1 - m) r + m times the mean over the parts, whatever their sizes."""
    torch.manual_seed(0)
    norm, plain = BatchNorm2d(3, momentum=momentum), nn.BatchNorm2d(3, momentum=momentum)
    for _ in range(3):
        x = torch.randn(10, 3, 4, 4) + torch.arange(3.0)[:, None, None]
        parts, before, means = x.split([5, 3, 2]), 0.0, []
        share = [0.5, 0.3, 0.2]
        for piece, s in zip(parts, share, strict=True):
            with computing(Part(share=s, before=before)):
                norm(piece)
            before += s
            means.append(piece.mean((0, 2, 3)))
        plain(x)
        torch.testing.assert_close(norm.running_mean, plain.running_mean)  # the mean of means is the batch's
        assert norm.num_batches_tracked == plain.num_batches_tracked
    before = norm.running_var.clone()
    with computing(Part(share=1.0, before=0.0)):
        norm(x)
    assert not torch.equal(before, norm.running_var)
    with computing(Part(share=0.5, before=0.5)):
        norm.eval()(x)  # eval mode knows of no parts
    assert norm.num_batches_tracked == 4


def test_whole_batches_are_torchs_own():
    torch.manual_seed(0)
    x = torch.randn(8, 5)
    norm, plain = BatchNorm1d(5), nn.BatchNorm1d(5)
    assert torch.equal(norm(x), plain(x))
    assert torch.equal(norm.running_var, plain.running_var)


def test_running_deviations_move_as_one_batch_moves_them():
    torch.manual_seed(0)
    x = torch.randn(8, 5)
    whole, parts = (GaussianActivation(4, signed=True, unit_variance=False) for _ in range(2))
    with computing(Part(share=1.0, before=0.0)):
        whole(x)
    deviations = [piece.square().mean().sqrt() for piece in x.split(4)]
    for i, piece in enumerate(x.split(4)):
        with computing(Part(share=0.5, before=i / 2)):
            parts(piece)
    assert parts.deviation == pytest.approx(0.9 + 0.1 * float(sum(deviations)) / 2)
    assert whole.deviation == pytest.approx(0.9 + 0.1 * float(x.square().mean().sqrt()))


def test_a_part_is_kept_and_gone_on_with(few, monkeypatch, tmp_path):
    """To the same bits, though memory has room again."""

    class HaltError(Exception):
        pass

    def halt(event: Event) -> None:
        if event.step == 3 and not event.note:
            raise HaltError

    with monkeypatch.context() as patched:
        fitting(patched, 20)
        whole = make(few, norm=True)
        history = fit(whole, Task(data=few), PLAN)
        with pytest.raises(HaltError):
            fit(make(few, norm=True), Task(data=few), PLAN, checkpoint=tmp_path / "c", checkpoint_seconds=0, watch=halt)
    saved = load_checkpoint(tmp_path / "c")
    assert saved is not None
    assert saved["memory"]["part"] == 16
    resumed = make(few, norm=True)
    again = fit(resumed, Task(data=few), PLAN, checkpoint=tmp_path / "c")
    assert again.curves == history.curves
    assert again.memory["part"] == 16
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())


def test_trying_changes_nothing(few, monkeypatch):
    """The steps that tell the memory leave weights, statistics and random numbers as they were."""
    tried, _ = trained(few, norm=True, ema=0.9, optimizer="adamw", lr=0.01)
    monkeypatch.setattr(LOOP, "foretell", lambda *_, **__: None)
    untried, history = trained(few, norm=True, ema=0.9, optimizer="adamw", lr=0.01)
    assert all(torch.equal(v, untried.state_dict()[k]) for k, v in tried.state_dict().items())
    assert "predicted" not in history.memory


def test_loaders_of_larger_batches_are_not_cut(few, monkeypatch):
    """A user's own loader has batches of its own size, whatever the plan's."""
    x, y = next(few.train.batches(batch_size=200))
    loaders = {name: [(x, y)] for name in ("train", "search", "validation", "test")}
    sizes = []
    network = make(few, norm=True)
    network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])) if module.training else None)
    monkeypatch.setattr(LOOP, "foretell", lambda *_, **__: Forecast(held=0, per_image=1e6))
    history = fit(network, Task(data=from_loaders(**loaders, classes=few.classes)), PLAN)
    assert set(sizes) == {len(x)}
    assert history.memory["batch"] == history.memory["part"] == len(x)


def test_trying_takes_no_step_of_a_schedule(few):
    """A training of two steps has a schedule of two."""
    data = dataclasses.replace(few, train=few.train.take(torch.arange(128)))
    for schedule in ("one-cycle", "cosine"):
        plan = dataclasses.replace(PLAN, epochs=1, schedule=schedule)
        assert len(fit(make(few), Task(data=data), plan, split=data.train).curves["loss"]) == 1


def test_memory_too_small_for_two_images_is_one_error_before_the_first_step(few, monkeypatch):
    fitting(monkeypatch, 1)
    network, told = make(few), []
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(TrainingError, match=r"even 2 images at once take about 2 MB .* take a smaller input"):
        fit(network, Task(data=few), PLAN, watch=told.append)
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in before.items())
    assert told == []


def test_what_is_foretold_is_what_is_taken():
    """A step that takes 1 MB per image and 20 MB more, tried on up to 512 images and foretold for them."""

    def step(images: int) -> None:
        torch.ones(images * 250_000 + 5_000_000)

    found = foretell(step, least=2, most=512, device=CPU)
    if found is None:
        pytest.skip("this machine doesn't let a process measure its memory")
    assert found.per_image == pytest.approx(1e6, rel=0.1)
    memory.restart_peak(CPU)
    step(400)
    assert memory.peak(CPU) == pytest.approx(found.of(400), rel=0.05)


def test_a_training_takes_what_was_foretold(few):
    network = build(float_blueprint(graphs.blueprint(_wide(), 8, 8).graph))
    history = fit(network, Task(data=few), dataclasses.replace(PLAN, epochs=1))
    if "predicted" not in history.memory:
        pytest.skip("this machine doesn't let a process measure its memory")
    assert history.memory["measured"] == pytest.approx(history.memory["predicted"], rel=0.15)


def _wide():
    s = graphs.Sketch((1, 8, 8))
    y = s.same("relu", "relu0", s.conv("conv0", "x", 128))
    return s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", y)), 10))


def test_forecasts_halve():
    found = Forecast(held=100, per_image=10)
    assert [found.part(128, 2, limit) for limit in (10**4, 1380, 1379, 120, 119)] == [128, 128, 64, 2, None]
    assert found.part(5, 2, 130) == 3


def test_workers_plan_with_their_part_of_the_memory(monkeypatch):
    """Whatever is free when one of them begins."""
    monkeypatch.setattr(memory, "in_use", lambda device: 10**8)
    found = Forecast(held=1e8, per_image=1e7)

    def part(free: float) -> int:
        monkeypatch.setattr(memory, "available", lambda device: free)
        return memory.fitting_part(found, 64, 2, CPU, "a training")

    assert part(1e9) == 64
    monkeypatch.setenv(WORKER_MEMORY, str(memory.worker_memory(2)))
    assert [part(free) for free in (1e9, 6e8, 3e8)] == [16, 16, 16]
    assert part(5e7) == 4
    assert memory.free_in_words(CPU) == "50 MB are free, 400 MB in all for this worker"
    with pytest.raises(TrainingError, match="take fewer workers, a smaller input"):
        part(1e7)


def test_workers_of_a_system_without_proc_have_no_part(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    assert memory.worker_memory(2) == 0
    monkeypatch.setenv(WORKER_MEMORY, "0")
    monkeypatch.setattr(memory, "available", lambda device: 10**9)
    monkeypatch.setattr(memory, "in_use", lambda device: 0)
    assert memory.limit(CPU) == 0.8e9


def test_the_least_of_machine_and_control_groups_is_free(tmp_path, monkeypatch):
    """Version 2: every group on the way counts; what files take in it is free. Version 1 likewise."""
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    monkeypatch.setattr(memory, "_PROC", proc)
    monkeypatch.setattr(memory, "_CGROUPS", groups)
    (proc / "self/cgroup").write_text("0::/outer/inner\n")
    assert memory.available(CPU) == 5_120_000
    for path, most in (("outer", "4000000"), ("outer/inner", "max")):
        (groups / path).mkdir(parents=True)
        (groups / path / "memory.max").write_text(most + "\n")
        (groups / path / "memory.current").write_text("3000000\n")
        (groups / path / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    assert memory.available(CPU) == 1_500_000
    (proc / "self/cgroup").write_text("4:memory:/job\n2:cpu:/job\n0::/\n")
    old = groups / "memory/job"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("1000000")
    (old / "memory.usage_in_bytes").write_text("800000")
    (old / "memory.stat").write_text("total_inactive_file 100000\n")
    assert memory.available(CPU) == 300_000
