"""Layers used more than once: one set of parameters, several nodes; gradients of all uses add up."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bitsmith.capture import Captured, capture
from bitsmith.errors import CaptureError
from bitsmith.quantize import build, float_blueprint

SHAPE = (4, 8, 8)


class Twice(nn.Module):
    """A convolution, BatchNorms to put behind it, and a forward to be given."""

    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.other = nn.Conv2d(4, 4, 1)
        self.a, self.b = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 4)
        self.does = forward
        for norm in (self.a, self.b):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        return self.does(self, x)


def captured_of(forward, shape=SHAPE) -> tuple[Captured, nn.Module]:
    module = Twice(forward)
    return capture(module, shape), module


def layout(captured: Captured) -> list[str]:
    return [f"{n.name} = {n.op}({n.shares})" if n.shares else f"{n.name} = {n.op}" for n in captured.graph.nodes[1:]]


def test_a_convolution_used_twice():
    captured, module = captured_of(lambda m, x: m.conv(F.relu(m.conv(x))))
    assert layout(captured) == ["conv = conv", "relu = relu", "conv_1 = conv(conv)"]
    assert list(captured.state) == ["conv.weight"]
    (layer,) = captured.graph.layers
    assert (layer.weights, layer.macs) == (144, 2 * 144 * 64)
    network = build(float_blueprint(captured.graph))
    network.load_state_dict(captured.state, strict=True)
    # One step of SGD through both uses moves the one weight as in the module.
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    for net in (module, network):
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        net(x).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(network.layer("conv").weight, module.conv.weight)


def test_at_other_sizes_and_with_other_geometry():
    def forward(m, x):
        y = F.conv2d(x, m.other.weight, m.other.bias, stride=2)
        return m.other(F.max_pool2d(x, 2)) + y

    captured, _ = captured_of(forward)
    first, second = (node for node in captured.graph.nodes if node.op == "conv")
    assert {first.stride, second.stride} == {(1, 1), (2, 2)}
    assert (first.shares, second.shares) == ("", first.name)
    assert sum(layer.macs for layer in captured.graph.layers) == 2 * 16 * 16


def test_one_batch_norm_behind_every_use_belongs_to_the_layer():
    captured, _ = captured_of(lambda m, x: m.a(m.conv(F.relu(m.a(m.conv(x))))))
    assert layout(captured) == ["conv = conv", "relu = relu", "conv_1 = conv(conv)"]
    assert captured.graph["conv"].norm is not None
    assert "conv.norm.running_mean" in captured.state


def test_other_batch_norms_stay_apart():
    captured, _ = captured_of(lambda m, x: m.b(m.conv(m.a(m.conv(x)))))
    assert layout(captured) == ["conv = conv", "a = affine", "conv_1 = conv(conv)", "b = affine"]
    captured, _ = captured_of(lambda m, x: m.conv(m.a(m.conv(x))))
    assert layout(captured) == ["conv = conv", "a = affine", "conv_1 = conv(conv)"]
    # The first result is read beside its BatchNorm.
    captured, _ = captured_of(lambda m, x: (lambda y: m.b(m.conv(m.a(y))) + y)(m.conv(x)))
    assert layout(captured)[:2] == ["conv = conv", "a = affine"]


def test_a_linear_layer_and_two_names_for_one_parameter():
    captured, _ = captured_of(lambda m, x: m.fc(F.relu(m.fc(m.fc(m.conv(x).mean((2, 3)))))))
    assert [node.shares for node in captured.graph.nodes if node.op == "linear"] == ["", "fc", "fc"]
    tied = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False))
    tied[2].weight = tied[0].weight
    assert layout(capture(tied, SHAPE)) == ["0 = conv", "1 = relu", "2 = conv(0)"]


def test_a_use_that_leads_nowhere_does_not_count():
    def forward(m, x):
        m.conv(x).exp()
        return m.conv(F.relu(x))

    captured, _ = captured_of(forward)
    assert layout(captured) == ["relu = relu", "conv = conv"]


REFUSED = {
    "another bias": lambda m, x: m.other(F.relu(F.conv2d(x, m.other.weight))),
    "a bias of two": lambda m, x: F.conv2d(F.relu(m.other(x)), m.conv.weight, m.other.bias),
    "a norm behind two layers": lambda m, x: m.a(m.conv(F.relu(m.a(m.other(x))))),
    "a norm used alone twice": lambda m, x: m.a(F.relu(m.a(x))),
    "a norm behind some uses": lambda m, x: m.conv(m.a(m.conv(F.relu(m.a(m.conv(x)))))),
    "other groups": lambda m, x: torch.cat([m.other(x), F.conv2d(torch.cat([x, x], 1), m.other.weight, groups=2)], 1),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_shared_otherwise_is_refused_by_name(case):
    with pytest.raises(CaptureError, match=r"(other|a)\.\w+ is used 2 times \(at .*test_sharing") as caught:
        captured_of(REFUSED[case])
    assert "of its own" in str(caught.value)
