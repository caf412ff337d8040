"""Learner: what a loop drives, in steps of one batch each; a batch passes in one piece or, where memory is short, in
several, whose gradients add up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bitsmith.quantize import Part
from bitsmith.train.parallel import gather
from bitsmith.train.task import Task


@dataclass(kw_only=True)
class History:
    """What a training did: one number per epoch in each list, and the seconds it took.

    Attributes:
        memory: "batch" and "part" (images per step, and at once), "predicted" and "measured" (bytes at the peak), as
            far as they are known.
    """

    seconds: float = 0.0
    curves: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)

    def add(self, values: Mapping[str, float]) -> None:
        """Append one epoch."""
        for name, value in values.items():
            self.curves.setdefault(name, []).append(value)


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """A batch, or a part of one.

    Args:
        x: its images, (N, C, H, W); of several processes, those that this one computes.
        y: its labels, (N,), of all processes.
        batch: labels of the whole batch.
        part: which part it is; None where it is all.
        usual: whether it is as large as most, so that what is compiled for one size may be used.
    """

    x: Tensor
    y: Tensor
    batch: Tensor
    part: Part | None = None
    usual: bool = False

    @property
    def share(self) -> float:
        """Of the batch's samples."""
        return 1.0 if self.part is None else self.part.share

    def gathered(self, outputs: Tensor) -> Tensor:
        """The outputs for all of its labels, in float32, of those for `x`."""
        own = None if self.part is None else self.part.own
        return outputs.float() if own is None else gather(outputs.float(), own)

    def loss(self, task: Task, outputs: Tensor) -> Tensor:
        """What the piece adds to the loss of its batch; outputs are those `gathered`."""
        return task.compute_loss(outputs, self.y, batch=self.batch if self.share < 1 else None)


class Learner(ABC):
    """What a loop drives: it turns batches into steps of whatever it trains."""

    @property
    @abstractmethod
    def lr(self) -> float:
        """The present learning rate, for messages."""

    @abstractmethod
    def parameters(self) -> Iterable[Tensor]:
        """What gets gradients from its loss."""

    @abstractmethod
    def begin(self, step: int) -> None:
        """Get ready for a step: no gradients are left, and what all pieces of its batch share is drawn."""

    @abstractmethod
    def loss(self, piece: Piece, step: int) -> Tensor:
        """The scalar loss of a piece, with its gradient graph; `step` counts those before it."""

    @abstractmethod
    def update(self, step: int) -> None:
        """One step down the loss of a batch, which is finite; its gradients are there."""

    @abstractmethod
    def end_epoch(self, step: int, loss: float) -> Mapping[str, float]:
        """The figures of an epoch that ends after `step` steps with this mean loss."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Tensors and plain values: all that the next step depends on."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any], where: str) -> None:
        """The inverse of `state`; `where` is named in errors."""
