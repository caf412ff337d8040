"""The contract of every quantizer, activations and weights alike."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bitsmith.quantize import ActivationQuantizer, Grid, Quantizer


class QuantizerContract:
    """Checks that every quantizer passes: subclass it, supply `cases`, `make`, `data` and `codes`.

    Attributes:
        cases: settings to check, each handed to the methods below.

    Example: see `bitsmith.testing`.
    """

    cases: tuple[Any, ...] = ()

    def make(self, case: Any) -> Quantizer:
        """The quantizer."""
        raise NotImplementedError("a contract test returns its quantizer from make(case)")

    def data(self, case: Any) -> Tensor:
        """Some thousand float32 numbers whose double reaches every level, of a shape that the quantizer takes."""
        raise NotImplementedError("a contract test returns its numbers from data(case)")

    def codes(self, case: Any) -> set[int]:
        """The integers of the grid, worked out independently of the quantizer."""
        raise NotImplementedError("a contract test returns its integers from codes(case)")

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

    def test_a_dense_sweep_hits_all_levels_and_no_other(self, case: Any) -> None:
        quantizer, x = self.ready(case)
        codes = quantizer.codes(2 * x)
        assert codes.shape == x.shape
        assert {int(c) for c in codes.unique().tolist()} == self.codes(case)
        assert torch.equal(codes, codes.round())
        if quantizer.odd:
            assert (codes.remainder(2) == 1).all()

    def test_number_of_levels(self, case: Any) -> None:
        quantizer, _ = self.ready(case)
        levels = self.codes(case)
        assert 2 <= len(levels) <= max(2, 2**quantizer.bits)

    def test_forward_is_codes_times_step_to_the_bit(self, case: Any) -> None:
        quantizer, x = self.ready(case)
        y = quantizer(x)
        assert y.shape == x.shape
        assert y.dtype == x.dtype
        assert torch.equal(y, quantizer.codes(x) * quantizer.step(x))

    def test_levels_are_the_nearest(self, case: Any) -> None:
        """Against a search over all levels, in float64."""
        quantizer, x = self.ready(case)
        x = x.double()
        quantizer = quantizer.double()
        step = quantizer.step(x).detach()
        levels = torch.tensor(sorted(self.codes(case)), dtype=torch.float64)
        distance = (x.unsqueeze(-1) - levels * step.unsqueeze(-1)).abs()
        error = (quantizer(x).detach() - x).abs()
        assert torch.allclose(error, distance.min(-1).values, rtol=0, atol=1e-12)

    def test_monotone(self, case: Any) -> None:
        quantizer, x = self.ready(case)
        order = x.reshape(-1).sort().values.reshape(x.shape)
        if math.prod(quantizer.step(x).shape) == 1:
            assert (quantizer.codes(order).reshape(-1).diff() >= 0).all()

    def test_idempotent_at_a_fixed_step(self, case: Any) -> None:
        quantizer, x = self.ready(case)
        self.hold_step(quantizer, x)
        y = quantizer(x).detach()
        assert torch.equal(quantizer(y), y)
        assert torch.equal(quantizer.codes(y), quantizer.codes(x))

    @pytest.mark.parametrize("what", ["zeros", "constant", "outlier", "tiny"])
    def test_no_nan_on_degenerate_numbers(self, case: Any, what: str) -> None:
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

    def test_float64_and_float32_agree(self, case: Any) -> None:
        quantizer, x = self.ready(case)
        single = quantizer(x).detach()
        step = quantizer.step(x).detach()
        double = quantizer.double()(x.double()).detach()
        assert double.dtype == torch.float64
        # Numbers within rounding of a tie may fall on either side of it: both sides are as far.
        assert ((single - x).double().abs() - (double - x).abs()).abs().max() <= 1e-4 * step.max()

    def test_calibration_leaves_no_gradient_and_repeats(self, case: Any) -> None:
        a, b = self.make(case), self.make(case)
        x = self.data(case).requires_grad_()
        a.calibrate(x)
        b.calibrate(x)
        assert x.grad is None
        assert all(torch.equal(a.state_dict()[k], b.state_dict()[k]) for k in a.state_dict())
        assert torch.equal(a.step(x), b.step(x))

    def test_training_does_not_change_the_grid_that_is_written(self, case: Any) -> None:
        quantizer, x = self.ready(case)
        if isinstance(quantizer, ActivationQuantizer):
            assert quantizer.grid() == Grid(
                step=float(quantizer.step(x).detach()), lo=min(self.codes(case)), hi=max(self.codes(case))
            )
            assert (min(self.codes(case)), max(self.codes(case))) != (-1, 1) or 0 not in self.codes(case)

    def test_codes_fit_the_files(self, case: Any) -> None:
        """Weights int8, so that a filter's sign can flip; activations uint8 with zero among them or one signed bit."""
        codes = self.codes(case)
        if isinstance(self.make(case), ActivationQuantizer):
            assert max(codes) - min(codes) <= 255
            assert 0 in codes or codes == {-1, 1}
        else:
            assert codes == {-code for code in codes}
            assert max(codes) <= 127

    def test_the_state_holds_the_grid(self, case: Any) -> None:
        quantizer, x = self.ready(case)
        other = self.make(case).eval()
        other.load_state_dict(quantizer.state_dict())
        assert torch.equal(other(x), quantizer(x))
