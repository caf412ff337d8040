"""What the benchmark compares with: branches are blocks of the same space, their mean what it computes."""

import torch

from benchmarks.supernet_cost import Branched, make_network, measure
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
    by_hand = torch.stack([block(flow, alone) for block in branched.blocks]).mean(0)
    torch.testing.assert_close(branched(flow, network.present), by_hand)
    assert network(torch.randn(2, 3, 8, 8)).isfinite().all()


def test_a_measurement():
    found = measure("one", 8, 2, 1)
    assert found["seconds"] > 0
