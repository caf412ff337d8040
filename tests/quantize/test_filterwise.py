"""Filters and maps that differ in bits, against one quantizer for each and against a search over all levels."""

from typing import cast

import graphs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.blueprint import Bits, Blueprint
from bitsmith.errors import RunError
from bitsmith.quantize import QUANTIZERS, build, freeze
from bitsmith.quantize.filterwise import FilterWise
from bitsmith.quantize.fold import FrozenLayer
from bitsmith.quantize.lsq import LsqActivation, LsqWeight, activation_range
from bitsmith.quantize.maps import LsqMaps

WIDTHS = st.lists(st.integers(1, 8), min_size=2, max_size=9)


@given(widths=WIDTHS, seed=st.integers(0, 99), channels_last=st.booleans())
def test_each_filter_is_quantized_as_alone(widths, seed, channels_last):
    """Values, codes, steps and all gradients are those of an LsqWeight of one filter."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(widths), 4, 3, 3)
    x = torch.randn(shape, generator=generator)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    g = torch.randn(shape, generator=generator)
    mixed = FilterWise(tuple(widths), shape, lambda bits, shape: LsqWeight(bits, shape))
    mixed.calibrate(x)
    leaf = x.clone().requires_grad_()
    y = mixed(leaf)
    (y * g).sum().backward()
    assert y.stride() == x.stride()
    assert torch.equal(y, mixed.codes(x) * mixed.step(x))
    log_steps = {bits: iter(cast(LsqWeight, part).log_step.grad) for bits, part in mixed.parts.items()}
    for f, bits in enumerate(widths):
        alone = LsqWeight(bits, (1, 4, 3, 3))
        alone.calibrate(x[f : f + 1])
        single = x[f : f + 1].clone().requires_grad_()
        (alone(single) * g[f : f + 1]).sum().backward()
        assert torch.equal(y[f : f + 1], alone(x[f : f + 1]))
        assert torch.equal(mixed.codes(x)[f : f + 1], alone.codes(x[f : f + 1]))
        assert mixed.codes(x)[f].abs().max() <= max(1, 2 ** (bits - 1) - 1)
        torch.testing.assert_close(leaf.grad[f : f + 1], single.grad)
        torch.testing.assert_close(next(log_steps[str(bits)])[None], alone.log_step.grad)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_quantizer_can_be_mixed(name):
    widths = (1, 8, 3, 3, 7, 1)
    mixed = FilterWise(widths, (6, 5), lambda bits, shape: QUANTIZERS[name].weight(bits, shape, True))
    x = torch.randn(6, 5)
    mixed.calibrate(x)
    assert torch.equal(mixed(x), mixed.codes(x) * mixed.step(x))
    for bits in set(widths):
        filters = [f for f, b in enumerate(widths) if b == bits]
        alone = QUANTIZERS[name].weight(bits, (len(filters), 5), True)
        alone.calibrate(x[filters])
        assert torch.equal(mixed(x)[filters], alone(x[filters]))


@given(widths=WIDTHS.filter(lambda w: len(set(w)) > 1), signed=st.booleans(), seed=st.integers(0, 99))
def test_maps_lie_on_their_levels(widths, signed, seed):
    """Rounded onto the widest map's grid, then to the nearest level of their own, by trying all of them."""
    quantizer = LsqMaps(widths, signed=signed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(5, len(widths), 4, 3, generator=generator)
    x = x if signed else x.abs()
    quantizer.calibrate(x)
    y, s, most = quantizer(x), quantizer.grid().step, max(widths)
    lo, hi = activation_range(most, signed)
    assert quantizer.grid() == LsqActivation(most, signed=signed).grid().__class__(step=s, lo=lo, hi=hi)
    q = (x.double() / s).round().clamp(lo, hi)
    for m, bits in enumerate(widths):
        if signed and bits == 1:
            levels = torch.tensor([-1.0, 1.0], dtype=torch.float64) * 2 ** (most - 2)
        else:
            low, high = activation_range(bits, signed)
            levels = torch.arange(low, high + 1, dtype=torch.float64) * 2 ** (most - bits)
        assert len(levels) == 2**bits
        assert lo <= levels.min()
        assert levels.max() <= hi
        ours = (y[:, m].double() / s).round()
        assert torch.allclose(y[:, m].double(), ours * s, rtol=1e-6)
        assert torch.isin(ours, levels).all()
        distance = (q[:, m, ..., None] - levels).abs().min(-1).values
        # x / s in float32 may fall on the other side of a tie.
        assert ((ours - q[:, m]).abs() - distance).abs().max() <= 1
        assert (((ours - q[:, m]).abs() - distance).abs() > 0).float().mean() < 0.02
    assert torch.equal(quantizer(y.detach()), y)
    assert torch.equal(y, quantizer.codes(x) * quantizer.step(x))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("widths", [(2, 2, 2, 2, 2, 8), (8, 4, 3, 2), (4, 4, 4, 2), (3, 1, 1)])
def test_the_step_suits_all_maps(widths, signed):
    """Its squared error is that of the best of 2,000 steps, not that of a step for the widest map alone."""
    generator = torch.Generator().manual_seed(1)
    x = torch.distributions.Laplace(0.0, 1.0).icdf(
        torch.rand(64, len(widths), 8, 8, generator=generator) * 0.998 + 1e-3
    )
    x = x if signed else x.abs()
    quantizer, widest = LsqMaps(widths, signed=signed), LsqActivation(max(widths), signed=signed)
    for module in (quantizer, widest):
        module.begin()
        module(x)
        module.end()

    def error(log_step: torch.Tensor) -> float:
        with torch.no_grad():
            quantizer.log_step.copy_(log_step)
            return float((quantizer(x) - x).square().mean())

    found = error(quantizer.log_step.detach().clone())
    most = (x.abs().max() / quantizer.hi).log()
    best = min(error(most + shift) for shift in torch.linspace(-4, 0.5, 2000))
    assert found <= 1.02 * best
    if widths == (2, 2, 2, 2, 2, 8):
        assert found < 0.8 * error(widest.log_step.detach())


def test_a_step_for_maps_of_other_bits():
    """They share it: what one learns or calibrates is the other's."""
    one = LsqMaps((2, 4), signed=False)
    before = one.over((4, 2, 2))
    one.begin()
    one.over((4, 4, 2))(torch.rand(4, 3, 2, 2))
    assert len(one.seen) == 1
    assert before.log_step is one.log_step
    assert before.log_step != 0


def test_maps_by_hand():
    quantizer = LsqMaps((4, 2), signed=False)  # s = 1
    x = torch.tensor([[0.4, 1.4], [7.6, 6.4], [20.0, 20.0]])
    assert quantizer(x).tolist() == [[0.0, 0.0], [8.0, 8.0], [15.0, 12.0]]


def test_the_gradient_is_that_of_lsq():
    """Against the formula: g inside a map's range; for log s a tenth of sum g (y - x inside, y outside)."""
    quantizer = LsqMaps((4, 2, 1), signed=True).double()
    x = torch.linspace(-11, 11, 60, dtype=torch.float64).reshape(20, 3).requires_grad_()
    g = torch.randn(20, 3, dtype=torch.float64)
    y = quantizer(x)
    (y * g).sum().backward()
    low, high = torch.tensor([-8.0, -8.0, -4.0]), torch.tensor([7.0, 4.0, 4.0])
    inside = (x > low) & (x < high)
    assert torch.allclose(x.grad, g * inside)
    assert torch.allclose(quantizer.log_step.grad, 0.1 * (g * (y - x * inside)).sum())


def test_a_map_beside_itself_is_plain_lsq():
    """The widest maps take LSQ's levels of their bits."""
    x = torch.randn(6, 3, 5, 5)
    mixed, plain = LsqMaps((4, 4, 2), signed=True), LsqActivation(4, signed=True)
    with torch.no_grad():
        mixed.log_step.fill_(-1.2)
        plain.log_step.fill_(-1.2)
    assert torch.equal(mixed(x)[:, :2], plain(x)[:, :2])


@pytest.mark.parametrize("quantizer", ["lsq", "lsq-pow2"])
def test_networks_with_bits_per_filter_train(quantizer):
    graph = graphs.residual()
    bits = {}
    for layer in graph.layers:
        weight = tuple(1 + f % 8 for f in range(layer.out_channels))
        bits[layer.name] = Bits(weight=weight, activation=tuple(8 - m % 3 for m in range(layer.in_channels)))
    blueprint = Blueprint(graph=graph, bits=bits, quantizer=quantizer)
    torch.manual_seed(0)
    network = build(blueprint)
    x, labels = torch.randn(16, 3, 8, 8), torch.arange(16) % 5
    for module in network.calibrated():
        module.begin()
    network(x)
    for module in network.calibrated():
        module.end()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(network(x), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    again = build(blueprint)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(x), network.eval()(x))
    frozen = freeze(network, blueprint)
    # Rounding a scale to 11 bits and a bias to an accumulator unit moves the outputs little.
    with torch.no_grad():
        assert (frozen(x) - network(x)).abs().max() < 0.2 * network(x).abs().max()


def test_folding_lifts_narrow_filters_to_the_widest():
    """Filters of 8, 2, 1 and 4 bits: codes times 64, 64 and 16 fill int8 beside the first."""
    graph = graphs.chain(channels=(4,))
    bits = graphs.uniform_bits(graph, 8, 8) | {"conv0": Bits(weight=(8, 2, 1, 4), activation=2)}
    blueprint = Blueprint(graph=graph, bits=bits)
    torch.manual_seed(0)
    network = build(blueprint).eval()
    folded = cast(FrozenLayer, freeze(network, blueprint).layer("conv0")).folded
    assert folded.lift == (0, 6, 6, 4)
    assert folded.shift == 0
    assert np.abs(folded.codes.reshape(4, -1)).max(1).tolist()[1:3] == [1, 1]
    assert np.array_equal(folded.weight[1], folded.codes[1] * 64)
    numbers = [(filters.tolist(), part.bits, part.shift) for filters, part in folded.parts()]
    assert numbers == [([2], 1, 6), ([1], 2, 6), ([3], 4, 4), ([0], 8, 0)]
    for filters, part in folded.parts():
        assert np.array_equal(part.weight, folded.weight[filters])
        assert np.array_equal(part.bias, folded.bias[filters])


def test_quantizers_without_levels_for_maps_refuse():
    graph = graphs.chain()
    bits = graphs.uniform_bits(graph, 4, 4) | {"conv0": Bits(weight=4, activation=(2, 4, 4))}
    with pytest.raises(RunError, match=r"'conv0' reads maps that differ in bits, and the quantizer 'pact'"):
        build(Blueprint(graph=graph, bits=bits, quantizer="pact"))
