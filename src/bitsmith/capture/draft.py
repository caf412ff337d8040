"""What reading hands to assembling: nodes that don't have their final names yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx

Padding = tuple[int, int, int, int]  # top, left, bottom, right
NONE: Padding = (0, 0, 0, 0)


class Refusal(Exception):  # noqa: N818 - it never leaves this room
    """An operator that can't be a node.

    Args:
        reason: empty where the operator itself is unknown.
        at: the call to blame, where it isn't the one that is being read.
    """

    def __init__(self, reason: str = "", *, at: fx.Node | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.at = at


@dataclass(frozen=True, kw_only=True)
class Pixel:
    """One channel computed from the raw input alone: x[channel] * gain + offset."""

    channel: int
    gain: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Value:
    """A tensor of the exported graph: the output of a draft, or a view of it that has no node (yet).

    Args:
        node: name of the draft.
        shape: of the tensor, without the batch dimension.
        storage: tensors that share memory have the same number.
        region: the first element of an image in that memory and the one after the last: an in-place operator changes
            all tensors whose region it touches.
        pad: zeros around it, which the convolution reading it takes up; another reader makes them a node.
        shuffled: g, where (g, C / g, ...) was transposed to (C / g, g, ...) and not yet put together; else 1.
        expanded: whether (C, 1, 1) was repeated to (C, H, W); only a product reads that.
        formula: how far a function that is written out has come (`by_hand`).
        pixels: its channels, where it is still arithmetic on the raw input.
        pending: the call that made it, where it is not the draft's output as it is.
    """

    node: str
    shape: tuple[int, ...]
    storage: int
    region: tuple[int, int]
    pad: Padding = NONE
    shuffled: int = 1
    expanded: bool = False
    formula: str = ""
    pixels: tuple[Pixel, ...] = ()
    pending: fx.Node | None = None


@dataclass(frozen=True, kw_only=True)
class Draft:
    """One node to be.

    Args:
        name: unique within one reading; not the final name.
        op: an operator of the vocabulary; "refused"; "pixels", what reads the raw input (`pixels.resolve`); or
            "unflatten", (C,) -> (C, 1, 1) (`gates.without_unflatten`).
        inputs: names of drafts.
        shape: of the output, without the batch dimension.
        fields: further fields of Node.
        tensors: "weight", "bias", "norm.weight", ... -> the user's name of the parameter or buffer.
        path: path of the module that ran it; "" for the root.
        leaf: whether that module is one of torch's own layers, so that its path names the node.
        operator: of torch, for messages.
        reason: why it was refused.
        source: "file:line".
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)
    path: str = ""
    leaf: bool = False
    operator: str = ""
    reason: str = ""
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Made:
    """What an operator becomes: a node's operator, what it reads and its fields."""

    op: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What reading found.

    Args:
        drafts: all of them, in execution order.
        output: the draft that is the output.
        tails: number of final steps (softmax, argmax, ...) that were left out behind it.
        notes: what was left out.
    """

    drafts: tuple[Draft, ...]
    output: str
    tails: int
    notes: tuple[str, ...]


def batched(shape: Sequence[int]) -> str:
    """A shape with its batch, for messages."""
    return f"({', '.join(['N', *map(str, shape)])})"


def shortened(names: Sequence[str]) -> str:
    """The first three of some names and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# Said of sums and products with numbers that are no whole operator.
NUMBERS = (
    "numbers scale the raw input only, before anything else reads it; elsewhere put them into the weights of a layer "
    "(relu6(x + 3) / 6 is read as hard_sigmoid)"
)
