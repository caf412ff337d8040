"""A batch computed in parts, one after the other: what its layers have to know of that.

Convolutions, quantizers and losses treat every sample by itself, so that the gradients of the parts add up to those of
the batch. What mixes samples, BatchNorm above all, takes the statistics of the part that passes ("ghost batches",
Hoffer et al. 2017, arXiv 1705.08741): exact ones would need the whole batch in every layer at once, which is what does
not fit. Running statistics move as one batch moves them, to the mean over its parts:

    r <- (1 - m) r + m sum_j share_j s_j,    by    m_j = m share_j / (1 - m (1 - before_j - share_j))

for the j-th part, share_j of the samples, before_j those of the parts before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The part of a batch that passes.

    Args:
        share: of the batch's samples, 0..1.
        before: share of the parts before it.

    Example:
        Two halves of a batch at a momentum of 0.1: the first moves statistics by .05 / .95 = .0526, the second by .05.
    """

    share: float
    before: float

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
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, True, momentum, norm.eps)
