"""A TFLite file while it is written: tensors, buffers and operators so far, by LiteRT's own schema.

Maps are NHWC with a batch of one; features of a flattened map are 1 x 1 x 1 x features, in NHWC's order. A stored byte
u is the int8 number u - 128, so that a grid keeps its step and its zero point moves by 128.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np

from bitsmith.deploy.operators import StoredGrid
from bitsmith.errors import ExportError

_VERSION = 3  # of the schema
_TYPES = {"int8": "INT8", "int32": "INT32", "float32": "FLOAT32"}


_MISSING = "TFLite files need LiteRT, which isn't installed: pip install 'bitsmith[tflite]'"


def litert_missing() -> str | None:
    """Why no TFLite file can be written, or None."""
    return None if importlib.util.find_spec("ai_edge_litert") is not None else _MISSING


def schema() -> Any:
    """LiteRT's schema as Python classes.

    Raises:
        ExportError: LiteRT isn't installed.
    """
    try:
        return importlib.import_module("ai_edge_litert.schema_py_generated")
    except ImportError as error:
        raise ExportError(_MISSING) from error


class Writer:
    """Tensors, buffers and operators of the file so far."""

    def __init__(self) -> None:
        self.schema = schema()
        self.buffers = [self.schema.BufferT()]  # the first one is empty by definition
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: dict[str, int] = {}
        self.index: dict[str, int] = {}

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        kind: str = "int8",
        *,
        grid: StoredGrid | None = None,
        scales: np.ndarray | None = None,
        axis: int = 0,
        data: np.ndarray | None = None,
    ) -> str:
        """A tensor on a grid, or with a scale per slice of an axis; `data` makes it a constant."""
        made = self.schema.TensorT()
        made.name, made.shape, made.hasRank = name.encode(), list(shape), True
        made.type = getattr(self.schema.TensorType, _TYPES[kind])
        made.buffer = 0 if data is None else self.buffer(data.tobytes())
        if grid is not None or scales is not None:
            made.quantization = self.schema.QuantizationParametersT()
            made.quantization.scale = [float(grid.step)] if grid is not None else [float(s) for s in scales]  # pyright: ignore[reportOptionalIterable]
            made.quantization.zeroPoint = [grid.zero_point - 128] if grid is not None else [0] * len(scales)  # pyright: ignore[reportArgumentType]
            made.quantization.quantizedDimension = axis
        assert name not in self.index, name
        self.index[name] = len(self.tensors)
        self.tensors.append(made)
        return name

    def integers(self, name: str, values: list[int] | list[list[int]]) -> str:
        """A constant of shapes, paddings or axes."""
        array = np.array(values, np.int32)
        return self.tensor(name, array.shape, "int32", data=array)

    def buffer(self, data: bytes) -> int:
        made = self.schema.BufferT()
        made.data = np.frombuffer(data, np.uint8)
        self.buffers.append(made)
        return len(self.buffers) - 1

    def operator(self, code: str, inputs: list[str], output: str, options: str = "", **values: Any) -> None:
        """A builtin operator; `options` is the name of its options' table, `values` their fields."""
        made = self.schema.OperatorT()
        made.opcodeIndex = self.codes.setdefault(code, len(self.codes))
        made.inputs, made.outputs = [self.index[name] for name in inputs], [self.index[output]]
        if options:
            made.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            made.builtinOptions = getattr(self.schema, f"{options}T")()
            for field, value in values.items():
                assert hasattr(made.builtinOptions, field), field
                setattr(made.builtinOptions, field, value)
        self.operators.append(made)

    def file(self, inputs: list[str], outputs: list[str], metadata: dict[str, str]) -> bytes:
        """The whole file."""
        flatbuffers = importlib.import_module("flatbuffers")
        s = self.schema
        graph, model = s.SubGraphT(), s.ModelT()
        graph.name, graph.tensors, graph.operators = b"bitsmith", self.tensors, self.operators
        graph.inputs, graph.outputs = [self.index[n] for n in inputs], [self.index[n] for n in outputs]
        model.version, model.description = _VERSION, b"bitsmith"
        model.operatorCodes = []
        for code in self.codes:
            made = s.OperatorCodeT()
            made.builtinCode = getattr(s.BuiltinOperator, code)
            made.deprecatedBuiltinCode = min(made.builtinCode, 127)  # what readers of older files look at
            made.version = _OPERATOR_VERSIONS.get(code, 1)
            model.operatorCodes.append(made)
        model.metadata = []
        for name, text in metadata.items():
            entry = s.MetadataT()
            entry.name, entry.buffer = name.encode(), self.buffer(text.encode())
            model.metadata.append(entry)
        model.subgraphs, model.buffers = [graph], self.buffers
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


# The least versions of operators that take int8 (tensorflow/lite/tools/versioning/op_version.cc).
_OPERATOR_VERSIONS = {
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "ADD": 2,
    "MUL": 2,
    "MAX_POOL_2D": 2,
    "CONCATENATION": 2,
    "PAD": 2,
    "PADV2": 2,
    "MINIMUM": 2,
    "QUANTIZE": 2,
}
