"""One call of an aten operator in an exported graph, with its arguments by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from torch import Tensor, fx

from bitsmith.capture.constants import Constants
from bitsmith.capture.draft import NONE, Pixel, Refusal, Value
from bitsmith.capture.drafting import Drafting
from bitsmith.capture.export import schema_of


@final
class Call:
    """Reads one call.

    Args:
        node: of the exported graph, a `torch.ops.aten` call.
        values: the tensors that were made so far.
        tensors: placeholder -> the user's name of the parameter or buffer.
        constants: tensors that don't depend on the input.
        drafting: where nodes are made.
    """

    def __init__(
        self,
        node: fx.Node,
        values: Mapping[fx.Node, Value],
        tensors: Mapping[fx.Node, str],
        constants: Constants,
        drafting: Drafting,
    ) -> None:
        self.node = node
        self.drafting = drafting
        self._values = values
        self._tensors = tensors
        self._constants = constants
        self._arguments = arguments(node)

    def __getitem__(self, name: str) -> Any:
        """An argument that is a plain value; defaults are filled in, those that the overload lacks are None."""
        return self._arguments.get(name)

    @property
    def first(self) -> str:
        """The name of the first argument, which differs between an operator and its in-place form."""
        return next(iter(self._arguments))

    @property
    def shape(self) -> tuple[int, ...]:
        """The output's shape without its leading dimension."""
        return shapes_of(self.node)[0]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The same of every output."""
        return shapes_of(self.node)

    def value(self, name: str) -> Value:
        """The tensor given as `name`, which may be a view that has no node.

        Raises:
            Refusal: it isn't computed from the input.
        """
        return self._value(self._arguments[name])

    def values(self, name: str) -> list[Value]:
        """The tensors of the list given as `name`; see `value`."""
        return [self._value(given) for given in self._arguments[name]]

    def read(self, name: str = "self", *, rank: int | None = None) -> Value:
        """The tensor given as `name`, as the output of a node.

        Args:
            name: of the argument.
            rank: without the batch dimension; None for any.

        Raises:
            Refusal: it isn't computed from the input, has another rank, or is a view that has no node.
        """
        value = self.drafting.settle(self.value(name))
        if rank is not None and len(value.shape) != rank:
            raise Refusal(f"its input has {len(value.shape) + 1} dimensions with the batch, not {rank + 1}")
        return value

    def padded(self, name: str) -> Value:
        """A map for a reader that takes up the zeros around it."""
        value = self.value(name)
        return value if value.pad != NONE else self.read(name, rank=3)

    def maps(self, name: str = "self") -> Value:
        """A map, also where its rows and columns were flattened into one dimension."""
        value = self.value(name)
        base = self.drafting.shape(value)
        flattened = len(base) == 3 and value.shape == (base[0], base[1] * base[2])
        if flattened and value.pad == NONE and value.shuffled == 1 and not value.pixels:
            return Value(node=value.node, shape=base, storage=value.storage, region=value.region)
        return self.read(name, rank=3)

    def gate(self, name: str) -> Value:
        """An operand of a product: (C, 1, 1) may have been repeated over rows and columns."""
        value = self.value(name)
        if not value.expanded:
            return self.read(name)
        return Value(node=value.node, shape=self.drafting.shape(value), storage=value.storage, region=value.region)

    def pixels(self, name: str) -> tuple[Pixel, ...]:
        """The channels of an argument that is still arithmetic on the raw input, else ()."""
        given = self._arguments[name]
        return self._values[given].pixels if given in self._values else ()

    def rank(self, name: str) -> int:
        """The rank of a tensor, batch included."""
        return self._arguments[name].meta["val"].dim()

    def constant(self, name: str) -> Tensor | None:
        """The value of a number, or of a tensor computed from buffers and constants alone; None for any other."""
        return self.constant_of(self._arguments[name])

    def constant_of(self, given: Any) -> Tensor | None:
        """The same of one entry of a list."""
        return None if given in self._values else self._constants.of(given)

    def is_constant(self, name: str) -> bool:
        """Whether a tensor isn't computed from the input, or is a number."""
        return self._arguments[name] not in self._values

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

    def _value(self, given: Any) -> Value:
        if not isinstance(given, fx.Node) or given not in self._values:
            held = f" ({self._tensors[given]})" if given in self._tensors else ""
            raise Refusal(f"it reads a tensor that isn't computed from the input{held}")
        return self._values[given]


def arguments(node: fx.Node) -> dict[str, Any]:
    """All arguments of an aten call by name, defaults included."""
    schema = schema_of(node)
    assert schema is not None
    given = dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | node.kwargs
    return {a.name: given.get(a.name, a.default_value) for a in schema.arguments}


def shapes_of(node: fx.Node) -> tuple[tuple[int, ...], ...]:
    """The outputs' shapes without their leading dimension.

    Raises:
        Refusal: a dimension other than the first depends on the batch size, or an output isn't a tensor.
    """
    value = node.meta.get("val")
    shapes = []
    for tensor in value if isinstance(value, list | tuple) else (value,):
        if not isinstance(tensor, Tensor):
            raise Refusal
        if any(not isinstance(size, int) for size in tensor.shape[1:]):
            raise Refusal("it mixes the batch with other dimensions")
        shapes.append(tuple(int(size) for size in tensor.shape[1:]))
    return tuple(shapes)
