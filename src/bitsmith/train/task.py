"""Task: what is learned (data), how it is scored (loss, metric)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bitsmith.data import Augment, DataSet
from bitsmith.errors import RecipeError
from bitsmith.train.metrics import METRICS, Metric, f1

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A data set with its loss and metric.

    Args:
        data: splits and input contract.
        loss: (logits, labels) -> scalar, a mean over samples; None is cross-entropy with `label_smoothing` and
            `class_weights`.
        metric: a name of METRICS or a function of (logits, labels) over a whole split, larger is better.
        positive: the class of two that F1 is about; None is the last one.
        augment: random changes of training batches, or None.
        label_smoothing: of the default loss.
        class_weights: of the default loss, one per class: a sample's loss counts by the weight of its class, and the
            mean is divided by the sum of these weights. "balanced" is N / (K n_k) for the n_k of N training samples
            of class k among K, as scikit-learn has it: 90 and 10 samples of two classes weigh 0.56 and 5.

    Raises:
        RecipeError: the metric or the positive class is unknown; weights of another number, negative or all zero, or
            together with a loss of your own.

    Example:
        >>> Task(data=open_data("elpv"), metric="f1", class_weights="balanced")  # doctest: +SKIP
    """

    data: DataSet
    loss: Loss | None = None
    metric: str | Metric = "accuracy"
    positive: str | None = None
    augment: Augment | None = None
    label_smoothing: float = 0.0
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    score: Metric = field(init=False, repr=False)
    weight: Tensor | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "score", _score(self.metric, self.positive, self.data.classes))
        if self.class_weights is not None and self.loss is not None:
            raise RecipeError("class weights belong to the default loss; weigh the classes inside your own")
        object.__setattr__(self, "weight", _weight(self.class_weights, self.data))

    @property
    def metric_name(self) -> str:
        """For tables."""
        return self.metric if isinstance(self.metric, str) else getattr(self.metric, "__name__", "metric")

    def compute_loss(
        self, logits: Tensor, labels: Tensor, *, smooth: bool = True, batch: Tensor | None = None
    ) -> Tensor:
        """The training loss; `smooth=False` leaves label smoothing out, for scoring.

        Args:
            batch: labels of the batch that these are a part of: the losses of all its parts then add up to its own. A
                loss of your own is taken to be a mean over samples.
        """
        if self.loss is not None:
            loss = self.loss(logits, labels)
            return loss if batch is None else loss * (len(labels) / len(batch))
        weight = None if self.weight is None else self.weight.to(logits.device, logits.dtype)
        smoothing = self.label_smoothing if smooth else 0.0
        if batch is None:
            return F.cross_entropy(logits, labels, weight, label_smoothing=smoothing)
        total = F.cross_entropy(logits, labels, weight, label_smoothing=smoothing, reduction="sum")
        return total / (len(batch) if weight is None else weight[batch].sum())


def _score(metric: str | Metric, positive: str | None, classes: tuple[str, ...]) -> Metric:
    if isinstance(metric, str) and metric not in METRICS:
        raise RecipeError(f"unknown metric {metric!r}; known are {', '.join(METRICS)}, or give a function")
    if positive is None:
        last = len(classes) - 1
        return partial(f1, positive=last) if metric == "f1" else METRICS[metric] if isinstance(metric, str) else metric
    if metric != "f1" or len(classes) != 2:
        raise RecipeError(f"a positive class is for the metric f1 of two classes, not for {metric} of {len(classes)}")
    if positive not in classes:
        raise RecipeError(f"the positive class {positive!r} is none of the data's: {', '.join(classes)}")
    return partial(f1, positive=classes.index(positive))


def _weight(wanted: Literal["balanced"] | tuple[float, ...] | None, data: DataSet) -> Tensor | None:
    if wanted is None:
        return None
    K = len(data.classes)
    if wanted == "balanced":
        counts = torch.bincount(data.training.labels, minlength=K).double()
        if not counts.all():
            name = data.classes[int((counts == 0).nonzero()[0])]
            raise RecipeError(f"class {name!r} has no training sample, so its weight can't be balanced; give weights")
        return counts.sum() / (K * counts)
    weights = torch.tensor(wanted, dtype=torch.float64)
    if isinstance(wanted, str) or len(weights) != K or not weights.isfinite().all() or weights.min() < 0:
        raise RecipeError(f"class weights must be {K} numbers that aren't negative, one per class, got {wanted}")
    if not weights.any():
        raise RecipeError("class weights can't all be zero: nothing would be learned")
    return weights


def device_of(module: torch.nn.Module) -> torch.device:
    """Where a module's parameters live."""
    return next(module.parameters()).device
