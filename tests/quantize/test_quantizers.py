"""The contract of every quantizer. A new one inherits the checks: subclass `QuantizerContract`, supply three methods.

class TestMine(QuantizerContract):
    cases = (...)                    # whatever `make` takes
    def make(self, case): ...        # the quantizer
    def data(self, case): ...        # real numbers to calibrate with, of a shape that it takes
    def codes(self, case): ...       # its integers, worked out independently of bitsmith
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bitsmith.quantize import GaussianActivation, GaussianWeight, Grid, LsqActivation, LsqWeight, Quantizer
from bitsmith.quantize.gaussian import ACTIVATION_STEPS, WEIGHT_STEPS
from bitsmith.quantize.lsq import best_step, lsq
from bitsmith.quantize.quantizer import ActivationQuantizer

BITS = range(1, 9)
N = 4000


class QuantizerContract:
    """Checks that every quantizer passes; see the module's text."""

    cases: tuple[Any, ...] = ()

    def make(self, case: Any) -> Quantizer:
        raise NotImplementedError

    def data(self, case: Any) -> Tensor:
        """Some thousand float32 numbers whose double reaches every level, of a shape that the quantizer takes."""
        raise NotImplementedError

    def codes(self, case: Any) -> set[int]:
        """The integers of the grid."""
        raise NotImplementedError

    def hold_step(self, quantizer: Any, x: Tensor) -> None:
        """Keep the step of x, where it would follow other numbers that pass."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", self.cases, ids=str)

    def ready(self, case: Any) -> tuple[Quantizer, Tensor]:
        x = self.data(case)
        quantizer = self.make(case)
        quantizer.calibrate(x)
        return quantizer.eval(), x

    def test_a_dense_sweep_hits_all_levels_and_no_other(self, case):
        quantizer, x = self.ready(case)
        codes = quantizer.codes(2 * x)
        assert codes.shape == x.shape
        assert {int(c) for c in codes.unique().tolist()} == self.codes(case)
        assert torch.equal(codes, codes.round())
        if quantizer.odd:
            assert (codes.remainder(2) == 1).all()

    def test_number_of_levels(self, case):
        quantizer, _ = self.ready(case)
        levels = self.codes(case)
        assert 2 <= len(levels) <= max(2, 2**quantizer.bits)

    def test_forward_is_codes_times_step_to_the_bit(self, case):
        quantizer, x = self.ready(case)
        y = quantizer(x)
        assert y.shape == x.shape
        assert y.dtype == x.dtype
        assert torch.equal(y, quantizer.codes(x) * quantizer.step(x))

    def test_levels_are_the_nearest(self, case):
        """Against a search over all levels, in float64."""
        quantizer, x = self.ready(case)
        x = x.double()
        quantizer = quantizer.double()
        step = quantizer.step(x).detach()
        levels = torch.tensor(sorted(self.codes(case)), dtype=torch.float64)
        distance = (x.unsqueeze(-1) - levels * step.unsqueeze(-1)).abs()
        error = (quantizer(x).detach() - x).abs()
        assert torch.allclose(error, distance.min(-1).values, rtol=0, atol=1e-12)

    def test_monotone(self, case):
        quantizer, x = self.ready(case)
        order = x.reshape(-1).sort().values.reshape(x.shape)
        if math.prod(quantizer.step(x).shape) == 1:
            assert (quantizer.codes(order).reshape(-1).diff() >= 0).all()

    def test_idempotent_at_a_fixed_step(self, case):
        quantizer, x = self.ready(case)
        self.hold_step(quantizer, x)
        y = quantizer(x).detach()
        assert torch.equal(quantizer(y), y)
        assert torch.equal(quantizer.codes(y), quantizer.codes(x))

    @pytest.mark.parametrize("what", ["zeros", "constant", "outlier", "tiny"])
    def test_no_nan_on_degenerate_numbers(self, case, what):
        quantizer = self.make(case)
        x = self.data(case)
        x = {
            "zeros": torch.zeros_like(x),
            "constant": torch.full_like(x, 0.7),
            "outlier": torch.where(torch.arange(x.numel()).view_as(x) == 3, 1e6, x),
            "tiny": x * 1e-30,
        }[what].requires_grad_()
        quantizer.calibrate(x)
        y = quantizer(x)
        y.square().sum().backward()
        assert y.isfinite().all()
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in quantizer.parameters())
        assert (quantizer.step(x) > 0).all()
        assert {int(c) for c in quantizer.codes(x).unique().tolist()} <= self.codes(case)

    def test_float64_and_float32_agree(self, case):
        quantizer, x = self.ready(case)
        single = quantizer(x).detach()
        step = quantizer.step(x).detach()
        double = quantizer.double()(x.double()).detach()
        assert double.dtype == torch.float64
        # Numbers within rounding of a tie may fall on either side of it: both sides are as far.
        assert ((single - x).double().abs() - (double - x).abs()).abs().max() <= 1e-4 * step.max()

    def test_calibration_leaves_no_gradient_and_repeats(self, case):
        a, b = self.make(case), self.make(case)
        x = self.data(case).requires_grad_()
        a.calibrate(x)
        b.calibrate(x)
        assert x.grad is None
        assert all(torch.equal(a.state_dict()[k], b.state_dict()[k]) for k in a.state_dict())
        assert torch.equal(a.step(x), b.step(x))

    def test_training_does_not_change_the_grid_that_is_written(self, case):
        quantizer, x = self.ready(case)
        if isinstance(quantizer, ActivationQuantizer):
            assert quantizer.grid() == Grid(
                step=float(quantizer.step(x).detach()), lo=min(self.codes(case)), hi=max(self.codes(case))
            )


def symmetric(bits: int) -> set[int]:
    """All integers of +-(2^(b-1) - 1); one bit is +-1."""
    return {-1, 1} if bits == 1 else set(range(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1)))


def asymmetric(bits: int, signed: bool) -> set[int]:
    if not signed:
        return set(range(2**bits))
    return {-1, 1} if bits == 1 else set(range(-(2 ** (bits - 1)), 2 ** (bits - 1)))


def spread(shape: tuple[int, ...], *, least: float = -4.0) -> Tensor:
    """An even sweep from least to 4 in a random but fixed order, so that every filter sees all of it."""
    sweep = torch.linspace(least, 4, N)
    return sweep[torch.randperm(N, generator=torch.Generator().manual_seed(1))].reshape(shape)


class TestLsqWeight(QuantizerContract):
    cases = (*((bits, True) for bits in BITS), (1, False), (4, False))

    def make(self, case):
        return LsqWeight(case[0], (2, N // 2, 1, 1), per_filter=case[1])

    def data(self, case):
        x = spread((2, N // 2, 1, 1))
        return x * torch.tensor([1.0, 0.3]).view(2, 1, 1, 1) if case[1] else x

    def codes(self, case):
        return symmetric(case[0])


class TestLsqActivation(QuantizerContract):
    cases = tuple((bits, signed) for bits in BITS for signed in (True, False))

    def make(self, case):
        return LsqActivation(case[0], signed=case[1])

    def data(self, case):
        # Asymmetric enough that -2^(b-1) is reached.
        return spread((4, N // 4), least=-4.5 if case[1] else 0.0)

    def codes(self, case):
        return asymmetric(*case)


class TestGaussianWeight(QuantizerContract):
    cases = tuple(BITS)

    def make(self, case):
        return GaussianWeight(case)

    def data(self, case):
        # Heavy tails: the grid, some deviations wide, ends inside.
        return 4 * (spread((4, N // 4)) / 4) ** 9

    def codes(self, case):
        return set(range(-127, 128)) if case == 8 else {2 * k + 1 for k in range(-(2 ** (case - 1)), 2 ** (case - 1))}

    def hold_step(self, quantizer, x):
        step = quantizer._full_step(x)
        quantizer._full_step = lambda _: step


class TestGaussianActivation(QuantizerContract):
    cases = (*((b, signed, False) for b in BITS for signed in (True, False)), (1, True, True), (4, False, True))

    def make(self, case):
        return GaussianActivation(case[0], signed=case[1], unit_variance=case[2])

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


@pytest.mark.parametrize("bits", BITS)
def test_tables_are_the_best_steps_of_a_gaussian(bits):
    """Against the minimum of the squared error, integrated numerically over the density.

    The published activation steps of 1 to 4 bits are fitted without the thresholds of rounding; the best ones for the
    rounding as coded are 1.22401, .65077, .35341 and .19325.
    """
    x = torch.linspace(-8, 8, 64_001, dtype=torch.float64)
    density = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])

    def weight(step: float) -> Tensor:
        bound = 2 ** (bits - 1) - 0.5
        rise, tread = (torch.floor(x / step) + 0.5).clamp(-bound, bound), torch.round(x / step).clamp(-127, 127)
        return (tread if bits == 8 else rise) * step - x

    def activation(step: float) -> Tensor:
        return torch.round(x.relu() / step).clamp(0, 2**bits - 1) * step - x.relu()

    for error, step in (
        (weight, WEIGHT_STEPS[bits - 1]),
        (activation, (1.22401, 0.65077, 0.35341, 0.19325, *ACTIVATION_STEPS[4:])[bits - 1]),
    ):
        tried = step * np.linspace(0.95, 1.05, 101)
        best = tried[np.argmin([float((error(t).square() * density).sum()) for t in tried])]
        assert best == pytest.approx(step, rel=0.003)


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
    w = torch.randn(2, 3, requires_grad=True)
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=0.3)
    for _ in range(50):
        optimizer.zero_grad()
        quantizer(w).square().sum().backward()  # pulls the steps down
        optimizer.step()
        assert (quantizer.step(w) > 0).all()
        assert quantizer(w).isfinite().all()
    assert (quantizer.step(w) < 1).all()


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
            [(lsq(data[None], s[:, None], lo, top, binary=binary) - data).square().mean(1) for s in tried.split(200)]
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
        quantizers += [GaussianActivation(2, signed=False, unit_variance=True)]
    x = torch.randn(8, 40, generator=torch.Generator().manual_seed(0))
    for quantizer in quantizers:
        quantizer.calibrate(x)

    def both(x: Tensor) -> Tensor:
        return torch.stack([quantizer(x) for quantizer in quantizers])

    weight = torch.randn(len(quantizers), 8, 40, generator=torch.Generator().manual_seed(1))
    results = []
    for run in (both, torch.compile(both, dynamic=False)):
        leaf = x.clone().requires_grad_()
        parameters = [p for q in quantizers for p in q.parameters()]
        y = run(leaf)
        results.append((y.detach(), *torch.autograd.grad((y * weight).sum(), [leaf, *parameters])))
    for eager, compiled in zip(*results, strict=True):
        assert torch.allclose(eager, compiled, rtol=1e-5, atol=1e-5)
