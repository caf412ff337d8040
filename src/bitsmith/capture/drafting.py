"""The drafts that reading fills in: adds nodes, makes views real, keeps refusals until somebody reads them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import final

from torch import Tensor, fx

from bitsmith.capture.draft import NONE, NUMBERS, Draft, Made, Pixel, Refusal, Value
from bitsmith.capture.export import schema_of, where


@final
class Drafting:
    """Drafts in execution order.

    Args:
        source: the user's input in the exported graph.
        shape: of it, without the batch dimension.
    """

    def __init__(self, source: fx.Node, shape: tuple[int, int, int]) -> None:
        self.drafts: list[Draft] = []
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._refused: set[str] = set()
        self._settled: dict[tuple[object, ...], str] = {}
        self._flattened: dict[str, Value] = {}
        self._taken: dict[str, int] = {}
        self._storages = itertools.count()
        self._source = source
        raw = self.add(source, Made(op="input", inputs=(), shape=shape))
        self.input = Value(
            node=raw.node,
            shape=shape,
            storage=raw.storage,
            region=raw.region,
            pixels=tuple(Pixel(channel=channel) for channel in range(shape[0])),
        )

    def add(self, node: fx.Node, made: Made) -> Value:
        """Draft a node for a call."""
        path, leaf = module_of(node)
        return self._keep(
            Draft(
                name=self._fresh(node),
                op=made.op,
                inputs=made.inputs,
                shape=made.shape,
                fields=made.fields,
                tensors=made.tensors,
                path=path,
                leaf=leaf,
                source=where(node),
            )
        )

    def flatten(self, node: fx.Node, value: Value) -> Value:
        """The same memory as features."""
        shape = self.shape(value)
        made = self.add(node, Made(op="flatten", inputs=(value.node,), shape=(math.prod(shape),)))
        made = replace(made, storage=value.storage, region=value.region)
        self._flattened[made.node] = replace(made, node=value.node, shape=shape)
        return made

    def unflattened(self, value: Value) -> Value:
        """What a value was before it was flattened, or the value where it was not."""
        return self._flattened.get(value.node, value)

    def refuse(self, node: fx.Node, reads: list[Value], refusal: Refusal, *, part: int | None = None) -> Value:
        """A draft that is an error if the output depends on it; `part` of a call with several outputs."""
        blamed = refusal.at or node
        draft = Draft(
            name=self._fresh(node),
            op="refused",
            inputs=tuple(v.node for v in reads),
            shape=_rough_shape(node.meta.get("val"), part),
            operator=_operator(blamed),
            reason=refusal.reason,
            source=where(blamed),
        )
        self._refused.add(draft.name)
        return self._keep(draft)

    def settle(self, value: Value) -> Value:
        """The same tensor as the output of a draft, which is made here where it must be.

        Raises:
            Refusal: it is a view that no node stands for.
        """
        if value.pending is None and not value.pixels:
            return value
        node = value.pending or self._source
        made = Made(op="pad", inputs=(value.node,), shape=value.shape, fields={"padding": value.pad})
        if value.pixels:
            if value.shape != (len(value.pixels), *self.input.shape[1:]):
                raise Refusal(RESHAPED, at=value.pending)
            made = Made(op="pixels", inputs=(value.node,), shape=value.shape, fields={"pixels": value.pixels})
        elif value.shape == (*self.shape(value), 1, 1) and not value.expanded:
            made = Made(op="unflatten", inputs=(value.node,), shape=value.shape)
        elif value.pad == NONE:
            raise Refusal(_unfinished(value), at=value.pending)
        key = (value.node, value.shape, value.pad, value.pixels)
        if key not in self._settled:
            self._settled[key] = self.add(node, made).node
        return Value(node=self._settled[key], shape=value.shape, storage=value.storage, region=value.region)

    def shape(self, value: Value) -> tuple[int, ...]:
        """The shape of the draft that a value is a view of."""
        return self._shapes[value.node]

    def is_refused(self, value: Value) -> bool:
        return value.node in self._refused

    def storage(self) -> int:
        """Memory that nothing shares yet."""
        return next(self._storages)

    def _keep(self, draft: Draft) -> Value:
        self.drafts.append(draft)
        self._shapes[draft.name] = draft.shape
        region = (0, math.prod(draft.shape))
        return Value(node=draft.name, shape=draft.shape, storage=self.storage(), region=region)

    def _fresh(self, node: fx.Node) -> str:
        count = self._taken[node.name] = self._taken.get(node.name, -1) + 1
        return f"{node.name}#{count}"


RESHAPED = "a reshape must flatten everything but the batch"


def _unfinished(value: Value) -> str:
    if value.formula:
        return f"{value.formula} is no whole operator; {NUMBERS}"
    if value.expanded:
        return "only a product reads (N, C, 1, 1) repeated over rows and columns"
    if value.shuffled > 1:
        return "transposed channels must be put together again by a reshape to (N, C, H, W): a channel shuffle"
    return RESHAPED


def module_of(node: fx.Node) -> tuple[str, bool]:
    """Path of the innermost module around a call, and whether it is one of torch's own layers."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return "", False
    path, kind = stack[-1]
    return path.split("@")[0], str(kind).startswith("torch.nn.modules.")


def _operator(node: fx.Node) -> str:
    return str(node.target) if not callable(node.target) or schema_of(node) else getattr(node.target, "__name__", "?")


def _rough_shape(value: object, part: int | None) -> tuple[int, ...]:
    """The shape behind a refused operator, so that its readers are judged by themselves; 0 where it varies."""
    if part is not None and isinstance(value, list | tuple):
        value = value[part]
    sizes = value.shape[1:] if isinstance(value, Tensor) else ()
    return tuple(size if isinstance(size, int) else 0 for size in sizes)
