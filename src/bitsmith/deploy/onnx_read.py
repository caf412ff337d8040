"""A file of ours, read again from disk: refused before anything of it runs where it can't be one.

What an ONNX file may hold is a program: it can loop, make tensors of any size out of nothing, and point to other files.
Ours hold none of that, so that a file that does is not verified but refused. What is left may still be a wrong network,
which verification is there to find.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, numpy_helper

from bitsmith.deploy.onnx_writer import INPUT, OUTPUT
from bitsmith.errors import VerifyError

# As much more than the network's own file may a file hold.
_TIMES, _BYTES, _NODES = 2, 1_000_000, 64
# Operators that we may not write and that neither loop nor enlarge: a float layer in place of an integer one shows so.
_HARMLESS = frozenset(
    {"Add", "Cast", "Clip", "Conv", "Div", "Gemm", "Identity", "MatMul", "Mul", "Relu", "Reshape", "Round", "Sub"}
    | {"DequantizeLinear", "QuantizeLinear"}
)


def read_onnx(path: Path | str, right: ModelProto) -> ModelProto:
    """The model in a file that should hold another.

    Args:
        right: as `to_onnx` makes it of the program that the file should hold.

    Raises:
        VerifyError: the file can't be read, is damaged, or is not one that bitsmith could have written for the program:
            its size, its operators, or data outside of it.
    """
    model = _parsed(path, _TIMES * right.ByteSize() + _BYTES)
    signature = [value.name for value in (*model.graph.input, *model.graph.output)]
    if signature != [INPUT, OUTPUT]:
        raise VerifyError(f"{path} is damaged or not a file of bitsmith: its inputs and outputs are {signature}")
    ours, found = list(_nodes(right)), list(_nodes(model))
    unknown = {node.op_type for node in found} - {node.op_type for node in ours} - _HARMLESS
    if unknown or any(_graphs(node) for node in found):
        what = ", ".join(sorted(map(str, unknown))) or "graphs within operators"
        raise VerifyError(f"{path} is of another network or not a file of bitsmith: it holds {what:.200}")
    if len(found) > len(ours) + _NODES or _joined(found) > _joined(ours):
        raise VerifyError(f"{path} is of another network: it has {len(found)} operators, the network {len(ours)}")
    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise VerifyError(f"{path} is not a file of bitsmith: {tensor.name!r:.60} lies in another file")
        try:
            numpy_helper.to_array(tensor)
        except Exception as error:  # of a damaged tensor nearly anything is raised
            raise VerifyError(f"{path} is damaged: the constant {tensor.name!r:.60} can't be read ({error})") from error
    if _made(model) > _TIMES * _made(right):
        raise VerifyError(f"{path} is not a file of bitsmith: it makes larger tensors than the network has")
    return model


def _parsed(path: Path | str, most: int) -> ModelProto:
    try:
        if (size := Path(path).stat().st_size) > most:
            raise VerifyError(
                f"{path} is of another network: it has {size:,} bytes, this one's takes less than {most:,}"
            )
        return onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise VerifyError(f"can't read {path}: {error}") from error
    except DecodeError as error:
        raise VerifyError(f"{path} is truncated or not an ONNX file") from error


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    yield from model.graph.node
    for function in model.functions:
        yield from function.node


def _graphs(node: NodeProto) -> bool:
    return any(attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute)


def _joined(nodes: Iterable[NodeProto]) -> int:
    """What all concatenations read: x joined with itself, again and again, is as large as one likes."""
    return sum(len(node.input) for node in nodes if node.op_type == "Concat")


def _made(model: ModelProto) -> float:
    """How many numbers come out of nothing: ours are the weights of average pools."""
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = [node for node in _nodes(model) if node.op_type == "ConstantOfShape"]
    return sum(float(np.prod(shapes.get(node.input[0], np.inf), dtype=np.float64)) for node in makers)


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from model.graph.initializer
    for sparse in model.graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in _nodes(model):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
