"""Weights clamped by their moments at the start: what UNIQ and NICE train with noise.

    c = |mean(W)| + 3.45 std(W),    W ~ s clip(round(W / s), +-(2^(b-1) - 1)),    s = c / (2^(b-1) - 1)

The start of Baskin, Zheltonozhskii et al., NICE: Noise injection and clamping estimation for neural network
quantization, arXiv 1810.00162, as the code of Zur et al. (arXiv 1904.09872) has it: one clamp for a whole tensor, |mean
+- 3.45 std| with the mean's own sign. Where we differ: s is then learned as in LSQ, where that code takes integer
multiples of one basis for all layers; one bit is +-mean|W|. Training with noise is a setting of the plan
(`bitsmith.train.TrainPlan.noise`) and takes any learned steps.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from bitsmith.quantize.lsq import LsqWeight
from bitsmith.quantize.quantizer import TINY

DEVIATIONS = 3.45


@final
class NiceWeight(LsqWeight):
    """A learned step for a whole weight tensor, started from its moments; see the module's text.

    Args:
        bits: 1..8.
        shape: of the weight, filters first.

    Example:
        Weights of mean .1 and deviation 1 at 3 bits: clamp 3.55, levels -3..3 times 1.183.
    """

    def __init__(self, bits: int, shape: tuple[int, ...]) -> None:
        super().__init__(bits, shape, per_filter=False)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        if self.bits == 1:
            step = x.abs().mean()
        else:
            step = (x.mean().abs() + DEVIATIONS * x.std(correction=min(1, x.numel() - 1))) / self.hi
        self.log_step.copy_(step.clamp_min(TINY).log().expand_as(self.log_step))
