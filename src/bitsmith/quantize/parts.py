"""A batch computed in parts, one after the other or by several processes: what its layers have to know of that.

Convolutions, quantizers and losses treat every sample by itself, so that the gradients of the parts add up to those of
the batch. What mixes samples, BatchNorm above all, takes the statistics of the part that passes ("ghost batches",
Hoffer et al. 2017, arXiv 1705.08741): exact ones would need the whole batch in every layer at once, which is what does
not fit. Running statistics move as one batch moves them, to the mean over its parts:

    r <- (1 - m) r + m sum_j share_j s_j,    by    m_j = m share_j / (1 - m (1 - before_j - share_j))

for the j-th part, share_j of the samples, before_j those of the parts before it.

Where several processes compute a part together, each its own samples of it, statistics are those of all of them, and
dropout draws for all of them, so that random numbers stay the same in every process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from bitsmith.quantize.shared_norm import SharedNorm


@dataclass(frozen=True, kw_only=True, slots=True)
class Own:
    """The samples of a part that this process computes: start..stop - 1 of `total`."""

    start: int
    stop: int
    total: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The part of a batch that passes.

    Args:
        share: of the batch's samples, 0..1.
        before: share of the parts before it.
        own: this process's samples of it; None where it computes them all.

    Example:
        Two halves of a batch at a momentum of 0.1: the first moves statistics by .05 / .95 = .0526, the second by .05.
    """

    share: float
    before: float
    own: Own | None = None

    def average(self, mean: Tensor) -> Tensor:
        """The mean over the part's samples of which `mean` is that over this process's."""
        if self.own is None:
            return mean
        summed = mean * ((self.own.stop - self.own.start) / self.own.total)
        dist.all_reduce(summed)
        return summed

    def momentum(self, of_batch: float) -> float:
        """m_j of m."""
        return of_batch * self.share / (1 - of_batch * (1 - self.before - self.share))


_present: Part | None = None


def present() -> Part | None:
    """The part that passes now; None where whole batches do."""
    return _present


@contextmanager
def computing(part: Part | None) -> Iterator[None]:
    """Inside, layers in training mode compute this part of a batch."""
    global _present
    before, _present = _present, part
    try:
        yield
    finally:
        _present = before


class BatchNorm1d(nn.BatchNorm1d):
    """torch's, which knows of parts."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) if _present is None or not self.training else _of_part(self, input, _present)


class BatchNorm2d(nn.BatchNorm2d):
    """torch's, which knows of parts."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) if _present is None or not self.training else _of_part(self, input, _present)


def _of_part(norm: Any, x: Tensor, part: Part) -> Tensor:
    if part.before == 0:  # a batch counts once
        norm.num_batches_tracked.add_(1)
    whole = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
    momentum = part.momentum(whole)
    if part.own is not None:
        y, mean, variance = SharedNorm.apply(x, norm.weight, norm.bias, norm.eps)
        norm.running_mean.lerp_(mean, momentum)
        norm.running_var.lerp_(variance, momentum)
        return y
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, True, momentum, norm.eps)


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """torch's, drawn for the samples of all processes."""
    own = None if _present is None else _present.own
    if not training or own is None:
        return F.dropout(x, rate, training)
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)  # numbers are drawn in memory's order
    layout = torch.channels_last if last else torch.contiguous_format
    ones = torch.ones((own.total, *x.shape[1:]), dtype=x.dtype, device=x.device).contiguous(memory_format=layout)
    return x * F.dropout(ones, rate, True)[own.start : own.stop]
