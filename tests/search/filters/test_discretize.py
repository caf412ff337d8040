"""From shares to networks: always inside, the room used, the likeliest kept."""

import graphs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitsmith.blueprint import Budget, couple
from bitsmith.cost import exact, fits
from bitsmith.errors import BudgetError
from bitsmith.search.filters.discretize import FilterDiscretizer
from bitsmith.search.filters.soft import Shares
from bitsmith.space import precision


def case(graph, seed, *, sharp=3.0):
    rng = torch.Generator().manual_seed(seed)
    space = precision(graphs.blueprint(graph), (2, 4, 8), (4, 8))
    coupling = couple(graph)
    removable = ~coupling.pinned & ~coupling.shuffled
    kept = torch.ones(len(removable))
    kept[torch.from_numpy(removable)] = torch.sigmoid(sharp * torch.randn(int(removable.sum()), generator=rng) + 2)
    shares = Shares(
        weight={
            n: torch.softmax(sharp * torch.randn(graph[n].shape[0], len(o.weight), generator=rng), 1)
            for n, o in space.options.items()
        },
        activation={
            n: torch.softmax(torch.randn(len(o.activation), generator=rng), 0) for n, o in space.options.items()
        },
        kept=kept,
    )
    return space, coupling, removable, shares


@settings(max_examples=8)
@given(
    seed=st.integers(0, 999), share=st.floats(0.12, 0.8), cost=st.sampled_from(["weights", "size", "bitops", "bops"])
)
def test_inside_and_the_room_is_used(seed, share, cost):
    graph = graphs.residual(channels=8)
    space, coupling, removable, shares = case(graph, seed)
    highest = space.uniform(8, 8)
    budgets = [Budget(cost=cost, limit=share * exact(cost, graph, highest.bits)), Budget.parse("params=5k")]
    discretizer = FilterDiscretizer(space, coupling, removable, budgets)
    try:
        found = discretizer.discretize(shares).blueprint
    except BudgetError:
        with pytest.raises(BudgetError, match="is at least"):
            discretizer.least()
        return
    assert fits(found.graph, found.bits, budgets)
    used = max(exact(b.cost, found.graph, found.bits) / b.limit for b in budgets)
    full = all(set(bits.weight_widths) == {8} for bits in found.bits.values())
    assert used > 0.9 or full  # of few filters one more is a large part


def test_ample_budgets_leave_every_filter_there():
    """Nothing is over: the likeliest bits, then raised to the most, as there is room."""
    graph = graphs.residual(channels=4)
    space, coupling, removable, shares = case(graph, 1)
    found = FilterDiscretizer(space, coupling, removable, [Budget.parse("weights=1MB")]).discretize(shares).blueprint
    assert found.graph == graph
    assert {bits.weight for bits in found.bits.values()} == {8}


def test_unlikely_filters_go_first():
    """870 weights, 59 for each filter of conv1: of equal filters those go whose gates are nearly shut."""
    graph = graphs.chain(channels=(6, 12))
    space, coupling, removable, shares = case(graph, 0)
    units = coupling.units["conv1"]
    gates = torch.tensor([0.99, 0.05, 0.99, 0.2, 0.9, 0.99, 0.1, 0.99, 0.99, 0.99, 0.99, 0.99])
    shares.kept[:] = 1 - 1e-6
    shares.kept[torch.from_numpy(units)] = gates
    shares.kept[torch.from_numpy(coupling.pinned)] = 1
    weight = {n: torch.eye(p.shape[1])[-1].expand_as(p) * (1 - 1e-9) + 1e-9 / 3 for n, p in shares.weight.items()}
    shares = Shares(weight=weight, activation=shares.activation, kept=shares.kept)
    limit = 0.8 * exact("weights", graph, space.uniform(8, 8).bits)
    found = FilterDiscretizer(space, coupling, removable, [Budget(cost="weights", limit=limit)]).discretize(shares)
    assert found.left("conv1").tolist() == [0, 2, 4, 5, 7, 8, 9, 10, 11]
    assert len(found.left("conv0")) == 6


def test_the_least_and_less():
    graph = graphs.residual(channels=4)
    space, coupling, removable, shares = case(graph, 3)
    least = FilterDiscretizer(space, coupling, removable, [Budget.parse("weights=1MB")]).least().blueprint
    # One channel everywhere, 2 bits inside, 8 at the ends: 27 + 3 * ceil(9 * 2 / 8) + 2 * ... + 5.
    assert {layer.out_channels for layer in least.graph.layers} == {1, 5}
    smallest = exact("weights", least.graph, least.bits)
    assert smallest == 27 + 4 * 3 + 1 + 5
    at = FilterDiscretizer(space, coupling, removable, [Budget(cost="weights", limit=smallest)])
    assert at.discretize(shares).blueprint.graph == least.graph
    with pytest.raises(BudgetError, match=r"weights is at least 45 B there, more than weights=44B"):
        FilterDiscretizer(space, coupling, removable, [Budget(cost="weights", limit=smallest - 1)]).discretize(shares)


def test_nothing_may_be_removed():
    graph = graphs.residual(channels=8)
    space, coupling, removable, shares = case(graph, 5)
    limit = 0.5 * exact("weights", graph, space.uniform(8, 8).bits)
    found = FilterDiscretizer(space, coupling, np.zeros_like(removable), [Budget(cost="weights", limit=limit)])
    network = found.discretize(shares).blueprint
    assert network.graph == graph
    assert any(not isinstance(bits.weight, int) for bits in network.bits.values())
