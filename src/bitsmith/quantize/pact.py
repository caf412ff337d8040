"""PACT: activations clipped at a learned bound; and SAWB, the weight quantizer that its authors pair it with.

Activations (Choi et al., PACT, arXiv 1805.06085, eqs. 1-3):

    y = clip(x, 0, alpha),    y_q = round(y (2^b - 1) / alpha) alpha / (2^b - 1),

with gradient 1 for x inside and, for alpha, 1 where x >= alpha and 0 elsewhere. alpha is decayed like a weight (section
3.2, the L2 term): without that nothing but the loss makes it smaller. Where we differ: alpha starts where the squared
error of the first batches is least (the paper starts at 10, for training from scratch); signed activations, which the
paper does not have, take the grid lo..hi = -2^(b-1)..2^(b-1) - 1 with step alpha / hi, so that they are clipped to
lo alpha / hi..alpha; where x is at or below the lower bound, alpha has the gradient lo / hi.

Weights (Choi et al., arXiv 1807.06964, SAWB; coefficients of IBM's released code, fms-model-optimizer):

    alpha = c1 sqrt(E[w^2]) - c2 E|w|,    2^b levels evenly over +-alpha, detached; identity gradient.

PACT's first paper takes DoReFa's weights, tanh(w) / max|tanh(w)|; that loses the scale of the weights, so that it fits
neither a layer without BatchNorm nor a network that starts from float weights, and is left out. Where we differ: one
bit is sign(w) E|w|; 6 bits, which nobody published, take coefficients halfway between 5 and 7; alpha is at least
sqrt(E[w^2]), which the line crosses for weights of nearly one magnitude. The line suits bell shapes: of evenly spread
weights it clips some at any number of bits, up to 1 % of their power.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitsmith.quantize.lsq import best_step, sample
from bitsmith.quantize.quantizer import TINY, ActivationQuantizer, Grid, Quantizer, activation_range

# (c1, c2) by bits. Up to 6 bits 2^b levels half a step off zero; at 7 and 8 bits 2^b - 1 levels with zero among them,
# since odd codes of 8 bits would need 9.
CLIP_COEFFICIENTS = {
    2: (3.12, 2.064),
    3: (7.509, 6.892),
    4: (12.68, 12.80),
    5: (17.74, 18.64),
    6: (22.99, 24.725),
    7: (28.24, 30.81),
    8: (31.76, 35.04),
}


class PactActivation(ActivationQuantizer):
    """Activations clipped at a learned bound; see the module's text.

    Args:
        bits: 1..8.
        signed: False as published, 0..2^b - 1; True -2^(b-1)..2^(b-1) - 1 (one bit: sign(x) alpha).

    Example:
        At alpha = 3 and 2 bits, 1.4 becomes 1, 5 becomes 3, and alpha has gradient 0 from the first and 1 from the
        second.
    """

    def __init__(self, bits: int, *, signed: bool) -> None:
        super().__init__()
        self.bits, self.signed = bits, signed
        self.lo, self.hi = activation_range(bits, signed)
        self.binary = signed and bits == 1
        self.alpha = nn.Parameter(torch.tensor(1.0))

    def decayed(self) -> tuple[nn.Parameter, ...]:
        return (self.alpha,)

    def _bound(self) -> Tensor:
        # Held above zero in value alone: an alpha that a large step took below it still gets the gradient to come back.
        return self.alpha.detach().clamp_min(TINY * self.hi) + (self.alpha - self.alpha.detach())

    def step(self, x: Tensor) -> Tensor:
        return self._bound() / self.hi

    def forward(self, x: Tensor) -> Tensor:
        if self.calibrating:
            self.calibrate(x)
        high = self._bound()
        low = high * (self.lo / self.hi)
        clipped = torch.where(x >= high, high, torch.where(x <= low, low, x))
        return self.codes(x) * self.step(x).detach() + (clipped - clipped.detach())  # in this order exactly on the grid

    def codes(self, x: Tensor) -> Tensor:
        scaled = x.detach() / self.step(x).detach()
        if self.binary:
            return torch.where(scaled >= 0, 1.0, -1.0).to(x.dtype)
        return torch.round(scaled.clamp(self.lo, self.hi))

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        self.seen.append(best_step(sample(x), self.lo, self.hi, binary=self.binary))
        self.alpha.copy_(torch.cat(self.seen).mean() * self.hi)

    def grid(self) -> Grid:
        return Grid(step=float(self.step(self.alpha).detach()), lo=self.lo, hi=self.hi)


class SawbWeight(Quantizer):
    """Weights clipped where two moments of the tensor say; see the module's text.

    Args:
        bits: 1..8. The codes are odd integers at half a step; 7 and 8 bits: all integers of +-(2^(b-1) - 1).
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.odd = bits < 7
        self.most = 2**bits - 1 if self.odd else 2 ** (bits - 1) - 1  # the largest code

    def step(self, x: Tensor) -> Tensor:
        wide = x.detach().double()  # the difference of two large terms follows
        mean, rms = wide.abs().mean(), wide.square().mean().sqrt()
        if self.bits == 1:
            return mean.clamp_min(TINY).to(x.dtype)
        c1, c2 = CLIP_COEFFICIENTS[self.bits]
        return (torch.maximum(c1 * rms - c2 * mean, rms) / self.most).clamp_min(TINY).to(x.dtype)

    def codes(self, x: Tensor) -> Tensor:
        scaled = x.detach() / self.step(x)
        if self.bits == 1:
            return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
        if self.odd:
            return (2 * torch.floor(scaled / 2) + 1).clamp(-self.most, self.most)
        return torch.round(scaled.clamp(-self.most, self.most))

    def forward(self, x: Tensor) -> Tensor:
        return self.codes(x) * self.step(x) + (x - x.detach())  # in this order exactly on the grid

    def calibrate(self, x: Tensor) -> None:
        """Nothing to set: the step follows the weights."""
