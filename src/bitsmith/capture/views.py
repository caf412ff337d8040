"""Operators that move no numbers or move them whole: reshapes, transpositions, slices, pads.

They give Values: most have no node of their own until somebody reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from bitsmith.capture.call import Call
from bitsmith.capture.draft import NONE, Made, Refusal, Value


def reshape(call: Call, value: Value) -> Value:
    """A value in the shape of the call's output; a node where it flattens or puts shuffled channels together."""
    drafting, shape = call.drafting, call.shape
    if value.pixels:
        size = drafting.input.shape[1:]
        if shape == (len(value.pixels), *size) or (len(value.pixels) == 1 and shape == size):
            return replace(value, shape=shape)
    if value.pixels or value.formula or value.pad != NONE:
        value = drafting.settle(value)
    if shape != value.shape:
        value = drafting.unflattened(value)
    base = drafting.shape(value)
    if drafting.is_refused(value):
        return replace(value, shape=shape, pending=None)
    if value.expanded:
        return replace(value, shape=shape, pending=call.node)
    flat = (math.prod(base),)
    if value.shuffled > 1 and shape in (base, flat):
        made = Made(op="shuffle", inputs=(value.node,), shape=base, fields={"groups": value.shuffled})
        value = drafting.add(call.node, made)
    if shape == base:
        return replace(value, shape=shape, pending=None)
    if shape == flat:
        return drafting.flatten(call.node, value)
    return replace(value, shape=shape, pending=call.node)


def split(call: Call, value: Value, start: int, size: int) -> Value:
    """Some channels of a value."""
    inner = math.prod(value.shape[1:])
    first = value.region[0] + start * inner
    region = (first, first + size * inner)
    if value.pixels and value.shape == (len(value.pixels), *call.drafting.input.shape[1:]):
        kept, shape = value.pixels[start : start + size], (size, *value.shape[1:])
        return replace(value, pixels=kept, shape=shape, region=region, pending=call.node)
    settled = call.drafting.settle(value)
    if (start, size) == (0, value.shape[0]):
        return settled
    shape = (size, *settled.shape[1:])
    made = Made(op="split", inputs=(settled.node,), shape=shape, fields={"start": start})
    return replace(call.drafting.add(call.node, made), storage=value.storage, region=region)


def _reshape(call: Call) -> Value:
    return reshape(call, call.value("self"))


def _transpose(call: Call) -> Value:
    order = list(range(call.rank("self")))
    names = ("axis0", "axis1") if call["dim0"] is None else ("dim0", "dim1")
    a, b = (call[name] % len(order) for name in names)
    order[a], order[b] = order[b], order[a]
    return _permuted(call, order)


def _permute(call: Call) -> Value:
    return _permuted(call, [dim % call.rank("self") for dim in call["dims"]])


def _permuted(call: Call, order: list[int]) -> Value:
    value = call.value("self")
    base, plain = call.drafting.shape(value), sorted(order)
    if order == plain or call.drafting.is_refused(value):
        return replace(value, shape=call.shape)
    if order != [0, 2, 1, *plain[3:]] or len(base) != 3 or math.prod(value.shape[:2]) != base[0]:
        raise Refusal(
            "dimensions may be swapped in a channel shuffle only: (N, g, C / g, H, W), dimensions 1 and 2, "
            "and back to (N, C, H, W)"
        )
    if value.shuffled > 1 or value.expanded or value.formula or value.pad != NONE:
        raise Refusal("it swaps dimensions of what was swapped, repeated, padded or computed before")
    value = replace(call.drafting.settle(replace(value, pending=None)), shape=call.shape, pending=call.node)
    # One group, or groups of one channel: the order of the channels stays.
    return value if 1 in call.shape[:2] else replace(value, shuffled=call.shape[1])


def _picked(call: Call, value: Value, channels: Sequence[int]) -> Value:
    """Channels of the raw image in another order or several times."""
    size = call.drafting.input.shape[1:]
    if value.shape != (len(value.pixels), *size):
        raise Refusal("channels can be reordered and repeated one by one at the raw input only")
    row = tuple(value.pixels[channel] for channel in channels)
    fresh = replace(call.drafting.input, storage=call.drafting.storage(), region=(0, math.prod(call.shape)))
    return replace(fresh, shape=call.shape, pixels=row, pending=call.node)


def _flip(call: Call) -> Value:
    """BGR for RGB."""
    if [dim % call.rank("self") for dim in call["dims"]] != [1]:
        raise Refusal("it turns rows or columns around; only the channels of the raw input can be")
    value = call.value("self")
    return _picked(call, value, range(value.shape[0])[::-1])


def _index(call: Call) -> Value:
    """x[:, [2, 1, 0]]."""
    given = call["indices"]
    channels = call.constant_of(given[1]) if len(given) == 2 and given[0] is None else None
    if channels is None or channels.ndim != 1 or channels.is_floating_point():
        raise Refusal("only a fixed list of channels, x[:, [2, 1, 0]], can index")
    return _picked(call, call.value("self"), channels.tolist())


def _repeat(call: Call) -> Value:
    """x.repeat(1, k, 1, 1)."""
    value, times = call.value("self"), call["repeats"]
    if len(times) != 4 or call.rank("self") != 4 or [*times[:1], *times[2:]] != [1, 1, 1]:
        raise Refusal("it repeats rows or columns; only channels, x.repeat(1, k, 1, 1), can be repeated")
    return _picked(call, value, [*range(value.shape[0])] * times[1])


def _expand(call: Call) -> Value:
    if (gray := call.value("self")).pixels and gray.shape == (1, *call.shape[1:]):
        return _picked(call, gray, [0] * call.shape[0])
    value = call.read()
    if value.shape == call.shape:
        return value
    if len(value.shape) != 3 or value.shape[1:] != (1, 1) or call.shape[0] != value.shape[0]:
        raise Refusal("only (N, C, 1, 1) can be repeated over rows and columns")
    return replace(value, shape=call.shape, expanded=True, pending=call.node)


def _narrow(call: Call) -> Value:
    """slice, narrow: some channels, or everything."""
    value = call.value("self")
    dim = call["dim"] % call.rank("self")
    if call.drafting.is_refused(value):
        return replace(value, shape=call.shape)
    if call.shape == value.shape:
        return value
    if dim != 1 or (call["step"] or 1) != 1:
        raise Refusal("it cuts rows or columns or takes every n-th; only a range of channels, x[:, a:b], is a part")
    start = call["start"] or 0
    if not isinstance(start, int):
        raise Refusal("where it starts is computed; only fixed numbers are a part")
    start = start + value.shape[0] if start < 0 else start
    return split(call, value, min(max(start, 0), value.shape[0]), call.shape[0])


def _select(call: Call) -> Value:
    value = call.value("self")
    if call["dim"] % call.rank("self") != 1:
        raise Refusal("it takes one row or column; only a channel, x[:, i], is a part")
    if not isinstance(call["index"], int):
        raise Refusal("which channel it takes is computed; only fixed numbers are a part")
    return reshape(call, split(call, value, call["index"] % value.shape[0], 1))


def _parts(call: Call) -> tuple[Value, ...]:
    """chunk, split and their kin."""
    value = call.value("self")
    if (call["dim"] or 0) % call.rank("self") != 1:
        raise Refusal("it splits rows or columns; only channels (dim=1) can be split")
    parts, start = [], 0
    for shape in call.shapes:
        parts.append(split(call, value, start, shape[0]))
        start += shape[0]
    return tuple(parts)


def _pad(call: Call) -> Value:
    mode, value = call["mode"], call["value"]
    left, right, top, bottom, *rest = [*call["pad"], 0, 0, 0, 0]
    if any(rest):
        raise Refusal("only rows and columns can be padded")
    if min(left, right, top, bottom) < 0:
        raise Refusal("it cuts rows or columns off (a negative pad)")
    if mode == "constant" and value not in (None, 0):
        raise Refusal(f"it pads with {value}; only zeros, reflect, replicate and circular are in the vocabulary")
    storage = call.drafting.storage()
    if mode == "constant":
        x = call.padded("self")
        pad = tuple(a + b for a, b in zip(x.pad, (top, left, bottom, right), strict=True))
        region = (0, math.prod(call.shape))
        lazy = Value(node=x.node, shape=call.shape, storage=storage, region=region, pad=pad, pending=call.node)
        return x if pad == NONE else lazy
    x = call.read(rank=3)
    fields = {"padding": (top, left, bottom, right), "mode": mode}
    return call.drafting.add(call.node, Made(op="pad", inputs=(x.node,), shape=call.shape, fields=fields))


def _contiguous(call: Call) -> Value:
    """The very tensor, or a copy where it must be one."""
    layout = call.node.kwargs.get("memory_format", torch.contiguous_format)
    stays = call["self"].meta["val"].is_contiguous(memory_format=layout)
    return call.value("self") if stays else _copied(call, call.value("self"))


def _to(call: Call) -> Value:
    """to, alias: the very tensor where neither type nor layout changes."""
    given = call["self"].meta["val"]
    if call.node.meta["val"].dtype != given.dtype:
        raise Refusal("it changes the data type")
    layout = call.node.kwargs.get("memory_format", torch.preserve_format)
    stays = layout in (None, torch.preserve_format) or given.is_contiguous(memory_format=layout)
    return call.value("self") if stays and not call["copy"] else _copied(call, call.value("self"))


def _copy(call: Call) -> Value:
    if call.node.meta["val"].dtype != call["self"].meta["val"].dtype:
        raise Refusal("it changes the data type")
    return _copied(call, call.value("self"))


def _copied(call: Call, value: Value) -> Value:
    return replace(value, storage=call.drafting.storage(), region=(0, math.prod(value.shape)))


# aten operator, without overload and the "_" of its in-place form -> the view it makes, or its parts.
VIEWS: dict[str, Callable[[Call], Value | tuple[Value, ...]]] = {
    **dict.fromkeys(("_unsafe_view", "flatten", "reshape", "squeeze", "unflatten", "unsqueeze", "view"), _reshape),
    **dict.fromkeys(("reshape_as", "view_as"), _reshape),
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split"), _parts),
    **dict.fromkeys(("expand", "expand_as"), _expand),
    **dict.fromkeys(("alias", "to"), _to),
    **dict.fromkeys(("clone", "_to_copy"), _copy),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), _transpose),
    **dict.fromkeys(("narrow", "slice"), _narrow),
    "contiguous": _contiguous,
    "flip": _flip,
    "index": _index,
    "pad": _pad,
    "permute": _permute,
    "repeat": _repeat,
    "select": _select,
}
