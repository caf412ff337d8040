"""Graphs that come from a file: every field is of its kind, every shape follows from those before it.

A graph that was captured is right by construction. A file may hold anything: a shape that its operator can't give
would end in the middle of pricing or building, and a size that nobody meant would take all memory before that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitsmith.blueprint.graph import NetworkGraph, Node

# Far above every network for small devices; the largest layer of VGG-16 (25,088 x 4,096) has 1.03e8 weights.
MOST_NODES = 10_000
MOST_CHANNELS = 2**24
MOST_VALUES = 2**26  # of one tensor
MOST_WEIGHTS = 2**28  # of one layer

Shape = tuple[int, ...]


def check_sound(graph: NetworkGraph) -> None:
    """Refuse a graph that no network can have, or none that is meant for a small device.

    Raises:
        ValueError: naming the node and what is wrong with it.
    """
    if len(graph.nodes) > MOST_NODES:
        raise ValueError(f"it has {len(graph.nodes):,} nodes, more than the {MOST_NODES:,} that are read")
    for node in graph.nodes:
        where = f"node {node.name!r:.60} ({node.op})"
        for field, kind in _KINDS.items():
            if not kind(getattr(node, field)):
                raise ValueError(f"{where}: {field} can't be {getattr(node, field)!r:.60}")
        inputs = [graph[name].shape for name in node.inputs]
        wanted = "none" if node.op == "input" else "one"
        if node.op not in _SEVERAL and len(inputs) != (node.op != "input"):
            raise ValueError(f"{where}: it reads {len(inputs)} tensors; it takes {wanted}")
        try:
            right = _SHAPES.get(node.op, _same)(node, inputs)
        except _UnfitError as error:
            raise ValueError(f"{where}: {error}") from error
        if right != node.shape:
            raise ValueError(f"{where}: its shape is {node.shape}, what it reads gives {right}")
        if node.shape[0] > MOST_CHANNELS or math.prod(node.shape) > MOST_VALUES:
            raise ValueError(f"{where}: its shape {node.shape} is larger than any that is read")
        if node.shares and _weight_shape(node, inputs) != _weight_shape(
            graph[node.shares], [graph[name].shape for name in graph[node.shares].inputs]
        ):
            raise ValueError(f"{where}: its weights have another shape than those of {node.shares!r}, which it shares")


class _UnfitError(Exception):
    """What a node reads doesn't fit it."""


def _whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _wholes(value: Any, lengths: Sequence[int], least: int) -> bool:
    return isinstance(value, tuple) and len(value) in lengths and all(_whole(v, least) for v in value)


def _numbers(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_number, value))


def is_text(value: Any) -> bool:
    """A text that files can hold: no half of a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _path(value: Any) -> bool:
    """Of modules: parts between dots, none of them empty."""
    return is_text(value) and all(value.split("."))


def _norm(value: Any) -> bool:
    return value is None or (_number(value.eps) and value.eps >= 0 and _number(value.momentum))


_KINDS: dict[str, Callable[[Any], bool]] = {
    "name": _path,
    "shape": lambda value: _wholes(value, (1, 3), 1),
    "kernel": lambda value: _wholes(value, (2,), 1),
    "stride": lambda value: _wholes(value, (2,), 1),
    "dilation": lambda value: _wholes(value, (2,), 1),
    "padding": lambda value: _wholes(value, (4,), 0),
    "mode": lambda value: value in ("zeros", "reflect", "replicate", "circular"),
    "count_pad": lambda value: type(value) is bool,
    "groups": lambda value: _whole(value, 1),
    "start": lambda value: _whole(value, 0),
    "bias": lambda value: type(value) is bool,
    "norm": _norm,
    "shares": is_text,
    "rate": lambda value: _number(value) and 0 <= value <= 1,
    "slope": _number,
    "gain": _numbers,
    "offset": _numbers,
    "source": is_text,
}


def _one(inputs: list[Shape], rank: int) -> Shape:
    if len(inputs[0]) != rank:
        raise _UnfitError(f"it reads a tensor of shape {inputs[0]}, and needs one of {rank} dimensions")
    return inputs[0]


def _windows(node: Node, size: Shape) -> Shape:
    """Height and width: floor((size + padding - dilation (kernel - 1) - 1) / stride) + 1."""
    top, left, bottom, right = node.padding
    room = (size[0] + top + bottom, size[1] + left + right)
    found = tuple(
        (n - d * (k - 1) - 1) // s + 1 for n, d, k, s in zip(room, node.dilation, node.kernel, node.stride, strict=True)
    )
    if min(found) < 1:
        raise _UnfitError(f"its window is larger than the {size[0]}x{size[1]} that it reads")
    return found


def _input(node: Node, inputs: list[Shape]) -> Shape:
    for scaling in (node.gain, node.offset):
        if len(node.gain) != len(scaling) or len(scaling) not in (0, node.shape[0]):
            raise _UnfitError("gain and offset have one number per channel, or none")
    return node.shape


def _conv(node: Node, inputs: list[Shape]) -> Shape:
    shape = _one(inputs, 3)
    if shape[0] % node.groups or node.shape[0] % node.groups:
        raise _UnfitError(f"{node.groups} groups divide neither {shape[0]} nor {node.shape[0]} channels")
    if math.prod(_weight_shape(node, inputs)) > MOST_WEIGHTS:
        raise _UnfitError("it has more weights than any layer that is read")
    return (node.shape[0], *_windows(node, shape[1:]))


def _linear(node: Node, inputs: list[Shape]) -> Shape:
    if math.prod(_weight_shape(node, inputs)) > MOST_WEIGHTS:
        raise _UnfitError("it has more weights than any layer that is read")
    return (*node.shape[:1], *_one(inputs, 1)[1:])


def _pool(node: Node, inputs: list[Shape]) -> Shape:
    shape = _one(inputs, 3)
    size = _windows(node, shape[1:])
    spans = [d * (k - 1) + 1 for d, k in zip(node.dilation, node.kernel, strict=True)]
    last = [(count - 1) * step for count, step in zip(size, node.stride, strict=True)]
    for i in (0, 1):
        if node.padding[i] >= spans[i] or last[i] >= node.padding[i] + shape[1 + i]:
            raise _UnfitError("a window lies in the padding alone")
    if node.op == "avg_pool" and node.dilation != (1, 1):
        raise _UnfitError("averages have no dilation")
    return (shape[0], *size)


def _same(node: Node, inputs: list[Shape]) -> Shape:
    if node.op == "affine" and node.norm is None:
        raise _UnfitError("it has no norm")
    return inputs[0]


def _add(node: Node, inputs: list[Shape]) -> Shape:
    if len(inputs) < 2 or len(set(inputs)) > 1:
        raise _UnfitError(f"it joins {inputs!r:.80}; it takes two tensors or more of one shape")
    return inputs[0]


def _concat(node: Node, inputs: list[Shape]) -> Shape:
    if not inputs or len({shape[1:] for shape in inputs}) > 1:
        raise _UnfitError(f"it joins {inputs!r:.80}; it takes tensors alike but for their channels")
    return (sum(shape[0] for shape in inputs), *inputs[0][1:])


def _multiply(node: Node, inputs: list[Shape]) -> Shape:
    if len(inputs) != 2 or inputs[1] not in (inputs[0], (inputs[0][0], 1, 1)):
        raise _UnfitError(f"it multiplies {inputs!r:.80}; it takes two tensors of one shape, or a tensor and a gate")
    return inputs[0]


def _pad(node: Node, inputs: list[Shape]) -> Shape:
    channels, height, width = _one(inputs, 3)
    top, left, bottom, right = node.padding
    # What is mirrored, or taken from the other side, has to be there.
    most = {"reflect": (height - 1, width - 1), "circular": (height, width)}.get(node.mode)
    if most and (max(top, bottom) > most[0] or max(left, right) > most[1]):
        raise _UnfitError(f"its padding {node.padding} is more than {node.mode} has of {height}x{width}")
    return (channels, height + top + bottom, width + left + right)


def _shuffle(node: Node, inputs: list[Shape]) -> Shape:
    if _one(inputs, 3)[0] % node.groups:
        raise _UnfitError(f"{node.groups} groups don't divide {inputs[0][0]} channels")
    return inputs[0]


def _split(node: Node, inputs: list[Shape]) -> Shape:
    if node.start + node.shape[0] > inputs[0][0]:
        raise _UnfitError(f"it takes channels {node.start} to {node.start + node.shape[0]} of {inputs[0][0]}")
    return (node.shape[0], *inputs[0][1:])


def _flatten(node: Node, inputs: list[Shape]) -> Shape:
    return (math.prod(inputs[0]),)


def _weight_shape(node: Node, inputs: list[Shape]) -> Shape:
    if node.op == "linear":
        return (node.shape[0], inputs[0][0])
    return (node.shape[0], inputs[0][0] // node.groups, *node.kernel)


_SEVERAL = frozenset({"add", "concat", "multiply"})
# Operator -> the shape that it gives; those that aren't here keep that of their input.
_SHAPES: Mapping[str, Callable[[Node, list[Shape]], Shape]] = {
    "input": _input,
    "conv": _conv,
    "linear": _linear,
    "max_pool": _pool,
    "avg_pool": _pool,
    "add": _add,
    "concat": _concat,
    "multiply": _multiply,
    "pad": _pad,
    "shuffle": _shuffle,
    "split": _split,
    "flatten": _flatten,
}
