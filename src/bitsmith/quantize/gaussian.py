"""Quantizers with fixed steps for Gaussian numbers, as EdMIPS uses them (Cai, Vasconcelos, arXiv 2004.05795; code).

Weights: D = t_b std(W), detached; (round(W/D + 1/2) - 1/2) D clipped to +-(2^(b-1) - 1/2) D; identity gradient.
Activations (HWGQ): round(clip(x, 0, (2^b - 1) D) / D) D with fixed D. D assumes unit variance before the ReLU, which
holds behind the BatchNorm of a pre-activation network; elsewhere D multiplies a running estimate of that deviation.
Where we differ: 8-bit weights are mid-tread +-127 (half-integer levels would need 9 bits as odd integers); signed
activations, which HWGQ does not know, use the mid-tread grid of the weights' steps. `optimal` takes the steps with the
least squared error for the rounding and clipping as coded; the published ones of 1 to 4 bits were fitted without the
thresholds that rounding puts halfway between levels (1 bit: mean squared error .131, optimal .095).
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitsmith.quantize.parts import Part, present
from bitsmith.quantize.quantizer import (
    TINY,
    ActivationQuantizer,
    Grid,
    Quantizer,
    activation_range,
    round_through,
    sign_through,
)

# Steps in standard deviations for 1..8 bits; 1..4 from the released code, 8 the mid-tread optimum (ours).
WEIGHT_STEPS = (1.596, 0.996, 0.586, 0.336, 0.18814, 0.10406, 0.05687, 0.03087)
ACTIVATION_STEPS = (0.799, 0.538, 0.3217, 0.185, 0.10549, 0.05726, 0.03087, 0.01653)
OPTIMAL_ACTIVATION_STEPS = (1.22401, 0.65077, 0.35341, 0.19325, 0.10549, 0.05726, 0.03087, 0.01653)
OPTIMAL_SIGNED_STEPS = (0.79788, 1.04839, 0.60182, 0.33861, 0.18879, 0.10418, 0.05689, 0.03077)
_RMS_MOMENTUM = 0.1


class GaussianWeight(Quantizer):
    """Weights on half-integer levels; the step follows the tensor's standard deviation.

    Args:
        bits: 1..8. The codes are odd integers at half a step; 8 bits: all integers of +-127.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.odd = bits < 8

    def _full_step(self, x: Tensor) -> Tensor:
        return WEIGHT_STEPS[self.bits - 1] * x.detach().std(correction=0).clamp_min(TINY)

    def step(self, x: Tensor) -> Tensor:
        return self._full_step(x) * (0.5 if self.odd else 1.0)

    def codes(self, x: Tensor) -> Tensor:
        scaled = x.detach() / self._full_step(x)
        if not self.odd:
            return torch.round(scaled.clamp(-127, 127))
        if self.bits == 1:
            return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
        bound = 2 ** (self.bits - 1) - 0.5
        return 2 * (torch.round(scaled + 0.5) - 0.5).clamp(-bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return self.codes(x) * self.step(x) + (x - x.detach())  # in this order exactly on the grid

    def calibrate(self, x: Tensor) -> None:
        """Nothing to set: the step follows the weights."""


class GaussianActivation(ActivationQuantizer):
    """Activations on the fixed grid of a (half-wave) Gaussian.

    Args:
        bits: 1..8.
        signed: False is HWGQ; True is the mid-tread grid of a full Gaussian.
        unit_variance: True takes the fixed step; False multiplies it by a running deviation.
        optimal: take the best steps for this rounding rather than the published ones.
    """

    deviation: Tensor

    def __init__(self, bits: int, *, signed: bool, unit_variance: bool, optimal: bool = False) -> None:
        super().__init__()
        self.bits, self.signed, self.unit_variance = bits, signed, unit_variance
        self.lo, self.hi = activation_range(bits, signed)
        if optimal:
            self.base = (OPTIMAL_SIGNED_STEPS if signed else OPTIMAL_ACTIVATION_STEPS)[bits - 1]
        else:
            self.base = WEIGHT_STEPS[bits - 1] * (0.5 if bits == 1 else 1.0) if signed else ACTIVATION_STEPS[bits - 1]
        self.register_buffer("deviation", torch.tensor(1.0))

    def step(self, x: Tensor) -> Tensor:
        return self.base * self.deviation.to(x.dtype).clamp_min(TINY)

    def _deviation_of(self, x: Tensor, part: Part | None = None) -> Tensor:
        square = x.detach().square().mean()
        if part is not None:
            square = part.average(square)
        # A half-wave Gaussian has half the mean square of the full one.
        return (square * (1.0 if self.signed else 2.0)).sqrt().to(self.deviation.dtype)

    def forward(self, x: Tensor) -> Tensor:
        if self.calibrating:
            self.calibrate(x)
        elif self.training and not self.unit_variance:
            part = present()
            momentum = _RMS_MOMENTUM if part is None else part.momentum(_RMS_MOMENTUM)
            self.deviation.lerp_(self._deviation_of(x, part), momentum)
        step = self.step(x)
        if self.signed and self.bits == 1:
            return step * sign_through(x / step)
        return step * round_through((x / step).clamp(self.lo, self.hi))

    def codes(self, x: Tensor) -> Tensor:
        if self.signed and self.bits == 1:
            return torch.where(x / self.step(x) >= 0, 1.0, -1.0).to(x.dtype)
        return torch.round((x / self.step(x)).clamp(self.lo, self.hi))

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        if not self.unit_variance:
            self.seen.append(self._deviation_of(x))
            self.deviation.copy_(torch.stack(self.seen).mean())

    def grid(self) -> Grid:
        return Grid(step=float(self.step(self.deviation)), lo=self.lo, hi=self.hi)
