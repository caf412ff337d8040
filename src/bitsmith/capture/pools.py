"""Pools and means. Windows that hang over the edge become padding, so that the floor formula gives every size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bitsmith.capture.call import Call
from bitsmith.capture.draft import Made, Refusal, Value, batched


def _max_pool(call: Call) -> Made:
    x = call.read(rank=3)
    fields, _ = _window(call, x, pair(call["dilation"]))
    return Made(op="max_pool", inputs=(x.node,), shape=call.shape, fields=fields)


def _avg_pool(call: Call) -> Made:
    x = call.read(rank=3)
    if call["divisor_override"] is not None:
        raise Refusal("divisor_override changes what it divides by; leave it out")
    fields, hangs_over = _window(call, x, (1, 1))
    padded = any(pair(call["padding"]))
    if padded and hangs_over and call["count_include_pad"]:
        # torch counts its padding there, but not what ceil_mode adds to it.
        raise Refusal(
            "ceil_mode with padding that counts divides by a number of its own at the lower right edge; "
            "set count_include_pad=False or ceil_mode=False"
        )
    counts = (call["count_include_pad"] and not hangs_over) or not any(fields["padding"])
    return Made(op="avg_pool", inputs=(x.node,), shape=call.shape, fields=fields | {"count_pad": counts})


def _window(call: Call, x: Value, dilation: tuple[int, int]) -> tuple[dict[str, Any], bool]:
    """The fields of a pool, and whether ceil_mode adds windows that hang over the lower right edge."""
    kernel = pair(call["kernel_size"])
    stride = pair(call["stride"] or kernel)
    pad = pair(call["padding"])
    hangs = [
        max(0, (out - 1) * s + d * (k - 1) + 1 - (size + 2 * p))
        for size, out, p, d, k, s in zip(x.shape[1:], call.shape[1:], pad, dilation, kernel, stride, strict=True)
    ]
    padding = (*pad, pad[0] + hangs[0], pad[1] + hangs[1])
    fields = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    return fields, any(hangs)


def _adaptive(call: Call, *, op: str) -> Made | Value:
    x = call.read(rank=3)
    size, out = x.shape[1:], call.shapes[0][1:]
    if size == out:
        return x
    if any(a % b for a, b in zip(size, out, strict=True)):
        what = "it would enlarge" if any(a < b for a, b in zip(size, out, strict=True)) else "its windows would differ"
        raise Refusal(f"{_by(size)} does not divide evenly into {_by(out)}: {what}; choose an input size that does")
    kernel = tuple(a // b for a, b in zip(size, out, strict=True))
    return Made(op=op, inputs=(x.node,), shape=(x.shape[0], *out), fields={"kernel": kernel, "stride": kernel})


def _over_all(call: Call, *, op: str, does: str) -> Made:
    """mean and amax over rows, columns or both."""
    x = call.maps()
    rank = call.rank("self")
    dims = {d % rank for d in (call["dim"] or range(rank))}
    # Rows and columns that were flattened into one dimension are both.
    both = rank == 3 and dims == {2}
    if not (both or (rank == 4 and dims <= {2, 3})) or call["dtype"] is not None:
        raise Refusal(
            f"it {does} {batched(x.shape)} over dimensions {sorted(dims)}; only rows and columns, (2, 3), are"
        )
    kernel = x.shape[1:] if both else tuple(n if d in dims else 1 for d, n in enumerate(x.shape[1:], start=2))
    shape = (x.shape[0], *(n // k for n, k in zip(x.shape[1:], kernel, strict=True)))
    return Made(op=op, inputs=(x.node,), shape=shape, fields={"kernel": kernel, "stride": kernel})


def _sum(call: Call) -> Made:
    raise Refusal("it sums over dimensions; take the mean, which has a fixed range")


def pair(sizes: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of an argument that may be one number for both."""
    if isinstance(sizes, int):
        return (sizes, sizes)
    return (sizes[0], sizes[-1])


def _by(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


POOLS: dict[str, Callable[[Call], Made | Value]] = {
    "adaptive_avg_pool2d": partial(_adaptive, op="avg_pool"),
    "adaptive_max_pool2d": partial(_adaptive, op="max_pool"),
    "amax": partial(_over_all, op="max_pool", does="takes the largest of"),
    "avg_pool2d": _avg_pool,
    "max_pool2d": _max_pool,
    "max_pool2d_with_indices": _max_pool,
    "mean": partial(_over_all, op="avg_pool", does="averages"),
    "sum": _sum,
}
