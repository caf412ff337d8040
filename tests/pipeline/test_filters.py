"""Bits per filter, by the Python face: cut, trained from float weights, written, read again, proved, priced."""

import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import bitsmith as bs
from bitsmith.errors import RunError
from bitsmith.pipeline.traits import summarize_bits
from bitsmith.space import cut_state


class Own(nn.Module):
    """A residual add, a depthwise layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12))
        self.a = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12))
        self.depth = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12))
        self.fc = nn.Linear(12, 10)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (self.a(x) + x).relu()
        return self.fc(self.depth(x).relu().mean((2, 3)))


def bits_of(graph):
    """Filters 3 of the stem and 7 of `a` removed, and so both of their channels; the depthwise layer loses filter 0."""
    cycle = (8, 2, 4, 1, 3, 6)
    weights = {"stem.0": [cycle[f % 6] for f in range(12)], "a.0": [cycle[f % 5] for f in range(12)]}
    weights["depth.0"] = [cycle[f % 4] for f in range(12)]
    weights["stem.0"][3] = weights["a.0"][7] = weights["depth.0"][0] = 0
    bits = {name: bs.Bits(weight=tuple(weight), activation=8) for name, weight in weights.items()}
    bits["a.0"] = bs.Bits(weight=bits["a.0"].weight, activation=tuple(8 if m % 2 else 4 for m in range(12)))
    return bits | {"fc": bs.Bits(weight=8, activation=8)}


@pytest.fixture(scope="module")
def digits():
    return bs.open_data("digits", limit=600)


def test_the_whole_job(digits, tmp_path):
    torch.manual_seed(0)
    captured = bs.capture(Own(), digits.shape)
    template = bs.precision_space(captured, digits).template
    wanted = template.with_bits(bits_of(captured.graph))
    with pytest.raises(RunError, match=r"'stem\.0' are removed; go on with prune"):
        bs.train(bs.Task(data=digits), wanted)
    pruned = bs.prune(bs.Blueprint.from_json(wanted.to_json()))
    blueprint = pruned.blueprint
    # Channels 0, 3 and 7 of the residual stream: all of the stem, of `a` and of the depthwise layer that reads it.
    assert [layer.out_channels for layer in blueprint.graph.layers] == [9, 9, 9, 10]
    assert blueprint.graph["depth.0"].groups == 9
    assert summarize_bits(blueprint) == "w1-8 a4-8"
    task = bs.Task(data=digits)
    state = cut_state(pruned.coupling.graph, pruned.left, captured.state)
    plan = bs.TrainPlan(epochs=3, batch_size=64, lr=0.1)
    net = bs.train(task, blueprint, plan, float_state=state)
    files = bs.export(net, tmp_path)
    checked = bs.verify(files, digits.test)
    assert checked.ok, checked.problems
    assert set(checked.differing_outputs.values()) == {0}
    assert checked.accuracy_trained > 0.3
    assert checked.accuracy_trained == pytest.approx(checked.accuracy_reference, abs=0.03)
    again = bs.load(tmp_path)
    x, _ = next(digits.test.batches(batch_size=64))
    assert torch.equal(again(x), net(x))
    told = {p.key: p.value for p in onnx.load(files.artefacts["onnx"]).metadata_props}
    assert json.loads(told["bits"])["a.0"][0] == list(blueprint.bits["a.0"].weight)


def test_training_goes_on_from_a_checkpoint(digits, tmp_path):
    """Bits per filter are part of what a checkpoint must agree in."""
    torch.manual_seed(0)
    captured = bs.capture(Own(), digits.shape)
    blueprint = bs.prune(bs.precision_space(captured, digits).template.with_bits(bits_of(captured.graph))).blueprint
    task, checkpoint = bs.Task(data=digits), tmp_path / "c"
    plan = bs.TrainPlan(epochs=2, batch_size=64, lr=0.1)
    straight = bs.train(task, blueprint, plan).state_dict()

    class StopError(Exception):
        pass

    def stop(event):
        if event.step >= 12:
            raise StopError

    with pytest.raises(StopError):
        bs.train(task, blueprint, plan, checkpoint=checkpoint, checkpoint_seconds=0, watch=stop)
    again = bs.train(task, blueprint, plan, checkpoint=checkpoint).state_dict()
    assert all(torch.equal(straight[name], again[name]) for name in straight)
    weight = blueprint.bits["stem.0"].weight
    other = blueprint.with_bits(
        dict(blueprint.bits) | {"stem.0": bs.Bits(weight=tuple(np.roll(weight, 1).tolist()), activation=8)}
    )
    with pytest.raises(RunError):
        bs.train(task, other, plan, checkpoint=checkpoint)
