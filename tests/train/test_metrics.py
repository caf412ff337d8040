"""Metrics against their definitions in plain numbers, and the messages where they aren't defined."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.errors import DataError, TrainingError
from bitsmith.train import METRICS, accuracy, auc, balanced_accuracy, f1


@st.composite
def _scored(draw, classes=None):
    """Logits with ties, and labels in which every class occurs."""
    K = draw(st.integers(2, 4)) if classes is None else classes
    labels = list(range(K)) + draw(st.lists(st.integers(0, K - 1), max_size=20))
    levels = st.integers(-3, 3)
    logits = draw(st.lists(st.lists(levels, min_size=K, max_size=K), min_size=len(labels), max_size=len(labels)))
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)


def _f1(predicted, labels, positive):
    tp = sum(p == y == positive for p, y in zip(predicted, labels, strict=True))
    wrong = sum((p == positive) != (y == positive) for p, y in zip(predicted, labels, strict=True))
    return 2 * tp / (2 * tp + wrong) if tp + wrong else 0.0


@given(_scored())
def test_f1_by_counting(scored):
    logits, labels = scored
    predicted, K = logits.argmax(1).tolist(), logits.shape[1]
    single = [_f1(predicted, labels.tolist(), k) for k in range(K)]
    if K == 2:
        assert f1(logits, labels) == pytest.approx(single[1])
        assert f1(logits, labels, positive=0) == pytest.approx(single[0])
    else:
        assert f1(logits, labels) == pytest.approx(np.mean(single))


@given(_scored())
def test_balanced_accuracy_by_counting(scored):
    logits, labels = scored
    hit = logits.argmax(1) == labels
    shares = [hit[labels == k].double().mean().item() for k in range(logits.shape[1])]
    assert balanced_accuracy(logits, labels) == pytest.approx(np.mean(shares))


@given(_scored())
def test_auc_by_pairs(scored):
    logits, labels = scored
    K = logits.shape[1]
    scores = {k: torch.softmax(logits.double(), 1)[:, k].tolist() for k in range(K)}
    if K == 2:
        scores = {1: (logits[:, 1] - logits[:, 0]).tolist()}
    found = []
    for k, values in scores.items():
        ours = [v for v, y in zip(values, labels.tolist(), strict=True) if y == k]
        rest = [v for v, y in zip(values, labels.tolist(), strict=True) if y != k]
        pairs = [(a > b) + (a == b) / 2 for a, b in itertools.product(ours, rest)]
        found.append(np.mean(pairs))
    assert auc(logits, labels) == pytest.approx(np.mean(found), abs=1e-9)


@given(_scored())
def test_every_metric_is_between_zero_and_one_and_one_at_its_best(scored):
    logits, labels = scored
    perfect = torch.nn.functional.one_hot(labels, logits.shape[1]).float()
    for metric in METRICS.values():
        assert 0 <= metric(logits, labels) <= 1
        assert metric(perfect, labels) == pytest.approx(1)


def test_the_majority_class_alone_scores_nothing_where_it_must():
    logits = torch.tensor([[1.0, 0.0]]).expand(10, 2)
    labels = torch.tensor([0] * 9 + [1])
    assert accuracy(logits, labels) == pytest.approx(0.9)
    assert balanced_accuracy(logits, labels) == 0.5
    assert auc(logits, labels) == 0.5
    assert f1(logits, labels) == 0.0


def test_a_split_without_a_class():
    logits, labels = torch.eye(3)[[0, 1, 2, 0]], torch.tensor([0, 1, 1, 0])
    assert balanced_accuracy(logits, labels) == 0.75
    assert f1(logits, labels) == pytest.approx((1 + 2 / 3 + 0) / 3)
    with pytest.raises(DataError, match="auc needs inputs of every class; class 2 of 3 has none among 4"):
        auc(logits, labels)


def test_auc_refuses_what_cannot_be_ranked():
    with pytest.raises(TrainingError, match="can't rank outputs that are NaN or infinite"):
        auc(torch.tensor([[float("nan"), 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
