"""Every way to be refused: the message names the thing, the reason and the line."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bitsmith.capture import capture
from bitsmith.capture.draft import NUMBERS
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
    "exponential": (lambda m, x: m.conv(x.exp()), "aten.exp.default at", ""),
    "softplus": (lambda m, x: F.softplus(x), "aten.softplus.default at", ""),
    "approximate gelu": (
        lambda m, x: F.gelu(x, approximate="tanh"),
        "aten.gelu.default at",
        "another function than gelu",
    ),
    "clamp": (lambda m, x: x.clamp(-1, 1), "aten.clamp.default at", "its range is -1..1"),
    "clamp by a tensor": (lambda m, x: x.clamp(min=m.scale[0, 0, 0]), "aten.clamp.Tensor at", "its range is"),
    "multiply by a number": (lambda m, x: x * 2.0, "aten.mul.Tensor at", "it multiplies by a number"),
    "divide by a number": (lambda m, x: x / 2.0, "aten.div.Tensor at", "no sum or product of two tensors"),
    "subtract": (lambda m, x: x - m.conv(x), "aten.sub.Tensor at", "no sum or product of two tensors"),
    "minus": (lambda m, x: -x, "aten.neg.default at", "no sum or product of two tensors"),
    "half of a hard sigmoid": (
        lambda m, x: F.relu6(x + 3),
        "aten.relu6.default at",
        "relu6(x + 3) is no whole operator",
    ),
    "another hard sigmoid": (lambda m, x: F.relu6(x + 3) / 5, "aten.div.Tensor at", "no sum or product"),
    "reshaped half way": (lambda m, x: (x + 3).flatten(1), "aten.add.Tensor at", "x + 3 is no whole operator"),
    "product by columns": (
        lambda m, x: x * x.mean(1, keepdim=True),
        "aten.mean.dim at",
        "it averages (N, 4, 6, 6) over dimensions [1]",
    ),
    "product by rows": (
        lambda m, x: x * x.mean(2, keepdim=True),
        "aten.mul.Tensor at",
        "it broadcasts (N, 4, 6, 6) and (N, 4, 1, 6)",
    ),
    "repeated and added": (
        lambda m, x: x + x.mean((2, 3), keepdim=True).expand_as(x),
        "aten.expand_as.default at",
        "only a product reads (N, C, 1, 1) repeated",
    ),
    "repeated channels": (lambda m, x: x * x[:, :1].expand_as(x), "aten.expand_as.default at", "only (N, C, 1, 1)"),
    "rows joined": (lambda m, x: torch.cat([x, x], 2), "aten.cat.default at", "it joins rows or columns"),
    "rows split": (lambda m, x: torch.cat(x.chunk(2, 2), 1), "aten.chunk.default at", "it splits rows or columns"),
    "rows cut": (lambda m, x: x[:, :, 1:], "aten.slice.Tensor at", "it cuts rows or columns"),
    "every other channel": (lambda m, x: x[:, ::2], "aten.slice.Tensor at", "every n-th"),
    "turned": (lambda m, x: x.flip(3), "aten.flip.default at", "it turns rows or columns around"),
    "other order": (lambda m, x: x[:, [2, 1, 0, 3]], "aten.index.Tensor at", "at the raw input only"),
    "some rows": (lambda m, x: x[:, :, [2, 1, 0]], "aten.index.Tensor at", "only a fixed list of channels"),
    "tiled": (lambda m, x: x.repeat(1, 1, 2, 1), "aten.repeat.default at", "it repeats rows or columns"),
    "one row": (lambda m, x: x[:, :, 0], "aten.select.int at", "it takes one row or column"),
    "a channel alone": (lambda m, x: x[:, 0], "aten.select.int at", "neither (N, C, H, W) nor (N, features)"),
    "transpose": (lambda m, x: x.transpose(2, 3).contiguous(), "aten.transpose.int at", "in a channel shuffle only"),
    "half a shuffle": (
        lambda m, x: F.relu(x.view(-1, 2, 2, 6, 6).transpose(1, 2)),
        "aten.transpose.int at",
        "must be put together again",
    ),
    "two swaps": (
        lambda m, x: x.view(-1, 2, 2, 6, 6).transpose(1, 2).transpose(1, 2).reshape(x.shape),
        "aten.transpose.int at",
        "swaps dimensions of what was swapped",
    ),
    "shuffled features": (
        lambda m, x: x.flatten(1).view(-1, 2, 72).transpose(1, 2).flatten(1),
        "aten.transpose.int at",
        "in a channel shuffle only",
    ),
    "a map of features": (
        lambda m, x: m.conv(x.flatten(1).view(-1, 16, 3, 3)[:, :4]),
        "aten.view.default at",
        "flatten",
    ),
    "sum of maps": (lambda m, x: x.sum((2, 3)), "aten.sum.dim_IntList at", "take the mean"),
    "detach": (lambda m, x: m.conv(x.detach()), "aten.detach", ""),
    "softmax of rows": (lambda m, x: x.softmax(-1), "aten.softmax.int at", ""),
    "argmax of all": (lambda m, x: m.conv(x) + x.argmax(), "aten.argmax.default at", ""),
    "add a number": (lambda m, x: x + 2, "aten.add", "it adds a number"),
    "add a parameter": (lambda m, x: x + m.scale, "aten.add.Tensor", "isn't computed from the input (scale)"),
    "alpha": (lambda m, x: torch.add(x, m.conv(x), alpha=2), "aten.add", "alpha is 2"),
    "broadcast": (
        lambda m, x: x + x.mean((2, 3), keepdim=True),
        "aten.add.Tensor",
        "it broadcasts (N, 4, 6, 6) and (N, 4, 1, 1)",
    ),
    "mean of rows": (lambda m, x: x.mean(3), "aten.mean.dim", "neither (N, C, H, W) nor (N, features)"),
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
        "6x6 does not divide evenly into 4x4: its windows would differ",
    ),
    "enlarging adaptive pool": (
        lambda m, x: F.adaptive_max_pool2d(x, (7, 6)),
        "aten.adaptive_max_pool2d",
        "6x6 does not divide evenly into 7x6: it would enlarge",
    ),
    "divisor": (lambda m, x: F.avg_pool2d(x, 2, divisor_override=3), "aten.avg_pool2d", "divisor_override"),
    "ceil average with padding": (
        lambda m, x: F.avg_pool2d(x, 3, 2, padding=1, ceil_mode=True),
        "aten.avg_pool2d",
        "set count_include_pad=False or ceil_mode=False",
    ),
    "indices": (lambda m, x: F.max_pool2d(x, 2, return_indices=True)[1], "max_pool2d", "indices are not captured"),
    "pad with ones": (lambda m, x: m.conv(F.pad(x, (1, 1), value=1.0)), "aten.pad", "it pads with 1.0"),
    "crop": (lambda m, x: m.conv(F.pad(x, (-1, 0))), "aten.pad", "a negative pad"),
    "crop with zeros": (lambda m, x: m.conv(F.pad(x, (1, 1, -1, 0))), "aten.pad", "a negative pad"),
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
    first, *lines, last = text.splitlines()
    assert first == "Does can't be captured, because of"
    assert last.startswith("(what can be captured: add, affine, avg_pool, ")
    (line,) = (line for line in lines if operator in line)
    assert reason in line
    assert re.search(r" at (\S*test_refusals\.py:\d+|an unknown line)", line)


def test_all_operators_are_listed_with_their_lines_and_counts():
    class Many(nn.Module):
        def forward(self, x):
            for _ in range(3):
                x = torch.exp(x)
            y, _ = F.max_pool2d(x, 2, return_indices=True)
            return F.relu(F.gelu(y, approximate="tanh")) / 2

    first, *lines, _ = message(Many()).splitlines()
    start = Many.forward.__code__.co_firstlineno
    assert first.startswith("Many can't be captured")
    assert [re.sub(r" at \S*test_refusals\.py:(\d+)", lambda m: f" +{int(m[1]) - start}", line) for line in lines] == [
        "  aten.exp.default +2, 3 times",
        "  aten.gelu.default +4: approximate='tanh' is another function than gelu; use the exact one, "
        "approximate='none'",
        "  aten.div.Tensor +4: it is no sum or product of two tensors; " + NUMBERS,
    ]


def test_what_reads_a_refused_operator_is_judged_by_itself():
    text = message(Does(lambda m, x: m.conv(torch.stack(x.unbind(1), 1)) + F.avg_pool2d(x.flip(2), 1).sum(1, True)))
    assert re.findall(r"aten\.(\w+)", text) == ["unbind", "stack", "flip", "sum", "add"]
    text = message(Does(lambda m, x: F.max_pool2d(F.relu(x.unbind(1)[0].unsqueeze(1)), 2).flatten(1)))
    assert re.findall(r"aten\.(\w+)", text) == ["unbind"]


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


def test_no_output():
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
    forward = lambda m, x: F.linear(x.flatten(1), m.scale[0])  # noqa: E731 - its line is looked up
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
