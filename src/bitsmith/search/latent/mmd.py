"""How far codes are from the prior: maximum mean discrepancy."""

from __future__ import annotations

import torch
from torch import Tensor

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def mmd(codes: Tensor, prior: Tensor, deviation: float = 1.0) -> Tensor:
    """The squared maximum mean discrepancy of two samples, by inverse multiquadratic kernels; unbiased.

    k(x, y) = sum over scales s of C / (C + |x - y|^2), C = 2 d deviation^2 s

    MMD^2 = mean over i != j of k(x_i, x_j) + mean over i != j of k(y_i, y_j) - 2 mean over i, j of k(x_i, y_j)

    Source: Wasserstein auto-encoders, arXiv 1711.01558, its WAE-MMD and appendix; it draws as many of both.

    Args:
        codes, prior: [n, d] and [m, d], two rows or more of each.
        deviation: of the prior's coordinates.

    Returns:
        A scalar; near 0 (it may be negative) where both come from one distribution.

    Example:
        Two samples of 1,000 from N(0, I) in 16 dimensions: some 1e-3 of 7, the most there can be.
    """
    scale = 2 * codes.shape[1] * deviation**2

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        squares = (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp_min(0)
        return torch.stack([scale * s / (scale * s + squares) for s in SCALES]).sum(0)

    def within(x: Tensor) -> Tensor:
        among = kernel(x, x)
        return (among.sum() - among.diagonal().sum()) / (len(x) * (len(x) - 1))

    return within(codes) + within(prior) - 2 * kernel(codes, prior).mean()
