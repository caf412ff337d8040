"""Task: what is learned (data), how it is scored (loss, metric)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from bitsmith.data import Augment, DataSet
from bitsmith.errors import RecipeError

Loss = Callable[[Tensor, Tensor], Tensor]
Metric = Callable[[Tensor, Tensor], float]


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of inputs whose largest logit is the label's; logits (N, classes), labels (N,)."""
    return float((logits.argmax(1) == labels).double().mean())


# name -> function of all logits and labels of a split; larger is better.
METRICS: Mapping[str, Metric] = {"accuracy": accuracy}


@dataclass(frozen=True, kw_only=True)
class Task:
    """A data set with its loss and metric.

    Args:
        data: splits and input contract.
        loss: (logits, labels) -> scalar; None is cross-entropy with `label_smoothing`.
        metric: a name of METRICS or a function of (logits, labels) over a whole split, larger is better.
        augment: random changes of training batches, or None.
        label_smoothing: of the default loss.

    Raises:
        RecipeError: the metric's name is unknown.

    Example:
        >>> Task(data=open_data("digits"), metric="accuracy")  # doctest: +SKIP
    """

    data: DataSet
    loss: Loss | None = None
    metric: str | Metric = "accuracy"
    augment: Augment | None = None
    label_smoothing: float = 0.0
    score: Metric = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.metric, str) and self.metric not in METRICS:
            raise RecipeError(f"unknown metric {self.metric!r}; known are {', '.join(METRICS)}, or give a function")
        object.__setattr__(self, "score", METRICS[self.metric] if isinstance(self.metric, str) else self.metric)

    @property
    def metric_name(self) -> str:
        """For tables."""
        return self.metric if isinstance(self.metric, str) else getattr(self.metric, "__name__", "metric")

    def compute_loss(self, logits: Tensor, labels: Tensor, *, smooth: bool = True) -> Tensor:
        """The training loss; `smooth=False` leaves label smoothing out, for scoring."""
        if self.loss is not None:
            return self.loss(logits, labels)
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing if smooth else 0.0)


def device_of(module: torch.nn.Module) -> torch.device:
    """Where a module's parameters live."""
    return next(module.parameters()).device
