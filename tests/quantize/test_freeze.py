"""freeze(): a trained network against the integers that it is written as."""

from __future__ import annotations

import dataclasses
from typing import cast

import graphs
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitsmith.blueprint import FLOAT, Bits, Blueprint
from bitsmith.errors import ExportError
from bitsmith.quantize import ACCUMULATOR, FloatFolded, FrozenLayer, Network, Priced, build, freeze
from bitsmith.quantize.fold_float import fold_float


def trained(blueprint: Blueprint, seed: int = 0) -> Network:
    """A network with steps, BatchNorm statistics and affine parameters as training would leave them."""
    torch.manual_seed(seed)
    network = build(blueprint)
    x = torch.randn(16, *blueprint.graph.input_shape)
    for module in network.calibrated():
        module.begin()
    network.train()(x)
    for module in network.calibrated():
        module.end()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight.uniform_(-1.5, 1.5)
                module.bias.normal_(0, 0.3)
                module.momentum = None
                module.reset_running_stats()
        for _, layer in network.priced():
            if layer.bias is not None:
                layer.bias.normal_(0, 0.3)
        network(x)
    return network.eval()


def bits_of(graph, weight: int, activation: int, quantizer: str = "lsq") -> Blueprint:
    return dataclasses.replace(graphs.blueprint(graph, weight, activation), quantizer=quantizer)


def norm_line(layer: Priced) -> tuple[Tensor, Tensor]:
    if layer.norm is None:
        channels = layer.weight.shape[0]
        bias = torch.zeros(channels) if layer.bias is None else layer.bias
        return torch.ones(channels, dtype=torch.float64), bias.double()
    gain = layer.norm.weight.double() / torch.sqrt(cast(Tensor, layer.norm.running_var).double() + layer.norm.eps)
    own = 0.0 if layer.bias is None else layer.bias.double()
    return gain, layer.norm.bias.double() + (own - cast(Tensor, layer.norm.running_mean).double()) * gain


CASES = [
    (graph, weight, activation, quantizer)
    for graph in ("chain", "residual", "every_operator")
    for weight, activation, quantizer in (
        (1, 8, "lsq"), (2, 2, "lsq"), (3, 1, "lsq"), (4, 8, "lsq"), (8, 8, "lsq"), (2, 4, "gaussian"),
        (8, 3, "gaussian"), (1, 2, "hwgq"),
    )
]  # fmt: skip


@pytest.mark.parametrize(("graph", "weight", "activation", "quantizer"), CASES)
@torch.no_grad()
def test_weights_and_biases_are_the_unfrozen_ones(graph, weight, activation, quantizer):
    """Weight times BatchNorm's gain within 2^-10, bias within half an accumulator unit and half a granule."""
    blueprint = bits_of(getattr(graphs, graph)(), weight, activation, quantizer)
    network = trained(blueprint)
    frozen = freeze(network, blueprint)
    for name, layer in network.priced():
        ours = cast(FrozenLayer, frozen.layer(name))
        gain, offset = norm_line(layer)
        assert isinstance(layer.quantize_weight, nn.Module)
        expected = layer.quantize_weight(layer.weight).double() * gain.view(-1, *[1] * (layer.weight.ndim - 1))
        got = cast(Tensor, ours.weight).double()
        kept = torch.from_numpy((ours.folded.codes != 0).reshape(len(gain), -1).any(1))
        dead = expected.reshape(len(gain), -1).eq(0).all(1)  # all-zero filters of ternary weights
        assert (kept | dead).all()
        assert ((got - expected).abs() <= 2**-10 * expected.abs() + 1e-12).all()
        unit = torch.from_numpy(ours.folded.scale.astype(np.float64)) * ours.folded.input.step
        granule = float(ours.folded.granule) * float(ours.folded.layer_scale) * ours.folded.input.step
        error = (cast(Tensor, ours.bias).double() - offset).abs()
        assert (error <= 0.5001 * (unit + granule) + 1e-6 * offset.abs()).all()


@pytest.mark.parametrize(("graph", "weight", "activation", "quantizer"), CASES)
@torch.no_grad()
def test_layers_compute_what_they_did(graph, weight, activation, quantizer):
    """Each frozen layer on the inputs that the unfrozen one sees, in the unfrozen network."""
    blueprint = bits_of(getattr(graphs, graph)(), weight, activation, quantizer)
    network = trained(blueprint)
    frozen = freeze(network, blueprint)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name, module in network.named_modules():
        if name in {node.name for node in blueprint.graph.nodes if node.op in ("conv", "linear", "affine")}:
            module.register_forward_hook(lambda m, i, o, name=name: seen.update({name: (i[0], o)}))
    network(torch.randn(8, *blueprint.graph.input_shape))
    assert len(seen) >= len(blueprint.graph.layers)
    for name, (x, y) in seen.items():
        ours = cast(FrozenLayer, frozen.layer(name))
        unit = torch.from_numpy(ours.folded.scale.astype(np.float64)).float() * ours.folded.input.step
        granule = float(ours.folded.granule) * float(ours.folded.layer_scale) * ours.folded.input.step
        shape = (1, -1, *[1] * (y.ndim - 2))
        slack = 0.51 * (unit.view(shape) + granule) + 2**-10 * (y.abs() + cast(Tensor, ours.bias).abs().view(shape))
        assert ((ours(x) - y).abs() <= slack + 1e-5 * y.abs().max()).all(), name


@pytest.mark.parametrize(("weight", "activation"), [(2, 8), (4, 8), (8, 8)])
@torch.no_grad()
def test_a_frozen_network_is_close_to_the_unfrozen(weight, activation):
    blueprint = bits_of(graphs.residual(), weight, activation)
    network = trained(blueprint)
    x = torch.randn(32, 3, 8, 8)
    before = network(x)
    after = freeze(network, blueprint)(x)
    assert float((after - before).square().mean().sqrt() / before.std()) < 0.02


@pytest.mark.parametrize(("weight", "activation"), [(1, 1), (2, 2), (2, 8), (4, 8), (6, 4), (7, 8), (8, 8)])
def test_integers_stay_in_range(weight, activation):
    blueprint = bits_of(graphs.residual(), weight, activation)
    network = trained(blueprint)
    frozen = freeze(network, blueprint)
    for name, _ in network.priced():
        folded = cast(FrozenLayer, frozen.layer(name)).folded
        assert np.abs(folded.weight.astype(int)).max() <= 127
        assert folded.shift == 0 or np.abs(folded.codes.astype(int)).max() * 2**folded.shift <= 127
        assert np.abs(folded.codes).max() <= max(1, 2 ** (weight - 1) - 1)
        largest = max(-folded.input.lo, folded.input.hi)
        reach = np.abs(folded.weight.astype(np.int64)).reshape(len(folded.weight), -1).sum(1) * largest
        assert (reach + np.abs(folded.bias)).max() < ACCUMULATOR  # these layers are narrow enough at all bits


def test_low_bit_layers_use_the_room_of_int8():
    blueprint = bits_of(graphs.chain(), 2, 2)
    frozen = freeze(trained(blueprint), blueprint)
    assert {cast(FrozenLayer, frozen.layer(f"conv{i}")).folded.shift for i in range(3)} == {6}


def test_freeze_copies():
    blueprint = bits_of(graphs.every_operator(), 4, 8)
    network = trained(blueprint).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    frozen = freeze(network, blueprint)
    assert network.training
    assert not frozen.training
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert not any(p.requires_grad for p in frozen.parameters())
    assert isinstance(frozen.layer("affine"), FrozenLayer)
    frozen(torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("weight", [1, 2, 4, 8])
def test_gamma_zero_and_all_zero_filters(weight):
    """Channels that carry nothing: gamma = 0, a filter of zeros, both with beta = 0 and not."""
    blueprint = bits_of(graphs.chain((4, 4)), weight, 8)
    network = trained(blueprint)
    layer = dict(network.priced())["conv0"]
    with torch.no_grad():
        layer.norm.weight[0] = 0
        layer.norm.weight[1], layer.norm.bias[1] = 0, 0
        layer.weight[2] = 0
        layer.quantize_weight.calibrate(layer.weight)
        x = torch.randn(4, 3, 8, 8)
        expected = network(x)
        frozen = freeze(network, blueprint)
        got = frozen(x)
    folded = cast(FrozenLayer, frozen.layer("conv0")).folded
    assert not folded.weight[:2].any()
    assert folded.bias[1] == 0
    if weight > 1:
        assert not folded.weight[2].any()
    assert torch.allclose(got, expected, atol=0.05 * float(expected.std()))


def spoiled(what: str) -> Network:
    network = trained(bits_of(graphs.chain((4, 4)), 4, 8))
    layer = dict(network.priced())["conv1"]
    with torch.no_grad():
        {
            "step": layer.quantize_weight.log_step,
            "gamma": layer.norm.weight,
            "beta": layer.norm.bias,
            "mean": layer.norm.running_mean,
            "variance": layer.norm.running_var,
        }[what].view(-1)[0] = torch.nan
    return network


@pytest.mark.parametrize("what", ["step", "gamma", "beta", "mean", "variance"])
def test_numbers_that_are_not_finite(what):
    with pytest.raises(ExportError, match=r"'conv1'.*not finite"):
        freeze(spoiled(what), bits_of(graphs.chain((4, 4)), 4, 8))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e39])
def test_float_layers_hold_what_float32_holds(number):
    with pytest.raises(ExportError, match=r"'a'.*not finite"):
        fold_float("a", weight=np.full((1, 1, 1, 1), number), gain=np.ones(1), bias=np.zeros(1))
    with pytest.raises(ExportError, match=r"'a'.*not finite"):
        fold_float("a", weight=np.ones((1, 1, 1, 1)), gain=np.ones(1), bias=np.full(1, number))


def test_weights_that_are_not_finite():
    blueprint = bits_of(graphs.chain((4, 4)), 4, 8)
    network = trained(blueprint)
    with torch.no_grad():
        dict(network.priced())["conv1"].weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(ExportError, match=r"'conv1'.*not finite"):
        freeze(network, blueprint)


@pytest.mark.parametrize("bits", [(FLOAT, 8), (FLOAT, FLOAT), (8, FLOAT), (3, FLOAT), (1, FLOAT)])
def test_float_layers_compute_the_same_with_their_norm_folded(bits):
    blueprint = graphs.blueprint(graphs.chain((4, 4)))
    blueprint = blueprint.with_bits({**blueprint.bits, "conv1": Bits(weight=bits[0], activation=bits[1])})
    network = trained(blueprint)
    frozen = freeze(network, blueprint)
    layer, folded = dict(network.priced())["conv1"], frozen.layer("conv1").folded
    assert isinstance(folded, FloatFolded)
    with torch.no_grad():
        norm = layer.norm
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        weight = layer.weight if layer.quantize_weight is None else layer.quantize_weight(layer.weight)
        assert np.allclose(folded.weight, weight * gain[:, None, None, None], rtol=1e-6, atol=0)
        assert np.allclose(folded.bias, norm.bias - norm.running_mean * gain, rtol=1e-6, atol=1e-7)
        x = torch.randn(3, 4, 8, 8)
        assert torch.allclose(frozen.layer("conv1")(x), layer.eval()(x), atol=1e-5)
    if bits[0] != FLOAT:
        assert len(np.unique(folded.codes.codes)) <= 2 ** bits[0]
        assert folded.codes.bits == bits[0]


@pytest.mark.parametrize("graph", [graphs.residual(), graphs.every_operator()])
def test_float_streams_stay_float(graph):
    blueprint = dataclasses.replace(graphs.blueprint(graph), stream_bits=FLOAT)
    network = trained(blueprint)
    frozen, x = freeze(network, blueprint), torch.randn(4, *graph.input_shape)
    assert not frozen.streams
    with torch.no_grad():
        y, right = frozen(x), network.eval()(x)
    assert (y - right).abs().max() < 0.05 * (right.max() - right.min())
