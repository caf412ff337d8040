"""1x1 convolutions with a stride, whose gradient crashes oneDNN where they run as they are written."""

import pytest
import torch
from torch.nn import functional as F

from bitsmith.blueprint import Node
from bitsmith.quantize.layers import apply_weight


@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (8, 1), (8, 2), (16, 1)])
@pytest.mark.parametrize("stride", [(2, 2), (1, 3)])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 2, 1, 2), (0, 1, 2, 0)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_outputs_and_gradients_are_those_of_the_plain_convolution(channels, groups, stride, padding, layout):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((32, channels, 64, 64), generator=generator)
    weight = torch.randn((8, channels // groups, 1, 1), generator=generator)
    bias = torch.randn(8, generator=generator)
    top, left, bottom, right = padding
    # Shape is not read; 64x64 is where the plain convolution crashed.
    node = Node(name="a", op="conv", kernel=(1, 1), stride=stride, padding=padding, groups=groups, shape=(8, 1, 1))

    def run(plain: bool) -> list[torch.Tensor]:
        memory = torch.contiguous_format if plain else layout
        leaves = [x.clone().contiguous(memory_format=memory), weight.clone(), bias.clone()]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        if plain:
            y = F.conv2d(F.pad(leaves[0], (left, right, top, bottom)), leaves[1], leaves[2], stride, groups=groups)
        else:
            y = apply_weight(node, *leaves)
        y.square().mean().backward()
        grads = [leaf.grad for leaf in leaves if leaf.grad is not None]
        return [y.detach(), *grads]

    for found, wanted in zip(run(plain=False), run(plain=True), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-6)
