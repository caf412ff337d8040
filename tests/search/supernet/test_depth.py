"""What is recorded by depth, against the same tensors taken by hand."""

import math

import numpy as np
import pytest
import torch
from spaces import mobile, tiny

from bitsmith.search.supernet import SharedNetwork
from bitsmith.search.supernet.depth import DepthRms


def started(**settings) -> SharedNetwork:
    """A shared network whose steps are small enough for its numbers, so that nothing is rounded to zero."""
    torch.manual_seed(0)
    network = SharedNetwork(mobile(tiny()), **settings)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("log_step"):
                parameter.sub_(3)
    return network


def step_of(network: SharedNetwork, depth: DepthRms, step: int, x: torch.Tensor) -> None:
    network.zero_grad()
    with depth.reading(step):
        loss = network(x).square().mean()
    loss.backward()
    depth.gradients(step)


def test_roots_of_means_over_the_last_steps():
    network = started().train()
    depth = DepthRms(network, steps_per_epoch=6)
    read, gradients = [], []
    stage = network.stages[1][0].depthwise
    stage.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].detach()))
    for step in range(6):
        step_of(network, depth, step, torch.randn(4, 3, 8, 8))
        gradients.append(stage.weight.grad.clone())
    found = depth.end_epoch()
    for name, tensors in (("rms ", read[2:]), ("gradient rms ", gradients[2:])):
        by_hand = math.sqrt(np.mean([float(t.square().mean()) for t in tensors]))
        assert found[f"{name}stage2.block1.depthwise"] == pytest.approx(by_hand, rel=1e-6)
    assert min(found.values()) > 0
    layers = [name.removeprefix("rms ") for name in found if name.startswith("rms ")]
    assert layers[0] == "stem"
    assert layers[-1] == "classifier"
    assert layers.index("stage1.block1.project") < layers.index("stage2.block1.depthwise")
    assert {f"gradient rms {layer}" for layer in layers} == set(found) - {f"rms {layer}" for layer in layers}
    assert depth.squares == {}


def test_an_epoch_gone_on_with():
    """Stopped between two steps of those recorded, it comes to the same."""
    network = started().eval()
    images = [torch.randn(2, 3, 8, 8) for _ in range(3)]
    whole, first, second = (DepthRms(network, steps_per_epoch=3) for _ in range(3))
    for step, x in enumerate(images):
        step_of(network, whole, step, x)
        if step == 2:
            second.restore(first.squares)
        step_of(network, first if step < 2 else second, step, x)
    assert second.end_epoch() == whole.end_epoch()


def test_masks_show_in_what_is_read():
    """At equal probabilities of all widths less is read than at the widest; "mask" makes up for some of it."""

    def reads(scaling, widest):
        network = started(scaling=scaling).train()
        if widest:
            network.fix(network.space.sizes - 1)
        depth = DepthRms(network, steps_per_epoch=1)
        with depth.reading(0):
            network(torch.randn(8, 3, 8, 8))
        return depth.end_epoch()["rms stage1.block1.project"]

    assert reads("none", widest=False) < 0.95 * reads("none", widest=True)
    assert reads("mask", widest=False) > reads("none", widest=False)
    assert reads("mask", widest=True) == reads("none", widest=True)
