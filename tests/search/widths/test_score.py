"""The score function against sums over all outcomes."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bitsmith.search.widths.score import (
    draw_widths,
    expected_widths,
    log_probabilities,
    published_score,
    relative_loss,
    score_gradient,
    survival,
)

CHANNELS = torch.tensor([3, 4])


def quadratic(widths):
    """A loss with an interaction and a large constant."""
    return 5 + (widths[0] - 2.5) ** 2 + 0.3 * widths[0] * widths[1]


def all_outcomes(logits):
    """Every pair of widths with its probability, the logits' gradient in it."""
    pmfs = [log_probabilities(alpha, c).exp() for alpha, c in zip(logits, CHANNELS.tolist(), strict=True)]
    return [((a + 1.0, b + 1.0), pmfs[0][a] * pmfs[1][b]) for a in range(3) for b in range(4)]


@settings(max_examples=20)
@given(alpha=st.floats(-4, 4), channels=st.integers(1, 40))
def test_probabilities_are_binomial(alpha, channels):
    p = 1 / (1 + np.exp(-alpha))
    logit = torch.tensor(alpha, dtype=torch.float64)
    wanted = stats.binom(channels - 1, p)
    k = np.arange(channels)
    assert log_probabilities(logit, channels).numpy() == pytest.approx(wanted.logpmf(k), abs=1e-9)
    assert survival(logit, channels).numpy() == pytest.approx(wanted.sf(k - 1), abs=1e-9)
    mean = expected_widths(logit[None], torch.tensor([channels]))
    assert mean.item() == pytest.approx(1 + wanted.mean())
    assert survival(logit, channels).sum().item() == pytest.approx(mean.item())  # E w is the sum of P(w > j)


@pytest.mark.parametrize("baseline", ["none", "leave-one-out"])
def test_unbiased_by_enumeration(baseline):
    """The mean over all pairs of samples is the gradient of E L, which torch takes from the sum over outcomes."""
    logits = torch.tensor([0.4, -0.9], dtype=torch.float64, requires_grad=True)
    outcomes = all_outcomes(logits)
    wanted = torch.autograd.grad(sum(p * quadratic(w) for w, p in outcomes), logits)[0]
    expected = expected_widths(logits.detach(), CHANNELS)
    mean = torch.zeros(2, dtype=torch.float64)
    for (u, p), (v, q) in product(outcomes, repeat=2):
        losses = torch.tensor([quadratic(u), quadratic(v)])
        mean += (p * q).detach() * score_gradient(losses, torch.tensor([u, v]), expected, baseline)
    torch.testing.assert_close(mean, wanted)


def test_the_baseline_takes_variance_away():
    """Three samples, 400 draws: the constant in the loss is most of the variance without a baseline."""
    logits = torch.tensor([0.4, -0.9])
    expected, generator = expected_widths(logits, CHANNELS), np.random.default_rng(0)
    found = {"none": [], "leave-one-out": []}
    for _ in range(400):
        widths = torch.from_numpy(draw_widths(logits, CHANNELS, 3, generator)).double()
        losses = torch.stack([quadratic(w) for w in widths])
        for baseline, gradients in found.items():
            gradients.append(score_gradient(losses, widths, expected, baseline))
    spread = {name: torch.stack(each).var(0).sum().item() for name, each in found.items()}
    assert spread["leave-one-out"] < 0.3 * spread["none"]


def test_relative_loss_is_piecewise_linear():
    costs, losses = [10.0, 20.0, 40.0], [2.0, 1.0, 0.5]
    assert relative_loss(1.0, 20.0, costs, losses) == 0
    assert relative_loss(1.5, 15.0, costs, losses) == 0
    assert relative_loss(0.375, 30.0, costs, losses) == pytest.approx(-0.5)
    assert relative_loss(4.0, 1.0, costs, losses) == pytest.approx(1.0)  # constant outside
    assert published_score(0.5) == pytest.approx(0.6)
    assert published_score(-0.5) == pytest.approx(0.05)
