"""What the benchmark compares with: branches are blocks of the same space, their mean what it computes."""

from itertools import product

import torch

from benchmarks.supernet_cost import BITS, KERNELS, Branched, make_branched, make_network, make_space, measure
from bitsmith.search.supernet.parts import Flow


def test_branches_per_choice():
    network = make_network("tied", 8)
    assert [len(stage) for stage in network.stages] == [1, 3, 3, 3]
    branched = network.stages[1][0]
    assert isinstance(branched, Branched)
    assert len(branched.blocks) == 4
    network.eval()
    flow = Flow(x=torch.randn(2, 16, 8, 8), streamed=torch.tensor(1.0), signed=True)
    one = torch.ones(1)
    alone = network.present | {f"stage2.block1.{what}": one for what in ("weight_bits", "activation_bits")}
    outputs = torch.stack([block(flow, alone) for block in branched.blocks])
    torch.testing.assert_close(branched(flow, network.present), outputs.mean(0))
    p = torch.tensor([0.4, 0.3, 0.2, 0.1])
    uneven = network.present | {"stage2.block1.weight_bits": p}
    torch.testing.assert_close(branched(flow, uneven), torch.einsum("k,k...->...", p, outputs))
    assert network(torch.randn(2, 3, 8, 8)).isfinite().all()


def test_a_branch_for_every_choice():
    """32 of them, in the order of their shares: only the branch of the chosen kernel and bits is left at one-hot."""
    space = make_space(8, BITS, BITS, KERNELS)
    branched = make_branched("branches", space, 1, 1, adds=False).eval()
    assert len(branched.blocks) == 32
    choices = list(product(BITS, BITS, KERNELS))
    wanted = choices.index((3, 8, 5))
    block = branched.blocks[wanted]
    assert block.depthwise.candidates[0].bits == 3
    assert block.project_in["relu"].candidates[0].bits == 8
    assert block.depthwise.node.kernel == (5, 5)
    one_hot = {"weight_bits": [0, 1, 0, 0], "activation_bits": [0, 0, 0, 1], "kernel": [0, 1]}
    present = {d.name: torch.full((len(d.options),), 1 / len(d.options)) for d in space.decisions.decisions}
    p = present | {f"stage1.block1.{name}": torch.tensor(v).float() for name, v in one_hot.items()}
    flow = Flow(x=torch.rand(2, 16, 8, 8), streamed=torch.tensor(0.0), signed=False)
    alone = p | {f"stage1.block1.{name}": torch.ones(1) for name in one_hot}
    torch.testing.assert_close(branched(flow, p), block(flow, alone))


def test_a_measurement():
    found = measure("one", 8, 2, 1)
    assert found["seconds"] > 0
    assert found["megabytes"] > 0
