"""Activations whose maps differ in bits: steps s 2^k on one grid, so that one convolution of integers reads them all.

A map of b bits in a tensor whose widest map has B lies on every 2^k-th number of the B-bit grid with step s:

    q = clip(round(x / s), lo_B, hi_B),    y = s 2^k clip(round(q / 2^k), lo_b, hi_b),    k = B - b

(one signed bit: y = +- s 2^(B-2), the sign of q). So maps of fewer bits reach as far with coarser steps. That steps are
s 2^k and are shifted onto one grid is the idea of Zur et al., arXiv 1904.09872; rounding twice is ours: files write the
B-bit grid, as for any other layer, and narrow it map by map through a table, and training does the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from bitsmith.quantize.lsq import SAMPLED, learned_step
from bitsmith.quantize.quantizer import TINY, ActivationQuantizer, Grid, activation_range, scale_gradient

_ACTIVATION_GRADIENT = 0.1  # as of `LsqActivation`


@final
class LsqMaps(ActivationQuantizer):
    """LSQ with one learned step and bits of its own for each map; see the module's text.

    The gradient of s is that of LSQ, g (y / s - x / s) inside a map's range and g y / s outside.

    Args:
        widths: bits of each map (dimension 1), 1..8, not all alike.
        signed: whether maps can be negative.
        power_of_two: whether the step is one.

    Example:
        Maps of 4 and 2 bits at s = 1, unsigned: the first keeps 0..15, the second 0, 4, 8 and 12.
    """

    scale: Tensor  # 2^k
    low: Tensor
    high: Tensor
    sign: Tensor

    def __init__(self, widths: Sequence[int], *, signed: bool, power_of_two: bool = False) -> None:
        super().__init__()
        self.widths, self.bits = tuple(widths), max(widths)
        self.signed, self.power_of_two = signed, power_of_two
        self.lo, self.hi = activation_range(self.bits, signed)
        sign = [signed and bits == 1 for bits in widths]
        shifts = [self.bits - bits - is_sign for bits, is_sign in zip(widths, sign, strict=True)]
        assert min(shifts) >= 0, "maps that are all alike need no quantizer of their own"
        ranges = [activation_range(bits, signed) for bits in widths]
        for name, values in (
            ("scale", [2.0**shift for shift in shifts]),
            ("low", [float(lo) for lo, _ in ranges]),
            ("high", [float(hi) for _, hi in ranges]),
            ("sign", sign),
        ):
            self.register_buffer(name, torch.tensor(values), persistent=False)
        self.log_step = nn.Parameter(torch.tensor(0.0))

    def step(self, x: Tensor) -> Tensor:
        log_step = scale_gradient(self.log_step, _ACTIVATION_GRADIENT)
        return learned_step(log_step, power_of_two=self.power_of_two)

    def _columns(self, x: Tensor) -> list[Tensor]:
        column = (-1, *[1] * (x.ndim - 2))
        return [values.reshape(column) for values in (self.scale, self.low, self.high, self.sign)]

    def over(self, widths: Sequence[int]) -> LsqMaps:
        """The same step, and what calibrates it, for maps of other bits."""
        other = LsqMaps(widths, signed=self.signed, power_of_two=self.power_of_two).to(self.log_step.device)
        assert other.bits == self.bits, "a step belongs to the widest map"
        other.log_step, other.calibrating, other.seen = self.log_step, self.calibrating, self.seen
        return other

    def codes(self, x: Tensor) -> Tensor:
        return self._codes(x, self.step(x))

    def _codes(self, x: Tensor, step: Tensor) -> Tensor:
        scale, low, high, sign = self._columns(x)
        q = torch.round((x / step).clamp(self.lo, self.hi))
        narrowed = torch.round(torch.clamp(q / scale, low, high))
        return scale.to(x.dtype) * torch.where(sign, torch.where(q >= 0, 1.0, -1.0).to(x.dtype), narrowed)

    def forward(self, x: Tensor) -> Tensor:
        if self.calibrating:
            self.calibrate(x)
        scale, low, high, _ = self._columns(x)
        step = self.step(x)
        inside = torch.clamp(x / step, low * scale, high * scale)
        # In this order exactly on the grid.
        return self.codes(x).detach() * step + (inside - inside.detach()) * step.detach()

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        self.seen.append(self._best_step(x).reshape(1))
        self.log_step.copy_(torch.cat(self.seen).mean().log())

    def _best_step(self, x: Tensor) -> Tensor:
        """The step of the least squared error of all maps, each at its own bits, of 64 up to the widest range and 33
        around the best. (`best_step` knows one bit-width, and a step that suits the widest map puts the levels of a map
        of few bits too far apart.)"""
        rows = x.transpose(0, 1).reshape(len(self.widths), -1)
        numbers = rows[:, :: max(1, rows.numel() // SAMPLED)].T
        largest = numbers.max() / max(self.hi, 1)
        largest = torch.maximum(largest, numbers.min() / self.lo) if self.lo < 0 else largest
        coarse = self._best_of(torch.linspace(1 / 64, 1, 64).to(x) * largest, numbers)
        return self._best_of(coarse + torch.linspace(-1 / 64, 1 / 64, 33).to(x) * largest, numbers)

    def _best_of(self, steps: Tensor, numbers: Tensor) -> Tensor:
        steps = steps.clamp_min(TINY)
        errors = [(self._codes(numbers, step) * step - numbers).square().sum() for step in steps]
        return steps[int(torch.stack(errors).argmin())]

    def grid(self) -> Grid:
        step = learned_step(self.log_step.detach(), power_of_two=self.power_of_two)
        return Grid(step=float(step), lo=self.lo, hi=self.hi)

    @torch.no_grad()
    def tables(self, numbers: np.ndarray) -> np.ndarray:
        """The codes of some numbers in every map, int64 (maps, numbers)."""
        x = torch.from_numpy(np.ascontiguousarray(np.broadcast_to(numbers[:, None], (len(numbers), len(self.widths)))))
        return self.codes(x.to(self.log_step)).T.cpu().numpy().astype(np.int64)
