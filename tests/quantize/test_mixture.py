"""Mixtures and the composite convolution against the explicit sums."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bitsmith.blueprint import Node
from bitsmith.quantize import GaussianWeight, Identity, LsqActivation, LsqWeight, Mixture, Priced


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def activations(bits=(2, 4, 8)) -> Mixture:
    mixture = Mixture([LsqActivation(b, signed=True) for b in bits]).double()
    for candidate in mixture.candidates:
        candidate.calibrate(random(2, 4, 6, 6, seed=9))
    return mixture


def weights(shape: tuple[int, ...], bits=(1, 2, 3, 8)) -> Mixture:
    mixture = Mixture([LsqWeight(b, shape) for b in bits]).double()
    for candidate in mixture.candidates:
        candidate.calibrate(random(*shape, seed=8))
    return mixture


def set_logits(mixture: Mixture, values: list[float]) -> None:
    with torch.no_grad():
        mixture.logits.copy_(torch.tensor(values))


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_forward_is_the_explicit_sum(temperature):
    mixture = activations()
    set_logits(mixture, [0.3, -0.2, 0.7])
    mixture.temperature.fill_(temperature)
    x = random(2, 4, 6, 6)
    exponentials = [2.718281828459045 ** (value / temperature) for value in (0.3, -0.2, 0.7)]
    p = [e / sum(exponentials) for e in exponentials]
    expected = sum(share * candidate(x) for share, candidate in zip(p, mixture.candidates, strict=True))
    assert torch.allclose(mixture(x), expected, rtol=0, atol=1e-6)  # the logits were set as float32
    assert torch.allclose(mixture.probabilities(), torch.tensor(p, dtype=torch.float64), atol=1e-6)


def test_start_is_uniform():
    mixture = Mixture([GaussianWeight(b) for b in (1, 2, 3, 4)])
    assert torch.equal(mixture.logits, torch.full((4,), 0.01))
    assert torch.equal(mixture.probabilities(), torch.full((4,), 0.25))
    assert mixture.bits == (1, 2, 3, 4)


@pytest.mark.parametrize("index", range(3))
def test_one_hot_is_the_candidate_to_the_bit(index):
    mixture = activations()
    x = random(2, 4, 6, 6)
    mixture.fixed = index
    assert torch.equal(mixture(x), mixture.candidates[index](x))
    assert mixture.probabilities().tolist() == [float(i == index) for i in range(3)]
    mixture.fixed = None
    set_logits(mixture, [1e6 * (i == index) for i in range(3)])  # a softmax that is one-hot
    assert torch.equal(mixture(x), mixture.candidates[index](x))


def test_a_single_candidate_and_identity():
    x = random(2, 4, 6, 6)
    assert Mixture([Identity(8)])(x) is x
    mixture = Mixture([Identity(8), Identity(32)]).double()
    assert torch.allclose(mixture(x), x)
    assert mixture.bits == (8, 32)


def test_gradient_of_the_logits_by_finite_differences():
    mixture = activations()
    set_logits(mixture, [0.3, -0.2, 0.7])
    mixture.temperature.fill_(0.5)
    x, weight = random(2, 4, 6, 6), random(2, 4, 6, 6, seed=1)
    (mixture(x) * weight).sum().backward()
    grad = mixture.logits.grad
    assert grad is not None
    with torch.no_grad():
        for i in range(3):
            sides = []
            for eps in (1e-6, -1e-6):
                mixture.logits[i] += eps
                sides.append(float((mixture(x) * weight).sum()))
                mixture.logits[i] -= eps
            assert float(grad[i]) == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("groups", [1, 2])
def test_composite_convolution_is_the_sum_over_all_pairs(groups):
    """sum_ij p_i q_j conv(Q_i(x), Q_j(W)) by twelve convolutions, values and gradients, to 1e-10."""
    node = Node(
        name="c", op="conv", inputs=("x",), shape=(6, 3, 3), kernel=(3, 3), stride=(2, 2), padding=(1,) * 4,
        groups=groups,
    )  # fmt: skip
    layer = Priced(node, 4, quantize_weight=weights((6, 4 // groups, 3, 3)), quantize_input=activations()).double()
    with torch.no_grad():
        layer.weight.copy_(random(*layer.weight.shape))
    set_logits(layer.quantize_weight, [0.3, -0.2, 0.7, 0.1])
    set_logits(layer.quantize_input, [-0.5, 0.0, 0.25])
    x, cotangent = random(2, 4, 6, 6, seed=2), random(2, 6, 3, 3, seed=3)
    inputs = [layer.weight, layer.quantize_weight.logits, layer.quantize_input.logits]

    p, q = layer.quantize_input.probabilities(), layer.quantize_weight.probabilities()
    explicit = torch.zeros(2, 6, 3, 3, dtype=torch.float64)
    for i, quantize_x in enumerate(layer.quantize_input.candidates):
        for j, quantize_w in enumerate(layer.quantize_weight.candidates):
            explicit = explicit + p[i] * q[j] * F.conv2d(
                quantize_x(x), quantize_w(layer.weight), stride=2, padding=1, groups=groups
            )
    composite = layer(x)
    assert torch.allclose(composite, explicit, rtol=0, atol=1e-10)
    for ours, theirs in zip(
        torch.autograd.grad((composite * cotangent).sum(), inputs),
        torch.autograd.grad((explicit * cotangent).sum(), inputs),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def test_deviation_of_a_mixture_of_gaussian_weights():
    """Equal shares of 1 to 4 bits of one weight keep its deviation near that of a single one: nothing vanishes."""
    w = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    mixture = Mixture([GaussianWeight(b) for b in (1, 2, 3, 4)])
    assert float(mixture(w).detach().std()) == pytest.approx(0.893, abs=0.005)
