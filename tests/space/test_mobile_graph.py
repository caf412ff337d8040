"""The graphs of mobile networks: torchvision's own, from descriptions alone."""

from itertools import chain

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bitsmith.cost import price
from bitsmith.quantize import build, float_blueprint
from bitsmith.space import Mobile, MobileSpace, Stage, Stem
from bitsmith.space.mobile_space import divisible

PLAIN = {"weight_bits": (8,), "activation_bits": (8,), "divisor": 8}


def mobilenet_v2() -> tuple[nn.Module, MobileSpace, dict]:
    """(expansion, width, blocks, stride) of the paper's table 2; one network."""
    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    stages = tuple(
        Stage(
            channels=(width,),
            blocks=(blocks, blocks),
            stride=stride,
            kernels=(3,),
            expansions=(expansion,),
            squeeze_excite=(False,),
            activations=("relu6",),
        )
        for expansion, width, blocks, stride in rows
    )
    space = MobileSpace(stem=Stem(channels=32, stride=2), stages=stages, head=(1280,), activation="relu6", **PLAIN)
    return torchvision.models.mobilenet_v2(), space, {}


def mobilenet_v3_small() -> tuple[nn.Module, MobileSpace, dict]:
    """Blocks (kernel, hidden, squeeze-and-excitation, activation) of the paper's table 2, chosen from a larger space.

    torchvision's has a hidden layer in its classifier, which the space has not: it is left out.
    """
    rows = [  # width, stride, blocks
        (16, 2, [(3, 16, True, "relu")]),
        (24, 2, [(3, 72, False, "relu"), (3, 88, False, "relu")]),
        (40, 2, [(5, 96, True, "hard_swish"), (5, 240, True, "hard_swish"), (5, 240, True, "hard_swish")]),
        (48, 1, [(5, 120, True, "hard_swish"), (5, 144, True, "hard_swish")]),
        (96, 2, [(5, 288, True, "hard_swish"), (5, 576, True, "hard_swish"), (5, 576, True, "hard_swish")]),
    ]
    chosen, stages, before = {}, [], 16
    for s, (width, stride, blocks) in enumerate(rows, start=1):
        expansions = set()
        for b, (kernel, hidden, squeeze, activation) in enumerate(blocks, start=1):
            expansion, before = hidden / before, width
            expansions.add(expansion)
            names = ("kernel", "expansion", "squeeze_excite", "activation")
            for name, option in zip(names, (kernel, expansion, squeeze, activation), strict=True):
                chosen[f"stage{s}.block{b}.{name}"] = option
        chosen |= {f"stage{s}.blocks": len(blocks), f"stage{s}.channels": width}
        stage = Stage(
            channels=(width,), blocks=(1, len(blocks)), stride=stride, expansions=tuple(sorted(expansions | {1.0}))
        )
        stages.append(stage)
    space = MobileSpace(
        stem=Stem(channels=16, stride=2), stages=tuple(stages), head=(576,), activation="hard_swish", **PLAIN
    )
    model = torchvision.models.mobilenet_v3_small()
    model.classifier = nn.Linear(576, 1000)
    return model, space, chosen


@pytest.mark.parametrize("network", [mobilenet_v2, mobilenet_v3_small])
def test_torchvisions_networks_are_points_of_a_space(network):
    """As many parameters and operations; and with its parameters, in their order, the same outputs."""
    torch.manual_seed(0)
    model, description, chosen = network()
    space = Mobile(description=description, input_shape=(3, 96, 96), outputs=1000)
    indices = np.zeros_like(space.sizes)
    for i, decision in enumerate(space.decisions.decisions):
        if decision.name in chosen:
            indices[i] = decision.options.index(chosen[decision.name])
    blueprint = space.decode(indices)
    assert np.array_equal(space.encode(blueprint), space.decisions.canonical(indices))

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # torchvision's third version divides by another epsilon
            module.eps = 1e-5
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    costs = price(blueprint.graph, blueprint.bits)
    assert costs["params"] == sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, 96, 96))
    assert costs["macs"] == counter.get_total_flops() / 2

    ours = build(float_blueprint(blueprint.graph)).eval()
    with torch.no_grad():
        for own, theirs in zip(_state(ours), _state(model), strict=True):
            own.copy_(theirs)
        x = torch.randn(2, 3, 96, 96)
        torch.testing.assert_close(ours(x), model(x), rtol=1e-4, atol=1e-4)


def _state(model: nn.Module) -> list[torch.Tensor]:
    buffers = [b for n, b in model.named_buffers() if n.endswith(("running_mean", "running_var"))]
    return list(chain(model.parameters(), buffers))


def test_divisible_is_torchvisions():
    from torchvision.models._utils import _make_divisible

    for value in [*range(1, 200), 18.4, 183.99999999999997, 13.5]:
        for divisor in (1, 2, 4, 8):
            assert divisible(value, divisor) == _make_divisible(value, divisor), (value, divisor)


def test_only_what_always_fits_is_added():
    """Blocks of a stage but the first; the first too where one width comes in and goes out; never across a stride."""
    cases = [  # stem, channels, stride, does the first block add?
        (8, (8,), 1, True),
        (8, (4, 8), 1, False),
        (8, (4,), 1, False),
        (8, (8,), 2, False),
    ]
    for stem, channels, stride, first in cases:
        stage = Stage(channels=channels, blocks=(2, 2), stride=stride, expansions=(2.0,))
        space = Mobile(
            description=MobileSpace(stem=Stem(channels=stem), stages=(stage,)), input_shape=(3, 8, 8), outputs=2
        )
        nodes = {node.name for node in space.uniform(8, 8).graph.nodes}
        assert ("stage1.block1.add" in nodes) == first
        assert "stage1.block2.add" in nodes
