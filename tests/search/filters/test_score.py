"""The score-function gradient against exact ones: every n enumerated."""

from itertools import product
from math import factorial, prod
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.search.filters.partitions import marginals
from bitsmith.search.filters.score import Baseline, score_gradient

N = 4
QUADRATIC = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, -1.0], [0.0, -1.0, 3.0]])
LINEAR = np.array([40.0, 38.0, 41.0])  # every n costs much, as untrained networks do


def loss(n: np.ndarray) -> float:
    return float(n @ QUADRATIC @ n + LINEAR @ n)


def every(count: int, choices: int) -> list[np.ndarray]:
    return [np.array(n) for n in product(range(count + 1), repeat=choices) if sum(n) == count]


def mass(n: np.ndarray, p: np.ndarray) -> float:
    return factorial(int(n.sum())) * prod(q**k / factorial(int(k)) for q, k in zip(p.tolist(), n.tolist(), strict=True))


def softmax(alpha: torch.Tensor) -> np.ndarray:
    return torch.softmax(alpha, 0).detach().numpy()


def exact_gradient(alpha: torch.Tensor) -> np.ndarray:
    """By automatic differentiation of the sum over all n."""
    p = torch.softmax(alpha, 0)
    total = torch.zeros((), dtype=torch.float64)
    for n in every(N, 3):
        ways = factorial(N) / prod(factorial(int(k)) for k in n)
        total = total + ways * torch.prod(p ** torch.from_numpy(n)) * loss(n)
    return torch.autograd.grad(total, alpha)[0].numpy()


def moments(alpha: torch.Tensor, baseline: Baseline) -> tuple[np.ndarray, float]:
    """Mean and total variance of the estimate from two samples, over all pairs of n."""
    p = softmax(alpha)
    drawn = [(n, mass(n, p)) for n in every(N, 3)]
    mean, square = np.zeros(3), 0.0
    for (n, a), (m, b) in product(drawn, repeat=2):
        found = score_gradient([loss(n), loss(m)], [{"f": n}, {"f": m}], {"f": N * p}, baseline=baseline)["f"].numpy()
        mean += a * b * found
        square += a * b * float(found @ found)
    return mean, square - float(mean @ mean)


@pytest.mark.parametrize("alpha", [(0.0, 0.0, 0.0), (1.0, -0.5, 0.3)])
def test_unbiased_and_less_variance_with_the_baseline(alpha):
    values = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
    truth = exact_gradient(values)
    found = {baseline: moments(values, baseline) for baseline in get_args(Baseline)}
    for mean, _ in found.values():
        np.testing.assert_allclose(mean, truth, rtol=1e-9, atol=1e-9)
    assert found["leave-one-out"][1] < 0.05 * found["none"][1]


def test_example():
    counts = [{"f": np.array([2, 0])}, {"f": np.array([1, 1])}]
    found = score_gradient([1.0, 3.0], counts, {"f": np.ones(2)}, baseline="leave-one-out")["f"]
    assert found.tolist() == [-1.0, 1.0]


def test_many_samples_come_to_the_exact_gradient():
    alpha = torch.tensor([0.4, 0.0, -0.4], dtype=torch.float64, requires_grad=True)
    p, rng = softmax(alpha), np.random.default_rng(0)
    drawn = rng.multinomial(N, p / p.sum(), size=4000)
    found = score_gradient([loss(n) for n in drawn], [{"f": n} for n in drawn], {"f": N * p}, baseline="leave-one-out")[
        "f"
    ]
    np.testing.assert_allclose(found.numpy(), exact_gradient(alpha), atol=0.5)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=4), st.integers(1, 5))
def test_marginals_are_those_of_all_partitions(alpha, count):
    p = torch.softmax(torch.tensor(alpha, dtype=torch.float64), 0)
    expected = np.zeros((count, len(alpha)))
    for n in every(count, len(alpha)):
        expected[np.arange(count), np.repeat(np.arange(len(alpha)), n)] += mass(n, p.numpy())
    np.testing.assert_allclose(marginals(p, count).numpy(), expected, atol=1e-9)
