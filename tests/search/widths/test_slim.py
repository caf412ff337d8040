"""The slimmable network: every width computes what the network cut to it computes."""

from dataclasses import replace
from functools import partial

import graphs
import numpy as np
import pytest
import torch
from inverted import inverted
from torch import nn

from bitsmith.quantize import build
from bitsmith.search.widths import SHARES, SlimNetwork, width_groups
from bitsmith.space import cut_state, precision


@torch.no_grad()
def ready(graph, seed=0, bits=(2, 4), quantizer="lsq", blocks=False):
    """A slimmable network in float64 with different BatchNorms at all widths, its steps calibrated."""
    torch.manual_seed(seed)
    space = precision(replace(graphs.blueprint(graph), quantizer=quantizer), (bits[0],), (bits[1],))
    slim = SlimNetwork(space.uniform(*bits), width_groups(graph, blocks=blocks)).double()
    for name, value in slim.state_dict().items():
        if "norm" in name and value.is_floating_point():
            value.uniform_(0.5, 1.5) if "var" in name or "weight" in name else value.normal_()
    x = torch.randn(6, *graph.input_shape, dtype=torch.float64)
    for module in slim.network.calibrated():
        module.begin()
    slim.eval()(x)
    for module in slim.network.calibrated():
        module.end() if module.seen else setattr(module, "calibrating", False)
    return slim, x


@pytest.mark.parametrize(
    ("draw", "quantizer"), [(graphs.residual, "lsq"), (inverted, "lsq"), (graphs.residual, "pact")]
)
@pytest.mark.parametrize("k", [0, 2, 3])
@torch.no_grad()
def test_homogeneous_networks_are_the_narrow_ones(draw, quantizer, k):
    """Built by themselves, with the first weights and the BatchNorms of their own row."""
    slim, x = ready(draw(), quantizer=quantizer)
    kept = slim.groups.kept(slim.homogeneous[k])
    narrow = build(slim.groups.blueprint(slim.blueprint, slim.homogeneous[k])).double().eval()
    state = slim.network.state_dict()
    for name, own in slim.norms.items():
        for part in ("weight", "bias", "running_mean", "running_var"):
            if k < len(SHARES) - 1:
                state[f"{name.replace('/', '.')}.norm.{part}"] = getattr(own, part)[k]
    units = slim.groups.coupling.units
    cut = cut_state(slim.groups.coupling.graph, partial(slim.groups.coupling.left, kept), state)
    for name in [name for name in cut if name.endswith("quantize_weight.log_step") and len(cut[name]) > 1]:
        cut[name] = cut[name][np.flatnonzero(kept[units[name.removesuffix(".quantize_weight.log_step")]])]
    narrow.load_state_dict(cut)
    wanted = narrow(x)
    assert wanted.std() > 0.01
    torch.testing.assert_close(slim.at_share(x, k), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("draw", [graphs.residual, inverted])
@torch.no_grad()
def test_extracted_networks_load_into_built_ones(draw):
    slim, x = ready(draw())
    generator = np.random.default_rng(0)
    for _ in range(3):
        widths = [int(generator.integers(1, c + 1)) for c in slim.groups.channels]
        found = slim.extract(widths)
        built = build(found.blueprint).double()
        built.load_state_dict(found.state_dict())
        torch.testing.assert_close(built.eval()(x), slim.at_widths(x, widths), rtol=1e-9, atol=1e-9)
        assert sum(p.numel() for p in built.parameters()) < sum(p.numel() for p in slim.network.parameters())
    assert slim.network.graph == draw()  # as it was


def test_a_group_takes_the_norm_of_the_least_width_at_which_it_is_as_wide():
    slim, _ = ready(graphs.chain(channels=(8, 8)))
    found = slim.extract((3, 8))  # of 8 channels: 2, 4, 6, 8
    assert torch.equal(found.layer("conv0").norm.weight, slim.norms["conv0"].weight[1, :3])
    assert torch.equal(found.layer("conv1").norm.weight, slim.network.layer("conv1").norm.weight)


def test_gradients_are_those_of_the_slices():
    """A channel beyond the width has none; a shared one has the sum over all widths that have it."""
    slim, x = ready(graphs.residual(channels=8))
    slim.train()

    def gradient(*runs):
        slim.zero_grad()
        sum(run().square().sum() for run in runs).backward()
        return slim.network.layer("a.conv1").weight.grad.clone(), slim.norms["a/conv1"].weight.grad

    half, norm = gradient(lambda: slim.at_share(x, 1))
    assert (half[:4, :4] != 0).flatten(1).any(1).all()  # not all: weights are clipped, and a channel may be dead
    assert (half[4:] == 0).all()
    assert (half[:, 4:] == 0).all()
    assert (norm[1, :4] != 0).all()
    assert (norm[[0, 2]] == 0).all()
    whole, _ = gradient(lambda: slim.at_share(x, 3))
    both, _ = gradient(lambda: slim.at_share(x, 1), lambda: slim.at_share(x, 3))
    torch.testing.assert_close(both, half + whole)


@torch.no_grad()
def test_training_moves_the_statistics_of_its_own_width_alone():
    slim, x = ready(graphs.residual(channels=8))
    before = {name: value.clone() for name, value in slim.state_dict().items()}
    slim.train()
    slim.at_share(x, 1)
    slim.at_widths(x, [3] * len(slim.groups.groups))
    after = slim.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in moved if "num_batches" not in name} == {
        f"norms.{name}.{part}" for name in slim.norms for part in ("running_mean", "running_var")
    }
    own, norm = slim.norms["a/conv1"], nn.BatchNorm2d(8)
    rows = after["norms.a/conv1.running_mean"] != before["norms.a/conv1.running_mean"]
    assert rows[1, :4].all()
    assert rows.sum() == 4
    assert own.running_mean.shape == (len(SHARES) - 1, norm.num_features)
