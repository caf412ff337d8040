"""Modules that return several tensors, and what of a result is left out."""

import collections
import dataclasses

import pytest
import torch
from torch import nn

from bitsmith.capture import capture
from bitsmith.errors import CaptureError

SHAPE = (3, 4, 4)
Pair = collections.namedtuple("Pair", ["low", "high"])


@dataclasses.dataclass
class Outputs:
    logits: torch.Tensor
    features: torch.Tensor | None = None


class Returns(nn.Module):
    """A convolution of 2 channels and one of 5; returns what it is told."""

    def __init__(self, result):
        super().__init__()
        torch.manual_seed(0)
        self.two, self.five = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 5, 1)
        self.result = result

    def forward(self, x):
        return self.result(self, self.two(x), self.five(x))


# What is returned, and the name of the tensor of 5 channels.
SEVERAL = {
    "tuple": (lambda m, a, b: (a, b), "1"),
    "list": (lambda m, a, b: [b, a], "0"),
    "dict": (lambda m, a, b: {"out": b, "aux": a}, "out"),
    "named tuple": (lambda m, a, b: Pair(low=a, high=b), "high"),
    "dataclass": (lambda m, a, b: Outputs(logits=b, features=a), "logits"),
    "nested": (lambda m, a, b: {"heads": [(a, None), (b, 3)]}, "heads.1.0"),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_one_of_several_is_chosen(kind):
    result, name = SEVERAL[kind]
    captured = capture(Returns(result), SHAPE, output=name)
    assert captured.graph.output_shape == (5, 4, 4)
    assert [node.name for node in captured.graph.nodes] == ["input", "five"]
    first, second = captured.notes
    assert f"{name!r} is the captured output; left out: '" in first
    assert second == "parameters that eval mode does not use are left out: two.weight, two.bias"
    with pytest.raises(CaptureError, match=r"Returns returns .* choose one of its tensors with output=: '") as caught:
        capture(Returns(result), SHAPE)
    assert f"'{name}' (N, 5, 4, 4)" in str(caught.value)
    with pytest.raises(CaptureError, match=r"without an output 'other'; there are '"):
        capture(Returns(result), SHAPE, output="other")


@pytest.mark.parametrize(
    ("result", "name"),
    [
        (lambda m, a, b: (b,), "0"),
        (lambda m, a, b: {"out": b, "loss": None}, "out"),
        (lambda m, a, b: Outputs(logits=b), "logits"),
    ],
)
def test_the_only_one_is_taken_with_a_note(result, name):
    captured = capture(Returns(result), SHAPE)
    assert captured.graph.output_shape == (5, 4, 4)
    assert captured.notes[0].endswith(f"{name!r} is the captured output")


def test_there_must_be_one():
    with pytest.raises(CaptureError, match=r"Returns returns nothing in eval mode; a capture needs a tensor"):
        capture(Returns(lambda m, a, b: None), SHAPE)
    with pytest.raises(CaptureError, match=r"Returns returns one tensor in eval mode, so there is no output '1'"):
        capture(Returns(lambda m, a, b: a), SHAPE, output="1")
    with pytest.raises(CaptureError, match=r"returns a dict with the keys 'n' in eval mode; a capture needs a tensor"):
        capture(Returns(lambda m, a, b: {"n": 3}), SHAPE)


def test_the_module_is_left_without_hooks():
    module = Returns(lambda m, a, b: (a, b))
    capture(module, SHAPE, output="0")
    with pytest.raises(CaptureError):
        capture(module, SHAPE)
    assert not module._forward_hooks
    assert isinstance(module(torch.zeros(1, *SHAPE)), tuple)


class Auxiliary(nn.Module):
    """A second output in train mode alone; "tensor" returns the first as it is in eval mode, as googlenet does."""

    def __init__(self, kind: str):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.head, self.aux = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)
        self.kind = kind

    def forward(self, x):
        x = self.body(x)
        y = {"out": self.head(x)}
        if self.training:
            y["aux"] = self.aux(x)
        return y["out"] if self.kind == "tensor" and not self.training else y


def test_what_only_training_returns_is_left_out():
    captured = capture(Auxiliary(kind="dict"), SHAPE)
    assert [node.name for node in captured.graph.nodes] == ["input", "body.0", "body.2", "head"]
    assert captured.notes == (
        "of the dict that the module returns, 'out' is the captured output",
        "parameters that eval mode does not use are left out: aux.weight, aux.bias",
        "compared in train mode with the BatchNorms alone in it: train mode returns a dict; "
        "what only training computes is left out",
    )
    # A chosen one is found in train mode too, and compared.
    captured = capture(Auxiliary(kind="dict"), SHAPE, output="out")
    assert len(captured.notes) == 2
    captured = capture(Auxiliary(kind="tensor"), SHAPE)
    assert captured.notes[-1].startswith("compared in train mode with the BatchNorms alone in it: train mode returns")


def test_a_final_sigmoid_goes_and_one_inside_stays():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)

        def forward(self, x):
            return torch.sigmoid(self.head(x * torch.sigmoid(self.gate(x))))

    captured = capture(Gated(), SHAPE)
    assert [node.op for node in captured.graph.nodes] == ["input", "conv", "sigmoid", "multiply", "conv"]
    (note,) = captured.notes
    assert note.startswith("the final sigmoid (")
    # Behind another step it isn't final.
    captured = capture(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Sigmoid(), nn.Flatten()), SHAPE)
    assert [node.op for node in captured.graph.nodes] == ["input", "conv", "sigmoid", "flatten"]
