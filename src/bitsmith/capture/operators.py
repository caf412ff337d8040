"""What each aten operator becomes. A function per operator, one dict at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bitsmith.blueprint import Norm
from bitsmith.capture.call import Call
from bitsmith.capture.draft import NONE, Made, Padding, Refusal, Value


def _conv(call: Call) -> Made:
    x = call.read(rank=3, padded=True)
    tensors = _weights(call)
    kernel = call.tensor_shape("weight")[2:]
    dilation = _pair(call["dilation"])
    match call["padding"]:
        case "valid":
            own = NONE
        case "same":
            total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
            own = (total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2)
        case sizes:
            own = _pair(sizes) * 2
    padding = tuple(a + b for a, b in zip(own, x.pad, strict=True))
    fields = {"kernel": kernel, "stride": _pair(call["stride"]), "padding": padding, "dilation": dilation}
    fields |= {"groups": call["groups"], "bias": "bias" in tensors}
    return Made(op="conv", inputs=(x.node,), shape=call.shape, fields=fields, tensors=tensors)


def _linear(call: Call) -> Made:
    x = call.read()
    if len(x.shape) != 1:
        raise Refusal(f"it reads {_batched(x.shape)}; a linear layer reads (N, features): flatten before it")
    tensors = _weights(call)
    return Made(op="linear", inputs=(x.node,), shape=call.shape, fields={"bias": "bias" in tensors}, tensors=tensors)


def _batch_norm(call: Call) -> Made:
    x = call.read()
    if call["training"]:
        raise Refusal("it uses batch statistics in eval mode; set track_running_stats=True")
    if call["momentum"] == 0:
        raise Refusal("momentum is 0 or None (cumulative average); set momentum=0.1")
    names = {key: call.tensor(key) for key in ("weight", "bias", "running_mean", "running_var")}
    tensors = {f"norm.{key}": name for key, name in names.items() if name is not None}
    norm = Norm(eps=call["eps"], momentum=call["momentum"])
    return Made(op="affine", inputs=(x.node,), shape=call.shape, fields={"norm": norm}, tensors=tensors)


def _add(call: Call) -> Made | Value:
    if call["alpha"] != 1:
        raise Refusal(f"alpha is {call['alpha']}; only alpha=1 is an add")
    x = call.read()
    if isinstance(call["other"], int | float):
        if call["other"] == 0:  # sum() of a list starts with 0
            return x
        raise Refusal("it adds a number; only tensors can be added")
    y = call.read("other")
    if x.shape != y.shape:
        raise Refusal(f"it broadcasts {_batched(x.shape)} and {_batched(y.shape)}; both must have one shape")
    return Made(op="add", inputs=(x.node, y.node), shape=call.shape)


def _relu(call: Call) -> Made:
    return Made(op="relu", inputs=(call.read().node,), shape=call.shape)


def _relu6(call: Call) -> Made:
    return Made(op="relu6", inputs=(call.read().node,), shape=call.shape)


def _hardtanh(call: Call) -> Made:
    x = call.read()
    if (call["min_val"], call["max_val"]) != (0, 6):
        raise Refusal(f"its range is {call['min_val']}..{call['max_val']}; only 0..6 (relu6) is in the vocabulary")
    return Made(op="relu6", inputs=(x.node,), shape=call.shape)


def _max_pool(call: Call) -> Made:
    x = call.read(rank=3)
    fields = _window(call, x, _pair(call["dilation"]))
    return Made(op="max_pool", inputs=(x.node,), shape=call.shape, fields=fields)


def _avg_pool(call: Call) -> Made:
    x = call.read(rank=3)
    if call["divisor_override"] is not None:
        raise Refusal("divisor_override changes what it divides by; leave it out")
    fields = _window(call, x, (1, 1))
    if not call["count_include_pad"] and any(fields["padding"]):
        raise Refusal("count_include_pad=False with padding divides by a different count at the edge")
    return Made(op="avg_pool", inputs=(x.node,), shape=call.shape, fields=fields)


def _adaptive_avg_pool(call: Call) -> Made | Value:
    x = call.read(rank=3)
    size, out = x.shape[1:], call.shape[1:]
    if size == out:
        return x
    if any(a % b for a, b in zip(size, out, strict=True)):
        raise Refusal(f"{_by(size)} does not divide evenly into {_by(out)}; its windows would differ in size")
    kernel = tuple(a // b for a, b in zip(size, out, strict=True))
    fields = {"kernel": kernel, "stride": kernel}
    return Made(op="avg_pool", inputs=(x.node,), shape=call.shape, fields=fields)


def _mean(call: Call) -> Made:
    x = call.read()
    rank = len(x.shape) + 1
    dims = {d % rank for d in call["dim"] or range(rank)}
    if len(x.shape) != 3 or dims != {2, 3} or call["dtype"] is not None:
        raise Refusal(f"it averages {_batched(x.shape)} over dimensions {sorted(dims)}; only (2, 3) of (N, C, H, W) is")
    fields = {"kernel": x.shape[1:], "stride": x.shape[1:]}
    return Made(op="avg_pool", inputs=(x.node,), shape=(x.shape[0], 1, 1), fields=fields)


def _dropout(call: Call) -> Made | Value:
    x = call.read()
    if call["train"]:
        raise Refusal("it drops in eval mode too; write F.dropout(x, p, self.training)")
    if call["p"] == 0:
        return x
    return Made(op="dropout", inputs=(x.node,), shape=call.shape, fields={"rate": float(call["p"])})


def _feature_dropout(call: Call) -> Value:
    x = call.read()
    if call["train"]:
        raise Refusal("it drops in eval mode too; pass training=self.training")
    return x


def _weights(call: Call) -> dict[str, str]:
    weight, bias = call.tensor("weight"), call.tensor("bias")
    assert weight is not None
    return {"weight": weight} | ({} if bias is None else {"bias": bias})


def _window(call: Call, x: Value, dilation: tuple[int, int]) -> dict[str, Any]:
    kernel = _pair(call["kernel_size"])
    stride = _pair(call["stride"] or kernel)
    pad = _pair(call["padding"])
    floor = tuple(
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, p, d, k, s in zip(x.shape[1:], pad, dilation, kernel, stride, strict=True)
    )
    if call.shape[1:] != floor:
        raise Refusal(
            f"ceil_mode adds windows that hang over the edge ({_by(floor)} would fit, it makes {_by(call.shape[1:])})"
        )
    return {"kernel": kernel, "stride": stride, "padding": pad * 2, "dilation": dilation}


def _pair(sizes: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(sizes, int):
        return (sizes, sizes)
    return (sizes[0], sizes[-1])


def _by(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _batched(shape: Sequence[int]) -> str:
    return f"({', '.join(['N', *map(str, shape)])})"


# aten operator, without overload and the "_" of its in-place form -> what makes its node
# (a Value where it changes nothing).
OPERATORS: dict[str, Callable[[Call], Made | Value]] = {
    "adaptive_avg_pool2d": _adaptive_avg_pool,
    "add": _add,
    "avg_pool2d": _avg_pool,
    "batch_norm": _batch_norm,
    "conv2d": _conv,
    "dropout": _dropout,
    "feature_dropout": _feature_dropout,
    "hardtanh": _hardtanh,
    "linear": _linear,
    "max_pool2d": _max_pool,
    "mean": _mean,
    "relu": _relu,
    "relu6": _relu6,
}
# Hand on their input: the same tensor, or a copy of it.
ALIASES = frozenset({"alias", "contiguous", "to"})
COPIES = frozenset({"clone", "_to_copy"})
# Keep the order of the elements; a node only where they flatten.
VIEWS = frozenset({"_unsafe_view", "flatten", "reshape", "squeeze", "unflatten", "unsqueeze", "view"})
# Removed where they are the last step.
TAILS = frozenset({"argmax", "log_softmax", "sigmoid", "softmax"})


def fold_pad(call: Call, old: Padding) -> Padding:
    """The zeros around a tensor after a pad operator.

    Raises:
        Refusal: it pads with something else, crops, or pads other dimensions.
    """
    sizes = call["pad"]
    if call["mode"] != "constant" or call["value"] not in (None, 0):
        raise Refusal("only padding with zeros is in the vocabulary")
    sizes = [*sizes, 0, 0, 0, 0]
    left, right, top, bottom, *rest = sizes
    if any(rest) or min(sizes) < 0:
        raise Refusal("only rows and columns can be padded, and none cut off")
    return (old[0] + top, old[1] + left, old[2] + bottom, old[3] + right)
