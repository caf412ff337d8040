"""The contract of every quantizer: real numbers to few levels, with a straight-through gradient.

A quantizer is a module: `forward` gives the quantized numbers (floats that lie on the grid), `codes` the integers and
`step` what they are multiplied by, so that forward(x) == codes(x) * step(x). Everything is plain element-wise torch, so
that `torch.compile` fuses a whole mixture of quantizers into one pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Below this a step is numerically zero: all-zero filters and dead activations keep a valid grid.
TINY = 1e-8


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """An integer grid: the numbers lo..hi times `step`; stored as uint8 with zero point -lo.

    -1..1 is the grid of one signed bit: only -1 and 1 are on it.

    Example:
        >>> Grid(step=0.5, lo=-2, hi=1).zero_point
        2
    """

    step: float
    lo: int
    hi: int

    @property
    def zero_point(self) -> int:
        """The stored number that means zero."""
        return -self.lo


def activation_range(bits: int, signed: bool) -> tuple[int, int]:
    """Least and greatest integer of an activation grid: 0..2^b - 1, or -2^(b-1)..2^(b-1) - 1; one signed bit is +-1."""
    if not signed:
        return 0, 2**bits - 1
    return (-1, 1) if bits == 1 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def weight_range(bits: int) -> tuple[int, int]:
    """Least and greatest integer of a weight grid, symmetric so that a filter's sign can flip: +-(2^(b-1) - 1)."""
    bound = max(1, 2 ** (bits - 1) - 1)
    return -bound, bound


def round_through(x: Tensor) -> Tensor:
    """Round half to even; the gradient is that of x."""
    return x + (torch.round(x) - x).detach()


def sign_through(x: Tensor) -> Tensor:
    """Sign with sign(0) = +1; the gradient is that of clip(x, -1, 1)."""
    clipped = x.clamp(-1, 1)
    return clipped + (torch.where(x >= 0, 1.0, -1.0).to(x.dtype) - clipped).detach()


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """x, to the last bit, with its gradient multiplied by `factor`."""
    scaled = x * factor
    return x.detach() + (scaled - scaled.detach())


class Quantizer(nn.Module, ABC):
    """Maps a tensor to a grid of few levels.

    Args:
        bits: 1..8.
        odd: whether the codes are odd integers (levels half a step off zero) rather than all integers.
    """

    bits: int
    odd: bool = False

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The quantized tensor, of x's shape and type."""

    @abstractmethod
    def codes(self, x: Tensor) -> Tensor:
        """The integers, as floats, of x's shape."""

    @abstractmethod
    def step(self, x: Tensor) -> Tensor:
        """What the codes are multiplied by; broadcasts against x."""

    @abstractmethod
    def calibrate(self, x: Tensor) -> None:
        """Set the step from data, without gradient."""

    def decayed(self) -> tuple[nn.Parameter, ...]:
        """Its parameters that weight decay belongs to by its paper; most have none."""
        return ()


class Calibrated(nn.Module):
    """A module whose step is set from the data that passes through it between `begin` and `end`."""

    def __init__(self) -> None:
        super().__init__()
        self.calibrating = False
        self.seen: list[Tensor] = []

    def begin(self) -> None:
        """Forget what was seen and set the step by what passes from now on."""
        self.calibrating, self.seen = True, []

    def end(self) -> None:
        """Keep the step."""
        self.calibrating, self.seen = False, []


class ActivationQuantizer(Quantizer, Calibrated):
    """A quantizer of what a layer reads; one step for the whole tensor.

    Args:
        signed: whether x can be negative.
    """

    signed: bool

    @abstractmethod
    def grid(self) -> Grid:
        """The grid at the present step."""
