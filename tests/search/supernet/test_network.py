"""The shared network against the networks that `build` makes, and against the sum over its branches; in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spaces import descriptions, mobile, tiny

from bitsmith.errors import RecipeError
from bitsmith.quantize import build
from bitsmith.search.supernet.network import SharedNetwork
from bitsmith.search.supernet.slices import slices
from bitsmith.space import MOBILE_SPACES, Mobile, Stage


def randomized(space: Mobile, seed: int, **settings) -> SharedNetwork:
    """A shared network in float64 with nothing at its first value, in eval mode."""
    torch.manual_seed(seed)
    network = SharedNetwork(space, **settings).double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("log_step"):
                parameter.add_(torch.rand_like(parameter) - 2)
            elif "norm" in name or name.endswith("bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.2)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return network.eval()


def agree(space: Mobile, seed: int, **settings) -> None:
    network = randomized(space, seed, **settings)
    blueprint = space.sample(np.random.default_rng(seed))
    indices = space.encode(blueprint)
    built = build(blueprint).double()
    built.load_state_dict(slices(network, blueprint))
    # What isn't made may stand anywhere.
    elsewhere = np.random.default_rng(seed + 1).integers(0, space.sizes)
    network.fix(np.where(space.decisions.active(indices), indices, elsewhere))
    x = torch.randn(2, *space.input_shape, dtype=torch.float64)
    for training in (False, True):
        network.train(training)
        built.train(training)
        ours, theirs = network(x), built(x)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        assert theirs.std() > 0


@given(space=descriptions(), seed=st.integers(0, 10**6), scaling=st.sampled_from(["none", "mask", "branch"]))
def test_at_one_hot_it_is_the_built_network(space, seed, scaling):
    agree(mobile(space, side=9, quantizer="lsq-pow2" if seed % 2 else "lsq"), seed, scaling=scaling)


@pytest.mark.parametrize("bits", ["block", "layer"])
@pytest.mark.parametrize("seed", range(3))
def test_every_kind_of_choice_at_once(bits, seed):
    agree(mobile(tiny(bits=bits, head=(8, 12), activation="hard_swish"), side=9), seed)


def test_the_shared_convolution_is_the_sum_over_branches():
    """One convolution for kernel x weight bits x activation bits, as many of them one by one."""
    stage = Stage(channels=(8,), expansions=(2.0,), kernels=(1, 3, 5), squeeze_excite=(False,), activations=("relu",))
    network = randomized(mobile(tiny(stages=(stage,), weight_bits=(1, 2, 3, 8), activation_bits=(2, 4, 8))), 0)
    block = network.stages[0][0]
    layer, reader = block.depthwise, block.depthwise_in["relu"]
    layer.norm = None
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    p, q, kernel = (torch.rand(n, dtype=torch.float64).softmax(0) for n in (3, 4, 3))
    total = torch.zeros(2, 8, 6, 6, dtype=torch.float64)
    for i, read in enumerate(reader.candidates):
        for j, weigh in enumerate(layer.candidates):
            for k, side in enumerate((1, 3, 5)):
                edge = (5 - side) // 2
                weight = weigh(layer.weight)[:, :, edge : 5 - edge, edge : 5 - edge]
                y = torch.nn.functional.conv2d(read(x), weight, padding=side // 2, groups=8)
                total += p[i] * q[j] * kernel[k] * y
    torch.testing.assert_close(layer(reader(x, p), q, kernel), total, rtol=1e-12, atol=1e-12)


def test_every_rule_of_scaling_reaches_the_network():
    """Soft choices of channels and of functions: masks are scaled by one, branches by the other, by none neither."""
    space = mobile(tiny(head=(2, 12), activation="hard_swish"))
    x, found = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), {}
    for scaling in ("none", "mask", "branch"):
        network = randomized(space, 0, scaling=scaling)
        for decision in space.decisions.decisions:
            network.present[decision.name] = torch.full((len(decision.options),), 1 / len(decision.options)).double()
        found[scaling] = network(x).detach()
    for one, other in (("none", "mask"), ("none", "branch"), ("mask", "branch")):
        assert not torch.allclose(found[one], found[other], rtol=1e-3), (one, other)


def test_gradients_reach_every_choice():
    network = randomized(mobile(tiny(head=(2, 12), activation="hard_swish")), 0)
    leaves = {}
    for decision in network.space.decisions.decisions:
        logits = torch.randn(len(decision.options), dtype=torch.float64, requires_grad=True)
        network.present[decision.name] = logits.softmax(0)
        leaves[decision.name] = logits
    network(torch.randn(4, 3, 8, 8, dtype=torch.float64)).square().sum().backward()
    for name, logits in leaves.items():
        reached = logits.grad is not None and bool(logits.grad.any())
        assert reached == (len(logits) > 1), name


def test_what_can_not_be_shared_is_refused():
    with pytest.raises(RecipeError, match="one signed bit"):
        SharedNetwork(mobile(tiny(activation_bits=(1, 8))))
    with pytest.raises(RecipeError, match="learned steps"):
        SharedNetwork(mobile(tiny(), quantizer="gaussian"))
    stage = Stage(channels=(4,), blocks=(0, 1))
    with pytest.raises(RecipeError, match="stage 1: the supernet needs at least one block"):
        SharedNetwork(mobile(tiny(stages=(stage,))))


def test_a_preset_runs():
    """The widest space for 32x32 images, forward, backward and fixed."""
    space = Mobile(description=MOBILE_SPACES["mobile-32"], input_shape=(3, 16, 16), outputs=10)
    network = SharedNetwork(space)
    network(torch.randn(2, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
