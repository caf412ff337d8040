"""Whole networks: the rebuilt network has the structure, the parameters and the outputs of the module it came from."""

import re
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from rebuilt import ops, outputs_agree, randomize, rebuild
from torch import nn

from bitsmith.blueprint import NetworkGraph
from bitsmith.capture import capture
from bitsmith.models import edmips_resnet18, resnet8, resnet20


# Layers counted by hand from the architectures' tables: 20 convolutions + 1 classifier; 52 + 1; 9 + 1; 21 + 1 with
# the 1x1 convolutions of the shortcuts. Adds: one per residual block.
@pytest.mark.parametrize(
    ("make", "shape", "layers", "adds"),
    [
        (lambda: torchvision.models.resnet18(num_classes=10), (3, 64, 64), 21, 8),
        (lambda: torchvision.models.mobilenet_v2(num_classes=10), (3, 64, 64), 53, 10),
        (lambda: resnet8(classes=10, channels=3, width=16), (3, 32, 32), 10, 3),
        (lambda: resnet20(classes=10, channels=3, width=16), (3, 32, 32), 22, 9),
    ],
    ids=["resnet18", "mobilenet_v2", "resnet8", "resnet20"],
)
def test_reference_networks(make, shape, layers, adds):
    torch.manual_seed(0)
    module = make()
    captured = capture(module, shape)
    assert len(captured.graph.layers) == layers
    assert ops(captured.graph).count("add") == adds
    assert "affine" not in ops(captured.graph)
    assert sum(p.numel() for p in rebuild(captured).parameters()) == sum(p.numel() for p in module.parameters())
    assert captured.notes == ()
    outputs_agree(module, captured)
    assert NetworkGraph.from_dict(captured.graph.to_dict()) == captured.graph


def test_the_pre_activation_network():
    """Its BatchNorms behind sums are affine, and one of them reads another: its running mean is about zero."""
    torch.manual_seed(0)
    captured = capture(edmips_resnet18(classes=10, channels=1, width=8), (1, 32, 32))
    found = ops(captured.graph)
    assert (len(captured.graph.layers), found.count("add")) == (21, 8)
    assert found.count("affine") == 9  # bn1 and the first BatchNorm of each of the 8 blocks


def test_names_and_lines_are_the_users():
    torch.manual_seed(0)
    graph = capture(torchvision.models.resnet18(), (3, 32, 32)).graph
    names = [node.name for node in graph.nodes]
    assert names[:8] == [
        "input",
        "conv1",
        "relu",
        "maxpool",
        "layer1.0.conv1",
        "layer1.0.relu",
        "layer1.0.conv2",
        "layer1.0.add",
    ]
    assert names[-2:] == ["flatten", "fc"]  # at 32x32 the last map is 1x1 already
    assert "layer1.0.relu_1" in names
    assert graph["layer2.0.downsample.0"].norm is not None
    assert graph["layer1.0.conv1"].source.startswith("models/resnet.py:")
    assert graph["conv1"].kernel == (7, 7)
    assert graph["conv1"].padding == (3, 3, 3, 3)


class Functional(nn.Module):
    """Everything that can be a function is one."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8, eps=1e-3, momentum=0.2)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.a(x))
        y = self.norm(self.b(x))
        x = torch.add(y, x)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        x += F.relu6(x.clone())
        x = F.dropout(x, 0.25, self.training)
        x = F.avg_pool2d(F.relu(x, inplace=True), 2)
        x = x.mean((2, 3), keepdim=True)
        return F.log_softmax(self.head(torch.flatten(x, 1)), dim=-1)


def test_functional_style():
    torch.manual_seed(0)
    module = randomize(Functional())
    captured = capture(module, (3, 16, 16))
    graph = captured.graph
    assert ops(graph) == [
        *("input", "conv", "relu", "conv", "add", "max_pool", "relu6", "add", "dropout", "relu"),
        *("avg_pool", "avg_pool", "flatten", "linear"),
    ]
    assert [n.name for n in graph.nodes if n.op in ("relu", "add")] == ["relu", "add", "add_1", "relu_1"]
    assert graph["b"].norm is not None
    assert (graph["b"].norm.eps, graph["b"].norm.momentum) == (1e-3, 0.2)
    assert graph["a"].bias
    assert not graph["b"].bias
    assert graph["dropout"].rate == 0.25
    assert graph["avg_pool_1"].kernel == (4, 4)
    assert re.fullmatch(r"(tests/)?capture/test_networks\.py:\d+", graph["a"].source)
    # The classifier's output stands for the log_softmax; the train mode can't be compared: F.dropout is random.
    assert any("final log_softmax" in note for note in captured.notes)
    assert any("random" in note for note in captured.notes)
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(rebuild(captured).eval()(x).log_softmax(1), module.eval()(x), rtol=1e-4, atol=1e-5)


class Shaped(nn.Module):
    """Loops, default arguments, ifs on shapes and the ways to flatten."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Conv2d(4 if i else 3, 4, 3, stride=2 if i == 1 else 1, padding=1) for i in range(3)
        )
        self.drop = nn.Dropout(0.3)
        self.act = nn.ReLU(inplace=True)
        self.aux = nn.Linear(7, 7)
        self.norm = nn.BatchNorm1d(6)
        self.hidden = nn.Linear(4 * 4 * 4, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x, scale: int = 1, flag: bool = True, mask=None):
        for block in self.blocks:
            y = block(x)
            if y.shape == x.shape:
                y = y + x
            x = self.act(y)
        unused = x.exp() * scale  # noqa: F841 - a dead branch outside of the vocabulary
        if x.shape[-1] > 4 and flag:
            x = F.adaptive_avg_pool2d(x, 4)
        x = F.adaptive_avg_pool2d(x, (4, None))
        x = x.contiguous().view(x.size(0), -1)
        x = sum([self.norm(self.hidden(x))])
        return self.head(self.drop(x.unsqueeze(2).squeeze(-1)))


def test_shapes_loops_and_defaults():
    torch.manual_seed(0)
    module = randomize(Shaped())
    captured = capture(module, (3, 16, 16))
    graph = captured.graph
    assert ops(graph) == [
        *("input", "conv", "relu", "conv", "relu", "conv", "add", "relu"),
        *("avg_pool", "flatten", "linear", "dropout", "linear"),
    ]
    assert [node.name for node in graph.nodes if node.op == "relu"] == ["act", "act_1", "act_2"]
    assert graph["drop"].rate == 0.3
    assert graph["hidden"].norm is not None
    assert graph["avg_pool"].kernel == (2, 2)
    assert captured.notes == ("parameters that eval mode does not use are left out: aux.weight, aux.bias",)
    outputs_agree(module, captured)


class Awkward(nn.Module):
    """Groups, asymmetric padding, pre-activation with a shared input, nested containers."""

    def __init__(self):
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 2, 0))
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Sequential(
            nn.Sequential(nn.Conv2d(8, 8, 4, padding="same", groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6()),
            nn.Sequential(nn.Identity(), nn.Conv2d(8, 8, (3, 1), padding="valid", dilation=(2, 1), groups=2)),
        )
        self.short = nn.Conv2d(8, 8, (5, 1), bias=False)
        self.second = nn.BatchNorm2d(8, affine=False)
        self.tanh = nn.Hardtanh(0, 6)

    def forward(self, x):
        x = self.stem(F.pad(self.pad(x), (1, 0)))
        pre = self.norm(x)
        y = self.body(F.relu(pre)) + self.short(pre)
        z = self.short_cut(x)
        return self.tanh(self.second(y)).add_(z)

    def short_cut(self, x):
        return x[:, :, 2:-2] if x.shape[-1] == 99 else F.max_pool2d(x, (5, 1), stride=1)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_awkward_layers():
    torch.manual_seed(0)
    module = randomize(Awkward())
    captured = capture(module, (3, 20, 17))
    graph = captured.graph
    assert graph["stem"].padding == (2, 1, 0, 1)
    assert graph["stem"].norm is None  # two read it
    assert graph["norm"].op == "affine"
    assert graph["body.0.0"].padding == (1, 1, 2, 2)
    assert graph["body.0.0"].groups == 8
    assert graph["body.1.1"].dilation == (2, 1)
    assert graph["body.1.1"].groups == 2
    assert graph["body.0.2"].op == graph["tanh"].op == "relu6"
    assert graph["second"].inputs == (next(n.name for n in graph.nodes if n.op == "add"),)
    assert graph.consumers["stem"] == ("norm", "max_pool")
    assert captured.notes == ("second: its BatchNorm has no weight or bias; the captured one learns them from 1 and 0",)
    outputs_agree(module, captured)


class Names(nn.Module):
    """Names that the rebuilt network uses itself, a module that is a layer and holds one, and two registrations."""

    def __init__(self):
        super().__init__()
        self.layer = nn.ModuleList([nn.Conv2d(3, 4, 1)])
        self.streams = nn.Conv2d(4, 4, 1)
        self.both = Both()
        self.input = nn.Conv2d(4, 4, 1)
        self.again = self.input

    def forward(self, x):
        return self.again(self.both(self.streams(self.layer[0](x)))).squeeze(-1).squeeze(-1)


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 1, 1))
        self.second = nn.Parameter(torch.randn(4, 4, 1, 1))
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return F.conv2d(self.conv(F.conv2d(x, self.weight)), self.second)


def test_names_are_free_attribute_paths():
    torch.manual_seed(0)
    module = Names()
    captured = capture(module, (3, 1, 1))
    layers = [layer.name for layer in captured.graph.layers]
    assert layers[:2] == ["layer_.0", "streams_"]
    assert layers[2:5] == ["both.conv_1", "both.conv", "both.second"]
    assert layers[5] in ("input", "again")
    assert not any(a.startswith(f"{b}.") or b.startswith(f"{a}.") for a, b in combinations(layers, 2))
    outputs_agree(module, captured)


def test_a_bare_layer():
    torch.manual_seed(0)
    captured = capture(nn.Conv2d(3, 2, 1), (3, 2, 2))
    assert [node.name for node in captured.graph.nodes] == ["input", "conv"]


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.identity = nn.Identity()

    def forward(self, x):
        x = self.conv(x)
        same, copied = self.identity(x).contiguous(), x.clone()
        F.relu_(x)
        return same + copied  # relu(x) + x


def test_in_place_operators_change_every_name_of_a_tensor_but_no_copy():
    torch.manual_seed(0)
    module = InPlace()
    captured = capture(module, (3, 4, 4))
    assert captured.graph["add"].inputs == ("relu", "conv")
    outputs_agree(module, captured)
