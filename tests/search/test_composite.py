"""Composite: the published numbers, the budgets, inheritance to the bit, resume."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import graphs
import numpy as np
import pytest
import torch

from bitsmith.blueprint import FLOAT, Bits, Budget, NetworkGraph
from bitsmith.errors import BudgetError, RecipeError, RunError, TrainingError
from bitsmith.quantize import Network, build, float_blueprint
from bitsmith.search import (
    Composite,
    Found,
    build_mixed,
    complexity,
    decisions,
    inherit,
    measure,
    most_likely,
    probabilities,
    published_penalty,
    to_penalties,
)
from bitsmith.space import Precision, precision
from bitsmith.train import Event, Task, TrainPlan, calibrate, reestimate_norms


def preactivation_resnet18() -> NetworkGraph:
    """The ResNet-18 of EdMIPS, drawn by hand."""
    s = graphs.Sketch((3, 224, 224))
    y = s.affine("bn1", s.max_pool("pool", s.conv("conv1", "x", 64, kernel=7, stride=2, norm=False), 3, 2, 1))
    for stage, channels in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            a = s.same("relu", f"{name}.relu0", s.affine(f"{name}.bn0", y))
            z = s.same("relu", f"{name}.relu1", s.conv(f"{name}.conv1", a, channels, stride=stride))
            z = s.conv(f"{name}.conv2", z, channels)
            y = s.conv(f"{name}.down", a, channels, kernel=1, stride=stride) if stride == 2 else y
            y = s.same("add", f"{name}.add", z, y)
    y = s.flatten("flat", s.global_pool("avg", s.same("relu", "last", y)))
    return s.graph(s.linear("fc", y, 1000))


@pytest.fixture(scope="module")
def edmips() -> Precision:
    """The authors' ResNet-18 and space; first conv and classifier float."""
    graph = preactivation_resnet18()
    names = [layer.name for layer in graph.layers]
    ends = {name: Bits(weight=FLOAT, activation=FLOAT) for name in (names[0], names[-1])}
    return precision(graphs.blueprint(graph), (1, 2, 3, 4), (2, 3, 4), ends=None, pins=ends)


def at(space: Precision, weight: list[float], activation: list[float]):
    inner = {n for n, o in space.options.items() if len(o.weight) > 1}
    one = torch.ones(1)
    return (
        {n: torch.tensor(weight) if n in inner else one for n in space.options},
        {n: torch.tensor(activation) if n in inner else one for n in space.options},
    )


def test_published_complexities(edmips):
    """sum of c over the 19 quantized convolutions = 14.667 of the first of them."""
    quantized = [layer for layer in edmips.template.graph.layers if len(edmips.options[layer.name].weight) > 1]
    assert len(quantized) == 19
    assert sum(map(complexity, quantized)) / complexity(quantized[0]) == pytest.approx(14.667, abs=5e-4)
    assert complexity(quantized[0]) == 64 * 64 * 9 * 56 * 56


def test_published_penalties(edmips):
    start = published_penalty(edmips, *at(edmips, [0.25] * 4, [1 / 3] * 3))
    assert 0.00335 * float(start) == pytest.approx(0.3685, abs=5e-5)
    two_bits = published_penalty(edmips, *at(edmips, [0.0, 1, 0, 0], [1.0, 0, 0]))
    assert 0.00335 * float(two_bits) == pytest.approx(0.1965, abs=5e-5)
    assert start.dtype == torch.float64


def test_complexity_counts_groups():
    s = graphs.Sketch((8, 8, 8))
    y = s.conv("full", "x", 8, stride=2)
    graph = s.graph(s.conv("deep", y, 8, groups=8))
    full, deep = graph.layers
    assert complexity(full) == 8 * 8 * 9 * 64 / 4
    assert complexity(deep) == 8 * 9 * 16


def search(method: Composite, problem, **fields):
    return method.search(dataclasses.replace(problem, **fields))


@pytest.mark.parametrize("share", [0.55, 0.8])
def test_expected_cost_falls_to_the_budget(problem, small, share, full):
    """At the end of the search within 3 % above its limit and 10 % below, the limit being the budget by then."""
    if share != 0.55 and not full:
        pytest.skip("full tier")
    first = mixture_cost(small)
    budget = Budget(cost="bitops", limit=share * first)
    plan = TrainPlan(epochs=10, batch_size=32, lr=0.02, device="cpu")
    method = Composite(plan=plan, architecture_lr=0.05, multiplier_step=0.02, norm_batches=1, loss_batches=1)
    curves = search(method, problem, budgets=[budget]).curves
    expected, limits = np.array(curves["expected bitops"]), np.array(curves["limit bitops"])
    assert (np.diff(limits) <= 0).all()
    assert limits[0] == pytest.approx(first)
    assert limits[-1] == budget.limit
    assert 0.9 * budget.limit <= expected[-1] <= 1.03 * budget.limit


def mixture_cost(space: Precision) -> float:
    """Expected bitops of the mixture that a search starts from, by the mean over equal options."""
    return sum(
        layer.macs * np.mean(space.options[layer.name].weight) * np.mean(space.options[layer.name].activation)
        for layer in space.template.graph.layers
    )


def one_hot(space: Precision, network: Network, blueprint) -> None:
    for decision, index in zip(decisions(network), space.encode(blueprint).reshape(-1), strict=True):
        decision.mixture.fixed = int(index)


@pytest.mark.parametrize("quantizer", ["lsq", "gaussian"])
@pytest.mark.parametrize("seed", range(4))
def test_the_mixture_at_one_hot_is_the_built_network(small, search_task, quantizer, seed):
    """Outputs, gradients and running statistics, to the bit, in train and eval mode."""
    space = dataclasses.replace(small, template=dataclasses.replace(small.template, quantizer=quantizer))
    torch.manual_seed(seed)
    mixed = build_mixed(space)
    calibrate(mixed, search_task.data.train, batches=2)
    blueprint = space.sample(np.random.default_rng(seed))
    built = build(blueprint)
    built.load_state_dict(inherit(space, mixed, blueprint))
    one_hot(space, mixed, blueprint)
    x, _ = next(search_task.data.train.batches(batch_size=32, seed=0))
    for training in (False, True, False):
        mixed.train(training)
        built.train(training)
        ours, theirs = mixed(x), built(x)
        assert torch.equal(ours, theirs)
        for network, y in ((mixed, ours), (built, theirs)):
            network.zero_grad()
            y.square().sum().backward()
        for name, layer in built.priced():
            assert torch.equal(layer.weight.grad, mixed.layer(name).weight.grad), name
    for name, layer in built.priced():
        for key, value in layer.norm.state_dict().items() if layer.norm is not None else ():
            assert torch.equal(value, mixed.layer(name).norm.state_dict()[key])


def test_probabilities_and_decisions(small):
    mixed = build_mixed(small)
    listed = [(d.layer, d.kind) for d in decisions(mixed)]
    assert listed == [(layer, kind) for layer in small.options for kind in ("weight", "activation")]
    weight, activation = probabilities(mixed)
    assert weight["tail"].tolist() == [0.25] * 4
    assert activation["stem"].tolist() == [1.0]
    # a.conv1 reads a stream of 8 bits: its 8-bit option takes it as it is.
    assert [type(c).__name__ for c in mixed.layer("a.conv1").quantize_input.candidates][-1] == "Identity"
    assert [type(c).__name__ for c in mixed.layer("a.conv2").quantize_input.candidates][-1] == "LsqActivation"
    with torch.no_grad():
        mixed.layer("tail").quantize_weight.logits[2] = 1
        mixed.layer("deep").quantize_input.logits[0] = 1
    best = most_likely(small, mixed)
    assert (best.bits["tail"].weight, best.bits["deep"].activation) == (4, 1)


def test_starts_from_float_weights(small, search_task):
    torch.manual_seed(0)
    floats = build(float_blueprint(small.template.graph)).state_dict()
    mixed = build_mixed(small)
    mixed.load_float(floats)
    for name, layer in mixed.priced():
        assert torch.equal(layer.weight, floats[f"{name}.weight"])
        for candidate in layer.quantize_weight.candidates:
            assert not torch.equal(candidate.log_step, torch.zeros_like(candidate.log_step))


class HaltError(Exception):
    pass


def stop_at(step: int, stage: str):
    def watch(event: Event) -> None:
        if stage in event.stage and event.step == step and not event.epoch_end:
            raise HaltError

    return watch


def assert_same(resumed: Found, whole: Found) -> None:
    assert resumed.best == whole.best
    assert resumed.curves == whole.curves
    assert resumed.details == whole.details
    assert whole.state is not None
    assert resumed.state is not None
    assert all(torch.equal(whole.state[k], resumed.state[k]) for k in whole.state)


@pytest.mark.parametrize("seconds", [0, 3600])
@pytest.mark.parametrize(("step", "stage"), [(3, "search"), (8, "search"), (2, "sensitivities")])
def test_a_stopped_search_goes_on_to_the_bit(problem, tiny_composite, tiny_found, tmp_path, step, stage, seconds):
    """Within an epoch, in the second, and behind the last while sensitivities are measured.

    With a checkpoint after every step it goes on with the next one, else with the epoch.
    """
    kept: dict[str, Any] = {"folder": tmp_path, "checkpoint_seconds": seconds}
    with pytest.raises(HaltError):
        search(tiny_composite, problem, watch=stop_at(step, stage), **kept)
    torch.manual_seed(77)
    events: list[Event] = []
    assert_same(search(tiny_composite, problem, watch=events.append, **kept), tiny_found)
    if stage == "search":
        per_epoch = events[0].steps // 2
        first = next(event for event in events if not event.note)
        assert first.step == (step + 1 if seconds == 0 else (step - 1) // per_epoch * per_epoch + 1)


def test_a_stopped_published_search_goes_on_to_the_bit(problem, tmp_path):
    plan = TrainPlan(epochs=2, batch_size=64, lr=0.05, device="cpu", compile="none")
    method = Composite(plan=plan, as_published=True, architecture_lr=0.1)
    whole = search(method, problem, budgets=[])
    for step in (2, 7):
        with pytest.raises(HaltError):
            search(method, problem, budgets=[], folder=tmp_path, checkpoint_seconds=0, watch=stop_at(step, "search"))
    assert_same(search(method, problem, budgets=[], folder=tmp_path), whole)


def test_nothing_measured_is_measured_again(problem, tiny_composite, tiny_found, tmp_path, monkeypatch):
    """Sensitivities stopped again and again, then the final allocation killed: each option is measured once."""
    module = sys.modules[measure.__module__]
    counted = []

    def counting(*arguments: Any, **options: Any) -> None:
        counted.append(1)
        reestimate_norms(*arguments, **options)

    monkeypatch.setattr(module, "reestimate_norms", counting)
    for step in (1, 2, 5, 6):
        with pytest.raises(HaltError):
            search(tiny_composite, problem, folder=tmp_path, watch=stop_at(step, "sensitivities"))
        assert len(counted) == step

    def killed(*_: Any) -> None:
        raise HaltError

    with monkeypatch.context() as patched:
        patched.setattr(sys.modules[Composite.__module__], "to_penalties", killed)
        with pytest.raises(HaltError):
            search(tiny_composite, problem, folder=tmp_path)
    options = sum(len(d.mixture.candidates) for d in decisions(build_mixed(problem.space)) if len(d.mixture.bits) > 1)
    assert len(counted) == options
    steps: list[str] = []
    found = search(tiny_composite, problem, folder=tmp_path, watch=lambda event: steps.append(event.stage))
    assert len(counted) == options
    assert not any(stage.startswith("search") for stage in steps)
    assert_same(found, tiny_found)


def test_measured_options_of_another_network_do_not_count(small, search_task, tmp_path):
    mixed = build_mixed(small)
    calibrate(mixed, search_task.data.train, batches=2)
    settings: dict[str, Any] = {"norm_batches": 1, "loss_batches": 1, "batch_size": 64, "folder": tmp_path}
    first = measure(mixed, search_task, **settings)
    assert measure(mixed, search_task, **settings) == first
    other = measure(mixed, search_task, **settings | {"seed": 1})
    assert other == measure(mixed, search_task, **settings | {"seed": 1, "folder": None})
    with torch.no_grad():
        mixed.get_parameter("fc.bias").mul_(2).add_(1)
    changed = measure(mixed, search_task, **settings)
    assert changed != first
    assert changed == measure(mixed, search_task, **settings | {"folder": None})
    (tmp_path / "sensitivities.json").write_text("{")
    with pytest.raises(RunError, match=r"sensitivities\.json is damaged"):
        measure(mixed, search_task, **settings)


@pytest.mark.parametrize("setting", [{"distill": 0.5}, {"ema": 0.9}])
def test_what_belongs_to_the_final_training(setting):
    with pytest.raises(RecipeError, match="belong to the final training"):
        Composite(plan=TrainPlan(epochs=3, **setting))


def test_a_checkpoint_of_another_search(problem, tiny_composite, tmp_path, search_task):
    with pytest.raises(HaltError):
        search(tiny_composite, problem, folder=tmp_path, watch=stop_at(2, "sensitivities"))
    other = precision(problem.space.template, (2, 4), (2, 4))
    with pytest.raises(RunError, match=r"other float weights|another network|other bits to choose"):
        search(tiny_composite, problem, folder=tmp_path, space=other)


def test_only_weights_learn_first(problem, tiny_composite):
    """In the first epochs all probabilities, and so the expected costs, stay as they were; then they move."""
    plan = dataclasses.replace(tiny_composite.plan, epochs=3)
    found = search(dataclasses.replace(tiny_composite, plan=plan, weights_first=2), problem)
    first, second, third = found.curves["expected weights"]
    assert first == pytest.approx(second, rel=1e-9)
    assert abs(third - second) > 1e-6 * second
    with pytest.raises(RecipeError, match="no bits would be learned"):
        dataclasses.replace(tiny_composite, weights_first=2)


def test_argmax_outside_the_budget_is_refused(problem, small, tiny_composite, monkeypatch):
    monkeypatch.setattr(sys.modules[Composite.__module__], "most_likely", lambda space, network: space.uniform(8, 8))
    with pytest.raises(BudgetError, match=r"argmax of the search misses weights=.*, bitops=.*sensitivity"):
        search(dataclasses.replace(tiny_composite, allocation="argmax"), problem)


def test_as_published(problem):
    """No budgets, argmax, the penalty alone: with a great weight everything goes to the fewest bits."""
    plan = TrainPlan(epochs=4, batch_size=32, lr=0.05, device="cpu")
    method = Composite(plan=plan, as_published=True, cd=3.0, architecture_lr=0.1)
    found = search(method, problem, budgets=[])
    assert found.method == "composite-as-published"
    inner = [bits for name, bits in found.best.bits.items() if name not in ("stem", "fc")]
    assert {bits.weight for bits in inner} == {1}
    assert {bits.activation for bits in inner} == {1}


def test_nan_is_told(problem, tiny_composite, search_task):
    broken = Task(data=search_task.data, loss=lambda logits, labels: logits.sum() * torch.nan)
    with pytest.raises(TrainingError, match=r"search composite at weights=.*: the loss became nan in epoch 1, step 1"):
        search(tiny_composite, problem, task=broken)


def test_sensitivities(problem, small, search_task):
    """One loss per option, with the others as they are; nothing of the network changes; the same again."""
    torch.manual_seed(0)
    mixed = build_mixed(small)
    calibrate(mixed, search_task.data.train, batches=2)
    before = {k: v.clone() for k, v in mixed.state_dict().items()}
    settings = {"norm_batches": 2, "loss_batches": 1, "batch_size": 64, "seed": 5}
    events: list[Event] = []
    measured = measure(mixed, search_task, **settings, watch=events.append)
    found = measured.means()
    assert all(torch.equal(before[k], v) for k, v in mixed.state_dict().items())
    assert all(d.mixture.fixed is None for d in decisions(mixed))
    assert measure(mixed, search_task, **settings) == measured
    assert list(found) == list(small.options)
    assert found["stem"] == {"weight": [0.0], "activation": [0.0]}
    assert not measured.losses["stem"]["weight"][0]
    assert [e.step for e in events] == list(range(1, events[-1].steps + 1))
    assert events[-1].steps == 4 * 2 * 4  # four free layers, weights and activations, four options

    # By hand: weights of `tail` at 2 bits.
    by_hand = build_mixed(small)
    by_hand.load_state_dict(mixed.state_dict())
    by_hand.layer("tail").quantize_weight.fixed = 1
    norms = [m for m in by_hand.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    by_hand.eval()
    for norm in norms:
        norm.train()
        norm.momentum = None
        norm.reset_running_stats()
    with torch.no_grad():
        for i, (x, _) in enumerate(search_task.data.train.batches(batch_size=64, seed=5)):
            if i < 2:
                by_hand(x)
        by_hand.eval()
        x, y = next(search_task.data.search.batches(batch_size=64, seed=5))
        assert found["tail"]["weight"][1] == float(torch.nn.functional.cross_entropy(by_hand(x), y))


def test_penalties_are_monotone(small):
    rng = np.random.default_rng(0)
    losses = {
        name: {kind: rng.normal(size=len(getattr(o, kind))).tolist() for kind in ("weight", "activation")}
        for name, o in small.options.items()
    }
    losses["tail"] = {"weight": [3.0, 1.0, 2.0, 0.5], "activation": [1.0, 1.0, 1.0, 1.0]}
    penalties = to_penalties(small, losses)
    for name, penalty in penalties.items():
        assert penalty.shape == (len(small.options[name].weight), len(small.options[name].activation))
        assert (np.diff(penalty, axis=0) <= 1e-12).all()
        assert (np.diff(penalty, axis=1) <= 1e-12).all()
        assert penalty[-1, -1] == 0
    # Pool adjacent violators by hand: 1 and 2 become their mean.
    assert np.allclose(penalties["tail"], np.array([2.5, 1.0, 1.0, 0.0])[:, None].repeat(4, 1), atol=0.02)
    assert (np.diff(penalties["tail"], axis=0) < 0).all()  # nothing is equal: budgets get used
