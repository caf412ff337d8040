"""Tensors of the exported graph that depend on buffers and constants alone: the numbers that an image is scaled by."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from bitsmith.capture.export import schema_of, tensor_of


@final
class Constants:
    """Computes such tensors where they are asked for, with the module's own buffers."""

    def __init__(self, exported: ExportedProgram, module: nn.Module) -> None:
        self._known: dict[fx.Node, Tensor | None] = {}
        kinds = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
        for node in exported.graph.nodes:
            if node.op == "placeholder":
                spec = kinds[node.name]
                if spec.kind == InputKind.BUFFER:
                    self._known[node] = tensor_of(module, str(spec.target))
                elif spec.kind == InputKind.CONSTANT_TENSOR:
                    constant = exported.constants[str(spec.target)]
                    self._known[node] = constant if isinstance(constant, Tensor) else None

    def of(self, given: Any) -> Tensor | None:
        """The value of a number or of a node; None where it depends on the input or on parameters."""
        if isinstance(given, int | float):
            return torch.tensor(float(given), dtype=torch.float64)
        if not isinstance(given, fx.Node):
            return None
        if given not in self._known:
            self._known[given] = self._compute(given)
        return self._known[given]

    def _compute(self, node: fx.Node) -> Tensor | None:
        schema = schema_of(node)
        if node.op != "call_function" or schema is None:
            return None
        if schema.name == "aten::detach_":  # torch.tensor(...) in a forward ends with it
            return self.of(node.args[0])
        read = {n: self.of(n) for n in node.all_input_nodes}
        if schema.is_mutable or not read or any(tensor is None for tensor in read.values()):
            return None
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: read[n])
        with torch.no_grad():
            result = node.target(*args, **kwargs)  # pyright: ignore[reportCallIssue]
        return result if isinstance(result, Tensor) else None
