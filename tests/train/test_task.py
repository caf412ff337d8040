"""Task: the loss with class weights and smoothing, the positive class, what is refused."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from bitsmith.blueprint import InputContract
from bitsmith.data import DataSet, TensorSplit
from bitsmith.errors import RecipeError
from bitsmith.train import METRICS, Task, f1


def _data(counts=(30, 10)):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    contract = InputContract(kind="uint8", mean=(0.5,), std=(0.5,))
    images = torch.zeros((len(labels), 1, 2, 2), dtype=torch.uint8)
    split = TensorSplit(images=images, labels=labels, contract=contract)
    names = tuple("abcd"[: len(counts)])
    return DataSet(
        name="x",
        train=split.take(torch.arange(0, len(labels), 2)),
        search=split.take(torch.arange(1, len(labels), 2)),
        validation=split,
        test=split,
        classes=names,
        input=contract,
        shape=(1, 2, 2),
    )


@pytest.mark.parametrize("counts", [(30, 10), (3, 4, 5), (100, 1, 7, 2)])
def test_balanced_weights_are_scikit_learns(counts):
    data = _data(counts)
    task = Task(data=data, class_weights="balanced")
    wanted = compute_class_weight("balanced", classes=np.arange(len(counts)), y=data.training.labels.numpy())
    assert task.weight is not None
    assert task.weight.numpy() == pytest.approx(wanted)


def test_a_weighted_loss_in_plain_numbers():
    logits, labels = torch.tensor([[2.0, 1.0], [0.5, 0.0], [-1.0, 3.0]]), torch.tensor([0, 1, 1])
    losses = -torch.log_softmax(logits, 1)[torch.arange(3), labels]
    task = Task(data=_data(), class_weights=(1.0, 4.0), label_smoothing=0.2)
    wanted = (losses * torch.tensor([1.0, 4.0, 4.0])).sum() / 9
    assert task.compute_loss(logits, labels, smooth=False) == pytest.approx(wanted.item())
    assert task.compute_loss(logits, labels) != pytest.approx(wanted.item())
    plain = Task(data=_data())
    assert plain.weight is None
    assert plain.compute_loss(logits, labels) == pytest.approx(losses.mean().item())


def test_equal_weights_change_nothing():
    logits, labels = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
    losses = [
        Task(data=_data((20, 20)), class_weights=w, label_smoothing=0.1).compute_loss(logits, labels)
        for w in (None, "balanced", (3.0, 3.0))
    ]
    assert losses[1].item() == pytest.approx(losses[0].item())
    assert losses[2].item() == pytest.approx(losses[0].item())


def test_f1_is_of_the_last_class_or_of_the_one_named():
    logits = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1], [0, 1]])
    labels = torch.tensor([0, 1, 1, 1, 0])
    for positive, index in ((None, 1), ("b", 1), ("a", 0)):
        task = Task(data=_data(), metric="f1", positive=positive)
        assert task.score(logits, labels) == f1(logits, labels, positive=index)
        assert task.metric_name == "f1"
    assert f1(logits, labels, positive=0) != f1(logits, labels, positive=1)


def test_a_task_without_its_test_split_keeps_loss_and_metric():
    task = Task(data=_data(), metric="f1", positive="a", class_weights="balanced", label_smoothing=0.1)
    blind = dataclasses.replace(task, data=task.data.without_test())
    logits, labels = torch.eye(2)[[0, 1, 1]], torch.tensor([0, 0, 1])
    assert blind.score(logits, labels) == task.score(logits, labels)
    assert torch.equal(blind.compute_loss(logits, labels), task.compute_loss(logits, labels))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "f2"}, f"unknown metric 'f2'; known are {', '.join(METRICS)}"),
        ({"metric": "f1", "positive": "z"}, "positive class 'z' is none of the data's: a, b"),
        ({"positive": "a"}, "a positive class is for the metric f1 of two classes, not for accuracy of 2"),
        ({"class_weights": (1.0,)}, "must be 2 numbers that aren't negative"),
        ({"class_weights": (1.0, -1.0)}, "must be 2 numbers"),
        ({"class_weights": (1.0, float("nan"))}, "must be 2 numbers"),
        ({"class_weights": (0.0, 0.0)}, "can't all be zero"),
        ({"class_weights": "balanced", "loss": torch.nn.functional.cross_entropy}, "belong to the default loss"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        Task(data=_data(), **options)
    with pytest.raises(RecipeError, match="of two classes, not for f1 of 3"):
        Task(data=_data((2, 2, 2)), metric="f1", positive="a")


def test_balancing_needs_every_class():
    data = _data((4, 4))
    bare = dataclasses.replace(data, classes=("a", "b", "c"))
    with pytest.raises(RecipeError, match="class 'c' has no training sample, so its weight can't be balanced"):
        Task(data=bare, class_weights="balanced")
