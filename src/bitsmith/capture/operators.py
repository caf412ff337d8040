"""What each aten operator that computes becomes. A function per operator, one dict at the end; pools have a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from bitsmith.blueprint import Norm
from bitsmith.capture.by_hand import clipped, divided, gated, shifted
from bitsmith.capture.call import Call
from bitsmith.capture.draft import NONE, NUMBERS, Made, Refusal, Value, batched
from bitsmith.capture.pools import POOLS, pair


def _conv(call: Call) -> Made:
    x = call.padded("input")
    if len(x.shape) != 3:
        raise Refusal(f"its input has {len(x.shape) + 1} dimensions with the batch, not 4")
    tensors = _weights(call)
    kernel = call.tensor_shape("weight")[2:]
    dilation = pair(call["dilation"])
    match call["padding"]:
        case "valid":
            own = NONE
        case "same":
            total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
            own = (total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2)
        case sizes:
            own = pair(sizes) * 2
    padding = tuple(a + b for a, b in zip(own, x.pad, strict=True))
    fields = {"kernel": kernel, "stride": pair(call["stride"]), "padding": padding, "dilation": dilation}
    fields |= {"groups": call["groups"], "bias": "bias" in tensors}
    return Made(op="conv", inputs=(x.node,), shape=call.shape, fields=fields, tensors=tensors)


def _linear(call: Call) -> Made:
    x = call.read("input")
    if len(x.shape) != 1:
        raise Refusal(f"it reads {batched(x.shape)}; a linear layer reads (N, features): flatten before it")
    tensors = _weights(call)
    return Made(op="linear", inputs=(x.node,), shape=call.shape, fields={"bias": "bias" in tensors}, tensors=tensors)


def _weights(call: Call) -> dict[str, str]:
    weight, bias = call.tensor("weight"), call.tensor("bias")
    assert weight is not None
    return {"weight": weight} | ({} if bias is None else {"bias": bias})


def _batch_norm(call: Call) -> Made:
    x = call.read("input")
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
    if isinstance(call["other"], int | float):
        if call["other"] == 0:  # sum() of a list starts with 0
            return call.read()
        if (formula := shifted(call)) is not None:
            return formula
        raise Refusal(f"it adds a number; {NUMBERS}")
    x, y = call.read(), call.read("other")
    if x.shape != y.shape:
        raise Refusal(f"it broadcasts {batched(x.shape)} and {batched(y.shape)}; both must have one shape")
    return Made(op="add", inputs=(x.node, y.node), shape=call.shape)


def _multiply(call: Call) -> Made | Value:
    number = call["other"]
    if isinstance(number, int | float):
        if number and (whole := divided(call, 1 / number)) is not None:
            return whole
        raise Refusal(f"it multiplies by a number; {NUMBERS}")
    if (formula := gated(call)) is not None:
        return formula
    x, y = call.gate("self"), call.gate("other")
    if len(x.shape) == 3 and x.shape == (y.shape[0], 1, 1):
        x, y = y, x  # the gate comes second
    if y.shape != x.shape and y.shape != (x.shape[0], 1, 1):
        raise Refusal(
            f"it broadcasts {batched(x.shape)} and {batched(y.shape)}; both must have one shape, or one (N, C, 1, 1)"
        )
    return Made(op="multiply", inputs=(x.node, y.node), shape=x.shape)


def _divide(call: Call) -> Made:
    number = call["other"]
    whole = divided(call, number) if isinstance(number, int | float) and call["rounding_mode"] is None else None
    return whole or _scaling(call)


def _scaling(call: Call) -> Made:
    """sub, div and their kin, where they are no arithmetic on the raw input."""
    raise Refusal(f"it is no sum or product of two tensors; {NUMBERS}")


def _cat(call: Call) -> Made | Value:
    rank = call.node.meta["val"].dim()
    if call["dim"] % rank != 1:
        raise Refusal("it joins rows or columns; only channels (dim=1) can be joined")
    values = call.values("tensors")
    size = call.drafting.input.shape[1:]
    if all(value.pixels and value.shape == (len(value.pixels), *size) for value in values):
        row = tuple(pixel for value in values for pixel in value.pixels)
        return Value(
            node=values[0].node,
            shape=call.shape,
            storage=call.drafting.storage(),
            region=(0, len(row) * size[0] * size[1]),
            pixels=row,
            pending=call.node,
        )
    inputs = [call.drafting.settle(value) for value in values]
    if len(inputs) == 1:
        return inputs[0]
    return Made(op="concat", inputs=tuple(value.node for value in inputs), shape=call.shape)


def _function(call: Call, *, op: str) -> Made | Value:
    if op == "relu6" and (formula := clipped(call)) is not None:
        return formula
    return Made(op=op, inputs=(call.read().node,), shape=call.shape)


def _leaky_relu(call: Call) -> Made:
    return Made(op="leaky_relu", inputs=(call.read().node,), shape=call.shape, fields={"slope": call["negative_slope"]})


def _gelu(call: Call) -> Made | Value:
    if call["approximate"] != "none":
        raise Refusal(
            f"approximate={call['approximate']!r} is another function than gelu; use the exact one, approximate='none'"
        )
    return _function(call, op="gelu")


def _clamp(call: Call, *, low: str = "min", high: str = "max") -> Made | Value:
    match call[low], call[high]:
        case 0, 6:
            return _function(call, op="relu6")
        case 0, None:
            return _function(call, op="relu")
    raise Refusal(
        f"its range is {call[low]}..{call[high]}; only 0..6 (relu6) and 0 and above (relu) are in the vocabulary"
    )


def _dropout(call: Call) -> Made | Value:
    x = call.read(call.first)
    if call["train"]:
        raise Refusal("it drops in eval mode too; write F.dropout(x, p, self.training)")
    if call["p"] == 0:
        return x
    return Made(op="dropout", inputs=(x.node,), shape=call.shape, fields={"rate": float(call["p"])})


def _feature_dropout(call: Call) -> Value:
    x = call.read(call.first)
    if call["train"]:
        raise Refusal("it drops in eval mode too; pass training=self.training")
    return x


def _shuffle(call: Call) -> Made | Value:
    x = call.read(rank=3)
    if call["groups"] in (1, x.shape[0]):
        return x
    return Made(op="shuffle", inputs=(x.node,), shape=call.shape, fields={"groups": call["groups"]})


# Functions of one number that aten calls otherwise or the same.
_FUNCTIONS: Mapping[str, str] = {
    "hardsigmoid": "hard_sigmoid",
    "hardswish": "hard_swish",
    "relu": "relu",
    "relu6": "relu6",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "tanh": "tanh",
}

# aten operator, without overload and the "_" of its in-place form -> what makes its node
# (a Value where it changes nothing).
OPERATORS: dict[str, Callable[[Call], Made | Value]] = {
    **POOLS,
    **{name: partial(_function, op=op) for name, op in _FUNCTIONS.items()},
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    **dict.fromkeys(("clamp", "clip"), _clamp),
    **dict.fromkeys(("neg", "rsub", "sub"), _scaling),
    "add": _add,
    "batch_norm": _batch_norm,
    "channel_shuffle": _shuffle,
    "clamp_min": partial(_clamp, high=""),
    "conv2d": _conv,
    "div": _divide,
    "dropout": _dropout,
    "feature_dropout": _feature_dropout,
    "gelu": _gelu,
    "hardtanh": partial(_clamp, low="min_val", high="max_val"),
    "leaky_relu": _leaky_relu,
    "linear": _linear,
    "mul": _multiply,
}
