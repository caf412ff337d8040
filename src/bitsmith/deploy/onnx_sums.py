"""How weighted sums are written: QLinearConv, MatMulInteger, ConvInteger, and the weights behind them.

Explicit QLinearConv instead of Q/DQ pairs: the latter are merged and reordered by onnxruntime's optimizer and lose
exactness. Weights stay packed at exactly b bits; a model-local function turns them into int8, which onnxruntime folds
at load. Weights so large that old x86 machines would saturate are uint8 with zero point 128
(`IntegerProgram.unsigned`). What QLinearConv can't do by itself follows it: a Clip where the grid ends below 255, and
two bit operations where the grid holds only signs (scales of 1 make stored >= 128 exactly acc + bias >= 0).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from bitsmith.deploy.onnx_writer import Writer, parameter_names
from bitsmith.deploy.operators import Average, Conv, Logits, Pair, Sums
from bitsmith.deploy.packing import (
    UNSIGNED_ZERO,
    arrange_function,
    channels_function,
    pack_layer,
    silence_function,
    to_unsigned,
    unpack_function,
    unsigned_function,
)


def _write_parameters(writer: Writer, operator: Conv | Logits) -> dict[str, str]:
    """Weight, scale and bias of a layer, or of an average pool."""
    name, sums, names = operator.name, operator.sums, parameter_names(operator)
    if sums.folded is None:
        assert (sums.weight == 1).all()
        assert not sums.bias.any()
        return {"weight": _ones(writer, name, sums.weight.shape), "scale": writer.shared(sums.scale[0])}
    if names["weight"] in writer.written:  # by another use of the layer
        return names
    writer.written.add(names["weight"])
    name, folded = sums.owner, sums.folded
    parts = [(filters, part, pack_layer(part) if part.bits != 8 else None) for filters, part in folded.parts()]
    half, silent = folded.half.copy(), any(packed is not None and packed.silent for _, _, packed in parts)
    unsigned = name in writer.program.unsigned
    stored_unsigned = unsigned and len(parts) == 1 and parts[0][2] is None
    signed = f"{name}.signed" if unsigned and not stored_unsigned else names["weight"]
    unpacked = f"{name}.all" if silent else signed
    for filters, part, packed in parts:
        target = unpacked if len(parts) == 1 else f"{name}.weight{part.bits}"
        weight = sums.weight[filters]
        if packed is None:
            writer.constant(target, to_unsigned(weight) if stored_unsigned else weight)
            continue
        half[filters] = packed.half
        suffix = "" if len(parts) == 1 else str(part.bits)
        inputs = [
            writer.constant(f"{name}.packed{suffix}", packed.stream),
            writer.shared(np.array(weight.shape)),
            writer.shared(np.int32(packed.gain)),
            writer.shared(np.int32(packed.offset)),
        ]
        writer.call(unpack_function, inputs, [target], bits=[packed.bits])
    if len(parts) > 1:
        _join(writer, name, [(filters, f"{name}.weight{part.bits}") for filters, part, _ in parts], unpacked)
    if silent:
        writer.call(silence_function, [unpacked, f"{name}.half"], [signed])
    if signed != names["weight"]:
        writer.call(unsigned_function, [signed], [names["weight"]])
    inputs = [
        writer.constant(f"{name}.half", half),
        writer.shared(folded.layer_scale),
        writer.constant(f"{name}.stored_bias", folded.stored_bias),
        writer.shared(folded.granule),
    ]
    writer.call(channels_function, inputs, [names["scale"], names["bias"]])
    return names


def _join(writer: Writer, name: str, parts: list[tuple[np.ndarray, str]], target: str) -> None:
    """Filters that are stored by rising bits, in the order of the layer's channels: for each its place among them."""
    places = np.argsort(np.concatenate([filters for filters, _ in parts]))
    in_order = (places == np.arange(len(places))).all()
    places = places.astype(np.uint8 if len(places) <= 256 else np.uint16)
    stored = writer.node("Concat", [part for _, part in parts], target if in_order else f"{name}.stored", axis=0)
    if in_order:
        return
    writer.call(arrange_function, [stored, writer.constant(f"{name}.places", places)], [target])


def _ones(writer: Writer, name: str, shape: tuple[int, ...]) -> str:
    """int8 weights of an average."""
    one = helper.make_tensor("value", TensorProto.INT8, [1], [1])
    return writer.node("ConstantOfShape", [writer.shared(np.array(shape))], f"{name}.weight", value=one)


def _weight_zero(writer: Writer, operator: Conv | Logits) -> str:
    """The zero point of an operator's weights."""
    unsigned = operator.sums.owner in writer.program.unsigned
    return writer.byte(UNSIGNED_ZERO) if unsigned else writer.shared(np.int8(0))


def _image(writer: Writer, operator: Conv | Logits) -> str:
    """The operator's input with height and width."""
    source = operator.inputs[0]
    shape = writer.program.shapes[source]
    if len(shape) == 3:
        return writer.read(source)
    return writer.reshape(writer.read(source), (*shape, 1, 1), f"{operator.name}.image")


def write_conv(writer: Writer, operator: Conv) -> None:
    """Sums onto a grid, as QLinearConv and what it can't do by itself."""
    name, source, y = operator.name, operator.inputs[0], writer.read(operator.name)
    grid, names = writer.program.grids[name], _write_parameters(writer, operator)
    one = writer.shared(np.float32(1))
    x, x_step = _image(writer, operator), one if grid.is_sign else writer.step(source)
    weight = [names["weight"], one if grid.is_sign else names["scale"], _weight_zero(writer, operator)]
    onto = [one, writer.byte(128)] if grid.is_sign else [writer.step(name), writer.zero(name)]
    bias = [names["bias"]] if "bias" in names else []
    flat = len(writer.program.shapes[name]) == 1
    clips = operator.top < 255
    # The last of: convolution, clip or sign, reshape writes y.
    summed = f"{name}.sum" if flat or clips else y
    attributes = _geometry(operator.sums)
    writer.node("QLinearConv", [x, x_step, writer.zero(source), *weight, *onto, *bias], summed, name=name, **attributes)
    if clips:
        clipped = f"{name}.clip" if flat else y
        if grid.is_sign:
            high = writer.node("BitwiseAnd", [summed, writer.byte(128)], f"{name}.high")
            summed = writer.node("BitShift", [high, writer.byte(6)], clipped, direction="RIGHT")
        else:
            summed = writer.node("Clip", [summed, "", writer.byte(operator.top)], clipped)
    if flat:
        writer.reshape(summed, writer.program.shapes[name], y)


def write_logits(writer: Writer, operator: Logits) -> None:
    """Sums as numbers: one float32 product at the end."""
    name, source, sums, y = operator.name, operator.inputs[0], operator.sums, writer.read(operator.name)
    names, shape = _write_parameters(writer, operator), writer.program.shapes[name]
    zeros = [writer.zero(source), _weight_zero(writer, operator)]
    scale = writer.node("Mul", [writer.step(source), names["scale"]], f"{name}.unit")
    bias = names.get("bias")
    if len(writer.program.shapes[source]) == 1 and sums.groups == 1:
        rows = writer.reshape(names["weight"], sums.weight.shape[1:2], f"{name}.rows")
        columns = writer.node("Transpose", [rows], f"{name}.columns", perm=[1, 0])
        inputs = [writer.read(source), columns, *zeros]
        total = writer.node("MatMulInteger", inputs, f"{name}.sum", name=name)
        flat = False
    else:
        inputs = [_image(writer, operator), names["weight"], *zeros]
        total = writer.node("ConvInteger", inputs, f"{name}.sum", name=name, **_geometry(sums))
        if bias is not None:
            column = writer.shared(np.array([-1, 1, 1]))
            scale = writer.node("Reshape", [scale, column], f"{name}.unit3")
            bias = writer.node("Reshape", [bias, column], f"{name}.bias3")
        flat = len(shape) == 1
    if bias is not None:
        total = writer.node("Add", [total, bias], f"{name}.total")
    number = writer.node("Cast", [total], f"{name}.float", to=TensorProto.FLOAT)
    scaled = writer.node("Mul", [number, scale], f"{name}.scaled" if flat else y)
    if flat:
        writer.reshape(scaled, shape, y)


def write_average(writer: Writer, operator: Average) -> None:
    """Integer sums of windows, times a float32 multiplier for each position."""
    name, source, program = operator.name, operator.inputs[0], writer.program
    channels, height, width = program.shapes[source]
    ones = _ones(writer, name, (channels, 1, *operator.kernel))
    geometry = window(operator.kernel, operator.stride, operator.padding, (1, 1))
    inputs = [writer.read(source), ones, writer.zero(source)]
    total = writer.node("ConvInteger", inputs, f"{name}.sum", name=name, group=channels, **geometry)
    rows, columns = operator.counts((height, width))
    count = writer.node("Mul", [writer.shared(rows[:, None]), writer.shared(columns)], f"{name}.count")
    ratio = program.grids[source].step / program.grids[name].step
    multiplier = writer.node("Div", [writer.shared(ratio), count], f"{name}.multiplier")
    number = writer.node("Cast", [total], f"{name}.float", to=TensorProto.FLOAT)
    writer.saturate(writer.node("Mul", [number, multiplier], f"{name}.scaled"), name, operator.top)


def window(kernel: Pair, stride: Pair, padding: tuple[int, int, int, int], dilation: Pair) -> dict[str, Any]:
    """Attributes of a window; those at ONNX' defaults take no bytes."""
    values = {"strides": stride, "pads": padding, "dilations": dilation}
    defaults = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
    return {"kernel_shape": kernel} | {key: value for key, value in values.items() if value != defaults[key]}


def _geometry(sums: Sums) -> dict[str, Any]:
    kernel = (sums.weight.shape[2], sums.weight.shape[3])
    attributes = window(kernel, sums.stride, sums.padding, sums.dilation)
    return attributes | ({"group": sums.groups} if sums.groups > 1 else {})
