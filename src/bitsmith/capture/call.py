"""One call of an aten operator in an exported graph, with its arguments by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, fx

from bitsmith.capture.draft import NONE, Refusal, Value


@final
class Call:
    """Reads one call.

    Args:
        node: of the exported graph, a `torch.ops.aten` call.
        values: the tensors that were made so far.
        tensors: placeholder -> the user's name of the parameter or buffer.
    """

    def __init__(self, node: fx.Node, values: Mapping[fx.Node, Value], tensors: Mapping[fx.Node, str]) -> None:
        self.node = node
        self.shape = shape_of(node)
        self._values = values
        self._tensors = tensors
        self._arguments = arguments(node)

    def __getitem__(self, name: str) -> Any:
        """An argument that is a plain value; defaults are filled in, those that the overload lacks are None."""
        return self._arguments.get(name)

    def read(self, name: str | None = None, *, rank: int | None = None, padded: bool = False) -> Value:
        """The tensor given as `name`.

        Args:
            name: of the argument; None for the first.
            rank: without the batch dimension; None for any.
            padded: whether the reader takes up zeros around it.

        Raises:
            Refusal: it isn't computed from the input, has another rank, or is a pad or reshape that has no node.
        """
        given: Any = self.node.args[0] if name is None else self._arguments[name]
        if not isinstance(given, fx.Node) or given not in self._values:
            held = f" ({self._tensors[given]})" if given in self._tensors else ""
            raise Refusal(f"it reads a tensor that isn't computed from the input{held}")
        value = self._values[given]
        if value.pending is not None and not (padded and value.pad != NONE):
            what = "only zeros directly before a conv2d can be padded" if value.pad != NONE else ""
            what = what or "a reshape must flatten everything but the batch"
            raise Refusal(what, at=value.pending)
        if rank is not None and len(value.shape) != rank:
            raise Refusal(f"its input has {len(value.shape) + 1} dimensions with the batch, not {rank + 1}")
        return value

    def tensor(self, name: str) -> str | None:
        """The user's name of the parameter or buffer given as `name`; None where it is None.

        Raises:
            Refusal: it is computed in the forward pass.
        """
        given = self._arguments[name]
        if given is None:
            return None
        if not isinstance(given, fx.Node) or given not in self._tensors:
            raise Refusal(
                f"its {name} is computed (weight_norm, a parametrization, a view), not a plain parameter; "
                "remove that first, e.g. with torch.nn.utils.parametrize.remove_parametrizations"
            )
        return self._tensors[given]

    def tensor_shape(self, name: str) -> tuple[int, ...]:
        """The shape of the parameter given as `name`."""
        return tuple(self._arguments[name].meta["val"].shape)


def arguments(node: fx.Node) -> dict[str, Any]:
    """All arguments of an aten call by name, defaults included."""
    schema = schema_of(node)
    assert schema is not None
    given = dict(zip((a.name for a in schema.arguments), node.args, strict=False))
    defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    return defaults | given | node.kwargs


def schema_of(node: fx.Node) -> torch.FunctionSchema | None:
    """The schema of an aten operator, None for anything else."""
    if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten":
        return node.target._schema
    return None


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The output's shape without its leading dimension.

    Raises:
        Refusal: a dimension other than the first depends on the batch size, or the output isn't one tensor.
    """
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        raise Refusal
    if any(not isinstance(size, int) for size in value.shape[1:]):
        raise Refusal("it mixes the batch with other dimensions")
    return tuple(int(size) for size in value.shape[1:])
