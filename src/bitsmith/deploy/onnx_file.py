"""IntegerProgram to one ONNX file that stock onnxruntime runs: as integers, equal to the reference bit for bit, and in
float32 where layers stay float. The file says which of the two, under `arithmetic` in its metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from bitsmith.blueprint import Blueprint
from bitsmith.deploy.arithmetic import arithmetic
from bitsmith.deploy.functions import DOMAIN, OPSET
from bitsmith.deploy.lower import lower
from bitsmith.deploy.onnx_nodes import write_operator
from bitsmith.deploy.onnx_writer import INPUT, OUTPUT, RUNTIME_DOMAIN, Writer
from bitsmith.deploy.program import IntegerProgram, check_accumulators
from bitsmith.errors import ExportError
from bitsmith.files import whole_file
from bitsmith.quantize import Network

IR_VERSION = 10
CPU = "x86 with VNNI; elsewhere sums of its int8 weights may saturate"  # of files of a program with `vnni`


def export_onnx(frozen: Network, blueprint: Blueprint, path: Path | str) -> Path:
    """Lower a frozen network and write it; see `write_onnx`."""
    return write_onnx(lower(frozen, blueprint), path)


def write_onnx(program: IntegerProgram, path: Path | str, properties: Mapping[str, str] | None = None) -> Path:
    """Write the program as an ONNX file (opset 21, IR 10); the file appears whole or not at all.

    Args:
        properties: more entries for the file's metadata, under names that `metadata` doesn't use.

    Raises:
        ExportError: sums that don't fit 32 bits, or a folder that can't be written.
    """
    path = Path(path)
    model = to_onnx(program)
    if properties:
        helper.set_model_props(model, {**properties, **metadata(program)})
    data = model.SerializeToString(deterministic=True)
    try:
        with whole_file(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise ExportError(f"can't write {path}: {error}") from error
    return path


def to_onnx(program: IntegerProgram) -> ModelProto:
    """The program as an ONNX model.

    Raises:
        ExportError: sums that don't fit 32 bits.
    """
    check_accumulators(program)
    writer = Writer(program)
    for operator in program.operators:
        write_operator(writer, operator)
    pixels = TensorProto.UINT8 if program.input.kind == "uint8" else TensorProto.FLOAT
    graph = helper.make_graph(
        writer.nodes,
        "bitsmith",
        [helper.make_tensor_value_info(INPUT, pixels, ["N", *program.input_shape])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", *program.shapes[program.output]])],
        [numpy_helper.from_array(value, name) for name, value in writer.constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    if writer.functions:
        opsets.append(helper.make_opsetid(DOMAIN, 1))
    if any(node.domain == RUNTIME_DOMAIN for node in writer.nodes):
        opsets.append(helper.make_opsetid(RUNTIME_DOMAIN, 1))
    model = helper.make_model(
        graph, functions=list(writer.functions.values()), opset_imports=opsets, producer_name="bitsmith"
    )
    model.ir_version = IR_VERSION
    helper.set_model_props(model, metadata(program))
    onnx.checker.check_model(model, full_check=True)
    return model


def metadata(program: IntegerProgram) -> dict[str, str]:
    """What the file says about itself, as text; all but the version are JSON or plain words."""
    contract = program.input
    return {
        "bitsmith": version("bitsmith"),
        "layout": "NCHW",
        "preprocessing": json.dumps(
            {"input": contract.kind, "mean": list(contract.mean), "std": list(contract.std)}
            | ({"done": "inside: feed raw pixels"} if contract.kind == "uint8" else {})
        ),
        "arithmetic": arithmetic(program),
        "labels": json.dumps(list(program.classes)),
        "bits": json.dumps({layer: [bits.weight, bits.activation] for layer, bits in program.bits.items()}),
        **({"cpu": CPU} if program.vnni else {}),
    }


def for_file(program: IntegerProgram, model: ModelProto) -> IntegerProgram:
    """The program as `to_onnx` took it for a model: what it holds is for CPUs with VNNI if its metadata says so."""
    told = {entry.key: entry.value for entry in model.metadata_props}
    return replace(program, vnni=told.get("cpu") == CPU)
