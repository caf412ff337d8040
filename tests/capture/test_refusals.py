"""Every way to be refused: the message names the thing, the reason and the line."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bitsmith.capture import capture
from bitsmith.errors import CaptureError

SHAPE = (4, 6, 6)


class Does(nn.Module):
    """A module with one convolution and a given forward."""

    def __init__(self, forward):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(4, 6, 6))
        self.does = forward

    def forward(self, x):
        return self.does(self, self.conv(x))


def message(module: nn.Module, shape=SHAPE) -> str:
    with pytest.raises(CaptureError) as caught:
        capture(module, shape)
    return str(caught.value)


# What the forward does after a convolution, (N, 4, 6, 6) -> the operator and the reason in the message.
OPERATORS = {
    "sigmoid inside": (lambda m, x: m.conv(x.sigmoid()), "aten.sigmoid.default at", ""),
    "multiply": (lambda m, x: x * 2.0, "aten.mul.Tensor at", ""),
    "chunk": (lambda m, x: torch.cat(x.chunk(2, 1)[::-1], 1), "aten.chunk.default at", ""),
    "transpose": (lambda m, x: x.transpose(2, 3).contiguous(), "aten.transpose.int at", ""),
    "detach": (lambda m, x: m.conv(x.detach()), "aten.detach", ""),
    "softmax of rows": (lambda m, x: x.softmax(-1), "aten.softmax.int at", ""),
    "argmax of all": (lambda m, x: m.conv(x) + x.argmax(), "aten.argmax.default at", ""),
    "add a number": (lambda m, x: x + 3, "aten.add", "it adds a number"),
    "add a parameter": (lambda m, x: x + m.scale, "aten.add.Tensor", "isn't computed from the input (scale)"),
    "alpha": (lambda m, x: torch.add(x, m.conv(x), alpha=2), "aten.add", "alpha is 2"),
    "broadcast": (
        lambda m, x: x + x.mean((2, 3), keepdim=True),
        "aten.add.Tensor",
        "it broadcasts (N, 4, 6, 6) and (N, 4, 1, 1)",
    ),
    "mean of rows": (lambda m, x: x.mean(3), "aten.mean.dim", "over dimensions [3]"),
    "mean of all": (lambda m, x: m.conv(x) + x.mean(), "aten.mean.default", "mixes the batch"),
    "hardtanh": (lambda m, x: F.hardtanh(x), "aten.hardtanh", "range is -1.0..1.0"),
    "linear of maps": (
        lambda m, x: F.linear(x, m.scale[0]),
        "aten.linear.default",
        "it reads (N, 4, 6, 6); a linear layer reads (N, features)",
    ),
    "uneven adaptive pool": (
        lambda m, x: F.adaptive_avg_pool2d(x, 4),
        "aten.adaptive_avg_pool2d",
        "6x6 does not divide evenly into 4x4",
    ),
    "divisor": (lambda m, x: F.avg_pool2d(x, 2, divisor_override=3), "aten.avg_pool2d", "divisor_override"),
    "padded mean": (
        lambda m, x: F.avg_pool2d(x, 3, padding=1, count_include_pad=False),
        "aten.avg_pool2d",
        "count_include_pad=False",
    ),
    "ceil average": (lambda m, x: F.avg_pool2d(x, 4, 3, ceil_mode=True), "aten.avg_pool2d", "ceil_mode"),
    "ceil max": (lambda m, x: F.max_pool2d(x, 3, 2, ceil_mode=True), "aten.max_pool2d", "2x2 would fit, it makes 3x3"),
    "pad before relu": (lambda m, x: F.relu(F.pad(x, (1, 1))), "aten.pad", "zeros directly before a conv2d"),
    "pad at the end": (lambda m, x: F.pad(x, (1, 1)), "aten.pad", "neither"),
    "pad with ones": (lambda m, x: m.conv(F.pad(x, (1, 1), value=1.0)), "aten.pad", "padding with zeros"),
    "reflect": (lambda m, x: m.conv(F.pad(x, (1, 1, 1, 1), mode="reflect")), "aten.pad", "padding with zeros"),
    "crop": (lambda m, x: m.conv(F.pad(x, (-1, 0))), "aten.pad", "none cut off"),
    "pad channels": (lambda m, x: F.relu(F.pad(x, (0, 0, 0, 0, 1, 0))), "aten.pad", "only rows and columns"),
    "partly flat": (lambda m, x: F.relu(x.flatten(2)), "aten.flatten", "must flatten everything but the batch"),
    "batch into features": (lambda m, x: x.reshape(-1, 6), "aten.reshape", "mixes the batch"),
    "always dropout": (lambda m, x: F.dropout(x), "aten.dropout", "in eval mode too"),
    "always dropout2d": (lambda m, x: F.dropout2d(x), "aten.feature_dropout", "in eval mode too"),
    "batch statistics": (
        lambda m, x: F.batch_norm(x, None, None, training=True),
        "aten.batch_norm",
        "batch statistics",
    ),
    "half": (lambda m, x: x.half(), "aten.to.dtype", "data type"),
    "no grad": (lambda m, x: _without_grad(m, x), "wrap_with_set_grad_enabled", ""),
    "weight from a view": (
        lambda m, x: F.conv2d(x, m.scale[:, :4, :4].reshape(4, 4, 2, 2)),
        "aten.conv2d",
        "its weight is computed",
    ),
    "in place behind a reshape": (lambda m, x: _changed_behind(x), "aten.relu_", "works in place"),
}


def _without_grad(m, x):
    with torch.no_grad():
        return m.conv(x)


def _changed_behind(x):
    flat = x.flatten(1)
    F.relu_(x)
    return flat


@pytest.mark.parametrize("case", OPERATORS)
def test_operators(case):
    forward, operator, reason = OPERATORS[case]
    text = message(Does(forward))
    assert "Does can't be captured; these operators are outside the vocabulary (add, affine, avg_pool, " in text
    (line,) = (line for line in text.splitlines()[1:] if operator in line)
    assert reason in line
    assert re.search(r" at (\S*test_refusals\.py:\d+|an unknown line)", line)


def test_all_operators_are_listed_with_their_lines_and_counts():
    class Many(nn.Module):
        def forward(self, x):
            for _ in range(3):
                x = torch.tanh(x)
            y, _ = F.max_pool2d(x, 2, return_indices=True)
            return F.relu(F.gelu(y)) / 2

    first, *lines = message(Many()).splitlines()
    start = Many.forward.__code__.co_firstlineno
    assert first.startswith("Many can't be captured")
    assert [re.sub(r" at \S*test_refusals\.py:(\d+)", lambda m: f" +{int(m[1]) - start}", line) for line in lines] == [
        "  aten.tanh.default +2, 3 times",
        "  aten.max_pool2d_with_indices.default +3",
        "  aten.gelu.default +4",
        "  aten.div.Tensor +4",
    ]


def test_what_reads_a_refused_operator_is_judged_by_itself():
    text = message(
        Does(lambda m, x: m.conv(torch.cat(x.chunk(2, 1), 1)) + F.avg_pool2d(x.split(2, 1)[0], 1).sum(1, True))
    )
    assert re.findall(r"aten\.(\w+)", text) == ["chunk", "cat", "split", "sum", "add"]
    text = message(Does(lambda m, x: F.max_pool2d(F.relu(x.chunk(2, 1)[0]), 2).flatten(1)))
    assert re.findall(r"aten\.(\w+)", text) == ["chunk"]


def test_an_operator_that_leads_nowhere_is_no_reason():
    def forward(m, x):
        F.relu_(x.exp())
        return x

    assert [node.op for node in capture(Does(forward), SHAPE).graph.nodes] == ["input", "conv"]


def test_normalization_that_is_not_batch_norm_as_usual():
    assert "momentum is 0 or None" in message(nn.Sequential(nn.BatchNorm2d(4, momentum=None)))
    assert "batch statistics" in message(nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False)))
    assert "aten.group_norm" in message(nn.Sequential(nn.GroupNorm(2, 4)))


def test_computed_weights():
    weight_normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)))
    text = message(weight_normed)
    assert "its weight is computed" in text
    assert "remove_parametrizations" in text
    nn.utils.parametrize.remove_parametrizations(weight_normed[0], "weight")
    assert capture(weight_normed, SHAPE).graph.nodes[1].op == "conv"


def test_shared_weights():
    conv = nn.Conv2d(4, 4, 1)
    text = message(nn.Sequential(conv, nn.ReLU(), conv))
    assert "is used 2 times" in text
    assert "share weights" in text
    tied = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False))
    tied[1].weight = tied[0].weight
    assert "weight is used 2 times" in message(tied)


def test_several_outputs():
    assert "returns a tuple of 2 in eval mode" in message(Does(lambda m, x: (x, x)))
    assert "returns a dict with the keys 'out', 'aux'" in message(Does(lambda m, x: {"out": x, "aux": x}))
    assert "returns a list of 1" in message(Does(lambda m, x: [x]))
    assert "returns no tensor" in message(Does(lambda m, x: None))
    assert "not computed from its input" in message(Does(lambda m, x: m.scale))


def test_a_fixed_batch():
    text = message(Does(lambda m, x: x.reshape(4, -1)))
    assert text.startswith("Does fixes the batch size")
    assert "x.flatten(1)" in text


def test_control_flow_by_values(capfd):
    def forward(m, x):
        if x.sum() > 0:
            return x
        return -x

    text = message(Does(forward))
    line = forward.__code__.co_firstlineno + 1
    assert re.match(rf"Does decides by the values of a tensor at \S*test_refusals\.py:{line}, so", text)
    assert "\n" not in text
    assert capfd.readouterr() == ("", "")  # torch's own pages about it stay away


def test_an_error_of_the_module_itself(capfd):
    forward = lambda m, x: F.linear(x.flatten(1), m.scale[0])  # noqa: E731
    text = message(Does(forward))
    assert f"at input shape (4, 6, 6) at {_here(forward)}" in text
    assert "is the batch size" in text
    assert capfd.readouterr() == ("", "")


def _here(function) -> str:
    name = "tests/capture/test_refusals.py" if _in_repository() else "capture/test_refusals.py"
    return f"{name}:{function.__code__.co_firstlineno}"


def _in_repository() -> bool:
    from pathlib import Path

    return Path(__file__).is_relative_to(Path.cwd())


def test_a_second_input():
    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    assert "missing a required argument: 'y'" in message(Two())


@pytest.mark.parametrize("shape", [(4, 6), (4, 0, 6), (4, 6.0, 6)])
def test_input_shapes(shape):
    assert "three positive integers" in message(nn.ReLU(), shape)


def test_the_mode_is_put_back_after_a_failure():
    module = Does(lambda m, x: x * 2).train()
    module.conv.eval()
    message(module)
    assert module.training
    assert not module.conv.training
