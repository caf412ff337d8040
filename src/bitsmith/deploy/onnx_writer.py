"""The ONNX file while it is written: nodes, constants and functions so far, and what things are called.

Names: node "layer" writes tensor "layer.y" and reads "layer.weight", "layer.scale", "layer.bias"; the file takes
"image" and gives "logits". Only nodes with weights are named, and values at ONNX' defaults are left out: names are
most of what a small file holds beside its weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import FunctionProto, NodeProto, TensorProto, helper

from bitsmith.deploy.float_operators import FloatSums
from bitsmith.deploy.functions import DOMAIN
from bitsmith.deploy.operators import Conv, Logits
from bitsmith.deploy.program import IntegerProgram

INPUT, OUTPUT = "image", "logits"
_ONE = np.float32(1)
RUNTIME_DOMAIN = "com.microsoft"  # onnxruntime's own operators


def parameter_names(operator: Conv | Logits | FloatSums) -> dict[str, str]:
    """Where the file keeps the unpacked weight, scale and bias of an operator with stored weights."""
    owner = operator.owner if isinstance(operator, FloatSums) else operator.sums.owner
    return {kind: f"{owner}.{kind}" for kind in ("weight", "scale", "bias")}


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
        self.written: set[str] = set()  # weights of layers that may be used again
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

    def centered(self, source: str, name: str) -> str:
        """A tensor's integers, as float32."""
        zero = self.program.grids[source].zero_point
        wide = self.node("Cast", [self.read(source)], f"{name}.wide" if zero else name, to=TensorProto.FLOAT)
        return self.node("Sub", [wide, self.shared(np.float32(zero))], name) if zero else wide

    def reshape(self, source: str, shape: tuple[int, ...], output: str) -> str:
        return self.node("Reshape", [source, self.shared(np.array([-1, *shape]))], output)

    def call(
        self, function: Callable[[], FunctionProto], inputs: list[str], outputs: list[str], **attributes: Any
    ) -> None:
        """A node that calls a model-local function, which is written with its first call."""
        made = function()
        self.functions.setdefault(made.name, made)
        self.nodes.append(helper.make_node(made.name, inputs, outputs, domain=DOMAIN, **attributes))

    def saturate(self, source: str, tensor: str, top: int, *, step: np.float32 = _ONE) -> str:
        """Float numbers onto a tensor's grid: rint(x / step), zero point, bounds; or signs where it holds no more."""
        grid, y = self.program.grids[tensor], self.read(tensor)
        if grid.is_sign:
            positive = self.node("GreaterOrEqual", [source, self.shared(np.float32(0))], f"{tensor}.positive")
            bit = self.node("Cast", [positive], f"{tensor}.bit", to=TensorProto.UINT8)
            return self.node("BitShift", [bit, self.byte(1)], y, direction="LEFT")
        inputs = [source, self.shared(step), self.byte(grid.zero_point)]
        if top == 255:
            return self.node("QuantizeLinear", inputs, y)
        return self.node("Clip", [self.node("QuantizeLinear", inputs, f"{tensor}.q"), "", self.byte(top)], y)
