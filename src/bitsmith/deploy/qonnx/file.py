"""An integer program as a QONNX file: float32 numbers between Quant nodes, for tools that build hardware from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, StringStringEntryProto, TensorAnnotation, TensorProto, helper, numpy_helper

from bitsmith.blueprint import NetworkGraph
from bitsmith.deploy.float_operators import Dequantize, FloatOperator
from bitsmith.deploy.onnx_file import IR_VERSION, metadata
from bitsmith.deploy.onnx_writer import INPUT, OUTPUT, Writer
from bitsmith.deploy.program import IntegerProgram, check_accumulators
from bitsmith.deploy.qonnx.nodes import write_operator
from bitsmith.deploy.qonnx.quants import DOMAIN
from bitsmith.errors import ExportError
from bitsmith.files import whole_file

OPSET = 20  # Gelu; nothing here differs from older ones but for functions and circular padding


def write_qonnx(program: IntegerProgram, graph: NetworkGraph, path: Path | str) -> Path:
    """Write a program as QONNX (opset 20, batch 1); the file appears whole or not at all.

    It takes pixels 0..255, or the numbers of a float input contract, as float32.

    Args:
        graph: the one that the program was lowered from.

    Raises:
        ExportError: layers that stay float, levels that no Quant node has, sums beyond 32 bits, a folder that can't be
            written.
    """
    path = Path(path)
    data = to_qonnx(program, graph).SerializeToString(deterministic=True)
    try:
        with whole_file(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise ExportError(f"can't write {path}: {error}") from error
    return path


def to_qonnx(program: IntegerProgram, graph: NetworkGraph) -> ModelProto:
    """The program as a QONNX model, every tensor with its shape.

    Raises:
        ExportError: as of `write_qonnx`.
    """
    for operator in program.operators:
        final = isinstance(operator, Dequantize) and operator.name == program.output
        if isinstance(operator, FloatOperator) and not final:
            raise ExportError(
                f"layer {operator.layer!r} computes in float32, and QONNX files here are of integers alone; pin it to "
                "8 bits instead of excluding it, or export to onnx"
            )
    check_accumulators(program)
    writer = Writer(program)
    for operator in program.operators:
        write_operator(writer, operator, graph)
    made = helper.make_graph(
        writer.nodes,
        "bitsmith",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, *program.input_shape])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, *program.shapes[program.output]])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in writer.constants.items()],
    )
    if program.input.kind == "uint8":
        pixels = StringStringEntryProto(key="finn_datatype", value="UINT8")
        made.quantization_annotation.append(TensorAnnotation(tensor_name=INPUT, quant_parameter_tensor_names=[pixels]))
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(made, opset_imports=opsets, producer_name="bitsmith")
    model.ir_version = IR_VERSION
    helper.set_model_props(model, metadata(program))
    model.graph.value_info.extend(_shapes(model))
    onnx.checker.check_model(model)
    return model


def _shapes(model: ModelProto) -> list[onnx.ValueInfoProto]:
    """Shapes of what is between input and output, as onnx finds them: a Quant keeps its input's."""
    plain = ModelProto()
    plain.CopyFrom(model)
    for node in plain.graph.node:
        if node.domain == DOMAIN:
            node.CopyFrom(_identity(node))
    inferred = onnx.shape_inference.infer_shapes(plain, strict_mode=True, data_prop=True).graph
    ends = {INPUT, OUTPUT, *(constant.name for constant in model.graph.initializer)}
    return [value for value in inferred.value_info if value.name not in ends]


def _identity(node: NodeProto) -> NodeProto:
    return helper.make_node("Identity", [node.input[0]], list(node.output))
