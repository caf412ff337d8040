"""What reading hands to assembling: nodes that don't have their final names yet."""

from __future__ import annotations

from collections.abc import Mapping
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
class Value:
    """A tensor of the exported graph: the output of a draft, maybe reshaped or with zeros around it.

    Args:
        node: name of the draft.
        shape: of the tensor, without the batch dimension.
        storage: tensors that share memory, so that an in-place operator changes all of them, have the same number.
        pad: zeros around it that the convolution reading it takes up.
        pending: the pad or reshape that has no node yet; None where the value is the draft's output as it is.
    """

    node: str
    shape: tuple[int, ...]
    storage: int
    pad: Padding = NONE
    pending: fx.Node | None = None


@dataclass(frozen=True, kw_only=True)
class Draft:
    """One node to be.

    Args:
        name: unique within one reading; not the final name.
        op: an operator of the vocabulary, or "refused".
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
    """All drafts in execution order, the one that is the output, and what was left out."""

    drafts: tuple[Draft, ...]
    output: str
    notes: tuple[str, ...]
