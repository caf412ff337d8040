"""Steps that are powers of two: exactly, in training, on the grids and in what is frozen."""

from __future__ import annotations

import math

import graphs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.blueprint import Bits, Blueprint
from bitsmith.quantize import LsqActivation, LsqWeight, Network, Stream, build, freeze
from bitsmith.quantize.lsq import learned_step
from bitsmith.quantize.quantizer import Quantizer


def is_power_of_two(step: float) -> bool:
    return math.frexp(step)[0] == 0.5


@given(st.floats(-17, 17), st.sampled_from([torch.float32, torch.float64]))
def test_nearest_in_the_logarithm(log_step, dtype):
    step = learned_step(torch.tensor(log_step, dtype=dtype), power_of_two=True)
    assert is_power_of_two(float(step))
    assert abs(math.log2(float(step)) - log_step / math.log(2)) <= 0.5 + 1e-5


def test_the_gradient_is_that_of_the_rounded_step():
    """As if the power of two had been learned: dL/dlog s = s dL/ds at s = 2^round(log2 s)."""
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rounded, plain = LsqWeight(3, (3, 40), power_of_two=True).double(), LsqWeight(3, (3, 40)).double()
    with torch.no_grad():
        rounded.log_step.copy_(torch.tensor([[0.2], [0.3], [0.9]]).log())
        plain.log_step.copy_(torch.tensor([[0.25], [0.25], [1.0]]).log())
    slope = torch.randn(3, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for quantizer in (rounded, plain):
        (quantizer(x) * slope).sum().backward()
    assert torch.allclose(rounded(x), plain(x))
    assert rounded.log_step.grad is not None
    assert plain.log_step.grad is not None
    assert torch.allclose(rounded.log_step.grad, plain.log_step.grad)
    assert rounded.log_step.grad.abs().min() > 1e-3


@pytest.mark.parametrize("signed", [True, False])
def test_grids_agree_with_what_runs(signed):
    x = 3 * torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    x = x if signed else x.relu()
    quantizer, stream = LsqActivation(4, signed=signed, power_of_two=True), Stream(8, power_of_two=True)
    quantizer.calibrate(x)
    stream.begin()
    stream(x, signed)
    stream.end()
    for grid, y in ((quantizer.grid(), quantizer(x)), (stream.grid(signed), stream(x, signed))):
        assert is_power_of_two(grid.step)
        codes = y.detach() / grid.step
        assert torch.equal(codes, codes.round())
        assert codes.min() >= grid.lo
        assert codes.max() <= grid.hi


def trained_a_little() -> Network:
    graph = graphs.residual()
    bits = {layer.name: Bits(weight=3, activation=4) for layer in graph.layers}
    torch.manual_seed(0)
    network = build(Blueprint(graph=graph, bits=bits, quantizer="lsq-pow2"))
    x = torch.randn(16, 3, 8, 8)
    for module in network.calibrated():
        module.begin()
    network(x)
    for module in network.calibrated():
        module.end()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()
    return network.eval()


def test_every_step_of_a_trained_network():
    """Input, activations, streams and weights; and with no BatchNorm behind it, a frozen layer's scale too."""
    network = trained_a_little()
    assert network.blueprint is not None
    steps = [network.grid(carrier).step for carrier in (*network.grids.stream, *network.grids.direct)]
    assert len(steps) >= 5
    assert all(is_power_of_two(step) for step in steps)
    quantizers = [module for module in network.modules() if isinstance(module, LsqWeight)]
    assert quantizers
    assert all(is_power_of_two(s) for q in quantizers for s in q.step(q.log_step).flatten().tolist())
    assert all(isinstance(q, Quantizer) for q in quantizers)
    frozen = freeze(network, network.blueprint)
    folded = {name: layer.folded for name, layer in frozen.named_modules() if hasattr(layer, "folded")}
    assert all(is_power_of_two(float(scale)) for scale in folded["fc"].scale)
    assert not all(is_power_of_two(float(scale)) for scale in folded["stem"].scale)  # BatchNorm's gain is in it
