"""Lowering of single nodes that need nothing but themselves: sums of integers, and what only moves numbers."""

from __future__ import annotations

from typing import Literal

import numpy as np

from bitsmith.blueprint import Node
from bitsmith.deploy.operators import Flatten, MaxPool, Pad, Shuffle, Split, Sums
from bitsmith.quantize import Folded, FrozenLayer

# How `pad` nodes fill their edges -> numpy's and ONNX' names.
_PAD_MODES: dict[str, Literal["constant", "reflect", "edge", "wrap"]] = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}


def moving(node: Node, source: str) -> MaxPool | Pad | Shuffle | Split | Flatten:
    """The operator of a transparent node, which moves the numbers it gets; dropout has none."""
    name, inputs = node.name, (source,)
    match node.op:
        case "max_pool":
            return MaxPool(
                name=name,
                layer=name,
                inputs=inputs,
                kernel=node.kernel,
                stride=node.stride,
                padding=node.padding,
                dilation=node.dilation,
            )
        case "pad":
            return Pad(name=name, layer=name, inputs=inputs, padding=node.padding, mode=_PAD_MODES[node.mode])
        case "shuffle":
            return Shuffle(name=name, layer=name, inputs=inputs, groups=node.groups)
        case "split":
            stop = node.start + node.shape[0]
            return Split(name=name, layer=name, inputs=inputs, start=node.start, stop=stop)
    assert node.op == "flatten", node.op
    return Flatten(name=name, layer=name, inputs=inputs)


def layer_sums(node: Node, layer: FrozenLayer) -> Sums:
    """The sums of one use of an integer layer."""
    folded = layer.folded
    assert isinstance(folded, Folded), f"{node.name} is float"
    weight, channels = folded.weight, folded.weight.shape[0]
    if weight.ndim != 4:  # linear, or an affine on features: a 1x1 convolution on one pixel
        weight = weight.reshape(channels, -1, 1, 1)
    return Sums(
        weight=weight,
        scale=folded.scale,
        bias=folded.bias,
        stride=node.stride,
        padding=node.padding,
        dilation=node.dilation,
        groups=channels if node.op == "affine" else node.groups,
        folded=folded,
        owner=node.owner,
    )


def average_sums(node: Node) -> Sums:
    """An average pool as a depthwise convolution of ones."""
    channels, (height, width) = node.shape[0], node.kernel
    return Sums(
        weight=np.ones((channels, 1, height, width), np.int8),
        scale=np.full(channels, np.float32(1) / np.float32(height * width)),
        bias=np.zeros(channels, np.int64),
        stride=node.stride,
        padding=node.padding,
        groups=channels,
    )
