"""The score function of binomial widths, and what a drawn network is scored by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Baseline = Literal["leave-one-out", "none"]

SLOPE = 0.1  # of LeakyReLU, as published
FLOOR = 0.1  # what is added, as published


def expected_widths(logits: Tensor, channels: Tensor) -> Tensor:
    """E w = 1 + (C - 1) sigmoid(alpha), float64 [groups]."""
    return 1 + (channels.double() - 1) * torch.sigmoid(logits.double())


def draw_widths(logits: Tensor, channels: Tensor, samples: int, generator: np.random.Generator) -> np.ndarray:
    """w = 1 + Binomial(C - 1, sigmoid(alpha)), int64 [samples, groups]."""
    p = torch.sigmoid(logits.detach().double()).cpu().numpy()
    return 1 + generator.binomial(channels.cpu().numpy() - 1, p, size=(samples, len(p)))


def log_probabilities(logit: Tensor, channels: int) -> Tensor:
    """log P(w) for w = 1..C, float64 [channels], with the gradient in the logit.

    Example:
        >>> log_probabilities(torch.tensor(0.0), 3).exp()  # 1 + Binomial(2, 1/2)
        tensor([0.2500, 0.5000, 0.2500], dtype=torch.float64)
    """
    n = channels - 1
    k = torch.arange(channels, dtype=torch.float64, device=logit.device)
    ways = torch.lgamma(torch.tensor(n + 1.0, dtype=torch.float64)) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    alpha = logit.double()
    return ways + k * torch.nn.functional.logsigmoid(alpha) + (n - k) * torch.nn.functional.logsigmoid(-alpha)


def survival(logit: Tensor, channels: int) -> Tensor:
    """P(w > j) for the channels j = 0..C-1: how likely each of them stays; float64 [channels]."""
    return log_probabilities(logit, channels).exp().flip(0).cumsum(0).flip(0)


def score_gradient(losses: Tensor, widths: Tensor, expected: Tensor, baseline: Baseline = "leave-one-out") -> Tensor:
    """An unbiased estimate of d E[L(w)] / d alpha from independent draws of widths.

        mean_s (L_s - b_s) (w_s - E w),    b_s = mean_{t != s} L_t, or 0 without a baseline

    since d log P(w) / d alpha = w - E w for w = 1 + Binomial(C - 1, sigmoid(alpha)). arXiv 1904.09872 has no baseline;
    one that leaves out the sample itself changes no mean, and takes away what all losses have in common.

    Args:
        losses: [samples]; at least two where there is a baseline.
        widths: [samples, groups].
        expected: E w, [groups].

    Example:
        >>> score_gradient(torch.tensor([1.0, 3.0]), torch.tensor([[1.0], [3.0]]), torch.tensor([2.0]))
        tensor([2.], dtype=torch.float64)
    """
    losses = losses.double()
    if baseline == "leave-one-out":
        assert len(losses) > 1
        losses = losses - (losses.sum() - losses) / (len(losses) - 1)
    return (losses[:, None] * (widths.double() - expected.double())).mean(0)


def relative_loss(loss: float, cost: float, costs: Sequence[float], losses: Sequence[float]) -> float:
    """d = (CE - CE_hom(F)) / CE_hom(F): how much worse a network is than homogeneous ones of its cost F.

    CE_hom is piecewise linear through the homogeneous networks, constant outside (ours; that is not known
    of arXiv 1904.09872).

    Args:
        costs, losses: of the homogeneous networks, costs rising.

    Example:
        >>> relative_loss(1.0, 15.0, costs=[10.0, 20.0], losses=[1.0, 0.6])
        0.25
    """
    usual = max(float(np.interp(cost, costs, losses)), 1e-12)
    return (loss - usual) / usual


def published_score(relative: float) -> float:
    """.1 + LeakyReLU_.1(d)."""
    return FLOOR + (relative if relative > 0 else SLOPE * relative)
