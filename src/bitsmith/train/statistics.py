"""Passes over data that set statistics instead of weights: calibration of steps, re-estimation of BatchNorm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitsmith.data import Split
from bitsmith.quantize import Stepped
from bitsmith.train.task import Task, device_of


@torch.no_grad()
def calibrate(network: Stepped, split: Split, *, batches: int = 4, batch_size: int = 128, seed: int = 0) -> None:
    """Start every activation step from what passes: least squared error per batch, averaged (streams: the largest).

    BatchNorm uses the batch's own statistics, so that a network with fresh weights calibrates too; its running
    statistics are those of these batches afterwards.

    Args:
        batches: how many batches of the split to use.
    """
    network.calibrate_weights()
    modules = list(network.calibrated())
    with _norms_on_batch(network, momentum=None):
        for module in modules:
            module.begin()
        for x, _ in islice(split.batches(batch_size=batch_size, seed=seed), batches):
            network(x.to(device_of(network)))
        for module in modules:
            module.end()


@torch.no_grad()
def reestimate_norms(
    network: nn.Module, split: Split, *, batches: int = 20, batch_size: int = 128, seed: int = 0
) -> None:
    """Replace BatchNorm's running statistics by the average over fresh batches.

    Needed before any network is scored whose statistics were collected by another one, such as a mixture.
    """
    if not any(isinstance(module, _BatchNorm) for module in network.modules()):
        return
    with _norms_on_batch(network, momentum=None):
        for x, _ in islice(split.batches(batch_size=batch_size, seed=seed), batches):
            network(x.to(device_of(network)))


def evaluate(network: nn.Module, split: Split, task: Task, *, batch_size: int = 500) -> tuple[float, float]:
    """Metric and mean loss of a network over a split, in eval mode; the mode is restored.

    Returns:
        (metric, loss); the loss without label smoothing.
    """
    logits, labels = infer(network, split, batch_size=batch_size)
    return task.score(logits, labels), float(task.compute_loss(logits, labels, smooth=False))


@torch.no_grad()
def infer(network: nn.Module, split: Split, *, batch_size: int = 500) -> tuple[Tensor, Tensor]:
    """Outputs of a network over a split, in its order and in eval mode, and the labels; the mode is restored."""
    training = network.training
    network.eval()
    device = device_of(network)
    logits, labels = [], []
    for x, y in split.batches(batch_size=batch_size):
        logits.append(network(x.to(device)).float().cpu())
        labels.append(y)
    network.train(training)
    return torch.cat(logits), torch.cat(labels)


@contextmanager
def _norms_on_batch(network: nn.Module, momentum: float | None) -> Iterator[None]:
    """Eval mode, but BatchNorm sees each batch and averages anew; modes and momenta are restored."""
    norms = [cast(_BatchNorm, m) for m in network.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    training = network.training
    network.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = momentum
    try:
        yield
    finally:
        for norm, old in zip(norms, momenta, strict=True):
            norm.momentum = old
        network.train(training)
