"""Lowering of nodes that compute on float32 tensors: each to one operator."""

from __future__ import annotations

from typing import cast

from bitsmith.blueprint import CLIPS, FUNCTIONS, Node
from bitsmith.deploy.float_operators import (
    FloatAdd,
    FloatAverage,
    FloatComputing,
    FloatFunction,
    FloatMultiply,
    FloatScale,
    FloatSums,
)
from bitsmith.deploy.operators import Concat
from bitsmith.quantize import FloatFolded, FrozenLayer, Network


def float_operator(node: Node, sources: tuple[str, ...], network: Network) -> FloatComputing | Concat:
    """The operator of a node, of float32 tensors.

    Args:
        sources: the tensors that it reads.
        network: frozen; has the node's parameters where it has any.
    """
    name = node.name
    match node.op:
        case "conv" | "linear":
            return FloatSums(
                name=name,
                layer=name,
                inputs=cast(tuple[str], sources),
                folded=_folded(network, node),
                owner=node.owner,
                stride=node.stride,
                padding=node.padding,
                dilation=node.dilation,
                groups=node.groups,
            )
        case "affine":
            weight, bias = _folded(network, node).numbers
            column = (-1, *[1] * (len(node.shape) - 1))
            return FloatScale(
                name=name,
                layer=name,
                inputs=cast(tuple[str], sources),
                gain=weight.reshape(column),
                offset=bias.reshape(column),
            )
        case "avg_pool":
            return FloatAverage(
                name=name,
                layer=name,
                inputs=cast(tuple[str], sources),
                kernel=node.kernel,
                stride=node.stride,
                padding=node.padding,
                count_pad=node.count_pad,
            )
        case "add":
            return FloatAdd(name=name, layer=name, inputs=sources)
        case "concat":
            return Concat(name=name, layer=name, inputs=sources)
        case "multiply":
            return FloatMultiply(name=name, layer=name, inputs=cast(tuple[str, str], sources))
    assert node.op in FUNCTIONS | CLIPS, node.op
    return FloatFunction(name=name, layer=name, inputs=cast(tuple[str], sources), function=node.op, slope=node.slope)


def _folded(network: Network, node: Node) -> FloatFolded:
    folded = cast(FrozenLayer, network.layer(node.owner)).folded
    assert isinstance(folded, FloatFolded), f"{node.name} is integer"
    return folded
