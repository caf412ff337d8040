"""Layers of a network: convolution, linear and affine, each with its BatchNorm and its quantizers.

One class serves float, searchable and low-precision networks: what differs is the quantizers it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitsmith.blueprint import NetworkGraph, Node
from bitsmith.quantize.filterwise import FilterWise
from bitsmith.quantize.lsq import LearnedStep
from bitsmith.quantize.parts import BatchNorm1d, BatchNorm2d, dropout
from bitsmith.quantize.quantizer import ActivationQuantizer


class Priced(nn.Module):
    """A convolution or linear layer: y = norm(op(Qa(x), Qw(W)) + bias).

    Args:
        node: of the graph.
        in_channels: channels (features) of its input.
        quantize_weight: module applied to the weight, or None for float.
        quantize_input: module applied to the input, or None to read it as it is.

    Attributes:
        noise: share of the weights that get noise in training; set while the layer is being quantized by a staged
            training (`bitsmith.train.staged`).
        is_float: whether it computes without its quantizers for the present; likewise.
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
        self.noise = 0.0
        self.is_float = False
        nn.init.kaiming_normal_(self.weight, mode="fan_out" if node.op == "conv" else "fan_in", nonlinearity="relu")

    def forward(self, x: Tensor, use: Node | None = None) -> Tensor:
        """y for one use of the layer: a node that shares its parameters, or (None) its own."""
        if self.quantize_input is not None:
            x = self._clipped(x) if self.is_float else self.quantize_input(x)
        y = apply_weight(use or self.node, x, self._quantized(), self.bias)
        return y if self.norm is None else self.norm(y)

    def _quantized(self) -> Tensor:
        quantizer = self.quantize_weight
        if quantizer is None or self.is_float:
            return self.weight
        if self.noise and self.training:
            assert isinstance(quantizer, LearnedStep | FilterWise)
            return quantizer.noisy(self.weight, self.noise)
        return quantizer(self.weight)

    def _clipped(self, x: Tensor) -> Tensor:
        """What an unsigned quantizer does beside rounding: a ReLU before it may have been left to it."""
        quantizer = self.quantize_input
        return x if not isinstance(quantizer, ActivationQuantizer) or quantizer.signed else F.relu(x)


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


def make_norm(node: Node) -> BatchNorm1d | BatchNorm2d | None:
    """The BatchNorm of a node, of the rank of its output."""
    if node.norm is None:
        return None
    kind = BatchNorm2d if len(node.shape) == 3 else BatchNorm1d
    return kind(node.shape[0], eps=node.norm.eps, momentum=node.norm.momentum)


def apply_weight(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The bare convolution or matrix product of a node."""
    if node.op == "linear":
        return F.linear(x, weight, bias)
    top, left, bottom, right = node.padding
    if (top, left) != (bottom, right):
        x = F.pad(x, (left, right, top, bottom))
        top = left = 0
    if node.kernel == (1, 1) and max(node.stride) > 1 and weight.shape[1] < 16:
        # The weight gradient of such a convolution in channels-last writes past oneDNN's workspace (oneDNN issue 6035;
        # 8 channels of 64x64 crash). What a 1x1 kernel steps over it never reads, so it is left out beforehand.
        x = F.pad(x, (left, left, top, top)) if top or left else x
        return F.conv2d(x[..., :: node.stride[0], :: node.stride[1]], weight, bias, groups=node.groups)
    return F.conv2d(x, weight, bias, node.stride, (top, left), node.dilation, node.groups)


def apply_free(node: Node, inputs: list[Tensor], *, training: bool) -> Tensor:
    """An operator without parameters."""
    x = inputs[0]
    match node.op:
        case "add":
            return sum(inputs[1:], x)
        case "concat":
            return torch.cat(inputs, 1)
        case "multiply":
            return x * inputs[1]
        case "max_pool":
            top, left, bottom, right = node.padding
            x = F.pad(x, (left, right, top, bottom), value=-torch.inf) if any(node.padding) else x
            return F.max_pool2d(x, node.kernel, node.stride, 0, node.dilation)
        case "avg_pool":
            return _avg_pool(node, x)
        case "pad":
            top, left, bottom, right = node.padding
            return F.pad(x, (left, right, top, bottom), "constant" if node.mode == "zeros" else node.mode)
        case "shuffle":
            return F.channel_shuffle(x, node.groups)
        case "split":
            return x.narrow(1, node.start, node.shape[0])
        case "flatten":
            return x.flatten(1)
        case "dropout":
            return dropout(x, node.rate, training)
        case "leaky_relu":
            return F.leaky_relu(x, node.slope)
    return _FUNCTIONS[node.op](x)


# Functions of one number, without settings.
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hard_swish": F.hardswish,
    "hard_sigmoid": F.hardsigmoid,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
}


def _avg_pool(node: Node, x: Tensor) -> Tensor:
    top, left, bottom, right = node.padding
    if not any(node.padding):
        return F.avg_pool2d(x, node.kernel, node.stride)
    mean = F.avg_pool2d(F.pad(x, (left, right, top, bottom)), node.kernel, node.stride)
    return mean if node.count_pad else mean / window_share(node, x.shape[2:]).to(mean)


def window_share(node: Node, size: Sequence[int]) -> Tensor:
    """The share of each window of an avg_pool that lies on the image, (1, 1, out height, out width)."""
    top, left, bottom, right = node.padding
    ones = F.pad(torch.ones(1, 1, *size), (left, right, top, bottom))
    return F.avg_pool2d(ones, node.kernel, node.stride)


def input_channels(graph: NetworkGraph, node: Node) -> int:
    """Channels (features) that a node reads."""
    return graph[node.inputs[0]].shape[0]
