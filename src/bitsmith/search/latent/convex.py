"""A predictor that is convex in the code, so that {z: predicted cost <= limit} is convex: one can project onto it."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as functional
from torch import Tensor, nn


@final
class ConvexPredictor(nn.Module):
    """A network each of whose outputs is a convex function of its input.

    h_1 = softplus(V_1 z + b_1), h_{k+1} = softplus(U_k h_k + V_{k+1} z + b_{k+1}), y = U h_last + V z + b

    with every U >= 0: sums of convex functions with weights >= 0, and a convex function that rises of a convex one, are
    convex. `clamp` keeps U there; call it after every step. Source: input convex neural networks, arXiv 1609.07152,
    proposition 1 (with relu; softplus is as convex, and has gradients everywhere).

    Args:
        inputs, outputs: how many numbers.
        hidden: width of each of two hidden layers.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int = 64) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        self.second = nn.Linear(inputs, hidden)
        self.last = nn.Linear(inputs, outputs)
        self.inner = nn.ParameterList([nn.Parameter(torch.rand(rows, hidden) / hidden) for rows in (hidden, outputs)])

    def forward(self, z: Tensor) -> Tensor:
        """[n, inputs] -> [n, outputs]."""
        h = functional.softplus(self.first(z))
        h = functional.softplus(h @ self.inner[0].T + self.second(z))
        return h @ self.inner[1].T + self.last(z)

    @torch.no_grad()
    def clamp(self) -> None:
        """Put every inner weight below 0 at 0."""
        for weight in self.inner:
            weight.clamp_(min=0)
