"""PACT and SAWB against their papers' formulas, written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from bitsmith.quantize import PactActivation, SawbWeight
from bitsmith.train import TrainPlan, make_optimizer


def pact(alpha: float, bits: int = 4, *, signed: bool = False) -> PactActivation:
    quantizer = PactActivation(bits, signed=signed).double()
    with torch.no_grad():
        quantizer.alpha.fill_(alpha)
    return quantizer


@given(st.floats(0.1, 20), st.integers(1, 8), st.integers(0, 1000))
def test_eqs_1_and_2(alpha, bits, seed):
    """y = (|x| - |x - alpha| + alpha) / 2 and y_q = round(y (2^k - 1) / alpha) alpha / (2^k - 1)."""
    x = 8 * np.random.default_rng(seed).standard_normal(200)
    y = 0.5 * (np.abs(x) - np.abs(x - alpha) + alpha)
    levels = y * (2**bits - 1) / alpha
    expected = np.round(levels) * alpha / (2**bits - 1)
    tie = np.abs(levels - np.floor(levels) - 0.5) < 1e-9
    found = pact(alpha, bits)(torch.from_numpy(x)).detach().numpy()
    assert np.allclose(found[~tie], expected[~tie], rtol=0, atol=1e-12)


@given(st.floats(0.1, 20), st.integers(1, 8), st.integers(0, 1000))
def test_eq_3(alpha, bits, seed):
    """dy_q/dalpha = 1 where x >= alpha, else 0; dy_q/dx = 1 inside, else 0."""
    quantizer = pact(alpha, bits)
    x = 8 * torch.randn(200, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[0] = alpha
    x.requires_grad_()
    slope = torch.randn(200, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    (quantizer(x) * slope).sum().backward()
    above = x.detach() >= alpha
    assert quantizer.alpha.grad is not None
    assert float(quantizer.alpha.grad) == pytest.approx(float(slope[above].sum()), abs=1e-9)
    inside = (x.detach() >= 0) & ~above
    assert torch.equal(x.grad, torch.where(inside, slope, 0.0))


def test_the_signed_variant_is_the_unsigned_one_on_both_sides():
    """Up to the one level more that it has below."""
    x = 3 * torch.randn(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    signed, half = pact(1.5, 5, signed=True), pact(1.5, 4)  # 5 bits with sign: steps of 0.1, 15 up and 16 down
    expected = half(x.relu()) - half((-x).relu())
    assert torch.allclose(signed(x), torch.where(x <= -1.55, -1.6, expected), atol=1e-12)
    signed(x).sum().backward()
    assert signed.alpha.grad is not None
    assert float(signed.alpha.grad) == pytest.approx(int((x >= 1.5).sum()) - 16 / 15 * int((x <= -1.6).sum()))


def test_alpha_is_decayed_and_steps_are_not():
    """The L2 term of the paper, exactly: without a loss, alpha shrinks by lr * weight_decay * alpha."""
    network = nn.Sequential(nn.Linear(3, 3), pact(5.0))
    optimizer = make_optimizer(network, TrainPlan(lr=0.5, momentum=0, weight_decay=0.01))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(network[0].weight), id(network[1].alpha)}
    network[1].alpha.grad = torch.zeros((), dtype=torch.float64)
    optimizer.step()
    assert float(network[1].alpha.detach()) == pytest.approx(5 * (1 - 0.5 * 0.01))


def test_an_alpha_below_zero_comes_back():
    quantizer = pact(-0.5)
    x = torch.tensor([0.2, 1.0, 2.0], dtype=torch.float64)
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        y = quantizer(x)
        assert y.isfinite().all()
        assert (quantizer.step(x) > 0).all()
        (y - x).square().sum().backward()
        optimizer.step()
    assert float(quantizer.alpha.detach()) == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_sawb_as_the_released_code_has_it(bits):
    """IBM's fms-model-optimizer: clip = c1 sqrt(E[w^2]) + c2 E|w|, then 2^b levels evenly over +-clip."""
    c1, c2 = {2: (3.12, -2.064), 3: (7.509, -6.892), 4: (12.68, -12.80), 5: (17.74, -18.64)}[bits]
    w = np.random.default_rng(bits).standard_normal(5000) * 0.05
    clip = c1 * np.sqrt((w * w).mean()) + c2 * np.abs(w).mean()
    width = 2 * clip / (2**bits - 1)
    expected = np.round((np.clip(w, -clip, clip) + clip) / width) * width - clip
    assert np.allclose(SawbWeight(bits)(torch.from_numpy(w)).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("shape", ["norm", "laplace", "uniform", "logistic", "triang", "two"])
def test_sawb_loses_little_more_than_the_best_clip(bits, shape):
    """Bell shapes, 30 % at most; others, and weights of nearly one magnitude, 1 % of their power."""
    grid = (np.arange(20_000) + 0.5) / 20_000
    if shape == "two":
        x = np.sign(grid - 0.5) * (1 + 0.05 * stats.norm.ppf(np.abs(2 * grid - 1)))
    else:
        law = stats.triang(0.5, -1, 2) if shape == "triang" else getattr(stats, shape)()
        x = law.ppf(grid) - law.ppf(0.5)
    w = torch.from_numpy(x)
    quantizer = SawbWeight(bits)

    def error(step: torch.Tensor) -> float:
        trial = SawbWeight(bits)
        trial.step = lambda _: step
        return float((trial(w) - w).square().mean())

    reached = float(w.abs().max()) / quantizer.most
    least = min(error(torch.tensor(reached * t)) for t in np.linspace(0.02, 1, 99))
    assert error(quantizer.step(w)) <= max(1.3 * least, 0.01 * float(w.square().mean()))
