"""Networks that nobody should write and somebody has: what they are awkward about must not matter."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bitsmith.capture import capture


class Tangle(nn.Module):
    """A convolution used twice, scales of 1 : 1000 joined, an unused branch, odd channels, a dict as its result."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 7, 3, padding=1)
        self.shared = nn.Conv2d(7, 7, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(7), nn.BatchNorm2d(7)])
        self.unused = nn.Conv2d(7, 5, 1)
        self.squeeze = nn.Conv2d(21, 1, 1)
        self.expand = nn.Conv2d(1, 21, 1)
        self.head = nn.Linear(21, 3)

    def forward(self, x):
        x = F.relu(self.stem(x))
        self.unused(x).exp().sum()
        y = self.norms[0](self.shared(x))
        z = self.norms[1](self.shared(y.relu()))
        joined = torch.cat([x, y, z], 1)
        gate = self.expand(F.silu(self.squeeze(joined.mean((2, 3), keepdim=True)))).sigmoid()
        features = (joined * gate).amax((2, 3))
        return {"logits": self.head(features), "features": features}


def test_a_tangle():
    torch.manual_seed(0)
    module = Tangle()
    with torch.no_grad():
        module.norms[0].weight.mul_(1000)
        module.norms[1].weight.mul_(0.001)
    captured = capture(module, (3, 9, 11), output="logits")
    assert [node.op for node in captured.graph.nodes[1:]] == [
        *("conv", "relu", "conv", "affine", "relu", "conv", "affine", "concat"),
        *("avg_pool", "conv", "silu", "conv", "sigmoid", "multiply", "max_pool", "flatten", "linear"),
    ]
    assert "parameters that eval mode does not use are left out: unused.weight, unused.bias" in captured.notes


@pytest.mark.parametrize("behind", ["conv", "relu", "linear"])
def test_batch_norms_that_scale_by_nothing_or_less(behind):
    """gamma = 0, gamma < 0, a channel without variance, and a BatchNorm alone."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(5) if behind == "linear" else nn.BatchNorm2d(5)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.0, -1.0, -0.001, 2.0, 0.0]))
        norm.bias.copy_(torch.tensor([0.0, 1.0, -1.0, 0.0, 3.0]))
        norm.running_var[3] = 0
    before = {
        "conv": [nn.Conv2d(3, 5, 1, bias=False), norm, nn.ReLU(), nn.Flatten(), nn.Linear(80, 2)],
        "relu": [nn.Conv2d(3, 5, 1), nn.ReLU(), norm, nn.Flatten(), nn.Linear(80, 2)],
        "linear": [nn.Flatten(), nn.Linear(48, 5), norm, nn.Hardswish(), nn.Linear(5, 2)],
    }[behind]
    captured = capture(nn.Sequential(*before), (3, 4, 4))
    assert ("affine" in [node.op for node in captured.graph.nodes]) == (behind == "relu")


def test_channels_that_never_change():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        conv.weight[0], conv.weight[2] = 0, 0
        conv.bias[2] = -1
    module = nn.Sequential(conv, nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4))
    assert len(capture(module, (3, 8, 8)).graph.layers) == 2


def test_one_pixel_and_one_channel():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert capture(module, (1, 1, 1)).graph.output_shape == (1,)


def test_a_network_without_parameters_and_one_that_does_nothing():
    assert [node.op for node in capture(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), (3, 4, 4)).graph.nodes] == [
        *("input", "relu", "max_pool")
    ]
    assert [node.op for node in capture(nn.Identity(), (3, 4, 4)).graph.nodes] == ["input"]


def test_a_deep_chain():
    """Nothing in reading or joining recurses: 400 sums one after another are one."""

    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, x):
            y = x
            for _ in range(400):
                y = y + x
            return self.conv(y)

    graph = capture(Chain(), (2, 2, 2)).graph
    assert [node.op for node in graph.nodes] == ["input", "add", "conv"]
    assert graph["add"].inputs == ("input",) * 401
