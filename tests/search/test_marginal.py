"""What one step of bits changes, against a network of plain torch, planted layers and brute force."""

import copy
import dataclasses
import math
import sys

import graphs
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.data import from_loaders, open_data
from bitsmith.errors import RunError
from bitsmith.quantize import build
from bitsmith.quantize.lsq import best_step
from bitsmith.search import Step, measure_steps, single_steps
from bitsmith.search.step import Passes, take_step
from bitsmith.space import precision
from bitsmith.train import Task, TrainPlan, calibrate, digest, fit, reestimate_norms

PASSES = Passes(norm_batches=3, batch_size=64, seed=5)


@pytest.fixture(scope="module")
def task():
    return Task(data=open_data("digits").without_test())


def learned(graph, task, bits=(4, 4), **changes):
    torch.manual_seed(2)
    network = build(dataclasses.replace(graphs.blueprint(graph, *bits), **changes))
    calibrate(network, task.data.training, batches=2, batch_size=64)
    fit(network, task, TrainPlan(epochs=3, batch_size=64, lr=0.05, device="cpu", compile="none"), seed=1)
    return network.eval()


@pytest.fixture(scope="module")
def chain(task):
    """Two convolutions, the second linear in its way to the classifier: easy to write down again."""
    s = graphs.Sketch((1, 8, 8))
    y = s.same("relu", "relu0", s.conv("first", "x", 6))
    y = s.same("relu", "relu1", s.conv("second", y, 8, stride=2))
    return learned(s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", y)), 10)), task)


def measure(network, task, steps, **options):
    settings = {"norm_batches": 3, "batch_size": 64, "seed": 5} | options
    return measure_steps(network, task, steps, **settings)


@given(data=st.data())
def test_steps_are_the_neighbors_of_a_space(data, small):
    indices = [[data.draw(st.integers(0, int(n) - 1)) for n in row] for row in small.sizes]
    blueprint = small.decode(np.array(indices))
    steps = [step.of(blueprint) for step in single_steps(small, blueprint)]
    assert {str(b.bits) for b in steps} == {str(b.bits) for b in small.neighbors(blueprint)}
    assert len(steps) == len(small.neighbors(blueprint))


def test_bits_outside_the_options_step_to_the_nearest(chain):
    space = precision(chain.blueprint, (2, 8), (8,), ends=None)
    assert [(s.layer, s.kind, s.before, s.after) for s in single_steps(space, chain.blueprint)][:3] == [
        ("first", "weight", 4, 2), ("first", "weight", 4, 8), ("first", "activation", 4, 8),
    ]  # fmt: skip


def rounded(x, step, lo, hi):
    return (x / step).round().clamp(lo, hi) * step


@torch.no_grad()
def plain(network, weight_step, task):
    """The chain in plain torch with `second` at 2 bits: metric and loss on validation, loss on training batches."""
    state = {name: tensor.double() for name, tensor in network.state_dict().items()}

    def steps(name):
        return state[name].exp()

    def layer(name, x, norms, stride=1):
        x = rounded(x, steps(f"{name}.quantize_input.log_step"), *((-8, 7) if name == "first" else (0, 15)))
        step, top = (weight_step, 1) if name == "second" else (steps(f"{name}.quantize_weight.log_step"), 7)
        weight = rounded(state[f"{name}.weight"], step, -top, top)
        if name == "fc":
            return x @ weight.T + state["fc.bias"]
        y = F.conv2d(x, weight, stride=stride, padding=1)
        if norms is None:
            mean, var = y.mean((0, 2, 3)), y.var((0, 2, 3), correction=1)
            seen.setdefault(name, []).append((mean, var))
            var = y.var((0, 2, 3), correction=0)
        else:
            mean, var = norms[name]
        y = (y - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return y * state[f"{name}.norm.weight"][:, None, None] + state[f"{name}.norm.bias"][:, None, None]

    def forward(x, norms):
        y = layer("first", x.double(), norms).relu()
        y = layer("second", y, norms, stride=2).relu()
        stream = network.stream("relu1").log_step.double().exp()
        return layer("fc", rounded(y, stream, 0, 255).mean((2, 3)), norms)

    seen = {}
    training = [batch for _, batch in zip(range(8), task.data.training.batches(batch_size=64, seed=5), strict=False)]
    for x, _ in training[:3]:
        forward(x, None)
    norms = {n: tuple(torch.stack(v).mean(0) for v in zip(*values, strict=True)) for n, values in seen.items()}
    x, y = next(iter(task.data.validation.batches(batch_size=1000)))
    logits = forward(x, norms)
    trained = [float(F.cross_entropy(forward(x, norms), y)) for x, y in training]
    return float((logits.argmax(1) == y).double().mean()), float(F.cross_entropy(logits, y)), np.mean(trained)


def test_a_step_measures_what_the_network_written_down_anew_does(chain, task):
    assert {node.op for node in chain.graph.nodes} >= {"conv", "linear", "relu", "flatten"}
    found = measure(chain, task, [Step(layer="second", kind="weight", before=4, after=2)])
    log_step = chain.state_dict()["second.quantize_weight.log_step"].double()
    reach = (log_step + math.log(7 / 1)).exp()
    weight = chain.state_dict()["second.weight"]
    anew = best_step(weight.reshape(len(weight), -1), -1, 1).double().reshape(-1, 1, 1, 1)
    tried = [plain(chain, step, task) for step in (reach, anew)]
    score, loss, _ = min(tried, key=lambda values: values[2])  # the better start on training images
    assert abs(tried[0][2] - tried[1][2]) > 1e-3, "the two starts must be told apart"
    images = len(task.data.validation)
    assert found.images == images
    assert found.score + found.steps[0].score.value == pytest.approx(score, abs=1.01 / images)  # float64 here
    assert found.loss + found.steps[0].loss.value == pytest.approx(loss, abs=2e-3)
    other = next(values for values in tried if values[0] != score or values[1] != loss)
    assert abs(other[1] - loss) > 5e-3


def test_everything_else_stays_as_trained(chain, task):
    before = digest(chain.state_dict())
    for step, place in (
        (Step(layer="second", kind="weight", before=4, after=8), "second.quantize_weight."),
        (Step(layer="second", kind="activation", before=4, after=2), "second.quantize_input."),
    ):
        changed = take_step(chain, step, task, PASSES)
        old, new = chain.state_dict(), changed.state_dict()
        moved = {name for name in new if not torch.equal(old[name], new[name])}
        assert moved <= {name for name in new if name.startswith(place) or "running_" in name or "num_batches" in name}
        assert any(name.startswith(place) for name in moved)
        assert changed.blueprint == step.of(chain.blueprint)
    assert digest(chain.state_dict()) == before


def test_a_step_keeps_the_reach_or_calibrates_whichever_is_better(chain, task):
    """From 4 to 8 bits, and with a learned reach that was spoilt on purpose."""
    step = Step(layer="second", kind="weight", before=4, after=8)
    spoilt = copy.deepcopy(chain)
    with torch.no_grad():
        spoilt.get_submodule("second.quantize_weight").log_step.sub_(4.0)  # clips nearly everything
    good, saved = take_step(chain, step, task, PASSES), take_step(spoilt, step, task, PASSES)
    weight = chain.get_submodule("second").weight
    anew = best_step(weight.reshape(len(weight), -1), -127, 127)
    kept = chain.state_dict()["second.quantize_weight.log_step"].exp() * 7 / 127
    steps = [network.get_submodule("second.quantize_weight").log_step.exp().flatten() for network in (good, saved)]
    assert torch.allclose(steps[1], anew)
    assert torch.allclose(steps[0], anew) or torch.allclose(steps[0], kept.flatten())


@pytest.mark.parametrize("quantizer", ["lsq-pow2", "pact", "hwgq", "gaussian"])
def test_other_quantizers_take_steps_too(chain, task, quantizer):
    network = build(dataclasses.replace(chain.blueprint, quantizer=quantizer))
    calibrate(network, task.data.training, batches=2, batch_size=64)
    space = precision(network.blueprint, (2, 4, 8), (2, 4, 8), ends=None)
    found = measure(network, task, single_steps(space, network.blueprint))
    assert len(found.steps) == 12
    assert all(math.isfinite(m.loss.value) and m.loss.error >= 0 for m in found.steps)


def test_a_useless_layer_shows_no_change(task):
    """A residual branch that BatchNorm multiplies by zero."""
    s = graphs.Sketch((1, 8, 8))
    y = s.same("relu", "stem.relu", s.conv("stem", "x", 6))
    y = graphs.basic_block(s, "a", y, 6)
    network = learned(s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", y)), 10)), task)
    branch = [name for name, _ in network.priced() if name.startswith("a.")]
    last = branch[-1]
    with torch.no_grad():
        network.get_submodule(f"{last}.norm").weight.zero_()
        network.get_submodule(f"{last}.norm").bias.zero_()
    space = precision(network.blueprint, (1, 4, 8), (2, 4, 8), ends=None)
    found = {m.step: m for m in measure(network, task, single_steps(space, network.blueprint)).steps}
    useless = [m for step, m in found.items() if step.layer in branch and step.kind == "weight"]
    assert len(useless) == 2 * len(branch)
    for marginal in useless:
        assert (marginal.score.value, marginal.loss.value, marginal.loss.error) == (0, 0, 0)
    others = [m.loss for step, m in found.items() if step.layer not in branch]
    assert any(loss.value > 3 * loss.error for loss in others)  # the same measure sees what does matter


def test_the_network_as_it_is_gets_the_same_statistics(chain, task):
    found = measure(chain, task, [])
    again = copy.deepcopy(chain)
    reestimate_norms(again, task.data.training, batches=3, batch_size=64, seed=5)
    x, y = next(iter(task.data.validation.batches(batch_size=1000)))
    with torch.no_grad():
        assert found.score == float((again(x).argmax(1) == y).double().mean())
        assert found.trained_score == float((chain(x).argmax(1) == y).double().mean())


class StopError(Exception):
    """What a test raises to stop in the middle."""


def test_a_stopped_measurement_goes_on(chain, task, tmp_path, monkeypatch):
    space = precision(chain.blueprint, (2, 4, 8), (4,), ends=None)
    steps = single_steps(space, chain.blueprint)
    whole = measure(chain, task, steps)
    file = tmp_path / "explain.measured.json"

    def stop(event):
        if event.step == 3:
            raise StopError

    with pytest.raises(StopError):
        measure(chain, task, steps, file=file, watch=stop)
    taken = []
    take = take_step
    module = sys.modules["bitsmith.search.marginal"]  # `bitsmith.search` is a function when seen from outside
    monkeypatch.setattr(module, "take_step", lambda *given: taken.append(given[1]) or take(*given))
    resumed = measure(chain, task, steps, file=file)
    assert taken == steps[3:]
    assert dataclasses.replace(resumed, seconds=0) == dataclasses.replace(whole, seconds=0)
    taken.clear()
    assert measure(chain, task, steps, file=file) == resumed
    assert taken == []
    # Of another network, or by other batches, nothing is taken over.
    other = copy.deepcopy(chain)
    with torch.no_grad():
        other.get_submodule("fc").bias.add_(0.1)
    measure(other, task, steps[:1], file=file)
    assert taken == steps[:1]
    measure(other, task, steps[:1], file=file, seed=6)
    assert len(taken) == 2


def test_the_test_split_is_never_read(chain, task):
    with pytest.raises(Exception, match="only for the final evaluation"):
        _ = task.data.test
    measure(chain, task, [Step(layer="fc", kind="weight", before=4, after=2)])


def test_shuffled_validation_is_refused(chain):
    x, y = torch.randn(64, 1, 8, 8), torch.arange(64) % 10
    fixed = [(x, y)]

    class Shuffling:
        def __init__(self):
            self.seed = 0

        def __iter__(self):
            self.seed += 1
            order = torch.randperm(64, generator=torch.Generator().manual_seed(self.seed))
            yield x[order], y[order]

    loaders = {"train": fixed, "test": fixed, "classes": [str(i) for i in range(10)]}
    task = Task(data=from_loaders(validation=Shuffling(), **loaders))
    with pytest.raises(RunError, match="comes in another order each time"):
        measure(chain, task, [Step(layer="fc", kind="weight", before=4, after=2)])
