"""Arithmetic on the raw input becomes the input's gain and offset."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bitsmith.blueprint import NetworkGraph
from bitsmith.capture import capture
from bitsmith.errors import CaptureError
from bitsmith.quantize import build, float_blueprint

SHAPE = (3, 6, 6)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Scales(nn.Module):
    """Something done to the image before a convolution."""

    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(STD), persistent=False)
        self.register_buffer("image", torch.rand(3, 6, 6))
        self.learned = nn.Parameter(torch.rand(3, 1, 1))
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.wide = nn.Conv2d(6, 4, 1)
        self.does = forward

    def forward(self, x):
        return self.does(self, x)


def graph_of(forward) -> NetworkGraph:
    return capture(Scales(forward), SHAPE).graph


def _by_channel(m, x):
    """As torchvision's googlenet and inception_v3 with transform_input=True."""
    rows = [torch.unsqueeze(x[:, i], 1) * (STD[i] / 0.5) + (MEAN[i] - 0.5) / 0.5 for i in range(3)]
    return m.conv(torch.cat(rows, 1))


def _in_place(m, x):
    x = x.clone()
    x.sub_(m.mean).div_(m.std[None, :, None, None])
    return m.conv(x)


STANDARD = ([1 / s for s in STD], [-m / s for m, s in zip(MEAN, STD, strict=True)])
SCALED = {
    "buffers": (lambda m, x: m.conv((x - m.mean) / m.std.view(1, -1, 1, 1)), *STANDARD),
    "tensors made in the forward": (
        lambda m, x: m.conv((x - torch.tensor(MEAN)[:, None, None]) * (1 / torch.tensor(STD)).reshape(3, 1, 1)),
        *STANDARD,
    ),
    "in place": (_in_place, *STANDARD),
    "by channel": (_by_channel, [s / 0.5 for s in STD], [(m - 0.5) / 0.5 for m in MEAN]),
    "numbers": (lambda m, x: m.conv(x / 255 * 2 - 1), [2 / 255] * 3, [-1] * 3),
    "reversed": (lambda m, x: m.conv(1 - 2 * x), [-2] * 3, [1] * 3),
    "minus": (lambda m, x: m.conv(-x.add(m.mean, alpha=2)), [-1] * 3, [-2 * m for m in MEAN]),
    "buffer first": (lambda m, x: m.conv(torch.sub(m.mean, x, alpha=3)), [-3] * 3, MEAN),
    "one of the channels": (
        lambda m, x: m.conv(torch.cat([x[:, :2], x.narrow(1, 2, 1) * 4], 1)),
        [1, 1, 4],
        [0, 0, 0],
    ),
}


@pytest.mark.parametrize("written", SCALED)
def test_scaled(written):
    forward, gain, offset = SCALED[written]
    graph = graph_of(forward)
    assert [node.op for node in graph.nodes] == ["input", "conv"]
    np.testing.assert_allclose(graph.nodes[0].gain, gain, rtol=1e-6)  # the module's constants are float32
    np.testing.assert_allclose(graph.nodes[0].offset, offset, rtol=1e-6)
    assert NetworkGraph.from_dict(graph.to_dict()) == graph


def test_scaling_that_changes_nothing_is_nothing():
    for forward in (lambda m, x: m.conv(x * 1.0 + 0), lambda m, x: m.conv(sum([x])), lambda m, x: m.conv(x / 1)):
        assert graph_of(forward).nodes[0].gain == ()


def test_zeros_are_padded_behind_the_scaling():
    graph = graph_of(lambda m, x: m.conv(F.pad((x - m.mean) * 2, (1, 1))))
    assert graph["conv"].padding == (1, 2, 1, 2)
    module = Scales(lambda m, x: m.conv(x + 5))
    captured = capture(module, SHAPE)
    network = build(float_blueprint(captured.graph))
    network.load_state_dict(captured.state, strict=True)
    x = torch.randn(2, *SHAPE)
    torch.testing.assert_close(network(x), module(x))  # 0 at the edges, not 5


def test_channels_can_be_reordered_and_left_out():
    graph = graph_of(lambda m, x: m.conv(torch.cat([x[:, 2:], x[:, 1:2], x[:, :1]], 1) * 2 - m.mean))
    assert [node.op for node in graph.nodes] == ["input", "split", "split", "split", "concat", "conv"]
    assert [node.start for node in graph.nodes if node.op == "split"] == [2, 1, 0]
    np.testing.assert_allclose(graph.nodes[0].offset, [-m for m in MEAN[::-1]], rtol=1e-6)
    graph = graph_of(lambda m, x: m.wide(torch.cat([x * 2, x * 2], 1)))
    assert [node.op for node in graph.nodes] == ["input", "concat", "conv"]
    assert graph["concat"].inputs == ("input", "input")
    for turned in (lambda x: x.flip(1), lambda x: x[:, [2, 1, 0]], lambda x: x[:, torch.tensor([2, 1, 0])]):
        graph = graph_of(lambda m, x: m.conv(turned(x - m.mean)))  # noqa: B023 - called in the same turn
        assert [node.start for node in graph.nodes if node.op == "split"] == [2, 1, 0]
    graph = graph_of(lambda m, x: torch.cat([m.conv(x), x[:, 1:]], 1))
    assert [node.op for node in graph.nodes] == ["input", "conv", "split", "concat"]


@pytest.mark.parametrize("repeated", [lambda x: x.repeat(1, 3, 1, 1), lambda x: x.expand(-1, 3, -1, -1)])
def test_a_gray_image_can_be_repeated(repeated):
    graph = capture(Scales(lambda m, x: m.conv((repeated(x) - 0.5) / 2)), (1, 6, 6)).graph
    assert [node.op for node in graph.nodes] == ["input", "concat", "conv"]
    with pytest.raises(CaptureError, match="channel 0 of the input is read scaled in two ways"):
        capture(Scales(lambda m, x: m.conv(repeated(x) - m.mean)), (1, 6, 6))


def test_the_input_itself_changed_in_place():
    def forward(m, x):
        x.sub_(0.5).div_(m.std[:, None, None])
        return m.conv(x)

    assert graph_of(forward).nodes[0].offset == pytest.approx([-0.5 / s for s in STD])
    graph = graph_of(lambda m, x: torch.cat([m.conv(F.relu_(x)), x], 1))
    assert graph["concat"].inputs == ("conv", "relu")


def test_a_branch_that_leads_nowhere_may_read_it_otherwise():
    def forward(m, x):
        F.relu(x)
        return m.conv(x * 2)

    assert graph_of(forward).nodes[0].gain == (2, 2, 2)


def test_one_image_has_one_scaling():
    with pytest.raises(
        CaptureError, match=r"channel 0 of the input is read scaled in two ways \(x \* 1 \+ 0 and x \* 2"
    ):
        graph_of(lambda m, x: m.conv(x) + m.conv(x * 2))
    with pytest.raises(CaptureError, match=r"x \* 0\.1 \+ 3 at .*test_input.py:\d+ and x \* 2 \+ 0 at .*scale once"):
        graph_of(lambda m, x: m.conv(x * 0.1 + 3) + m.conv(x * 2))


REFUSED = {
    "a learned scale": (lambda m, x: m.conv(x * m.learned), "isn't computed from the input (learned)"),
    "a mean image": (
        lambda m, x: m.conv(x - m.image),
        "it scales the input by a tensor of shape (3, 6, 6); one number",
    ),
    "a mean of one row": (lambda m, x: m.conv(x * m.std[:2].repeat(3)), "of shape (6,)"),
    "by zero": (lambda m, x: m.conv(x / 0), "not finite"),
    "rounded": (lambda m, x: m.conv(torch.div(x, 2, rounding_mode="floor")), "aten.div.Tensor_mode"),
    "behind a function": (lambda m, x: m.conv(F.relu(x) * 2), "it multiplies by a number; numbers scale the raw input"),
    "behind a layer": (lambda m, x: m.conv(x) - m.mean[0], "it is no sum or product of two tensors; numbers scale"),
    "by a buffer behind a layer": (lambda m, x: m.conv(x)[:, :3] * m.mean, "isn't computed from the input (mean)"),
    "by part of itself": (lambda m, x: m.conv(x / x.mean((2, 3), keepdim=True)), "it is no sum or product"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_scaling_of_the_input_is_refused(case):
    forward, reason = REFUSED[case]
    with pytest.raises(CaptureError) as caught:
        graph_of(forward)
    assert reason in str(caught.value)
    assert "test_input.py:" in str(caught.value)
