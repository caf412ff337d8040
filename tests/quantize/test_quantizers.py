"""Every quantizer passes the public contract; and each does what its paper or its optimum says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor

from bitsmith.quantize import GaussianActivation, GaussianWeight, LsqActivation, LsqWeight, PactActivation, SawbWeight
from bitsmith.quantize.gaussian import (
    ACTIVATION_STEPS,
    OPTIMAL_ACTIVATION_STEPS,
    OPTIMAL_SIGNED_STEPS,
    WEIGHT_STEPS,
)
from bitsmith.quantize.lsq import best_step, lsq
from bitsmith.testing import QuantizerContract

BITS = range(1, 9)
N = 4000


def symmetric(bits: int) -> set[int]:
    """All integers of +-(2^(b-1) - 1); one bit is +-1."""
    return {-1, 1} if bits == 1 else set(range(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1)))


def asymmetric(bits: int, signed: bool) -> set[int]:
    if not signed:
        return set(range(2**bits))
    return {-1, 1} if bits == 1 else set(range(-(2 ** (bits - 1)), 2 ** (bits - 1)))


def odd(bits: int) -> set[int]:
    """The 2^b odd integers nearest to zero."""
    return {2 * k + 1 for k in range(-(2 ** (bits - 1)), 2 ** (bits - 1))}


def spread(shape: tuple[int, ...], *, least: float = -4.0) -> Tensor:
    """An even sweep from least to 4 in a random but fixed order, so that every filter sees all of it."""
    sweep = torch.linspace(least, 4, N)
    return sweep[torch.randperm(N, generator=torch.Generator().manual_seed(1))].reshape(shape)


class TestLsqWeight(QuantizerContract):
    cases = (*((bits, True, False) for bits in BITS), (1, False, False), (4, False, False), (1, True, True),
             (3, True, True), (8, False, True))  # fmt: skip

    def make(self, case):
        return LsqWeight(case[0], (2, N // 2, 1, 1), per_filter=case[1], power_of_two=case[2])

    def data(self, case):
        x = spread((2, N // 2, 1, 1))
        return x * torch.tensor([1.0, 0.3]).view(2, 1, 1, 1) if case[1] else x

    def codes(self, case):
        return symmetric(case[0])


class TestLsqActivation(QuantizerContract):
    cases = (*((bits, signed, False) for bits in BITS for signed in (True, False)), (1, True, True), (2, False, True),
             (5, True, True), (8, False, True))  # fmt: skip

    def make(self, case):
        return LsqActivation(case[0], signed=case[1], power_of_two=case[2])

    def data(self, case):
        # Asymmetric enough that -2^(b-1) is reached.
        return spread((4, N // 4), least=-4.5 if case[1] else 0.0)

    def codes(self, case):
        return asymmetric(*case[:2])


class TestPactActivation(QuantizerContract):
    cases = tuple((bits, signed) for bits in BITS for signed in (True, False))

    def make(self, case):
        return PactActivation(case[0], signed=case[1])

    def data(self, case):
        return spread((4, N // 4), least=-4.5 if case[1] else 0.0)

    def codes(self, case):
        return asymmetric(*case)


class TestSawbWeight(QuantizerContract):
    cases = tuple(BITS)

    def make(self, case):
        return SawbWeight(case)

    def data(self, case):
        return spread((4, N // 4))

    def codes(self, case):
        return symmetric(case) if case >= 7 else odd(case)

    def hold_step(self, quantizer, x):
        step = quantizer.step(x)
        quantizer.step = lambda _: step


class TestGaussianWeight(QuantizerContract):
    cases = tuple(BITS)

    def make(self, case):
        return GaussianWeight(case)

    def data(self, case):
        # Heavy tails: the grid, some deviations wide, ends inside.
        return 4 * (spread((4, N // 4)) / 4) ** 9

    def codes(self, case):
        return set(range(-127, 128)) if case == 8 else odd(case)

    def hold_step(self, quantizer, x):
        step = quantizer._full_step(x)
        quantizer._full_step = lambda _: step


class TestGaussianActivation(QuantizerContract):
    cases = (
        *((b, signed, False, False) for b in BITS for signed in (True, False)),
        *((b, signed, True, optimal) for b, signed in ((1, True), (4, False)) for optimal in (True, False)),
    )

    def make(self, case):
        return GaussianActivation(case[0], signed=case[1], unit_variance=case[2], optimal=case[3])

    def data(self, case):
        return 4 * (spread((4, N // 4), least=-4.1 if case[1] else 0.0) / 4) ** 9

    def codes(self, case):
        return asymmetric(case[0], case[1])


def test_published_step_tables():
    """EdMIPS' released code, steps in standard deviations for 1, 2, 3, 4 bits."""
    assert WEIGHT_STEPS[:4] == (1.596, 0.996, 0.586, 0.336)
    assert ACTIVATION_STEPS[:4] == (0.799, 0.538, 0.3217, 0.185)
    assert WEIGHT_STEPS[4:7] == (0.18814, 0.10406, 0.05687)
    assert ACTIVATION_STEPS[4:] == (0.10549, 0.05726, 0.03087, 0.01653)


def gaussian_error(step: float, thresholds: np.ndarray, levels: np.ndarray) -> float:
    """E (q(x) - x)^2 of a standard normal x, in closed form: level k serves thresholds[k]..thresholds[k+1]."""
    edge = thresholds * step
    density, below = stats.norm.pdf(edge), stats.norm.cdf(edge)
    slope = np.where(np.isinf(edge), 0, edge) * density
    zeroth, first = np.diff(below), -np.diff(density)  # moments of x between the thresholds
    second = zeroth - np.diff(slope)
    level = levels * step
    return float((second - 2 * level * first + level**2 * zeroth).sum())


def best_for(levels: np.ndarray, *, positive: bool = False) -> float:
    """The step of the least error, nearest levels; `positive` integrates over x > 0 alone."""
    inner = (levels[1:] + levels[:-1]) / 2
    thresholds = np.concatenate([[0.0 if positive else -np.inf], inner, [np.inf]])
    tried = np.geomspace(0.01, 3, 400)
    start = int(np.argmin([gaussian_error(t, thresholds, levels) for t in tried]))
    bounds = (tried[start - 1], tried[start + 1])
    found = optimize.minimize_scalar(
        gaussian_error, bounds=bounds, args=(thresholds, levels), method="bounded", options={"xatol": 1e-9}
    )
    return float(found.x)


@pytest.mark.parametrize("bits", BITS)
def test_tables_are_the_best_steps_of_a_gaussian(bits):
    """All recomputed. The published activation steps of 1 to 4 bits are fitted without rounding's thresholds."""
    rise = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)) + 0.5
    weight = np.arange(-127.0, 128) if bits == 8 else rise
    assert best_for(weight) == pytest.approx(WEIGHT_STEPS[bits - 1], rel=0.003)
    activation = best_for(np.arange(2.0**bits), positive=True)
    assert OPTIMAL_ACTIVATION_STEPS[bits - 1] == round(activation, 5)
    if bits > 4:
        assert ACTIVATION_STEPS[bits - 1] == round(activation, 5)
    signed = np.array([-1.0, 1.0]) if bits == 1 else np.arange(-(2.0 ** (bits - 1)), 2 ** (bits - 1))
    assert OPTIMAL_SIGNED_STEPS[bits - 1] == round(best_for(signed), 5)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", BITS)
def test_optimal_steps_lose_least(bits, signed):
    """On Gaussian numbers as the module rounds them: no more than the published steps, nor than steps 10 % off."""
    x = torch.from_numpy(stats.norm.ppf((np.arange(40_000) + 0.5) / 40_000))
    x = x if signed else x.relu()

    def error(quantizer: GaussianActivation) -> float:
        return float((quantizer(x) - x).square().mean())

    best = GaussianActivation(bits, signed=signed, unit_variance=True, optimal=True).double().eval()
    least = error(best)
    assert least <= 1.0001 * error(GaussianActivation(bits, signed=signed, unit_variance=True).double().eval())
    for factor in (0.9, 1.1):
        other = GaussianActivation(bits, signed=signed, unit_variance=True, optimal=True).double().eval()
        other.base *= factor
        assert error(other) > least


@pytest.mark.parametrize("bits", BITS)
def test_gaussian_weights_as_the_released_code_has_them(bits):
    """(round(W / D + 1/2) - 1/2) D clipped to +-(2^(b-1) - 1/2) D, written out in numpy."""
    w = torch.randn(2000, generator=torch.Generator().manual_seed(bits), dtype=torch.float64)
    D = WEIGHT_STEPS[bits - 1] * np.std(w.numpy())
    if bits == 8:
        expected = np.clip(np.round(w.numpy() / D), -127, 127) * D
    else:
        bound = (2 ** (bits - 1) - 0.5) * D
        expected = np.clip((np.round(w.numpy() / D + 0.5) - 0.5) * D, -bound, bound)
    assert np.allclose(GaussianWeight(bits)(w).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("signed", [False, True])
def test_running_deviation(signed):
    """Half-wave or full Gaussian numbers of deviation 3: the running estimate finds 3, and eval mode leaves it."""
    generator = torch.Generator().manual_seed(0)
    quantizer = GaussianActivation(4, signed=signed, unit_variance=False).train()
    for _ in range(60):
        x = 3 * torch.randn(4000, generator=generator)
        quantizer(x if signed else x.relu())
    assert float(quantizer.deviation) == pytest.approx(3, rel=0.03)
    quantizer.eval()
    before = quantizer.deviation.clone()
    quantizer(x * 10)
    assert torch.equal(quantizer.deviation, before)
    fixed = GaussianActivation(4, signed=signed, unit_variance=True).train()
    fixed(x * 10)
    assert float(fixed.deviation) == 1


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("signed", [True, False])
def test_lsq_activation_is_torch_fake_quantize(bits, signed):
    quantizer = LsqActivation(bits, signed=signed)
    x = spread((4, N // 4)) * 3
    quantizer.calibrate(x)
    grid = quantizer.grid()
    expected = torch.fake_quantize_per_tensor_affine(x, grid.step, 0, grid.lo, grid.hi)
    # torch multiplies by the reciprocal: numbers within rounding of a tie may fall on its other side.
    close = torch.isclose(quantizer(x), expected, rtol=1e-6, atol=1e-7)
    assert close.double().mean() > 0.999


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("per_filter", [True, False])
def test_lsq_weight_is_torch_fake_quantize(bits, per_filter):
    w = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(bits)) * torch.logspace(-2, 1, 6).view(
        6, 1, 1, 1
    )
    quantizer = LsqWeight(bits, tuple(w.shape), per_filter=per_filter)
    quantizer.calibrate(w)
    step = quantizer.step(w).detach().reshape(-1).expand(6).contiguous()
    bound = 2 ** (bits - 1) - 1
    expected = torch.fake_quantize_per_channel_affine(w, step, torch.zeros(6, dtype=torch.int32), 0, -bound, bound)
    close = torch.isclose(quantizer(w), expected, rtol=1e-6, atol=1e-7)
    assert close.double().mean() > 0.999
    assert torch.equal(w.sign()[quantizer(w) != 0], quantizer(w).sign()[quantizer(w) != 0])


def test_one_bit_is_sign_with_zero_up():
    x = torch.tensor([-2.0, -1e-20, -0.0, 0.0, 1e-20, 2.0])
    signs = torch.tensor([-1.0, -1.0, 1.0, 1.0, 1.0, 1.0])
    for quantizer in (
        LsqWeight(1, (6,), per_filter=False),
        LsqActivation(1, signed=True),
        GaussianWeight(1),
        GaussianActivation(1, signed=True, unit_variance=True),
        PactActivation(1, signed=True),
        SawbWeight(1),
    ):
        assert torch.equal(quantizer.codes(x), signs), quantizer
        assert torch.equal(quantizer(x).sign(), signs), quantizer


def test_one_bit_starts_at_the_mean_magnitude():
    w = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    quantizer = LsqWeight(1, (3, 50))
    quantizer.calibrate(w)
    assert torch.allclose(quantizer.step(w)[:, 0], w.abs().mean(1))


def test_steps_never_reach_zero():
    """Whatever an optimizer does to them."""
    quantizer = LsqWeight(4, (2, 3))
    w = 100 * torch.randn(2, 3, generator=torch.Generator().manual_seed(0))  # beyond the range, so all pulls one way
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=0.003)
    for _ in range(50):
        optimizer.zero_grad()
        quantizer(w).square().sum().backward()
        optimizer.step()
        assert (quantizer.step(w) > 0).all()
        assert quantizer(w).isfinite().all()
    assert (quantizer.step(w) < 0.2).all()


@pytest.mark.parametrize("kind", ["gaussian", "laplace", "uniform", "bimodal", "outlier"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_best_step_against_brute_force(kind, bits):
    """Within 10 % of the least mean squared error over 2,000 steps; at few bits within 3 %, at 6 to 8 within 15 %."""
    generator = torch.Generator().manual_seed(bits)
    x = torch.randn(1000, generator=generator, dtype=torch.float64)
    uniform = torch.rand(1000, generator=generator, dtype=torch.float64)
    x = {
        "gaussian": x,
        "laplace": x.sign() * -torch.log(uniform),
        "uniform": uniform - 0.3,
        "bimodal": x.sign() + 0.1 * x,
        "outlier": torch.cat([x[1:], torch.tensor([12.0], dtype=torch.float64)]),
    }[kind]
    hi = max(1, 2 ** (bits - 1) - 1)
    for lo, top, data in ((-hi, hi, x), (0, 2**bits - 1, x.relu())):
        binary = bits == 1 and lo < 0
        step = best_step(data[None], lo, top, binary=binary)
        assert step.shape == (1,)
        largest = float(data.max()) / top if lo == 0 else float(data.abs().max()) / top
        tried = torch.linspace(largest / 64, largest * 1.2, 2000, dtype=torch.float64)
        errors = torch.cat(
            [
                (lsq(data.expand(len(s), -1), s[:, None], lo, top, binary=binary) - data).square().mean(1)
                for s in tried.split(200)
            ]
        )
        found = float((lsq(data[None], step[:, None], lo, top, binary=binary) - data).square().mean())
        assert found <= (1.03 if bits <= 3 else 1.1 if bits <= 5 else 1.15) * float(errors.min())


def test_best_step_of_ternary_filters_is_the_optimum():
    """Of n numbers the k largest magnitudes become +-s with s their mean: the best k by trying all, exactly."""
    x = torch.randn(60, 27, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[::2] = x[::2].sign() + 0.02 * x[::2]  # nearly ternary: a step a little off costs much
    step = best_step(x, -1, 1)
    found = (lsq(x, step[:, None], -1, 1) - x).square().sum(1)
    sums = x.abs().sort(1, descending=True).values.cumsum(1)
    best = x.square().sum(1) - (sums.square() / torch.arange(1, 28)).max(1).values
    assert (found / best).max() < 1.03


def test_best_step_of_rows_is_independent():
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 5)[:, None]
    together = best_step(x, -7, 7)
    alone = torch.cat([best_step(row[None], -7, 7) for row in x])
    assert torch.allclose(together, alone, rtol=1e-6)
    scaled = best_step(x * 4, -7, 7)
    assert torch.allclose(scaled, 4 * together, rtol=1e-6)  # a power of two changes no rounding


def test_compiled_equals_eager(full):
    """One compiled pass over several kinds of quantizers at once: values and gradients."""
    quantizers = [
        LsqWeight(1, (8, 40)),
        LsqActivation(4, signed=False),
        GaussianWeight(4),
    ]
    if full:
        quantizers += [LsqWeight(3, (8, 40)), LsqActivation(8, signed=True)]
        quantizers += [GaussianActivation(2, signed=False, unit_variance=True), PactActivation(4, signed=False)]
        quantizers += [SawbWeight(3), LsqWeight(2, (8, 40), power_of_two=True)]
    x = torch.randn(8, 40, generator=torch.Generator().manual_seed(0))
    for quantizer in quantizers:
        quantizer.calibrate(x)

    def both(x: Tensor) -> Tensor:
        return torch.stack([quantizer(x) for quantizer in quantizers])

    weight = torch.randn(len(quantizers), 8, 40, generator=torch.Generator().manual_seed(1))
    results = []
    # Without the full tier's compiler of C++, which takes most of a minute: what torch.compile makes of the formulas.
    for run in (both, torch.compile(both, dynamic=False, backend="inductor" if full else "aot_eager")):
        leaf = x.clone().requires_grad_()
        parameters = [p for q in quantizers for p in q.parameters()]
        y = run(leaf)
        results.append((y.detach(), *torch.autograd.grad((y * weight).sum(), [leaf, *parameters])))
    for eager, compiled in zip(*results, strict=True):
        assert torch.allclose(eager, compiled, rtol=1e-5, atol=1e-5)
