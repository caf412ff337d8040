"""Gradients against finite differences of the straight-through surrogate, worked out in numpy and float64.

The surrogate of y = s q(x / s) holds the rounding error fixed: with c(x, s) = clip(x / s, lo, hi) and d = q - c at the
point of interest, y'(x, s) = s (c(x, s) + d), whose derivatives are what LSQ's eqs. 2 and 3 state. What is
learned is log s, with dL/dlog s = s dL/ds, of activations a tenth of it.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitsmith.quantize import GaussianActivation, GaussianWeight, LsqActivation, LsqWeight, Stream
from bitsmith.quantize.quantizer import scale_gradient

EPS = 1e-6


def surrogate(x: np.ndarray, step: np.ndarray, lo: int, hi: int, binary: bool):
    c = np.clip(x / step, lo, hi)
    q = np.where(x >= 0, 1.0, -1.0) if binary else np.round(c)
    d = q - c
    return lambda x, step: step * (np.clip(x / step, lo, hi) + d)


def slopes(x: np.ndarray, step: np.ndarray, lo: int, hi: int, binary: bool) -> tuple[np.ndarray, np.ndarray]:
    """dy/dx and dy/ds, element by element, by central differences."""
    f = surrogate(x, step, lo, hi, binary)
    by_x = (f(x + EPS, step) - f(x - EPS, step)) / (2 * EPS)
    by_step = (f(x, step + EPS) - f(x, step - EPS)) / (2 * EPS)
    return by_x, by_step


def away_from_kinks(shape: tuple[int, ...], step: float, lo: int, hi: int, seed: int) -> torch.Tensor:
    """Numbers inside and outside the range, none near a tie or a clip edge."""
    rng = np.random.default_rng(seed)
    outside = 2 + (hi - lo) / 4
    ratio = rng.uniform(lo - outside, hi + outside, shape)
    halves = np.round(2 * ratio) / 2  # ties and edges lie on these
    ratio = np.where(np.abs(ratio - halves) < 0.02, ratio + 0.05, ratio)
    return torch.from_numpy(ratio * step)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("per_filter", [True, False])
def test_lsq_weight(bits, per_filter):
    quantizer = LsqWeight(bits, (3, 4, 2, 2), per_filter=per_filter).double()
    lo, hi = (-1, 1) if bits == 1 else (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1)
    raw = torch.tensor([0.3, 0.5, 0.9]).double().view(3, 1, 1, 1) if per_filter else torch.full((1, 1, 1, 1), 0.4)
    with torch.no_grad():
        quantizer.log_step.copy_(raw.log())
    x = torch.cat([away_from_kinks((1, 4, 2, 2), float(s), lo, hi, 7) for s in raw.expand(3, 1, 1, 1)])
    x.requires_grad_()
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (quantizer(x) * weight).sum().backward()
    step = np.broadcast_to(quantizer.step(x).detach().numpy(), x.shape)
    by_x, by_step = slopes(x.detach().numpy(), step, lo, hi, bits == 1)
    assert x.grad is not None
    assert np.allclose(x.grad.numpy(), weight.numpy() * by_x, atol=1e-6)
    by_log = (by_step * weight.numpy() * step).reshape(3, -1)
    grad = quantizer.log_step.grad
    assert grad is not None
    assert np.allclose(grad.numpy().reshape(-1), by_log.sum(1) if per_filter else by_log.sum(), atol=1e-6)


def test_lsq_by_hand():
    """Eq. 2 of the paper: -v/s + round(v/s) inside, -Qn or Qp outside."""
    quantizer = LsqActivation(2, signed=False).double()
    with torch.no_grad():
        quantizer.log_step.fill_(np.log(0.5))
    x = torch.tensor([[-1.0, 0.2, 0.3, 1.1, 9.0]], dtype=torch.float64)
    for value, expected in zip(x[0], (0, -0.4, 0.4, -0.2, 3), strict=True):
        quantizer.zero_grad()
        quantizer(value.view(1, 1)).sum().backward()
        assert float(quantizer.log_step.grad) == pytest.approx(0.1 * 0.5 * expected)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("kind", ["lsq", "stream", "gaussian"])
def test_activations(bits, signed, kind):
    binary = bits == 1 and signed and kind != "stream"
    lo, hi = ((-1, 1) if bits == 1 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)) if signed else (0, 2**bits - 1)
    if kind == "lsq":
        quantizer = LsqActivation(bits, signed=signed).double()
    elif kind == "stream":
        quantizer = Stream(bits).double()
    else:
        quantizer = GaussianActivation(bits, signed=signed, unit_variance=True).double()
    if kind != "gaussian":
        with torch.no_grad():
            quantizer.log_step.fill_(np.log(0.25))
    step = 0.25 if kind != "gaussian" else float(quantizer.step(torch.zeros(1, dtype=torch.float64)))
    x = away_from_kinks((4, 30), step, lo, hi, bits).requires_grad_()
    y = quantizer(x, signed) if kind == "stream" else quantizer(x)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (y * weight).sum().backward()
    by_x, by_step = slopes(x.detach().numpy(), np.asarray(step), lo, hi, binary)
    assert x.grad is not None
    assert np.allclose(x.grad.numpy(), weight.numpy() * by_x, atol=1e-6)
    assert {0.0, 1.0} == set(np.round(by_x, 6).reshape(-1))
    if kind != "gaussian":
        expected = 0.1 * step * (weight.numpy() * by_step).sum()
        assert float(quantizer.log_step.grad) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("bits", range(1, 9))
def test_gaussian_weights_pass_the_gradient_on(bits):
    x = torch.randn(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    weight = torch.randn(5, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (GaussianWeight(bits)(x) * weight).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, weight)


def test_scale_gradient_keeps_the_value_to_the_bit():
    x = torch.rand(10_000, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = scale_gradient(x, 0.0173)
    y.sum().backward()
    assert torch.equal(y, x)
    assert x.grad is not None
    assert torch.allclose(x.grad, torch.full_like(x, 0.0173))
