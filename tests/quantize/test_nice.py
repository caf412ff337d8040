"""Weights started at their moments, and noise up to half a step."""

import pytest
import torch
from torch import Tensor

from bitsmith.quantize import FilterWise, LsqWeight, NiceWeight
from bitsmith.testing import QuantizerContract

SHAPE = (4, 10, 10, 10)


class TestNiceWeight(QuantizerContract):
    cases = (1, 2, 3, 8)

    def make(self, case: int) -> NiceWeight:
        return NiceWeight(case, SHAPE)

    def data(self, case: int) -> Tensor:
        sweep = torch.linspace(-4, 4, 4000)
        return sweep[torch.randperm(4000, generator=torch.Generator().manual_seed(1))].reshape(SHAPE)

    def codes(self, case: int) -> set[int]:
        return {-1, 1} if case == 1 else set(range(-(2 ** (case - 1)) + 1, 2 ** (case - 1)))

    @pytest.mark.parametrize("sign", [1, -1])
    def test_start(self, sign: int) -> None:
        """|mean +- 3.45 deviations| with the mean's own sign, over 2^(b-1) - 1, for all filters."""
        x = sign * (torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) + 0.1)
        quantizer = NiceWeight(3, SHAPE)
        quantizer.calibrate(x)
        clamp = abs(x.mean() + sign * 3.45 * x.std())
        assert quantizer.step(x).shape == (1, 1, 1, 1)
        torch.testing.assert_close(quantizer.step(x).squeeze(), clamp / 3)


def mixed() -> FilterWise:
    return FilterWise((2, 8, 2, 1), SHAPE, lambda bits, shape: LsqWeight(bits, shape))


@pytest.mark.parametrize("make", [lambda: NiceWeight(3, SHAPE), lambda: LsqWeight(1, SHAPE), mixed])
def test_noise(make):
    torch.manual_seed(0)
    x, quantizer = torch.randn(SHAPE).requires_grad_(), make()
    quantizer.calibrate(x)
    hard, step = quantizer(x), quantizer.step(x)
    y = quantizer.noisy(x, 0.05)
    changed = y != hard
    assert 0.02 < changed.float().mean() < 0.06  # those beyond the outermost levels may clip to the same
    assert torch.equal(y[~changed], hard[~changed])
    # Within half the distance to the next level from x, clipped to the outermost ones.
    greatest = quantizer.codes(torch.full_like(x, 1e6)) * step
    half = step * torch.where(greatest == step, 1.0, 0.5) if not isinstance(quantizer, NiceWeight) else step / 2
    clipped = torch.minimum(torch.maximum(x, -greatest), greatest)
    assert ((y - clipped)[changed].abs() <= half.expand_as(x)[changed] * (1 + 1e-5)).all()
    assert (y.abs() <= greatest * (1 + 1e-6)).all()
    assert torch.equal(quantizer.noisy(x, 0.0), hard)
    assert quantizer.noisy(x, 1.0).unique().numel() > 1500
    y.sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum((1, 2, 3)) > 0).all()
