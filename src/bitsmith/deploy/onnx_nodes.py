"""The nodes of the ONNX file: how each integer operator is written.

Explicit QLinearConv instead of Q/DQ pairs: the latter are merged and reordered by onnxruntime's optimizer and lose
exactness. Weights stay packed at exactly b bits; a model-local function turns them into int8, which onnxruntime folds
at load. What QLinearConv can't do by itself follows it: a Clip where the grid ends below 255, and two bit operations
where the grid holds only signs (scales of 1 make stored >= 128 exactly acc + bias >= 0).

Names: node "layer" writes tensor "layer.y" and reads "layer.weight", "layer.scale", "layer.bias"; the file takes
"image" and gives "logits". Only nodes with weights are named, and values at ONNX' defaults are left out: names are
most of what a small file holds beside its weights.
"""

from __future__ import annotations

from typing import Any, assert_never

import numpy as np
from onnx import FunctionProto, NodeProto, TensorProto, helper

from bitsmith.deploy.packing import DOMAIN, channels_function, pack_layer, silence_function, unpack_function
from bitsmith.deploy.program import (
    Add,
    Conv,
    Dequantize,
    Flatten,
    InputQuantize,
    InputTable,
    IntegerProgram,
    Logits,
    MaxPool,
    Operator,
    Pair,
    Sums,
    Table,
)

INPUT, OUTPUT = "image", "logits"


def parameter_names(operator: Conv | Logits) -> dict[str, str]:
    """Where the file keeps the unpacked weight, scale and bias of an operator with stored weights."""
    return {kind: f"{operator.name}.{kind}" for kind in ("weight", "scale", "bias")}


def tensor_name(program: IntegerProgram, name: str) -> str:
    """What an operator's tensor is called in the file."""
    return OUTPUT if name == program.output else f"{name}.y"


class Writer:
    """Nodes, constants and functions of the file so far."""

    def __init__(self, program: IntegerProgram) -> None:
        self.program = program
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.functions: dict[str, FunctionProto] = {}
        self.known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def node(self, op: str, inputs: list[str], output: str, *, name: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=name or None, **attributes))
        return output

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def shared(self, value: np.ndarray | np.generic) -> str:
        """A small constant that is written once for all who need it."""
        array = np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        return self.constant(self.known.setdefault(key, f"c{len(self.known)}"), array)

    def byte(self, value: int) -> str:
        return self.shared(np.uint8(value))

    def read(self, name: str) -> str:
        return tensor_name(self.program, name)

    def step(self, name: str) -> str:
        return self.shared(self.program.grids[name].step)

    def zero(self, name: str) -> str:
        return self.byte(self.program.grids[name].zero_point)

    def write(self, operator: Operator) -> None:
        name, y = operator.name, self.read(operator.name)
        match operator:
            case InputTable():
                self.write_input_table(operator, y)
            case InputQuantize():
                self.write_input_quantize(operator, y)
            case Conv():
                self.write_conv(operator, y)
            case Logits():
                self.write_logits(operator, y)
            case Add():
                self.write_add(operator, y)
            case Table():
                index = self.node("Cast", [self.read(operator.inputs[0])], f"{name}.index", to=TensorProto.INT32)
                self.node("Gather", [self.constant(f"{name}.table", operator.table), index], y)
            case MaxPool():
                window = _window(operator.kernel, operator.stride, operator.padding, operator.dilation)
                self.node("MaxPool", [self.read(operator.inputs[0])], y, **window)
            case Flatten():
                self.reshape(self.read(operator.inputs[0]), self.program.shapes[name], y)
            case Dequantize():
                wide = self.node("Cast", [self.read(operator.inputs[0])], f"{name}.wide", to=TensorProto.FLOAT)
                zero = self.shared(np.float32(self.program.grids[operator.inputs[0]].zero_point))
                self.node("Mul", [self.node("Sub", [wide, zero], f"{name}.signed"), self.step(operator.inputs[0])], y)
            case _:
                assert_never(operator)

    def reshape(self, source: str, shape: tuple[int, ...], output: str) -> str:
        return self.node("Reshape", [source, self.shared(np.array([-1, *shape]))], output)

    def write_input_table(self, operator: InputTable, y: str) -> None:
        name, table = operator.name, operator.table
        index = self.node("Cast", [INPUT], f"{name}.index", to=TensorProto.INT32)
        if len(table) > 1:
            offsets = 256 * np.arange(len(table), dtype=np.int32).reshape(
                -1, *[1] * (len(self.program.input_shape) - 1)
            )
            index = self.node("Add", [index, self.constant(f"{name}.offsets", offsets)], f"{name}.entry")
        self.node("Gather", [self.constant(f"{name}.table", table.reshape(-1)), index], y)

    def write_input_quantize(self, operator: InputQuantize, y: str) -> None:
        name, grid = operator.name, self.program.grids[operator.name]
        if grid.is_sign:
            positive = self.node("GreaterOrEqual", [INPUT, self.shared(np.float32(0))], f"{name}.positive")
            bit = self.node("Cast", [positive], f"{name}.bit", to=TensorProto.UINT8)
            self.node("BitShift", [bit, self.byte(1)], y, direction="LEFT")
            return
        inputs = [INPUT, self.step(name), self.zero(name)]
        if grid.top == 255:
            self.node("QuantizeLinear", inputs, y)
        else:
            self.node("Clip", [self.node("QuantizeLinear", inputs, f"{name}.q"), "", self.byte(grid.top)], y)

    def write_parameters(self, operator: Conv | Logits) -> dict[str, str]:
        """Weight, scale and bias of a layer, or of an average pool."""
        name, sums, names = operator.name, operator.sums, parameter_names(operator)
        if sums.folded is None:
            assert (sums.weight == 1).all()
            assert not sums.bias.any()
            shape = self.shared(np.array(sums.weight.shape))
            one = helper.make_tensor("value", TensorProto.INT8, [1], [1])
            self.node("ConstantOfShape", [shape], names["weight"], value=one)
            return {"weight": names["weight"], "scale": self.shared(sums.scale[0])}
        folded = sums.folded
        half = folded.half
        if folded.bits == 8:
            self.constant(names["weight"], sums.weight)
        else:
            packed = pack_layer(folded)
            half = packed.half
            inputs = [
                self.constant(f"{name}.packed", packed.stream),
                self.shared(np.array(sums.weight.shape)),
                self.shared(np.int32(packed.gain)),
                self.shared(np.int32(packed.offset)),
            ]
            self.functions.setdefault("unpack", unpack_function())
            unpacked = f"{name}.all" if packed.silent else names["weight"]
            self.node("unpack", inputs, unpacked, domain=DOMAIN, bits=[packed.bits])
            if packed.silent:
                self.functions.setdefault("silence", silence_function())
                self.node("silence", [unpacked, f"{name}.half"], names["weight"], domain=DOMAIN)
        self.functions.setdefault("channels", channels_function())
        inputs = [
            self.constant(f"{name}.half", half),
            self.shared(folded.layer_scale),
            self.constant(f"{name}.stored_bias", folded.stored_bias),
            self.shared(folded.granule),
        ]
        outputs = [names["scale"], names["bias"]]
        self.nodes.append(helper.make_node("channels", inputs, outputs, domain=DOMAIN))
        return names

    def image(self, operator: Conv | Logits) -> str:
        """The operator's input with height and width."""
        source = operator.inputs[0]
        shape = self.program.shapes[source]
        if len(shape) == 3:
            return self.read(source)
        return self.reshape(self.read(source), (*shape, 1, 1), f"{operator.name}.image")

    def write_conv(self, operator: Conv, y: str) -> None:
        name, source = operator.name, operator.inputs[0]
        grid, names = self.program.grids[name], self.write_parameters(operator)
        one = self.shared(np.float32(1))
        x, x_step = self.image(operator), one if grid.is_sign else self.step(source)
        weight = [names["weight"], one if grid.is_sign else names["scale"], self.shared(np.int8(0))]
        onto = [one, self.byte(128)] if grid.is_sign else [self.step(name), self.zero(name)]
        bias = [names["bias"]] if "bias" in names else []
        flat = len(self.program.shapes[name]) == 1
        clips = operator.top < 255
        # The last of: convolution, clip or sign, reshape writes y.
        summed = f"{name}.sum" if flat or clips else y
        attributes = _geometry(operator.sums)
        self.node("QLinearConv", [x, x_step, self.zero(source), *weight, *onto, *bias], summed, name=name, **attributes)
        if clips:
            clipped = f"{name}.clip" if flat else y
            if grid.is_sign:
                high = self.node("BitwiseAnd", [summed, self.byte(128)], f"{name}.high")
                summed = self.node("BitShift", [high, self.byte(6)], clipped, direction="RIGHT")
            else:
                summed = self.node("Clip", [summed, "", self.byte(operator.top)], clipped)
        if flat:
            self.reshape(summed, self.program.shapes[name], y)

    def write_logits(self, operator: Logits, y: str) -> None:
        name, source, sums = operator.name, operator.inputs[0], operator.sums
        names, shape = self.write_parameters(operator), self.program.shapes[name]
        zero = self.zero(source)
        scale = self.node("Mul", [self.step(source), names["scale"]], f"{name}.unit")
        bias = names.get("bias")
        if len(self.program.shapes[source]) == 1 and sums.groups == 1:
            rows = self.reshape(names["weight"], sums.weight.shape[1:2], f"{name}.rows")
            columns = self.node("Transpose", [rows], f"{name}.columns", perm=[1, 0])
            inputs = [self.read(source), columns, zero]
            total = self.node("MatMulInteger", inputs, f"{name}.sum", name=name)
            flat = False
        else:
            inputs = [self.image(operator), names["weight"], zero]
            total = self.node("ConvInteger", inputs, f"{name}.sum", name=name, **_geometry(sums))
            if bias is not None:
                column = self.shared(np.array([-1, 1, 1]))
                scale = self.node("Reshape", [scale, column], f"{name}.unit3")
                bias = self.node("Reshape", [bias, column], f"{name}.bias3")
            flat = len(shape) == 1
        if bias is not None:
            total = self.node("Add", [total, bias], f"{name}.total")
        number = self.node("Cast", [total], f"{name}.float", to=TensorProto.FLOAT)
        scaled = self.node("Mul", [number, scale], f"{name}.scaled" if flat else y)
        if flat:
            self.reshape(scaled, shape, y)

    def write_add(self, operator: Add, y: str) -> None:
        name, grids = operator.name, self.program.grids
        left, right = (
            self.node("Cast", [self.read(source)], f"{name}.{side}", to=TensorProto.INT32)
            for source, side in zip(operator.inputs, ("left", "right"), strict=True)
        )
        total = self.node("Add", [left, right], f"{name}.sum")
        shift = grids[name].zero_point - sum(grids[source].zero_point for source in operator.inputs)
        if shift:
            total = self.node("Add", [total, self.shared(np.int32(shift))], f"{name}.total")
        bounds = [self.shared(np.int32(0)), self.shared(np.int32(operator.top))]
        clipped = self.node("Clip", [total, *bounds], f"{name}.clip")
        self.node("Cast", [clipped], y, to=TensorProto.UINT8)


def _window(kernel: Pair, stride: Pair, padding: tuple[int, int, int, int], dilation: Pair) -> dict[str, Any]:
    """Attributes of a window; those at ONNX' defaults take no bytes."""
    values = {"strides": stride, "pads": padding, "dilations": dilation}
    defaults = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
    return {"kernel_shape": kernel} | {key: value for key, value in values.items() if value != defaults[key]}


def _geometry(sums: Sums) -> dict[str, Any]:
    kernel = (sums.weight.shape[2], sums.weight.shape[3])
    attributes = _window(kernel, sums.stride, sums.padding, sums.dilation)
    return attributes | ({"group": sums.groups} if sums.groups > 1 else {})
