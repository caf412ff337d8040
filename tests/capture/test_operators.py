"""Every operator of the vocabulary, in every way to write it: the nodes that it becomes; capture itself compares."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bitsmith.blueprint import NetworkGraph, Node
from bitsmith.capture import capture

SHAPE = (4, 6, 6)


class Net(nn.Module):
    """Two convolutions, features, and a forward to be given."""

    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.point = nn.Conv2d(4, 4, 1)
        self.down, self.up = nn.Linear(4, 2), nn.Linear(2, 4)
        self.does = forward

    def forward(self, x):
        return self.does(self, x)


def graph_of(forward, shape=SHAPE) -> NetworkGraph:
    return capture(Net(forward), shape).graph


def ops(graph: NetworkGraph) -> str:
    return " ".join(node.op for node in graph.nodes[1:])


def only(graph: NetworkGraph, op: str) -> Node:
    (found,) = (node for node in graph.nodes if node.op == op)
    return found


# What is written -> the operator and its fields. The input is an image (N, 4, 6, 6).
FUNCTIONS = {
    "nn.Hardswish": (nn.Hardswish(inplace=True), "hard_swish"),
    "F.hardswish": (F.hardswish, "hard_swish"),
    "nn.Hardsigmoid": (nn.Hardsigmoid(), "hard_sigmoid"),
    "F.hardsigmoid in place": (lambda x: F.hardsigmoid(x, inplace=True), "hard_sigmoid"),
    "relu6(x + 3) / 6": (lambda x: F.relu6(x + 3.0) / 6.0, "hard_sigmoid"),
    "in place by hand": (lambda x: F.relu6(x.add(3), inplace=True).mul_(1 / 6), "hard_sigmoid"),
    "x relu6(x + 3) / 6": (lambda x: x * F.relu6(x + 3, inplace=True) / 6, "hard_swish"),
    "by hand, gate first": (lambda x: F.hardtanh(x + 3, 0, 6) * x * (1 / 6), "hard_swish"),
    "nn.SiLU": (nn.SiLU(inplace=True), "silu"),
    "F.silu": (F.silu, "silu"),
    "torch.sigmoid": (torch.sigmoid, "sigmoid"),
    "sigmoid_": (lambda x: x.clone().sigmoid_(), "sigmoid"),
    "nn.Tanh": (nn.Tanh(), "tanh"),
    "tanh_": (lambda x: x.clone().tanh_(), "tanh"),
    "nn.GELU": (nn.GELU(), "gelu"),
    "nn.LeakyReLU": (nn.LeakyReLU(0.2), "leaky_relu"),
    "leaky in place": (lambda x: F.leaky_relu_(x.clone(), 0.2), "leaky_relu"),
    "nn.ReLU6": (nn.ReLU6(), "relu6"),
    "clamp 0 6": (lambda x: torch.clamp(x, 0, 6), "relu6"),
    "clip 0 6": (lambda x: x.clip(0.0, 6.0), "relu6"),
    "hardtanh 0 6": (lambda x: F.hardtanh(x, 0.0, 6.0), "relu6"),
    "clamp 0": (lambda x: x.clamp(min=0), "relu"),
    "clamp_min_": (lambda x: x.clone().clamp_min_(0), "relu"),
}


@pytest.mark.parametrize("written", FUNCTIONS)
def test_functions(written):
    function, op = FUNCTIONS[written]
    graph = graph_of(lambda m, x: m.point(function(m.conv(x))))
    assert ops(graph) == f"conv {op} conv"
    if op == "leaky_relu":
        assert only(graph, op).slope == 0.2


def test_a_product_with_ones_own_sigmoid_stays_a_product():
    graph = graph_of(lambda m, x: m.point(m.conv(x) * m.conv(x).sigmoid()))
    assert ops(graph) == "conv conv sigmoid multiply conv"
    graph = graph_of(lambda m, x: (lambda y: m.point(y * y.sigmoid()))(m.conv(x)))
    assert ops(graph) == "conv sigmoid multiply conv"
    assert only(graph, "multiply").inputs == ("conv", "sigmoid")


# What a map (N, 4, 6, 6) goes through -> the nodes between the two convolutions.
JOINS = {
    "cat": (lambda x, y: torch.cat((x, y), 1)[:, 2:6], "concat split"),
    "cat, dim from the end": (lambda x, y: torch.concat([y, x], dim=-3)[:, :4], "concat split"),
    "cat of one": (lambda x, y: torch.cat([y], 1), ""),
    "cat twice the same": (lambda x, y: torch.cat([y, y, x], 1).chunk(3, 1)[1], "concat split"),
    "nested cat": (lambda x, y: torch.cat([torch.cat([x, y], 1), x], 1)[:, 4:8], "concat split"),
    "nested cat, read twice": (
        lambda x, y: (lambda z: torch.cat([z, x], 1)[:, :8] + z)(torch.cat([x, y], 1))[:, :4],
        "concat concat split add split",
    ),
    "a + b + c": (lambda x, y: x + y + x.relu(), "relu add"),
    "sum of a list": (lambda x, y: sum([x, y, x.relu(), x]), "relu add"),
    "both sides": (lambda x, y: (x + y) + (y.relu() + x), "relu add"),
    "an inner sum that is read": (lambda x, y: (lambda s: s + x + s.relu())(x + y), "add relu add"),
    "in place": (lambda x, y: y.clone().add_(x).add_(x.relu()), "relu add"),
    "x + x": (lambda x, y: y + y, "add"),
    "x * x": (lambda x, y: y * y, "multiply"),
    "product": (lambda x, y: y.mul(x), "multiply"),
    "gate first": (lambda x, y: y.mean((2, 3), keepdim=True) * y, "avg_pool multiply"),
    "gate second": (lambda x, y: y * F.adaptive_max_pool2d(y, 1), "max_pool multiply"),
    "gate in place": (lambda x, y: y.clone().mul_(y.amax((2, 3), keepdim=True)), "max_pool multiply"),
    "gate expanded": (lambda x, y: y * y.mean((-1, -2), True).expand_as(y), "avg_pool multiply"),
    "gate from features": (lambda x, y: y.mean((2, 3))[:, :, None, None].expand(-1, -1, 6, 6) * y, "avg_pool multiply"),
    "gate of gates": (lambda x, y: (lambda g: y * (g * g))(y.mean((2, 3), True)), "avg_pool multiply multiply"),
    "nn.ChannelShuffle": (lambda x, y: nn.ChannelShuffle(2)(y), "shuffle"),
    "F.channel_shuffle": (lambda x, y: F.channel_shuffle(y, 2), "shuffle"),
    "one group": (lambda x, y: F.channel_shuffle(y, 1), ""),
    "view transpose view": (
        lambda x, y: y.view(y.size(0), 2, 2, 6, 6).transpose(1, 2).contiguous().view(y.size(0), -1, 6, 6),
        "shuffle",
    ),
    "reshape permute flatten": (
        lambda x, y: y.reshape(-1, 2, 2, 36).permute(0, 2, 1, 3).reshape(-1, 4, 6, 6),
        "shuffle",
    ),
    "unflatten swapaxes flatten": (lambda x, y: y.unflatten(1, (2, 2)).swapaxes(2, 1).flatten(1, 2), "shuffle"),
    "by way of features": (
        lambda x, y: (lambda z: z.view(-1, 2, 2, 36).transpose(1, 2).reshape(y.shape) + z.view(y.shape))(y.flatten(1)),
        "shuffle add",
    ),
    "groups that change nothing": (lambda x, y: y.view(-1, 4, 1, 6, 6).transpose(1, 2).reshape(y.shape), ""),
    "permute that changes nothing": (lambda x, y: y.permute(0, 1, 2, 3), ""),
    "chunk": (lambda x, y: torch.cat(y.chunk(2, 1)[::-1], 1), "split split concat"),
    "split": (lambda x, y: torch.cat(y.split([1, 3], dim=1)[::-1], 1), "split split concat"),
    "split by size": (lambda x, y: torch.cat(torch.split(y, 3, 1)[::-1], 1), "split split concat"),
    "tensor_split": (lambda x, y: torch.cat(torch.tensor_split(y, 3, 1)[::-1], 1), "split split split concat"),
    "narrow": (lambda x, y: torch.cat([y.narrow(1, 1, 3), y[:, :1]], 1), "split split concat"),
    "slices": (lambda x, y: torch.cat([y[:, -3:], y[:, :-3, :, :]], -3), "split split concat"),
    "one channel": (lambda x, y: torch.cat([y[:, 3].unsqueeze(1), y[:, 0:3]], 1), "split split concat"),
    "all channels": (lambda x, y: y[:, :][:, 0:4], ""),
}


@pytest.mark.parametrize("written", JOINS)
def test_joins_and_parts(written):
    join, between = JOINS[written]
    graph = graph_of(lambda m, x: m.point(join(x, m.conv(x))))
    assert ops(graph) == " ".join(["conv", *between.split(), "conv"])
    for node in graph.nodes:
        if node.op == "multiply":
            assert graph[node.inputs[0]].shape == node.shape  # what may be (C, 1, 1) comes second
        if node.op == "shuffle":
            assert node.groups == 2


def test_operands_keep_their_order_and_their_number():
    graph = graph_of(lambda m, x: torch.cat([m.conv(x), torch.cat([m.point(x), x], 1), x], 1))
    assert only(graph, "concat").inputs == ("conv", "point", "input", "input")
    graph = graph_of(lambda m, x: x + (m.conv(x) + (x + m.point(x))))
    assert only(graph, "add").inputs == ("input", "conv", "input", "point")


def test_features_join_and_part_too():
    def forward(m, x):
        x = m.conv(x).mean((2, 3))
        y = m.down(x)
        return m.up(torch.cat([y, x, y], -1)[:, 1:3] * torch.cat([y], 1).chunk(1, 1)[0])

    graph = graph_of(forward)
    assert ops(graph) == "conv avg_pool flatten linear concat split multiply linear"
    assert graph["concat"].shape == (8,)
    assert (graph["split"].start, graph["split"].shape) == (1, (2,))


# Before a convolution or a pool -> the padding of what takes it up, or of a node.
def test_zeros_go_into_the_convolution_and_elsewhere_are_a_node():
    graph = graph_of(lambda m, x: m.conv(F.pad(F.pad(x, (1, 2)), (0, 0, 3, 0))))
    assert ops(graph) == "conv"
    assert graph["conv"].padding == (4, 2, 1, 3)
    graph = graph_of(lambda m, x: F.max_pool2d(F.pad(m.conv(x), (0, 1, 0, 1)), 3, 2))
    assert ops(graph) == "conv pad max_pool"
    assert graph["pad"].padding == (0, 0, 1, 1)

    def both(m, x):
        x = F.pad(x, (1, 1, 1, 1))
        return m.conv(x) + F.avg_pool2d(x.relu(), 1) + x

    graph = graph_of(both)
    assert ops(graph) == "conv pad relu avg_pool add"
    assert graph["conv"].padding == (2, 2, 2, 2)
    assert graph["add"].inputs == ("conv", "avg_pool", "pad")  # one node for all that read it
    assert ops(graph_of(lambda m, x: F.pad(x, (1, 1)))) == "pad"
    assert ops(graph_of(lambda m, x: F.pad(m.conv(x), (1, 1)).flatten(1))) == "conv pad flatten"
    assert ops(graph_of(lambda m, x: m.conv(F.pad(x, (0, 0))))) == "conv"


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_edges_are_nodes(mode):
    graph = graph_of(lambda m, x: m.conv(F.pad(F.pad(x, (1, 0)), (2, 1, 0, 3), mode=mode)))
    assert ops(graph) == "pad pad conv"
    assert graph["pad_1"].padding == (0, 2, 3, 1)
    assert graph["pad_1"].mode == mode
    torch.manual_seed(0)
    graph = capture(nn.Sequential(nn.Conv2d(3, 2, 3, padding=(1, 2), padding_mode=mode)), (3, 5, 5)).graph
    assert [node.name for node in graph.nodes] == ["input", "0.pad", "0"]
    assert graph["0.pad"].padding == (1, 2, 1, 2)
    assert graph["0"].padding == (0, 0, 0, 0)


class Window(NamedTuple):
    """A pool and the padding and count that it must have."""

    pool: nn.Module
    padding: tuple[int, int, int, int]
    counts: bool = True


WINDOWS = {
    "ceil max": Window(nn.MaxPool2d(3, 2, ceil_mode=True), (0, 0, 1, 1)),
    "ceil max, padded": Window(nn.MaxPool2d(2, 2, padding=1, ceil_mode=True), (1, 1, 1, 1)),
    "ceil max, dilated": Window(nn.MaxPool2d(2, 3, dilation=3, ceil_mode=True), (0, 0, 1, 1)),
    "ceil that changes nothing": Window(nn.MaxPool2d(2, 2, ceil_mode=True), (0, 0, 0, 0)),
    "a window that would start in the padding": Window(nn.MaxPool2d(1, 3, ceil_mode=True), (0, 0, 0, 0)),
    "floor": Window(nn.MaxPool2d(3, 2, padding=1), (1, 1, 1, 1)),
    "average, padded": Window(nn.AvgPool2d(3, 2, padding=1), (1, 1, 1, 1)),
    "average that leaves padding out": Window(nn.AvgPool2d(3, 1, 1, count_include_pad=False), (1, 1, 1, 1), False),
    "average without padding": Window(nn.AvgPool2d(3, 1, count_include_pad=False), (0, 0, 0, 0)),
    "ceil average": Window(nn.AvgPool2d(4, 3, ceil_mode=True), (0, 0, 1, 1), False),
    "ceil average, padded": Window(
        nn.AvgPool2d((3, 2), 2, padding=(1, 0), ceil_mode=True, count_include_pad=False), (1, 0, 2, 0), False
    ),
    "ceil average of no more windows": Window(nn.AvgPool2d(2, 2, 1, ceil_mode=True), (1, 1, 1, 1)),
}


@pytest.mark.parametrize("case", WINDOWS)
def test_windows(case):
    """Against torch's own pool at sizes with every remainder."""
    pool, padding, counts = WINDOWS[case]
    graph = capture(nn.Sequential(nn.Conv2d(4, 4, 1), pool), SHAPE).graph
    assert (graph["1"].padding, graph["1"].count_pad) == (padding, counts)
    for height, width in ((7, 8), (9, 11), (10, 12)):
        if case != "ceil average of no more windows" or not (height % 2 or width % 2):
            capture(nn.Sequential(pool), (2, height, width))


GLOBAL = {
    "adaptive": (lambda x: F.adaptive_avg_pool2d(x, 1), "avg_pool", (6, 6)),
    "adaptive, half": (lambda x: F.adaptive_avg_pool2d(x, (3, None)), "avg_pool", (2, 1)),
    "adaptive max": (lambda x: F.adaptive_max_pool2d(x, (2, 3)), "max_pool", (3, 2)),
    "max with indices": (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], "max_pool", (2, 2)),
    "mean": (lambda x: x.mean((2, 3), keepdim=True), "avg_pool", (6, 6)),
    "mean from the end": (lambda x: x.mean([-1, -2]), "avg_pool", (6, 6)),
    "mean of rows": (lambda x: x.mean(-1, keepdim=True), "avg_pool", (1, 6)),
    "mean of flattened": (lambda x: x.flatten(2).mean(2), "avg_pool", (6, 6)),
    "mean of a view": (lambda x: x.view(x.size(0), 4, -1).mean(-1, keepdim=True).flatten(1), "avg_pool", (6, 6)),
    "largest": (lambda x: x.amax((2, 3)), "max_pool", (6, 6)),
    "largest of columns": (lambda x: torch.amax(x, 2, True), "max_pool", (6, 1)),
}


@pytest.mark.parametrize("written", GLOBAL)
def test_global_pools(written):
    pool, op, kernel = GLOBAL[written]
    graph = graph_of(lambda m, x: pool(m.conv(x)))
    node = only(graph, op)
    assert (node.kernel, node.stride) == (kernel, kernel)
    assert set(ops(graph).split()) <= {"conv", op, "flatten"}


def test_means_one_after_another():
    graph = graph_of(lambda m, x: m.down(m.conv(x).mean(3).mean(2)))
    assert ops(graph) == "conv avg_pool avg_pool flatten linear"
    assert graph["avg_pool_1"].kernel == (6, 1)


class SqueezeExcite(nn.Module):
    """As published: linear layers between the pool and the product."""

    def __init__(self, channels: int):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, 2, bias=False), nn.BatchNorm1d(2), nn.ReLU(inplace=True), nn.Linear(2, channels)
        )

    def forward(self, x):
        b, c, _, _ = x.size()
        y = self.fc(self.pool(x).view(b, c)).sigmoid().view(b, c, 1, 1)
        return x * y.expand_as(x)


def test_squeeze_and_excitation_by_linear_layers():
    torch.manual_seed(0)
    captured = capture(nn.Sequential(nn.Conv2d(3, 4, 3), SqueezeExcite(4), nn.Conv2d(4, 2, 1)), (3, 6, 6))
    assert ops(captured.graph) == "conv avg_pool conv relu conv sigmoid multiply conv"
    assert captured.graph["1.fc.0"].norm is not None
    assert captured.state["1.fc.0.weight"].shape == (2, 4, 1, 1)
    assert captured.notes == (
        "1.fc.0: a linear layer between maps is captured as a 1x1 convolution",
        "1.fc.3: a linear layer between maps is captured as a 1x1 convolution",
    )

    def features_too(m, x):
        x = m.conv(x)
        y = m.down(x.mean((2, 3)))
        return torch.cat([(x * m.up(y.relu()).view(-1, 4, 1, 1)).mean((2, 3)), y], 1)

    graph = graph_of(features_too)
    assert ops(graph) == "conv avg_pool conv flatten relu conv multiply avg_pool flatten concat"
