"""The rules of scaling against their closed forms, in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.search.supernet.parts import blend, soft_mask

SHARES = st.lists(st.floats(0.11, 1), min_size=2, max_size=5)


def shares_of(values):
    p = torch.tensor(values, dtype=torch.float64)
    return p / p.sum()


@given(values=SHARES, seed=st.integers(0, 2**31))
def test_branches_learn_alike_and_keep_their_deviation(values, seed):
    p = shares_of(values)
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(400, 50, 1, 1, generator=generator, dtype=torch.float64).requires_grad_() for _ in values]
    mixed = blend(parts, p, "branch")
    assert float(mixed.detach().std()) == pytest.approx(1, abs=0.05)
    slope = torch.randn(mixed.shape, generator=generator, dtype=torch.float64)
    found = torch.autograd.grad((mixed * slope).sum(), parts)
    # p_k (sum p^2 / p_k) / sqrt(sum p^2): the same for all, as long as no factor passes 10.
    alike = p.square().sum().sqrt()
    factors = p.square().sum() / p
    for gradient, factor in zip(found, factors.tolist(), strict=True):
        assert torch.allclose(gradient, slope * alike * min(1.0, 10 / factor))


@given(values=SHARES)
def test_what_lies_before_equal_branches_learns_as_before_one(values):
    """Scaled forward by sqrt(K), so backward too, and no more: factors of 1/p would make it K^1.5, stage by stage."""
    count = len(values)
    source = torch.ones(1, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    p = torch.full((count,), 1 / count, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(blend([source * 1] * count, p, "branch").sum(), source)
    assert float(gradient) == pytest.approx(count**0.5)


@given(values=SHARES, at=st.integers(0, 4), scaling=st.sampled_from(["none", "mask", "branch"]))
def test_certain_choices_change_nothing(values, at, scaling):
    p = torch.zeros(len(values), dtype=torch.float64)
    p[at % len(values)] = 1
    parts = [torch.full((1, 1, 1, 1), v, dtype=torch.float64, requires_grad=True) for v in values]
    mixed = blend(parts, p, scaling)
    assert float(mixed.detach()) == values[at % len(values)]
    for k, gradient in enumerate(torch.autograd.grad(mixed.sum(), parts)):
        assert float(gradient) == (k == at % len(values))
    x = torch.ones(1, 4, 2, 2, dtype=torch.float64)
    kept = torch.tensor([1.0, 1, 0, 0], dtype=torch.float64)
    assert torch.equal(soft_mask(x, kept, scaling), x * kept[:, None, None])


def test_a_mask_is_over_its_own_mean():
    kept = torch.tensor([1.0, 1, 0.5, 0.25], dtype=torch.float64)
    scaled = soft_mask(torch.ones(1, 4, 1, 1, dtype=torch.float64), kept, "mask").flatten()
    assert torch.allclose(scaled, kept * kept.sum() / kept.square().sum())
    assert float((scaled * kept).sum() / kept.sum()) == pytest.approx(1)
