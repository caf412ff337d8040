"""The acceptance check must notice every small thing that a wrong capture could get wrong."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bitsmith.blueprint import Norm
from bitsmith.capture import capture
from bitsmith.capture.assemble import Assembled, assemble
from bitsmith.capture.check import check
from bitsmith.capture.export import export
from bitsmith.capture.read import read
from bitsmith.errors import CaptureError

SHAPE = (3, 6, 6)


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)
    )


@pytest.fixture(scope="module")
def assembled(module) -> Assembled:
    return assemble(read(export(module, SHAPE), module, SHAPE), module)


def changed(assembled: Assembled, name: str, **fields) -> Assembled:
    nodes = tuple(replace(node, **fields) if node.name == name else node for node in assembled.graph.nodes)
    return replace(assembled, graph=replace(assembled.graph, nodes=nodes))


def test_the_capture_itself_passes(module, assembled):
    assert check(module, assembled, seed=0) == ()


@pytest.mark.parametrize(
    "key",
    ["0.weight", "0.bias", "0.norm.weight", "0.norm.bias", "0.norm.running_mean", "0.norm.running_var", "5.weight"],
)
def test_one_wrong_number_in_the_state(module, assembled, key):
    state = {k: v.clone() for k, v in assembled.state.items()}
    state[key].view(-1)[-1] += 1e-3
    with pytest.raises(CaptureError, match=r"outputs differ.* in eval mode"):
        check(module, replace(assembled, state=state), seed=0)


def test_wrong_numbers_in_the_graph(module, assembled):
    with pytest.raises(CaptureError, match=r"outputs differ.* in eval mode"):
        check(module, changed(assembled, "0", norm=Norm(eps=1e-4)), seed=0)
    # Eval mode does not read the momentum: only a step of training shows it.
    with pytest.raises(CaptureError, match=r"1\.running_mean differ.* in train mode"):
        check(module, changed(assembled, "0", norm=Norm(momentum=0.2)), seed=0)
    # A relu that is nothing.
    with pytest.raises(CaptureError, match=r"outputs differ.* in eval mode"):
        check(module, changed(assembled, "2", op="dropout"), seed=0)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.second(self.first(x))


class Stretched(Two):
    """The same values; the gradient of one weight is 1 % too large."""

    def forward(self, x):
        weight = self.second.weight
        weight = weight + 0.01 * (weight - weight.detach())
        return F.conv2d(self.first(x), weight, self.second.bias)


def test_a_wrong_gradient_is_named():
    torch.manual_seed(0)
    module = Two()
    assembled = assemble(read(export(module, SHAPE), module, SHAPE), module)
    stretched = Stretched()
    stretched.load_state_dict(module.state_dict())
    with pytest.raises(CaptureError, match=r"the gradient of second\.weight differ.* by 0\.0099 .*in eval mode"):
        check(stretched, assembled, seed=0)


def test_train_mode_that_computes_something_else_is_an_error():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            x = self.conv(x)
            return x + x if self.training else x

    torch.manual_seed(0)
    with pytest.raises(CaptureError, match=r"outputs differ.* by 0.5 .*in train mode"):
        capture(Scaled(), SHAPE)


def test_a_module_that_cannot_be_copied_is_compared_as_it_is():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.norm = nn.BatchNorm2d(4)

        def __deepcopy__(self, memo):
            raise TypeError("one of a kind")

        def forward(self, x):
            return F.relu(self.norm(self.conv(x)))

    torch.manual_seed(0)
    module = Fixed()
    captured = capture(module, SHAPE)
    assert captured.notes == (
        "compared in float32, not in float64 (one of a kind), to 0.001",
        "compared in eval mode alone: a step in train mode would change the module's statistics",
    )
    assert module.training
    assert module.norm.num_batches_tracked == 0


class Varied(nn.Module):
    """One of every operator whose fields could be read wrongly."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular")
        self.again = nn.Conv2d(6, 6, 1, bias=False)

    def forward(self, x):
        x = F.leaky_relu(self.stem(x * 2 - 1), 0.2)
        x = F.channel_shuffle(self.again(x), 3)
        x = F.avg_pool2d(x, 3, 2, padding=1, count_include_pad=False)
        a, b = x.split((4, 2), 1)
        x = torch.cat([b, a], 1)
        return self.again(x * F.hardsigmoid(x.mean((2, 3), keepdim=True)))


# A field of a node -> what it could be by mistake.
MISTAKES = [
    ("input", {"gain": (2, 2, 2.001)}),
    ("input", {"offset": (-1, -1.001, -1)}),
    ("input", {"gain": (), "offset": ()}),
    ("stem.pad", {"mode": "reflect"}),
    ("leaky_relu", {"slope": 0.21}),
    ("leaky_relu", {"op": "relu"}),
    ("shuffle", {"groups": 2}),
    ("avg_pool", {"count_pad": True}),
    ("split", {"start": 1}),
    ("concat", {"inputs": ("split", "split_1")}),
    ("hard_sigmoid", {"op": "sigmoid"}),
    ("multiply", {"inputs": ("concat", "avg_pool_1")}),
]


def test_wrong_numbers_of_every_operator():
    torch.manual_seed(0)
    module = Varied()
    assembled = assemble(read(export(module, SHAPE), module, SHAPE), module)
    assert check(module, assembled, seed=0) == ()
    for name, fields in MISTAKES:
        with pytest.raises(CaptureError, match=r"differ.* in eval mode"):
            check(module, changed(assembled, name, **fields), seed=0)


def test_a_use_of_another_layer_is_noticed():
    """A copy of the weight computes the same; its gradient lacks one of the two uses."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 3, 1, bias=False))
    module[2].weight = module[0].weight
    assembled = assemble(read(export(module, SHAPE), module, SHAPE), module)
    assert check(module, assembled, seed=0) == ()
    apart = changed(assembled, "2", shares="")
    apart.state["2.weight"] = apart.state["0.weight"].clone()
    with pytest.raises(CaptureError, match=r"the gradient of \d\.weight differ"):
        check(module, apart, seed=0)


def test_a_module_without_gradients_is_refused_in_words():
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            x = self.conv(x)
            y = x.sigmoid()
            return y.add_(x) * 1 if self.training else y.add_(x)

    with pytest.raises(CaptureError, match=r"Overwrites can't be run forward and backward in eval mode: .*inplace"):
        capture(Overwrites(), SHAPE)
