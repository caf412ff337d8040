"""Narrower networks against the same networks built at that width in plain torch, and against themselves."""

import math
from functools import cache

import graphs
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import DenseNet, ShuffleNetV2

from bitsmith.blueprint import Budget, NetworkGraph, couple
from bitsmith.capture.assemble import assemble
from bitsmith.capture.export import export
from bitsmith.capture.read import read
from bitsmith.cost import exact, fits
from bitsmith.errors import BudgetError, RecipeError
from bitsmith.models import load_model
from bitsmith.quantize import build, float_blueprint
from bitsmith.space import largest_width, narrow, narrowed


def scaled(n: int, width: float) -> int:
    return max(1, math.floor(n * width + 0.5))


def graph_of(module: nn.Module, size: int = 32) -> NetworkGraph:
    module = module.eval()
    shape = (3, size, size)
    return assemble(read(export(module, shape), module, shape), module).graph


class Block(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.skip = nn.Conv2d(cin, cout, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.skip(x))


class ResNet(nn.Module):
    """ResNet-8 (depth 1) and ResNet-20 (depth 3)."""

    def __init__(self, depth: int, width: float) -> None:
        super().__init__()
        widths = [scaled(n, width) for n in (16, 32, 64)]
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        blocks = []
        for stage, cout in enumerate(widths):
            blocks.append(Block(widths[max(stage - 1, 0)], cout, 2 if stage else 1))
            blocks += [Block(cout, cout, 1) for _ in range(depth - 1)]
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(widths[2], 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(F.relu(self.norm(self.stem(x)))).mean((2, 3)))


class Inverted(nn.Module):
    def __init__(self, cin: int, hidden: int, cout: int, stride: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(cin, hidden, 1, bias=False)
        self.depth = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.gate = nn.Sequential(
            nn.Conv2d(hidden, max(1, hidden // 4), 1), nn.ReLU(), nn.Conv2d(max(1, hidden // 4), hidden, 1)
        )
        self.project = nn.Conv2d(hidden, cout, 1, bias=False)
        self.adds = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.depth(F.relu6(self.expand(x))))
        y = y * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(y, 1)))
        y = self.project(y)
        return x + y if self.adds else y


class MobileNet(nn.Module):
    """Inverted residuals with gates; hidden widths are multiples of 4, so that a quarter of them is whole."""

    def __init__(self, width: float) -> None:
        super().__init__()
        a, b, hidden_a, hidden_b, last = (scaled(n, width) for n in (8, 16, 48, 96, 64))
        self.stem = nn.Conv2d(3, a, 3, 2, 1)
        self.body = nn.Sequential(
            Inverted(a, hidden_a, a, 1), Inverted(a, hidden_a, b, 2), Inverted(b, hidden_b, b, 1), nn.Conv2d(b, last, 1)
        )
        self.fc = nn.Linear(last * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(self.body(self.stem(x)), 4).flatten(1))


class Grouped(nn.Module):
    """Branches, four groups, a split and a max pool."""

    def __init__(self, width: float) -> None:
        super().__init__()
        a, b, part, wide = scaled(12, width), scaled(20, width), 4 * scaled(6, width), 4 * scaled(12, width)
        self.left, self.right = nn.Conv2d(3, a, 3, padding=1), nn.Conv2d(3, b, 1)
        self.into = nn.Conv2d(a + b, part, 1)
        self.grouped = nn.Conv2d(part, wide, 3, padding=1, groups=4)
        self.upper, self.lower = nn.Conv2d(wide // 2, 10, 1), nn.Conv2d(wide // 2, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.into(torch.cat([self.left(x), self.right(x)], 1)))
        y = F.max_pool2d(self.grouped(y), 2)
        left, right = y.chunk(2, 1)
        return F.adaptive_avg_pool2d(self.upper(left) + self.lower(right), 1).flatten(1)


ORACLES = {
    "resnet8": lambda width: ResNet(1, width),
    "resnet20": lambda width: ResNet(3, width),
    "mobilenet": MobileNet,
    "grouped": Grouped,
}
# torchvision's own builders, at a width at which all their roundings are whole.
HALVES = {
    "densenet": (
        lambda: DenseNet(32, (6, 12, 24, 16), 64, num_classes=10),
        lambda: DenseNet(16, (6, 12, 24, 16), 32, num_classes=10),
    ),
    "shufflenet": (
        lambda: ShuffleNetV2([4, 8, 4], [24, 116, 232, 464, 1024], num_classes=10),
        lambda: ShuffleNetV2([4, 8, 4], [12, 58, 116, 232, 512], num_classes=10),
    ),
}


def same(found: NetworkGraph, expected: NetworkGraph) -> None:
    assert [(n.op, n.shape, n.groups, n.start) for n in found.nodes] == [
        (n.op, n.shape, n.groups, n.start) for n in expected.nodes
    ]
    assert [layer.macs for layer in found.layers] == [layer.macs for layer in expected.layers]


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", ORACLES)
def test_as_built_at_that_width(name):
    whole = graph_of(ORACLES[name](1.0))
    for width in (0.25, 0.5, 0.75):
        found, module = narrow(whole, width), ORACLES[name](width)
        same(found, graph_of(module))
        assert parameters(build(float_blueprint(found))) == parameters(module)


def test_resnets_at_odd_widths():
    whole = graph_of(ResNet(1, 1.0))
    for width in (0.07, 0.33, 0.62, 0.91):
        same(narrow(whole, width), graph_of(ResNet(1, width)))


@pytest.mark.parametrize("name", HALVES)
def test_as_torchvision_builds_it(name, full):
    if name == "densenet" and not full:
        pytest.skip("in the full tier")
    whole, half = (make() for make in HALVES[name])
    found = narrow(graph_of(whole), 0.5)
    same(found, graph_of(half))
    assert parameters(build(float_blueprint(found))) == parameters(half)


NETWORKS = ("resnet8", "resnet20", "torchvision:mobilenet_v2", "torchvision:shufflenet_v2_x1_0",
            "torchvision:shufflenet_v2_x0_5", "torchvision:densenet121", "torchvision:squeezenet1_1",
            "torchvision:googlenet", "torchvision:efficientnet_b0", "torchvision:regnet_y_400mf",
            "torchvision:mobilenet_v3_small", "torchvision:mnasnet0_5", "torchvision:resnext50_32x4d")  # fmt: skip
REDUCED = {"resnet8", "torchvision:shufflenet_v2_x1_0", "torchvision:squeezenet1_1", "torchvision:regnet_y_400mf"}


@cache
def captured(name: str):
    module, _ = load_model(name, classes=10, shape=(3, 32, 32))
    module = module.eval()
    return assemble(read(export(module, (3, 32, 32)), module, (3, 32, 32)), module)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_runs_at_any_width(name, full):
    if name not in REDUCED and not full:
        pytest.skip("in the full tier")
    whole = captured(name)
    before = whole.graph
    for width in (0.15, 0.5, 0.77) if full else (0.37,):
        found = narrowed(before, width)
        network = build(float_blueprint(found.graph)).eval()
        network.load_state_dict(found.state(whole.state))  # every shape, every key
        y = network(torch.randn(2, 3, 32, 32))
        assert y.shape == (2, 10)
        assert bool(y.isfinite().all())
        for old, new in zip(before.layers, found.graph.layers, strict=True):
            if old.name != before.layers[-1].name and before[old.name].groups in (1, old.in_channels):
                # A part at least, unless it has one channel; to the nearest where nothing divides it.
                assert 1 <= new.out_channels <= old.out_channels
                assert abs(new.out_channels - width * old.out_channels) <= max(1.0, 0.1 * old.out_channels)
        share = sum(layer.weights for layer in found.graph.layers) / sum(layer.weights for layer in before.layers)
        assert 0.5 * width**2 < share < 1.3 * width


@pytest.mark.parametrize("percent", range(3, 100, 24))
def test_shuffles_find_whole_groups_at_any_width(percent):
    """116 channels, halves of 58: at most widths, halves and shuffled wholes round differently."""
    before = captured("torchvision:shufflenet_v2_x1_0").graph
    after = narrow(before, percent / 100)
    shuffles = [node for node in after.nodes if node.op == "shuffle"]
    assert len(shuffles) == 16
    for node in shuffles:
        assert node.shape == after[node.inputs[0]].shape
        assert node.shape[0] % 2 == 0
    # Filters keep the nearest counts; what shuffles hand on follows.
    for old, new in zip(before.layers, after.layers, strict=True):
        if old.kind == "conv" and old.groups == 1:
            assert new.out_channels == scaled(old.out_channels, percent / 100), old.name


@given(graphs.random_graphs(), st.floats(0.01, 1))
def test_random_networks(graph, width):
    if couple(graph).pinned.all():
        with pytest.raises(RecipeError, match="can't be narrowed"):
            narrowed(graph, width)
        return
    found = narrowed(graph, width)
    network = build(float_blueprint(graph)).eval()
    narrow_network = build(float_blueprint(found.graph)).eval()
    narrow_network.load_state_dict(found.state(network.state_dict()))
    shapes = {}
    for name, layer in narrow_network.priced():
        layer.register_forward_hook(lambda _, __, y, name=name: shapes.update({name: tuple(y.shape[1:])}))
    y = narrow_network(torch.randn(2, *found.graph.input_shape))
    assert tuple(y.shape[1:]) == graph.output_shape
    assert shapes == {owner: found.graph[uses[-1]].shape for owner, uses in found.graph.uses.items()}
    assert found.graph.input_shape == graph.input_shape


@given(graphs.random_graphs())
def test_width_one_is_the_network_itself(graph):
    assume(not couple(graph).pinned.all())
    found = narrowed(graph, 1.0)
    assert found.graph == graph
    state = build(float_blueprint(graph)).state_dict()
    assert all(torch.equal(found.state(state)[name], value) for name, value in state.items())


def test_weights_are_the_first_channels():
    graph = graphs.resnet8()
    state = build(float_blueprint(graph)).state_dict()
    found = narrowed(graph, 0.5).state(state)
    assert torch.equal(found["stem.weight"], state["stem.weight"][:8])
    assert torch.equal(found["b.conv1.weight"], state["b.conv1.weight"][:16, :8])
    assert torch.equal(found["b.conv1.norm.running_var"], state["b.conv1.norm.running_var"][:16])
    assert torch.equal(found["fc.weight"], state["fc.weight"][:, :32])
    assert torch.equal(found["fc.bias"], state["fc.bias"])


def test_weights_behind_a_concat_and_in_groups():
    s = graphs.Sketch()
    y = s.concat("cat", s.conv("left", "x", 4), s.conv("right", "x", 4))
    graph = s.graph(s.conv("last", s.conv("grouped", y, 16, groups=4), 3))
    state = build(float_blueprint(graph)).state_dict()
    found = narrowed(graph, 0.5)
    # Groups read two channels each of left (0, 1) (2, 3) and right: the first of each pair stays.
    assert found.left("left").tolist() == [0, 2]
    assert found.left("cat").tolist() == [0, 2, 4, 6]
    assert found.left("grouped").tolist() == [0, 1, 4, 5, 8, 9, 12, 13]
    sliced = found.state(state)
    assert torch.equal(sliced["grouped.weight"], state["grouped.weight"][[0, 1, 4, 5, 8, 9, 12, 13]][:, :1])
    assert torch.equal(sliced["last.weight"], state["last.weight"][:, [0, 1, 4, 5, 8, 9, 12, 13]])


def test_divisor():
    found = narrow(graphs.resnet8(), 0.4, divisor=8)
    assert [found[name].shape[0] for name in ("stem", "b.conv1", "c.conv1", "fc")] == [8, 16, 24, 10]


def test_the_note_says_what_was_lost_and_what_could_not_be():
    assert narrowed(graphs.resnet8(), 0.5).note() == (
        "narrowed to 0.5: 16 -> 8, 32 -> 16, 64 -> 32 channels, 77,360 -> 19,608 weights"
    )
    s = graphs.Sketch((3, 8, 8))
    y = s.conv("grouped", s.conv("free", s.same("add", "add", "x", s.conv("side", "x", 3)), 8), 8, groups=8)
    y = s.conv("twos", s.conv("ones", y, 8, groups=8), 8, groups=4)
    note = narrowed(s.graph(s.conv("last", y, 5)), 0.4).note()
    assert "8 -> 4 channels" in note
    assert note.endswith("all filters left in side (coupled with the network's input or output)")


@pytest.mark.parametrize("width", [0, -0.5, 1.01, math.nan])
def test_widths_out_of_range(width):
    with pytest.raises(RecipeError, match="must be above 0 and at most 1"):
        narrow(graphs.chain(), width)


def test_a_network_without_a_free_channel():
    s = graphs.Sketch()
    graph = s.graph(s.linear("fc", s.flatten("flat", "x"), 5))
    with pytest.raises(RecipeError, match="every filter, as those of fc"):
        narrow(graph, 0.5)
    with pytest.raises(BudgetError, match="no width"):
        largest_width(graphs.chain(), [Budget.parse("weights=10B")], weight=2, activation=8)


@pytest.mark.parametrize("budgets", [["size=12kB", "macs=3M"], ["ram=20kB"], ["weights=100kB"]])
def test_largest_width_is_the_largest(budgets, full):
    """By trying all thousand."""
    if "ram" in budgets[0] and not full:
        pytest.skip("in the full tier")
    graph, limits = graphs.resnet8(), [Budget.parse(text) for text in budgets]
    bits = graphs.uniform_bits(graph, 2, 8) | {name: graphs.uniform_bits(graph, 8, 8)[name] for name in ("stem", "fc")}
    steps = [step for step in range(1, 1001) if fits(narrow(graph, step / 1000), bits, limits)]
    assert largest_width(graph, limits, weight=2, activation=8) == max(steps) / 1000


def test_largest_width_with_pins_and_at_other_bits():
    graph, limit = graphs.resnet8(), Budget.parse("weights=15kB")
    at = {bits: largest_width(graph, [limit], weight=bits, activation=8) for bits in (2, 4, 8)}
    assert 1 > at[2] > at[4] > at[8] > 0
    pinned = largest_width(graph, [limit], weight=2, activation=8, pins={"c.*": 8})
    assert pinned < at[2]
    found = narrow(graph, pinned)
    bits = graphs.uniform_bits(graph, 2, 8) | {
        name: graphs.uniform_bits(graph, 8, 8)[name] for name in ("stem", "fc", "c.conv1", "c.conv2", "c.down")
    }
    assert 0.95 * limit.limit < exact("weights", found, bits) <= limit.limit


def test_kept_channels_are_in_order():
    found = narrowed(graphs.resnet8(), 0.3)
    for node in graphs.resnet8().nodes:
        left = found.left(node.name)
        assert len(left) == found.graph[node.name].shape[0] or node.op == "flatten"
        assert np.all(np.diff(left) > 0)
