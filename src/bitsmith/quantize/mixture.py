"""A softmax mixture of quantizers around one tensor: sum_i p_i Q_i(x), p = softmax(logits / temperature).

The composite convolution of EdMIPS needs one such mixture for the activations and one for the shared weight:
sum_ij p_i q_j conv(Q_i(x), Q_j(W)) = conv(sum_i p_i Q_i(x), sum_j q_j Q_j(W)), one convolution instead of one per pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from bitsmith.quantize.levels import levels
from bitsmith.quantize.lsq import LearnedStep


class Identity(nn.Module):
    """The candidate that takes its input as it is: reading a stream at the stream's own bits."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        return x


class Mixture(nn.Module):
    """sum_i p_i Q_i(x) with architecture parameters `logits`, or one candidate alone while it is fixed.

    Args:
        candidates: quantizers, one per bit-width.
        start: every logit's first value; EdMIPS starts at 0.01.
    """

    temperature: Tensor

    def __init__(self, candidates: Sequence[nn.Module], *, start: float = 0.01) -> None:
        super().__init__()
        self.candidates = nn.ModuleList(candidates)
        self.logits = nn.Parameter(torch.full((len(candidates),), start))
        # A tensor, so that a compiled network does not have to be compiled again when it changes; in the state, so that
        # a search resumed behind its last epoch measures the same mixture.
        self.register_buffer("temperature", torch.tensor(1.0))
        self.fixed: int | None = None

    @property
    def bits(self) -> tuple[int, ...]:
        """The candidates' bit-widths."""
        return tuple(int(candidate.bits) for candidate in self.candidates)  # pyright: ignore[reportArgumentType]

    def probabilities(self) -> Tensor:
        """p, of shape (candidates,)."""
        if self.fixed is not None:
            return nn.functional.one_hot(torch.tensor(self.fixed), len(self.candidates)).to(self.logits)
        return torch.softmax(self.logits / self.temperature, 0)

    def forward(self, x: Tensor) -> Tensor:
        if self.fixed is not None:
            return self.candidates[self.fixed](x)
        if len(self.candidates) == 1:
            return self.candidates[0](x)
        return mix(self.candidates, x, self.probabilities())


def mix(candidates: Iterable[nn.Module], x: Tensor, p: Tensor) -> Tensor:
    """sum_i p_i Q_i(x), with all learned-step quantizers in one pass.

    Args:
        candidates: at least one.
        p: (candidates,), any numbers.
    """
    listed = list(candidates)
    learned = [i for i, candidate in enumerate(listed) if _in_one_pass(candidate)]
    parts = []
    if learned:
        chosen = [cast(LearnedStep, listed[i]) for i in learned]
        steps = torch.stack([candidate.step(x).reshape(-1) for candidate in chosen])
        ranges = [candidate.range for candidate in chosen]
        parts.append(levels(x, steps, ranges, p[learned], compiled=chosen[0].compiled))
    parts += [p[i] * candidate(x) for i, candidate in enumerate(listed) if i not in learned]
    return sum(parts[1:], parts[0])


def _in_one_pass(candidate: nn.Module) -> bool:
    """Whether `levels` computes a candidate; while it is calibrated it has to see x itself."""
    return isinstance(candidate, LearnedStep) and not getattr(candidate, "calibrating", False)
