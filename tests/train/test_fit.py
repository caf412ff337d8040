"""fit: it learns, it repeats, it goes on where it stopped, it says what went wrong."""

from __future__ import annotations

import dataclasses

import graphs
import pytest
import torch
from torch import nn

from bitsmith.data import from_loaders, open_data
from bitsmith.errors import RecipeError, RunError, TrainingError
from bitsmith.quantize import build, float_blueprint
from bitsmith.train import Event, Task, TrainPlan, calibrate, evaluate, fit, make_optimizer, make_schedule

PLAN = TrainPlan(epochs=3, batch_size=64, lr=0.05, device="cpu")


def equal(a: nn.Module, b: nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return list(x) == list(y) and all(torch.equal(x[k], y[k]) for k in x)


@pytest.mark.parametrize("bits", [(2, 4), None])
def test_it_learns_digits(digits, two_convs, bits):
    task = Task(data=digits)
    graph = two_convs(12)
    torch.manual_seed(0)
    if bits is None:
        network = build(float_blueprint(graph))
    else:
        blueprint = graphs.blueprint(graph, *bits)
        ends = {name: graphs.uniform_bits(graph, 8, 8)[name] for name in ("conv0", "fc")}
        network = build(blueprint.with_bits({**blueprint.bits, **ends}))
        calibrate(network, digits.train)
    history = fit(network, task, dataclasses.replace(PLAN, epochs=6, lr=0.2))
    metric, _ = evaluate(network, digits.test, task)
    assert metric > 0.8
    assert history.curves["loss"][-1] < history.curves["loss"][0] / 2
    assert set(history.curves) == {"loss", "validation_loss", "validation_accuracy", "lr"}
    assert {len(values) for values in history.curves.values()} == {6}
    assert history.seconds > 0


def test_same_seed_same_weights(task, fresh):
    a, b, c = fresh(), fresh(), fresh()
    assert equal(a, b)
    torch.manual_seed(1)
    first = fit(a, task, PLAN, seed=3)
    torch.manual_seed(2)  # what came before doesn't matter
    second = fit(b, task, PLAN, seed=3)
    assert equal(a, b)
    assert first.curves == second.curves
    fit(c, task, PLAN, seed=4)
    assert not equal(a, c)


class HaltError(Exception):
    pass


@pytest.mark.parametrize(
    ("optimizer", "schedule", "at"),  # in epoch 2, at its end, in epoch 3; an epoch has 5 steps
    [("sgd", "one-cycle", 7), ("adamw", "cosine", 10), ("sgd", "cosine", 12), ("adamw", "one-cycle", 12)],
)
def test_a_stopped_training_goes_on_to_the_bit(task, fresh, tmp_path, optimizer, schedule, at):
    plan = dataclasses.replace(PLAN, optimizer=optimizer, schedule=schedule, lr=0.01)
    whole = fresh()
    uninterrupted = fit(whole, task, plan, seed=1)

    def stop(event: Event) -> None:
        if event.step == at and not event.epoch_end:
            raise HaltError

    half, path = fresh(), tmp_path / "train.checkpoint"
    with pytest.raises(HaltError):
        fit(half, task, plan, seed=1, checkpoint=path, watch=stop)
    torch.manual_seed(99)
    resumed, steps = fresh(), []
    history = fit(resumed, task, plan, seed=1, checkpoint=path, watch=lambda e: steps.append(e.step))
    assert min(steps) == (at - 1) // 5 * 5 + 1
    assert equal(resumed, whole)
    assert history.curves == uninterrupted.curves
    # A finished training is not run again.
    again, steps = fresh(), []
    fit(again, task, plan, seed=1, checkpoint=path, watch=lambda e: steps.append(e.step))
    assert steps == []
    assert equal(again, whole)
    assert [p.name for p in tmp_path.iterdir()] == ["train.checkpoint"]


def test_dropout_and_running_deviations_resume_too(task, tmp_path, few):
    s = graphs.Sketch((1, 8, 8))
    y = s.same("relu", "relu0", s.conv("conv0", "x", 4))
    y = s.same("dropout", "drop", s.flatten("flat", s.global_pool("pool", y)))
    graph = s.graph(s.linear("fc", y, 10))
    nodes = tuple(dataclasses.replace(n, rate=0.3) if n.op == "dropout" else n for n in graph.nodes)
    blueprint = graphs.blueprint(dataclasses.replace(graph, nodes=nodes), 4, 4)
    blueprint = dataclasses.replace(blueprint, quantizer="gaussian")

    def network():
        torch.manual_seed(0)
        return build(blueprint)

    def stop(event: Event) -> None:
        if event.step == 6:
            raise HaltError

    whole, half, resumed = network(), network(), network()
    fit(whole, task, PLAN)
    with pytest.raises(HaltError):
        fit(half, task, PLAN, checkpoint=tmp_path / "c", watch=stop)
    fit(resumed, task, PLAN, checkpoint=tmp_path / "c")
    assert equal(resumed, whole)


def test_a_checkpoint_of_another_network(task, fresh, two_convs, tmp_path):
    plan = dataclasses.replace(PLAN, epochs=1)
    fit(fresh(), task, plan, checkpoint=tmp_path / "c")
    other = build(graphs.blueprint(two_convs(6), 4, 4))
    with pytest.raises(RunError, match=r"other bits|other starting weights"):
        fit(other, task, plan, checkpoint=tmp_path / "c")


def test_a_checkpoint_of_other_data_or_weights(task, few, fresh, tmp_path):
    plan = TrainPlan(epochs=2, batch_size=64, compile="none")
    fit(fresh(), task, plan, checkpoint=tmp_path / "c")
    other = Task(data=open_data("digits", limit=299))
    with pytest.raises(RunError, match="was made with other data; delete it"):
        fit(fresh(), other, plan, checkpoint=tmp_path / "c")
    network = fresh()
    with torch.no_grad():
        next(layer for _, layer in network.priced()).weight.mul_(1.01)
    with pytest.raises(RunError, match="was made with other starting weights"):
        fit(network, task, plan, checkpoint=tmp_path / "c")
    assert fit(fresh(), task, plan, checkpoint=tmp_path / "c").curves["loss"]


def test_a_checkpoint_of_other_bits(task, two_convs, tmp_path):
    """Its state fits by names and shapes, and is of another network all the same."""
    plan = dataclasses.replace(PLAN, epochs=1)
    fit(build(graphs.blueprint(two_convs(4), 4, 4)), task, plan, checkpoint=tmp_path / "c")
    with pytest.raises(RunError, match="made with other bits"):
        fit(build(graphs.blueprint(two_convs(4), 2, 4)), task, plan, checkpoint=tmp_path / "c")


def test_a_checkpoint_of_other_settings(task, fresh, tmp_path):
    plan = dataclasses.replace(PLAN, epochs=1)
    fit(fresh(), task, plan, checkpoint=tmp_path / "c")
    with pytest.raises(RunError, match=r"made with lr = 0\.05, now it is 0\.1; delete it"):
        fit(fresh(), task, dataclasses.replace(plan, lr=0.1), checkpoint=tmp_path / "c")
    with pytest.raises(RunError, match="made with seed = 0, now it is 1"):
        fit(fresh(), task, plan, seed=1, checkpoint=tmp_path / "c")


def test_events(task, fresh):
    events: list[Event] = []
    fit(fresh(), task, PLAN, stage="train w4a4", watch=events.append)
    assert {e.stage for e in events} == {"train w4a4"}
    steps = task.data.training.steps(batch_size=64)
    assert [e.step for e in events if not e.epoch_end and not e.note] == list(range(1, 3 * steps + 1))
    assert {e.steps for e in events} == {3 * steps}
    assert sum(e.images for e in events) == 3 * len(task.data.training)
    ends = [e for e in events if e.epoch_end]
    assert [e.step for e in ends] == [steps, 2 * steps, 3 * steps]
    assert set(ends[0].values) == {"loss", "validation_loss", "validation_accuracy", "lr"}


def test_it_trains_on_the_split_it_is_given(task, fresh, few):
    seen = []
    fit(fresh(), task, dataclasses.replace(PLAN, epochs=1), split=few.train, watch=lambda e: seen.append(e.images))
    assert sum(seen) == len(few.train)


def test_nan_names_stage_step_and_rate(few, fresh, tmp_path):
    steps = []

    def watch(event):
        steps.extend([] if event.epoch_end or event.note else [event])

    def loss(logits, labels):
        value = nn.functional.cross_entropy(logits, labels)
        return value * torch.nan if len(steps) == 5 and logits.requires_grad else value

    task = Task(data=few, loss=loss)
    path = tmp_path / "train.checkpoint"
    with pytest.raises(TrainingError) as caught:
        fit(fresh(), task, PLAN, stage="train uniform w4a4", checkpoint=path, watch=watch)
    message = str(caught.value)
    assert message.startswith("train uniform w4a4: the loss became nan in epoch 2, step 6, at learning rate 0.0")
    assert str(path) in message
    steps.clear()
    with pytest.raises(TrainingError, match="nothing was saved"):
        fit(fresh(), task, PLAN, watch=watch)


def test_custom_loss_and_metric(few, fresh):
    def margin(logits, labels):
        return nn.functional.multi_margin_loss(logits, labels)

    def worst_class(logits, labels):
        hits = logits.argmax(1) == labels
        return min(float(hits[labels == c].double().mean()) for c in range(10))

    task = Task(data=few, loss=margin, metric=worst_class)
    network = fresh()
    history = fit(network, task, PLAN)
    assert "validation_worst_class" in history.curves
    metric, loss = evaluate(network, few.validation, task)
    x, y = next(few.validation.batches(batch_size=1000))
    network.eval()
    with torch.no_grad():
        assert metric == worst_class(network(x), y)
        assert loss == pytest.approx(float(margin(network(x), y)), rel=1e-5)


def test_unknown_metric(few):
    with pytest.raises(RecipeError, match=r"'f2'.*accuracy"):
        Task(data=few, metric="f2")


def test_label_smoothing_counts_in_training_alone(few, fresh):
    smooth, plain = Task(data=few, label_smoothing=0.2), Task(data=few)
    network = fresh()
    assert evaluate(network, few.validation, smooth) == evaluate(network, few.validation, plain)
    logits, labels = torch.tensor([[4.0, 0.0]]), torch.tensor([0])
    gap = float(smooth.compute_loss(logits, labels) - plain.compute_loss(logits, labels))
    assert gap == pytest.approx(0.1 * 4)  # a fifth of the target, half of it on the other class


def test_user_loaders_end_to_end(few, two_convs):
    def loader(split):
        data = [(x, int(y)) for x, y in zip(*next(split.batches(batch_size=1000)), strict=True)]
        return torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)

    data = from_loaders(
        train=loader(few.train), validation=loader(few.validation), test=loader(few.test), classes=few.classes
    )
    task = Task(data=data)
    torch.manual_seed(0)
    network = build(graphs.blueprint(two_convs(8), 4, 8))
    calibrate(network, data.train)
    before, _ = evaluate(network, data.test, task)
    history = fit(network, task, dataclasses.replace(PLAN, epochs=8, lr=0.2))
    after, _ = evaluate(network, data.test, task)
    assert len(history.curves["loss"]) == 8
    assert after > max(0.5, before)


def test_bf16_and_float32_in_one_process(task, fresh):
    a, b = fresh(), fresh()
    fit(a, task, dataclasses.replace(PLAN, epochs=1))
    fit(b, task, dataclasses.replace(PLAN, epochs=1, precision="bf16"))
    assert not equal(a, b)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in b.parameters())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_decay_falls_on_weights_alone(fresh, optimizer):
    network = fresh()
    plan = TrainPlan(optimizer=optimizer, weight_decay=0.01)
    left = [network.get_parameter("fc.bias")]
    made = make_optimizer(network, plan, leave_out=left)
    names = {id(p): name for name, p in network.named_parameters()}
    groups = {group["weight_decay"]: {names[id(p)] for p in group["params"]} for group in made.param_groups}
    assert groups[0.01] == {"conv0.weight", "conv1.weight", "fc.weight"}
    assert groups[0.0] == set(names.values()) - groups[0.01] - {"fc.bias"}
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    decayed = make_optimizer(plain, plan).param_groups[0]["params"]
    assert [id(p) for p in decayed] == [id(plain[0].weight), id(plain[3].weight)]


def rates(plan: TrainPlan, steps: int) -> list[float]:
    parameter = nn.Linear(1, 1)
    optimizer = make_optimizer(parameter, plan)
    schedule = make_schedule(optimizer, plan, steps=max(2, steps))
    found = []
    for step in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        assert {group["lr"] for group in optimizer.param_groups} == {found[-1]}
        optimizer.step()
        if step < steps - 1:
            schedule.step()
    return found


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.25, 0.5])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 40, 400])
def test_schedules_rise_and_fall(schedule, warmup, steps):
    plan = TrainPlan(schedule=schedule, warmup=warmup, lr=0.3)
    found = rates(plan, steps)
    assert all(0 <= rate <= 0.3 + 1e-12 for rate in found)
    if steps < 40:
        return
    peak = found.index(max(found))
    assert max(found) == pytest.approx(0.3)
    assert abs(peak - warmup * steps) <= 2
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    assert found[-1] < 0.01 * 0.3
