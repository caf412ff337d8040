"""Metrics: functions of all logits and labels of a split, between 0 and 1; larger is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bitsmith.errors import DataError, TrainingError

Metric = Callable[[Tensor, Tensor], float]


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of inputs whose largest logit is the label's; logits (N, classes), labels (N,)."""
    return float((logits.argmax(1) == labels).double().mean())


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Mean over the classes of the share of their inputs that are recognized; classes without an input don't count.

    Example: of 9 negatives all, of 1 positive none recognized: accuracy 0.9, balanced accuracy 0.5.
    """
    from sklearn.metrics import recall_score  # takes a second

    present = labels.unique().tolist()
    return float(recall_score(labels, logits.argmax(1), labels=present, average="macro", zero_division=0.0))  # pyright: ignore[reportArgumentType]


def f1(logits: Tensor, labels: Tensor, positive: int = 1) -> float:
    """F1 = 2 TP / (2 TP + FP + FN); 0 where that is 0 / 0.

    Args:
        logits: (N, classes). Two classes: of the class `positive`. More: the mean over all classes (macro F1).

    Example: 3 of 4 positives found and 1 false alarm: 6 / (6 + 1 + 1) = 0.75.
    """
    from sklearn.metrics import f1_score

    predicted, classes = logits.argmax(1), logits.shape[1]
    if classes == 2:
        return float(f1_score(labels, predicted, pos_label=positive, zero_division=0.0))  # pyright: ignore[reportArgumentType]
    return float(f1_score(labels, predicted, labels=range(classes), average="macro", zero_division=0.0))  # pyright: ignore[reportArgumentType]


def auc(logits: Tensor, labels: Tensor) -> float:
    """Area under the receiver operating characteristic; ties count half.

    Two classes: the chance that a positive scores above a negative, by the difference of the logits. More: the mean
    over the classes of each against the rest, by its softmax probability.

    Raises:
        DataError: a class without an input, which has no such area.
        TrainingError: logits that are not finite.
    """
    from sklearn.metrics import roc_auc_score

    classes = logits.shape[1]
    missing = sorted(set(range(classes)) - set(labels.unique().tolist()))
    if missing:
        raise DataError(
            f"auc needs inputs of every class; class {missing[0]} of {classes} has none among {len(labels)}"
        )
    if not logits.isfinite().all():
        raise TrainingError("auc can't rank outputs that are NaN or infinite; lower the learning rate")
    if classes == 2:
        return float(roc_auc_score(labels, (logits[:, 1] - logits[:, 0]).double()))
    # In float64, where rounding does not spoil scikit-learn's check that probabilities sum to one.
    return float(roc_auc_score(labels, torch.softmax(logits.double(), 1), multi_class="ovr", average="macro"))


METRICS: Mapping[str, Metric] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "f1": f1,
    "auc": auc,
}
