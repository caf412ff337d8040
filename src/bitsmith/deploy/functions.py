"""Model-local ONNX functions: what several nodes of a file do alike is written once; onnxruntime inlines it at load.

A table is read by GatherElements on one row: a fifth of the time of Gather, which copies byte by byte (measured).
"""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np
from onnx import FunctionProto, NodeProto, TensorProto, helper, numpy_helper

DOMAIN = "bitsmith"
OPSET = 21


def lookup_function() -> FunctionProto:
    """lookup(x, table) -> table[x], of x's shape; x uint8, or int32 where the table is longer."""
    node = helper.make_node
    nodes = [
        *constant_nodes({"rest": np.full(1, -1)}),
        node("Shape", ["x"], ["shape"]),
        node("Reshape", ["x", "rest"], ["row"]),
        node("Cast", ["row"], ["index"], to=TensorProto.INT32),
        node("GatherElements", ["table", "index"], ["found"]),
        node("Reshape", ["found", "shape"], ["y"]),
    ]
    return make_function("lookup", ["x", "table"], ["y"], nodes)


def make_function(
    name: str, inputs: list[str], outputs: list[str], nodes: list[NodeProto], attributes: Sequence[str] = ()
) -> FunctionProto:
    """A function whose values are renamed to a, b, c, ...: their names would be a third of its bytes."""
    letters = string.ascii_letters
    names = list(dict.fromkeys([*inputs, *(output for node in nodes for output in node.output)]))
    short = dict(zip(names, letters, strict=False))
    assert len(names) <= len(letters)
    for node in nodes:
        node.input[:] = [short[value] for value in node.input]
        node.output[:] = [short[value] for value in node.output]
    given = [short[value] for value in inputs]
    made = [short[value] for value in outputs]
    opset = helper.make_opsetid("", OPSET)
    return helper.make_function(DOMAIN, name, given, made, nodes, [opset], attributes=list(attributes))


def constant_nodes(values: dict[str, np.ndarray | np.uint8 | np.float32]) -> list[NodeProto]:
    """Constants inside a function."""
    return [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value)))
        for name, value in values.items()
    ]
