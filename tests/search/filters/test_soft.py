"""The undecided network: at one-hot the pruned one, to rounding in float64; gradients reach every decision."""

from typing import cast

import graphs
import numpy as np
import pytest
import torch
from torch import nn

from bitsmith.blueprint import Bits, prune
from bitsmith.quantize import build
from bitsmith.quantize.filterwise import FilterWise
from bitsmith.search.filters.soft import FilterMixture, Shares, SoftFilters
from bitsmith.space import cut_state, precision

WEIGHT, ACTIVATION = (1, 2, 4, 8), (4, 8)


def mobile():
    s = graphs.Sketch()
    y = s.same("relu6", "r0", s.conv("stem", "x", 6))
    start = y
    y = s.same("relu6", "r1", s.conv("expand", y, 8, kernel=1))
    y = s.same("relu6", "r2", s.conv("depth", y, 8, groups=8))
    y = s.gate("se", y)
    y = s.same("add", "add", s.conv("project", y, 6, kernel=1), start)
    y = s.concat("cat", y, s.same("relu", "r3", s.affine("affine", y)))
    return s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", y)), 5))


@torch.no_grad()
def ready(graph, seed):
    torch.manual_seed(seed)
    space = precision(graphs.blueprint(graph), WEIGHT, ACTIVATION)
    soft = SoftFilters(space, remove=True).double()
    for module in soft.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_()
    soft.hold(soft.shares())
    for mixture in soft.mixtures().values():
        mixture.fixed = 0
    x = torch.randn(8, *graph.input_shape, dtype=torch.float64)
    for fixed in (0, 1):
        for mixture in soft.mixtures().values():
            mixture.fixed = min(fixed, len(mixture.candidates) - 1)
        for module in soft.network.calibrated():
            module.begin()
        soft.network.eval()(x)
        for module in soft.network.calibrated():
            if module.seen:
                module.end()
            module.calibrating = False
    return space, soft.eval(), x


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("draw", [graphs.residual, mobile])
@torch.no_grad()
def test_at_one_hot_it_is_the_pruned_network(draw, seed):
    space, soft, x = ready(draw(), seed)
    graph, coupling = space.template.graph, soft.coupling
    rng = np.random.default_rng(seed)
    gone = np.zeros(len(coupling.pinned), bool)
    gone[rng.choice(np.flatnonzero(soft.removable), 3, replace=False)] = True
    bits, weight, activation = {}, {}, {}
    for name, options in space.options.items():
        k = rng.integers(len(options.weight), size=graph[name].shape[0])
        a = int(rng.integers(len(options.activation)))
        widths = np.array(options.weight)[k] * ~gone[coupling.units[name]]
        bits[name] = Bits(weight=tuple(widths.tolist()), activation=options.activation[a])
        weight[name] = torch.eye(len(options.weight), dtype=torch.float64)[torch.from_numpy(k)]
        activation[name] = a
        soft.mixtures()[name].fixed = a
    shares = Shares(weight=weight, activation={}, kept=torch.from_numpy(~gone).double())
    soft.hold(shares)
    pruned = prune(space.template.with_bits(bits))
    built = build(pruned.blueprint).double().eval()
    plain = {
        n: v for n, v in soft.network.state_dict().items() if "quantize_" not in n and not n.startswith("streams.")
    }
    built.load_float(cut_state(coupling.graph, pruned.left, plain))
    built.streams.load_state_dict(soft.network.streams.state_dict())
    for name, layer in built.priced():
        source = soft.network.layer(name)
        left = pruned.left(name)
        for width in pruned.blueprint.bits[name].weight_widths:
            quantizer = layer.quantize_weight
            filters = left
            if isinstance(quantizer, FilterWise):
                filters = left[[b == width for b in quantizer.widths]]
                quantizer = quantizer.parts[str(width)]
            candidate = cast(FilterMixture, source.quantize_weight).candidates[space.options[name].weight.index(width)]
            steps = candidate.log_step
            quantizer.log_step.copy_(steps[filters] if len(steps) > 1 else steps)
        if layer.quantize_input is not None:
            chosen = source.quantize_input.candidates[activation[name]]
            layer.quantize_input.load_state_dict(chosen.state_dict())
    wanted = soft.network(x)
    assert wanted.std() > 0.01
    torch.testing.assert_close(built(x), wanted, rtol=1e-9, atol=1e-9)


def test_units_are_there_or_not():
    """Gates decide nothing but what is drawn: what passes is the network with the drawn units, whole."""
    _, soft, x = ready(mobile(), 0)
    with torch.no_grad():
        all_there = soft(x)
        soft.gates.uniform_(-1, 1)
        torch.testing.assert_close(soft(x), all_there, rtol=0, atol=0)
        torch.manual_seed(1)
        soft.draw()
        gates = torch.sigmoid(soft.gates)
        torch.manual_seed(1)
        there = torch.ones(len(soft.removable), dtype=torch.float64)
        there[torch.from_numpy(np.flatnonzero(soft.removable))] = torch.bernoulli(gates)
        assert 0 < (there == 0).sum() < soft.removable.sum()
        drawn = soft(x)
        shares = soft.shares()
        soft.hold(Shares(weight=shares.weight, activation=shares.activation, kept=there))
        torch.testing.assert_close(soft.network(x), drawn, rtol=0, atol=0)
        soft.gates.fill_(-40.0)
        soft.draw()
        assert not torch.equal(soft(x), drawn)


def test_slopes_pass_the_draw_as_if_it_were_its_probability():
    _, soft, x = ready(mobile(), 0)
    soft.cool(0.5)
    with torch.no_grad():
        soft.gates.uniform_(-1, 1)
    soft.draw()
    soft(x).square().sum().backward()
    found, p = soft.gates.grad, torch.sigmoid(soft.gates.detach() / 0.5)
    shares = soft.shares()
    kept = torch.ones(len(soft.removable), dtype=torch.float64)
    gated = torch.from_numpy(np.flatnonzero(soft.removable))
    kept[gated] = soft._drawn
    kept.requires_grad_()
    soft.hold(Shares(weight=shares.weight, activation=shares.activation, kept=kept))
    (slope,) = torch.autograd.grad(soft.network(x).square().sum(), kept)
    torch.testing.assert_close(found, slope[gated] * p * (1 - p) / 0.5)


def test_how_often_units_are_there():
    _, soft, _ = ready(mobile(), 0)
    soft.cool(0.5)
    with torch.no_grad():
        soft.gates.fill_(0.5)  # sigmoid(1) = .731
    torch.manual_seed(0)
    drawn = []
    for _ in range(200):
        soft.draw()
        drawn.append(soft._drawn)
    assert torch.stack(drawn).mean().item() == pytest.approx(0.731, abs=0.03)


def test_every_decision_has_a_gradient():
    _, soft, x = ready(mobile(), 0)
    for mixture in soft.mixtures().values():
        mixture.fixed = None
    soft.train()(x).square().sum().backward()
    decisions = [parameter for parameter in soft.architecture() if parameter.shape != (1,)]  # one option: none
    assert len(decisions) == 1 + 2 * 4  # gates; weights and activations of all layers but the ends
    for parameter in decisions:
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert (soft.gates.grad != 0).float().mean() > 0.9
    assert all((p.grad != 0).any() for p in soft.logits.values())


def test_what_can_be_removed():
    graph = graphs.residual(channels=4)
    soft = SoftFilters(precision(graphs.blueprint(graph), WEIGHT, ACTIVATION), remove=True)
    # The stream of 4 with the stem's pin on bits alone, 4 inside, 8 inside, 8 behind the stride; not the input nor fc.
    assert len(soft.gates) == 4 + 4 + 8 + 8
    assert set(soft.logits) == {"a/conv1", "a/conv2", "b/conv1", "b/conv2", "b/down"}
    assert soft.logits["b/down"].shape == (8, 4)
    assert len(SoftFilters(soft.space, remove=False).gates) == 0
