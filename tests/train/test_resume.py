"""Stopped at any step, a training goes on to the same bits; how it computes is kept with it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import threading
from itertools import pairwise

import graphs
import pytest
import torch
from torch import nn

from bitsmith.data import Augment, from_loaders
from bitsmith.errors import RunError
from bitsmith.quantize import build, float_blueprint
from bitsmith.train import (
    Event,
    Task,
    TrainPlan,
    calibrate,
    compiling,
    fit,
    load_checkpoint,
    loop,
    mode,
    save_checkpoint,
)

PLAN = TrainPlan(epochs=3, batch_size=64, lr=0.05, device="cpu", compile="none")
STEPS = 5  # of an epoch


class HaltError(Exception):
    pass


def stop_at(step: int):
    def watch(event: Event) -> None:
        if event.step == step and not event.epoch_end:
            raise HaltError

    return watch


def equal(a: nn.Module, b: nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return list(x) == list(y) and all(torch.equal(x[k], y[k]) for k in x)


def with_dropout(width: int = 4):
    s = graphs.Sketch((1, 8, 8))
    y = s.same("relu", "relu0", s.conv("conv0", "x", width))
    y = s.same("dropout", "drop", s.flatten("flat", s.global_pool("pool", y)))
    graph = s.graph(s.linear("fc", y, 10))
    nodes = tuple(dataclasses.replace(n, rate=0.3) if n.op == "dropout" else n for n in graph.nodes)
    return dataclasses.replace(graph, nodes=nodes)


def make(kind: str, few):
    """The same fresh network each time."""
    torch.manual_seed(5)
    blueprint = graphs.blueprint(with_dropout(), 4, 4)
    if kind == "float":
        return build(float_blueprint(blueprint.graph))
    network = build(dataclasses.replace(blueprint, quantizer=kind))
    calibrate(network, few.train, batches=1, batch_size=64)
    return network


ALL = {"ema": 0.9, "distill": 0.4, "lr": 0.02}


@pytest.mark.parametrize(
    ("kind", "settings", "at"),
    [
        ("float", {}, 7),
        ("lsq", ALL, 3),
        ("lsq", ALL, STEPS),  # before the first epoch is evaluated
        ("lsq", ALL, 3 * STEPS),  # before the last one is
        ("gaussian", {"optimizer": "adamw", "schedule": "cosine", "ema": 0.99}, 8),
        ("lsq", ALL | {"precision": "bf16"}, 13),
        ("lsq", ALL | {"compile": "network"}, 8),
        ("lsq", ALL | {"compile": "quantizers"}, 8),
    ],
)
def test_a_stop_within_an_epoch_changes_no_bit(few, tmp_path, full, kind, settings, at):
    """With augmentation, dropout, averaged weights, a teacher; the checkpoint is that of the last step."""
    if "compile" in settings and not full:
        pytest.skip("full tier: it compiles")
    task = Task(data=few, augment=Augment(crop=1, flip=True), label_smoothing=0.1)
    plan = dataclasses.replace(PLAN, **settings)
    teacher = make("float", few) if plan.distill else None
    whole, half, resumed = (make(kind, few) for _ in range(3))
    options = {"seed": 1, "teacher": teacher}
    uninterrupted = fit(whole, task, plan, **options)

    path = tmp_path / "train.checkpoint"
    with pytest.raises(HaltError):
        fit(half, task, plan, checkpoint=path, checkpoint_seconds=0, watch=stop_at(at), **options)
    torch.manual_seed(99)
    steps = []
    history = fit(resumed, task, plan, checkpoint=path, watch=lambda e: steps.append(e.step), **options)
    assert steps[0] == (at if at % STEPS == 0 else at + 1)  # the end of an epoch is told as its last step
    assert equal(resumed, whole)
    assert history.curves == uninterrupted.curves
    assert history.seconds > 0


def test_every_step_may_be_the_last(few, tmp_path):
    """Stopped after each single step, again and again."""
    task = Task(data=few, augment=Augment(flip=True))
    plan = dataclasses.replace(PLAN, epochs=2, ema=0.9)
    whole = make("lsq", few)
    curves = fit(whole, task, plan).curves
    for at in range(1, 2 * STEPS + 1):
        with pytest.raises(HaltError):
            fit(
                make("lsq", few),
                task,
                plan,
                checkpoint=tmp_path / "c",
                checkpoint_seconds=0,
                watch=stop_at(at),
            )
    last = make("lsq", few)
    assert fit(last, task, plan, checkpoint=tmp_path / "c").curves == curves
    assert equal(last, whole)


def test_shuffling_loaders_resume_too(few, tmp_path):
    """Order and augmentation of the user's own loaders, drawn from torch's generator; two loaders in a row."""

    class Noisy(torch.utils.data.Dataset):
        def __init__(self, split):
            self.x, self.y = next(split.batches(batch_size=1000))

        def __len__(self):
            return len(self.y)

        def __getitem__(self, i):
            return self.x[i] + 0.1 * torch.randn(self.x[i].shape), int(self.y[i])

    def loader(split):
        return torch.utils.data.DataLoader(Noisy(split), batch_size=32, shuffle=True)

    data = from_loaders(
        train=loader(few.train),
        search=loader(few.search),
        validation=torch.utils.data.DataLoader(Noisy(few.validation), batch_size=32),
        test=loader(few.test),
        classes=few.classes,
    )
    task, plan = Task(data=data), dataclasses.replace(PLAN, epochs=2, batch_size=32)
    steps = data.training.steps(batch_size=32)
    first = data.train.steps(batch_size=32)
    for at in (2, first + 1, steps + first):
        whole, half, resumed = (make("lsq", few) for _ in range(3))
        curves = fit(whole, task, plan).curves
        path = tmp_path / str(at)
        with pytest.raises(HaltError):
            fit(half, task, plan, checkpoint=path, checkpoint_seconds=0, watch=stop_at(at))
        assert fit(resumed, task, plan, checkpoint=path).curves == curves
        assert equal(resumed, whole)


def test_checkpoints_come_by_time(few, tmp_path, monkeypatch):
    """On a clock of 10 s per look: a checkpoint every 60 s and at the end of an epoch."""
    clock, saved = iter(range(0, 10**6, 10)), []
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(
        loop, "save_checkpoint", lambda values, path: saved.append((values["seconds"], values["place"]))
    )
    fit(make("lsq", few), Task(data=few), dataclasses.replace(PLAN, batch_size=8), checkpoint=tmp_path / "c")
    seconds = [at for at, _ in saved]
    assert len(saved) > 12
    assert sum(place["batch"] == 0 for _, place in saved) == 3  # ends of epochs
    assert max(b - a for a, b in pairwise(seconds)) <= 90


def test_the_thread_count_is_kept(few, tmp_path):
    path, told = tmp_path / "c", []
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(HaltError):
            fit(make("lsq", few), Task(data=few), PLAN, checkpoint=path, watch=stop_at(STEPS + 1))
        saved = load_checkpoint(path)
        assert saved is not None
        assert saved["mode"] == {"compile": "none", "precision": "float32", "threads": 2}
        torch.set_num_threads(1)

        def watch(event: Event) -> None:
            told.append((torch.get_num_threads(), event.note))

        fit(make("lsq", few), Task(data=few), PLAN, checkpoint=path, watch=watch)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert told[0] == (1, "goes on with 2 threads, as it began, instead of 1")
    assert {(threads, note) for threads, note in told[1:]} == {(2, "")}


def test_ctrl_c_waits_for_the_step_and_keeps_it(few, tmp_path):
    task, path = Task(data=few), tmp_path / "train.checkpoint"

    def press(event: Event) -> None:
        if event.step == 7 and not event.epoch_end:
            signal.raise_signal(signal.SIGINT)

    whole, half, resumed = (make("lsq", few) for _ in range(3))
    fit(whole, task, PLAN)
    with pytest.raises(KeyboardInterrupt):
        fit(half, task, PLAN, checkpoint=path, watch=press)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    saved = load_checkpoint(path)
    assert saved is not None
    assert (saved["place"]["epoch"], saved["place"]["batch"]) == (1, 3)  # pressed after step 7, kept with the 8th
    fit(resumed, task, PLAN, checkpoint=path)
    assert equal(resumed, whole)


def test_a_second_ctrl_c_and_one_without_a_checkpoint_act_at_once(few, tmp_path):
    seen = []

    def press(event: Event) -> None:
        if event.note:
            return
        seen.append(event.step)
        signal.raise_signal(signal.SIGINT)
        seen.append("went on")
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(make("lsq", few), Task(data=few), PLAN, checkpoint=tmp_path / "c", watch=press)
    assert seen == [1, "went on"]
    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        fit(make("lsq", few), Task(data=few), PLAN, watch=press)
    assert seen == [1]


def test_it_trains_in_another_thread(few, tmp_path):
    networks = [make("lsq", few), make("lsq", few)]
    fit(networks[0], Task(data=few), PLAN)
    thread = threading.Thread(target=lambda: fit(networks[1], Task(data=few), PLAN, checkpoint=tmp_path / "c"))
    thread.start()
    thread.join()
    assert equal(*networks)


def test_a_checkpoint_of_another_teacher(few, tmp_path):
    plan = dataclasses.replace(PLAN, epochs=1, distill=0.5)
    teacher = make("float", few)
    fit(make("lsq", few), Task(data=few), plan, teacher=teacher, checkpoint=tmp_path / "c")
    with torch.no_grad():
        teacher.get_parameter("fc.bias").add_(1)
    with pytest.raises(RunError, match="made with another teacher"):
        fit(make("lsq", few), Task(data=few), plan, teacher=teacher, checkpoint=tmp_path / "c")


def test_a_compiler_that_is_gone(few, tmp_path, monkeypatch):
    """A run that began compiled does not go on otherwise; a new one does, and says so."""
    path, task = tmp_path / "c", Task(data=few)
    plan = dataclasses.replace(PLAN, compile="auto")
    with pytest.raises(HaltError):
        fit(make("lsq", few), task, plan, checkpoint=path, checkpoint_seconds=0, watch=stop_at(2))
    saved = load_checkpoint(path)
    assert saved is not None
    save_checkpoint(saved | {"mode": saved["mode"] | {"compile": "network"}}, path)
    for module in (mode, compiling):
        monkeypatch.setattr(module, "has_compiler", lambda device: False)
    with pytest.raises(RunError, match=r"made with compiled network.*install one.*or delete that file"):
        fit(make("lsq", few), task, plan, checkpoint=path)
    plain = make("lsq", few)
    fit(plain, task, PLAN)
    monkeypatch.setattr(compiling, "_STEPS", {"network": 15, "quantizers": 3})  # auto: compiling would pay
    for how in ("network", "quantizers", "auto"):
        notes: list[str] = []
        fallen_back = make("lsq", few)
        fit(fallen_back, task, dataclasses.replace(plan, compile=how), watch=lambda e, to=notes: to.append(e.note))
        notes = [note for note in notes if "memory" not in note]
        assert notes[0] == "torch.compile finds no compiler on this machine; nothing is compiled"
        assert not any(notes[1:])
        assert equal(plain, fallen_back)


def test_auto_compiles_what_pays(monkeypatch):
    cpu, asked = torch.device("cpu"), []
    monkeypatch.setattr(compiling, "has_compiler", lambda device: asked.append(device) or True)
    steps = compiling._STEPS
    found = [compiling.resolve("auto", steps=n, device=cpu) for n in (1, steps["quantizers"], steps["network"])]
    assert found == ["none", "quantizers", "network"]
    assert len(asked) == 2  # looking for a compiler takes a second: short runs don't
    assert compiling.resolve("network", steps=1, device=cpu) == "network"
    assert compiling.resolve("none", steps=10**9, device=cpu) == "none"


def test_this_machine_has_a_compiler():
    """As torch.compile itself finds it."""
    assert compiling.has_compiler(torch.device("cpu")) == (shutil.which(os.environ.get("CXX", "g++")) is not None)


@pytest.mark.parametrize(
    ("bf16", "amx", "chosen"), [(True, False, "bf16"), (False, True, "bf16"), (False, False, None)]
)
def test_auto_precision_follows_the_machine(monkeypatch, bf16, amx, chosen):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    cpu = torch.device("cpu")
    found = mode.choose_mode(dataclasses.replace(PLAN, precision="auto"), steps=1, device=cpu)
    assert found.precision == (chosen or "float32")
    assert mode.choose_mode(PLAN, steps=1, device=cpu).precision == "float32"
    assert found.threads == torch.get_num_threads()


def test_a_killed_write_leaves_the_old_checkpoint_and_its_rest_is_removed(few, tmp_path):
    """A process of this number is gone; one of ours is not."""
    path, task = tmp_path / "c", Task(data=few)
    gone, living = tmp_path / ".c.999999999.partial", tmp_path / f".c.{os.getppid()}.partial"
    for partial in (gone, living):
        partial.write_bytes(b"half")
    fit(make("lsq", few), task, dataclasses.replace(PLAN, epochs=1), checkpoint=path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [living.name, "c"]
