"""BatchNorm over several processes, each with some samples of a batch.

torch's SyncBatchNorm works on CUDA alone; this works wherever torch.distributed does. Means and sums of squared
deviations of all processes are gathered and joined (Chan et al. 1979), which loses nothing to cancellation:

    mean = sum_r n_r mean_r / n,    n var = sum_r m2_r + n_r (mean_r - mean)^2

and backward sums g and g x^ over all processes: dx = gamma / std (g - (sum g + x^ sum g x^) / n). The gradients of
gamma and beta are those of this process's samples, as of any other parameter.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class SharedNorm(torch.autograd.Function):
    """(x (N, C, ...), gamma, beta (C,), eps) -> y, and mean and unbiased variance over all processes, (C,)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        wide = x.to(gamma.dtype)
        dims, column = _others(x)
        mean = wide.mean(dims)
        squares = (wide - mean.reshape(column)).square().sum(dims)
        count = mean.new_full((1,), x.numel() // x.shape[1], dtype=torch.float64)
        own = torch.cat([count, mean.double(), squares.double()])
        every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(every, own)
        counts, means, squares = torch.stack(every).split([1, len(mean), len(mean)], 1)
        n = counts.sum()
        joined = (counts * means).sum(0) / n
        spread = squares.sum(0) + (counts * (means - joined).square()).sum(0)
        mean, scale = joined.to(gamma.dtype), (spread / n + eps).rsqrt().to(gamma.dtype)
        y = (wide - mean.reshape(column)) * (scale * gamma).reshape(column) + beta.reshape(column)
        ctx.save_for_backward(x, gamma, mean, scale)
        ctx.n = n.item()
        variance = (spread / (n - 1).clamp_min(1)).to(gamma.dtype)
        ctx.mark_non_differentiable(mean, variance)
        return y.to(x.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, gamma, mean, scale = ctx.saved_tensors
        g = grads[0].to(gamma.dtype)
        dims, column = _others(x)
        normal = (x.to(gamma.dtype) - mean.reshape(column)) * scale.reshape(column)
        sums = torch.stack([g.sum(dims), (g * normal).sum(dims)])
        every = sums.clone()
        dist.all_reduce(every)
        beta, slope = (every / ctx.n).unbind()
        dx = (g - beta.reshape(column) - normal * slope.reshape(column)) * (scale * gamma).reshape(column)
        return dx.to(x.dtype), sums[1], sums[0], None


def _others(x: Tensor) -> tuple[list[int], tuple[int, ...]]:
    """The dimensions beside the channels', and the shape that spreads channels over x."""
    return [d for d in range(x.ndim) if d != 1], (-1, *[1] * (x.ndim - 2))
