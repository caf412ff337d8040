"""Learned step size quantization (LSQ): the step is a parameter, trained with the weights.

x ~ s clip(round(x / s), lo, hi), with ds from the straight-through rounding: (round(x/s) - x/s) inside the range and
lo or hi outside. Esser et al., ICLR 2020, arXiv 1902.08153, eqs. 1-3. Where we differ:

- What is learned is log s, with gradient s dL/ds (activations: a tenth of it), in place of s with the paper's gradient
  scale 1 / sqrt(N hi), eq. 5. A step can then neither cross zero nor jump by orders of magnitude: at a learning rate
  of 0.3, plain steps of single filters reached 90 times their filter's weights, which kills the filter (measured).
- Weights use the symmetric range +-(2^(b-1) - 1), so that a filter's sign can flip (2 bits = ternary).
- The first step minimizes the squared error; 2 mean|v| / sqrt(hi) leaves most of an 8-bit grid unused.
- One bit is sign(x) s with s started at mean|x|.
- With `power_of_two` the step is 2^round(log2 s), with the gradient of s; hls4ml and FINN shift instead of multiplying.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bitsmith.quantize.levels import Range, levels
from bitsmith.quantize.quantizer import (
    TINY,
    ActivationQuantizer,
    Calibrated,
    Grid,
    Quantizer,
    activation_range,
    scale_gradient,
    weight_range,
)

# One step serves a whole tensor of activations: its gradient sums over far more numbers than a filter's.
_ACTIVATION_GRADIENT = 0.1


def lsq(x: Tensor, step: Tensor, lo: int, hi: int, *, binary: bool = False, compiled: bool = False) -> Tensor:
    """Quantize x on the grid step * (lo..hi), or to +-step where `binary`.

    Args:
        x: any shape, real.
        step: positive; one number, or one per filter as (filters, 1, ...).

    Example:
        >>> lsq(torch.tensor([0.24, 0.26, 9.0]), torch.tensor(0.5), -1, 1)
        tensor([0.0000, 0.5000, 0.5000])
    """
    return levels(x, step.reshape(1, -1), [Range(lo, hi, binary)], compiled=compiled)


def lsq_codes(x: Tensor, step: Tensor, lo: int, hi: int, *, binary: bool = False) -> Tensor:
    """The integers behind `lsq`, as floats."""
    return torch.where(x / step >= 0, 1.0, -1.0).to(x.dtype) if binary else torch.round((x / step).clamp(lo, hi))


_PIECE = 1 << 18  # numbers
_AT_ONCE = 1 << 18  # numbers times candidates


@torch.no_grad()
def best_step(x: Tensor, lo: int, hi: int, *, binary: bool = False) -> Tensor:
    """The step per row that minimizes the squared error of `lsq` over 64 candidates up to the full range, refined.

    Without a gradient.

    Args:
        x: (rows, numbers).

    Returns:
        (rows,), at least TINY.
    """
    if binary:
        return x.abs().mean(1).clamp_min(TINY)
    # Pieces that stay in the cache take 0.4 of the time (measured on 4 million weights); rows don't touch each other.
    rows = max(1, _PIECE // max(1, x.shape[1]))
    return torch.cat([_best_step(piece, lo, hi) for piece in x.split(rows)])


def _best_step(x: Tensor, lo: int, hi: int) -> Tensor:
    largest = torch.maximum(x.amax(1) / max(hi, 1), x.amin(1) / lo if lo < 0 else x.new_zeros(len(x)))
    best, error = largest, torch.full_like(largest, float("inf"))
    fractions = torch.linspace(1 / 64, 1, 64, dtype=x.dtype, device=x.device)
    at_once = min(len(fractions), max(1, _AT_ONCE // max(1, x.numel())))
    scratch = x.new_empty(at_once, *x.shape)
    for some in fractions.split(at_once):
        steps = (some[:, None] * largest).clamp_min(TINY)
        levels = torch.div(x, steps[..., None], out=scratch[: len(some)]).clamp_(lo, hi).round_().mul_(steps[..., None])
        trials = levels.sub_(x).square_().mean(2)
        first = trials.argmin(0, keepdim=True)
        step, trial = steps.gather(0, first)[0], trials.gather(0, first)[0]
        best, error = torch.where(trial < error, step, best), torch.minimum(trial, error)
    best = best.clamp_min(TINY)
    for _ in range(3):  # at given codes the best step is <x, codes> / <codes, codes>
        codes = lsq_codes(x, best[:, None], lo, hi)
        power = codes.square().sum(1)
        best = torch.where(power > 0, (x * codes).sum(1) / power.clamp_min(1), best).clamp_min(TINY)
    return best


def learned_step(log_step: Tensor, *, power_of_two: bool) -> Tensor:
    """exp(log_step), or the power of two nearest to it in the logarithm, exactly; the gradient is that of exp.

    Example:
        >>> learned_step(torch.tensor([0.17, 0.18]).log(), power_of_two=True)  # halfway: 0.1768
        tensor([0.1250, 0.2500])
    """
    if not power_of_two:
        return log_step.exp()
    nearest = torch.exp2(torch.round(log_step.detach() / math.log(2)))
    return nearest * (log_step - log_step.detach()).exp()  # times 1, with its gradient


class LearnedStep(Quantizer):
    """What learned-step quantizers share: x ~ step(x) * codes within a range.

    Attributes:
        log_step: the parameter.
        range: of the integers.
        power_of_two: whether the step is one.
        compiled: whether to quantize by a compiled kernel.
    """

    log_step: nn.Parameter
    range: Range
    power_of_two: bool
    compiled: bool = False

    def forward(self, x: Tensor) -> Tensor:
        return levels(x, self.step(x).reshape(1, -1), [self.range], compiled=self.compiled)

    def codes(self, x: Tensor) -> Tensor:
        return lsq_codes(x, self.step(x), *self.range[:2], binary=self.range.binary)

    def noisy(self, x: Tensor, share: float) -> Tensor:
        """A random share of x with uniform noise of up to half the distance between levels, clipped; the rest hard.

        By torch's global generator. Noisy numbers hand their gradient on where they are not clipped.
        """
        step = self.step(x).detach()
        lo, hi, binary = self.range
        noise = (torch.rand_like(x) - 0.5) * (2 if binary else 1) * step
        loose = torch.minimum(torch.maximum(x + noise, lo * step), hi * step)
        return torch.where(torch.rand_like(x) < share, loose, self(x))


class LsqWeight(LearnedStep):
    """LSQ of a weight tensor, one step per filter or one for all.

    Args:
        bits: 1..8.
        shape: of the weight, filters first.
        per_filter: one step per filter; else one for the whole tensor.
        power_of_two: whether every step is one.
    """

    def __init__(
        self, bits: int, shape: tuple[int, ...], *, per_filter: bool = True, power_of_two: bool = False
    ) -> None:
        super().__init__()
        self.bits, self.power_of_two = bits, power_of_two
        self.lo, self.hi = weight_range(bits)
        self.range = Range(self.lo, self.hi, bits == 1)
        rows = shape[0] if per_filter else 1
        self.log_step = nn.Parameter(torch.zeros(rows, *[1] * (len(shape) - 1)))

    def step(self, x: Tensor) -> Tensor:
        return learned_step(self.log_step, power_of_two=self.power_of_two)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        rows = x.reshape(len(self.log_step), -1)
        self.log_step.copy_(best_step(rows, self.lo, self.hi, binary=self.bits == 1).log().view_as(self.log_step))


class LsqActivation(LearnedStep, ActivationQuantizer):
    """LSQ of an activation tensor with one step; unsigned 0..2^b - 1 or signed -2^(b-1)..2^(b-1) - 1."""

    def __init__(self, bits: int, *, signed: bool, power_of_two: bool = False) -> None:
        super().__init__()
        self.bits, self.signed, self.power_of_two = bits, signed, power_of_two
        self.lo, self.hi = activation_range(bits, signed)
        self.range = Range(self.lo, self.hi, bits == 1 and signed)
        self.log_step = nn.Parameter(torch.tensor(0.0))

    def step(self, x: Tensor) -> Tensor:
        log_step = scale_gradient(self.log_step, _ACTIVATION_GRADIENT)
        return learned_step(log_step, power_of_two=self.power_of_two)

    def forward(self, x: Tensor) -> Tensor:
        if self.calibrating:
            self.calibrate(x)
        return super().forward(x)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        self.seen.append(best_step(sample(x), self.lo, self.hi, binary=self.range.binary))
        self.log_step.copy_(torch.cat(self.seen).mean().log())

    def grid(self) -> Grid:
        step = learned_step(self.log_step.detach(), power_of_two=self.power_of_two)
        return Grid(step=float(step), lo=self.lo, hi=self.hi)


class Stream(Calibrated):
    """One learned step for all tensors of a step group: the operands and the result of an add, say.

    Args:
        bits: of the grid; tensors that can't be negative use 0..2^b - 1, the others -2^(b-1)..2^(b-1) - 1.
        power_of_two: whether the step is one.
    """

    def __init__(self, bits: int, *, power_of_two: bool = False) -> None:
        super().__init__()
        self.bits, self.power_of_two = bits, power_of_two
        self.compiled = False
        self.log_step = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor, signed: bool) -> Tensor:
        lo, hi = activation_range(self.bits, signed)
        if self.calibrating:
            with torch.no_grad():
                # The widest member decides: a saturated sum loses more than a coarser grid.
                self.seen.append(best_step(sample(x), lo, hi))
                self.log_step.copy_(torch.cat(self.seen).max().log())
        log_step = scale_gradient(self.log_step, _ACTIVATION_GRADIENT)
        step = learned_step(log_step, power_of_two=self.power_of_two)
        return lsq(x, step, lo, hi, compiled=self.compiled)

    def grid(self, signed: bool) -> Grid:
        """The grid of a member tensor."""
        lo, hi = activation_range(self.bits, signed)
        step = learned_step(self.log_step.detach(), power_of_two=self.power_of_two)
        return Grid(step=float(step), lo=lo, hi=hi)


SAMPLED = 1 << 16  # numbers that a step is found on


def sample(x: Tensor) -> Tensor:
    """About `SAMPLED` numbers of x, evenly spaced, as one row."""
    flat = x.reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLED)][None]
