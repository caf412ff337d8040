"""Layers of a network: convolution, linear and affine, each with its BatchNorm and its quantizers.

One class serves float, searchable and low-precision networks: what differs is the quantizers it is given.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitsmith.blueprint import NetworkGraph, Node


class Priced(nn.Module):
    """A convolution or linear layer: y = norm(op(Qa(x), Qw(W)) + bias).

    Args:
        node: of the graph.
        in_channels: channels (features) of its input.
        quantize_weight: module applied to the weight, or None for float.
        quantize_input: module applied to the input, or None to read it as it is.
    """

    def __init__(
        self,
        node: Node,
        in_channels: int,
        *,
        quantize_weight: nn.Module | None = None,
        quantize_input: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.node = node
        self.weight = nn.Parameter(torch.empty(weight_shape(node, in_channels)))
        self.bias = nn.Parameter(torch.zeros(node.shape[0])) if node.bias else None
        self.norm = make_norm(node)
        self.quantize_weight = quantize_weight
        self.quantize_input = quantize_input
        nn.init.kaiming_normal_(self.weight, mode="fan_out" if node.op == "conv" else "fan_in", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        if self.quantize_input is not None:
            x = self.quantize_input(x)
        weight = self.weight if self.quantize_weight is None else self.quantize_weight(self.weight)
        y = apply_weight(self.node, x, weight, self.bias)
        return y if self.norm is None else self.norm(y)


class Affine(nn.Module):
    """A BatchNorm that follows no convolution or linear layer."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node = node
        self.norm = make_norm(node)
        assert self.norm is not None

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)  # pyright: ignore[reportOptionalCall]


def weight_shape(node: Node, in_channels: int) -> tuple[int, ...]:
    """(out, in / groups, height, width) of a conv, (out, in) of a linear layer."""
    if node.op == "linear":
        return (node.shape[0], in_channels)
    return (node.shape[0], in_channels // node.groups, *node.kernel)


def make_norm(node: Node) -> nn.BatchNorm1d | nn.BatchNorm2d | None:
    """The BatchNorm of a node, of the rank of its output."""
    if node.norm is None:
        return None
    kind = nn.BatchNorm2d if len(node.shape) == 3 else nn.BatchNorm1d
    return kind(node.shape[0], eps=node.norm.eps, momentum=node.norm.momentum)


def apply_weight(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The bare convolution or matrix product of a node."""
    if node.op == "linear":
        return F.linear(x, weight, bias)
    top, left, bottom, right = node.padding
    if (top, left) != (bottom, right):
        x = F.pad(x, (left, right, top, bottom))
        top = left = 0
    return F.conv2d(x, weight, bias, node.stride, (top, left), node.dilation, node.groups)


def apply_free(node: Node, inputs: list[Tensor], *, training: bool) -> Tensor:
    """An operator without parameters."""
    x = inputs[0]
    match node.op:
        case "add":
            return x + inputs[1]
        case "relu":
            return F.relu(x)
        case "relu6":
            return F.relu6(x)
        case "flatten":
            return x.flatten(1)
        case "dropout":
            return F.dropout(x, node.rate, training)
        case "max_pool":
            top, left, bottom, right = node.padding
            x = F.pad(x, (left, right, top, bottom), value=-torch.inf) if any(node.padding) else x
            return F.max_pool2d(x, node.kernel, node.stride, 0, node.dilation)
        case "avg_pool":
            top, left, bottom, right = node.padding
            x = F.pad(x, (left, right, top, bottom)) if any(node.padding) else x
            return F.avg_pool2d(x, node.kernel, node.stride)
    raise AssertionError(f"{node.op} of {node.name} has parameters")


def input_channels(graph: NetworkGraph, node: Node) -> int:
    """Channels (features) that a node reads."""
    return graph[node.inputs[0]].shape[0]
