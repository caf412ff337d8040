"""The nodes of the ONNX file for float32 tensors: layers that stay float, and what leads to them and back.

Integers become numbers by Cast, Sub and Mul, not by DequantizeLinear: onnxruntime would make an integer kernel, or
none, of a pair of that and QuantizeLinear around a layer.
"""

from __future__ import annotations

from typing import Any, assert_never

import numpy as np
from onnx import TensorProto

from bitsmith.deploy.float_operators import (
    Dequantize,
    FloatAdd,
    FloatAverage,
    FloatFunction,
    FloatMultiply,
    FloatOperator,
    FloatScale,
    FloatSums,
    Numbers,
    Pixels,
    Quantize,
)
from bitsmith.deploy.onnx_sums import window
from bitsmith.deploy.onnx_writer import INPUT, Writer, parameter_names
from bitsmith.deploy.packing import pack_codes, unpack_function
from bitsmith.quantize import Codes

# Functions that ONNX has by another name, with its attributes.
_FUNCTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "hard_swish": ("HardSwish", {}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "gelu": ("Gelu", {}),
}


def write_float(writer: Writer, operator: FloatOperator) -> None:
    """Append the nodes and constants of one operator of float32 tensors."""
    name, y = operator.name, writer.read(operator.name)
    inputs = [writer.read(source) for source in operator.inputs]
    match operator:
        case Pixels():
            wide = writer.node("Cast", [INPUT], f"{name}.float", to=TensorProto.FLOAT)
            unit = writer.node("Div", [wide, writer.shared(np.float32(255))], f"{name}.unit")
            centered = writer.node("Sub", [unit, writer.shared(operator.mean)], f"{name}.centered")
            last = y if operator.gain is None else f"{name}.normal"
            writer.node("Div", [centered, writer.shared(operator.std)], last)
            _write_line(writer, last, name, operator.gain, operator.offset)
        case Numbers():
            if operator.gain is None:
                writer.node("Identity", [INPUT], y)
            _write_line(writer, INPUT, name, operator.gain, operator.offset)
        case Dequantize():
            signed = writer.centered(operator.inputs[0], f"{name}.signed")
            writer.node("Mul", [signed, writer.step(operator.inputs[0])], y)
        case Quantize():
            writer.saturate(inputs[0], name, operator.top, step=writer.program.grids[name].step)
        case FloatSums():
            _write_sums(writer, operator)
        case FloatScale():
            _write_line(writer, inputs[0], name, operator.gain, operator.offset)
        case FloatAverage():
            geometry = window(operator.kernel, operator.stride, operator.padding, (1, 1))
            counted: dict[str, Any] = {"count_include_pad": 1} if operator.count_pad and any(operator.padding) else {}
            writer.node("AveragePool", inputs, y, **geometry, **counted)
        case FloatAdd():
            writer.node("Add" if len(inputs) == 2 else "Sum", inputs, y)
        case FloatMultiply():
            writer.node("Mul", inputs, y)
        case FloatFunction():
            _write_function(writer, operator, inputs[0])
        case _:
            assert_never(operator)


def _write_line(writer: Writer, source: str, name: str, gain: np.ndarray | None, offset: np.ndarray | None) -> None:
    if gain is not None and offset is not None:
        scaled = writer.node("Mul", [source, writer.shared(gain)], f"{name}.gain")
        writer.node("Add", [scaled, writer.shared(offset)], writer.read(name))


def _write_function(writer: Writer, operator: FloatFunction, source: str) -> None:
    name, y = operator.name, writer.read(operator.name)
    if operator.function == "relu6":
        writer.node("Clip", [source, writer.shared(np.float32(0)), writer.shared(np.float32(6))], y)
    elif operator.function == "leaky_relu":
        writer.node("LeakyRelu", [source], y, alpha=operator.slope)
    elif operator.function == "silu":
        writer.node("Mul", [source, writer.node("Sigmoid", [source], f"{name}.sigmoid")], y)
    else:
        op, attributes = _FUNCTIONS[operator.function]
        writer.node(op, [source], y, **attributes)


def _write_sums(writer: Writer, operator: FloatSums) -> None:
    """A Conv or Gemm, called after its layer, of float32 weights or of codes that are unpacked at load."""
    name, names, folded = operator.name, parameter_names(operator), operator.folded
    if names["weight"] not in writer.written:
        writer.written.add(names["weight"])
        writer.constant(names["bias"], folded.bias)
        if folded.codes is None:
            writer.constant(names["weight"], folded.weight)
        else:
            _write_codes(writer, operator.owner, names, folded.codes)
    inputs = [writer.read(operator.inputs[0]), names["weight"], names["bias"]]
    if folded.weight.ndim == 2:
        writer.node("Gemm", inputs, writer.read(name), name=name, transB=1)
        return
    kernel = (folded.weight.shape[2], folded.weight.shape[3])
    geometry = window(kernel, operator.stride, operator.padding, operator.dilation)
    groups = {"group": operator.groups} if operator.groups > 1 else {}
    writer.node("Conv", inputs, writer.read(name), name=name, **geometry, **groups)


def _write_codes(writer: Writer, owner: str, names: dict[str, str], codes: Codes) -> None:
    shape = codes.codes.shape
    if codes.bits == 8:
        small = writer.constant(f"{owner}.codes", codes.codes.astype(np.int8))
    else:
        stream, gain, offset = pack_codes(codes.codes, codes.bits, odd=codes.odd)
        inputs = [
            writer.constant(f"{owner}.packed", stream),
            writer.shared(np.array(shape)),
            writer.shared(np.int32(gain)),
            writer.shared(np.int32(offset)),
        ]
        small = f"{owner}.codes"
        writer.call(unpack_function, inputs, [small], bits=[codes.bits])
    wide = writer.node("Cast", [small], f"{owner}.numbers", to=TensorProto.FLOAT)
    column = writer.shared(np.array([-1, *[1] * (len(shape) - 1)]))
    scale = writer.node("Reshape", [writer.constant(names["scale"], codes.scale), column], f"{owner}.column")
    writer.node("Mul", [wide, scale], names["weight"])
