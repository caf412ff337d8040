"""From shares to networks: always inside, the room used, the likeliest kept."""

import graphs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitsmith.blueprint import Bits, Budget, couple, prune
from bitsmith.cost import exact, fits
from bitsmith.errors import BudgetError
from bitsmith.search.filters import discretize
from bitsmith.search.filters.discretize import FilterDiscretizer
from bitsmith.search.filters.fewest import fewest_filters
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


def pruned(shares, *given):
    """What a discretizer makes of shares."""
    return FilterDiscretizer(*given).discretize(shares).pruned


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
        found = discretizer.discretize(shares).pruned.blueprint
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
    found = pruned(shares, space, coupling, removable, [Budget.parse("weights=1MB")]).blueprint
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
    found = pruned(shares, space, coupling, removable, [Budget(cost="weights", limit=limit)])
    assert found.left("conv1").tolist() == [0, 2, 4, 5, 7, 8, 9, 10, 11]
    assert len(found.left("conv0")) == 6


def test_what_a_layer_reads_counts_for_all_of_its_filters():
    """Lowering it saves no more than lowering them all, and loses as much where all are as sure: filters go."""
    graph = graphs.chain(channels=(6, 12))
    space, coupling, _, shares = case(graph, 0)
    sure = {n: torch.full(p.shape, 0.1 / max(1, p.shape[1] - 1)).double() for n, p in shares.weight.items()}
    for p in sure.values():
        p[:, -1] = 0.9
    read = {n: torch.tensor([0.05, 0.95]).double() if len(q) == 2 else q for n, q in shares.activation.items()}
    assert any(len(q) == 2 for q in read.values())
    shares = Shares(weight=sure, activation=read, kept=torch.ones_like(shares.kept))
    limit = 0.97 * exact("bitops", graph, space.uniform(8, 8).bits)
    nothing = np.zeros(len(shares.kept), bool)
    found = pruned(shares, space, coupling, nothing, [Budget(cost="bitops", limit=limit)]).blueprint
    assert {bits.activation for bits in found.bits.values()} == {8}
    assert any(set(bits.filters(layer)) != {8} for layer in graph.layers if (bits := found.bits[layer.name]))


def test_the_least_and_less():
    graph = graphs.residual(channels=4)
    space, coupling, removable, shares = case(graph, 3)
    least = FilterDiscretizer(space, coupling, removable, [Budget.parse("weights=1MB")]).least().blueprint
    # One channel everywhere, 2 bits inside, 8 at the ends: 27 + 3 * ceil(9 * 2 / 8) + 2 * ... + 5.
    assert {layer.out_channels for layer in least.graph.layers} == {1, 5}
    smallest = exact("weights", least.graph, least.bits)
    assert smallest == 27 + 4 * 3 + 1 + 5
    at = FilterDiscretizer(space, coupling, removable, [Budget(cost="weights", limit=smallest)])
    assert at.discretize(shares).pruned.blueprint.graph == least.graph
    with pytest.raises(BudgetError, match=r"weights is at least 45 B in this space, the budget is 44 B"):
        FilterDiscretizer(space, coupling, removable, [Budget(cost="weights", limit=smallest - 1)]).discretize(shares)


def test_nothing_may_be_removed():
    graph = graphs.residual(channels=8)
    space, coupling, removable, shares = case(graph, 5)
    limit = 0.5 * exact("weights", graph, space.uniform(8, 8).bits)
    found = FilterDiscretizer(space, coupling, np.zeros_like(removable), [Budget(cost="weights", limit=limit)])
    network = found.discretize(shares).pruned.blueprint
    assert network.graph == graph
    assert any(not isinstance(bits.weight, int) for bits in network.bits.values())


@pytest.mark.parametrize("gate", [0.5, torch.sigmoid(torch.tensor(2 / 0.3)).item()])
def test_alike_filters_go_in_proportion(gate):
    """ResNet-8 at 3.7 % of its 8-bit weights: no layer is emptied for another that stays whole."""
    graph = graphs.resnet8()
    space = precision(graphs.blueprint(graph), (2, 4, 8), (8,))
    coupling = couple(graph)
    removable = ~coupling.pinned & ~coupling.shuffled
    kept = torch.ones(len(removable))
    kept[torch.from_numpy(removable)] = gate
    weight = {name: torch.full((graph[name].shape[0], len(o.weight)), 1 / 3) for name, o in space.options.items()}
    weight = {name: p if p.shape[1] > 1 else torch.ones_like(p) for name, p in weight.items()}
    shares = Shares(weight=weight, activation={name: torch.ones(1) for name in space.options}, kept=kept)
    found = pruned(shares, space, coupling, removable, [Budget.parse("weights=2.9kB")]).blueprint
    old, new = ([layer.out_channels for layer in g.layers[:-1]] for g in (graph, found.graph))
    left = [b / a for a, b in zip(old, new, strict=True)]
    assert 0.2 < min(left) < max(left) < 0.8


def risen(space, choice, removable):
    """All networks that differ from a choice by a single step or leap upward, spelled out."""
    coupling, template = couple(space.template.graph), space.template
    options = space.options

    def network(weight, activation, kept):
        bits = {
            name: Bits(
                weight=tuple(
                    o.weight[k] if kept[unit] else 0 for k, unit in zip(weight[name], coupling.units[name], strict=True)
                ),
                activation=o.activation[activation[name]],
            )
            for name, o in options.items()
        }
        return prune(template.with_bits(bits)).blueprint

    weight = {name: indices.tolist() for name, indices in choice.weight.items()}
    for name, o in options.items():
        for f, now in enumerate(weight[name]):
            if choice.kept[coupling.units[name][f]]:
                for k in range(now + 1, len(o.weight)):
                    more = [*weight[name][:f], k, *weight[name][f + 1 :]]
                    yield network({**weight, name: more}, choice.activation, choice.kept)
        for k in range(choice.activation[name] + 1, len(o.activation)):
            yield network(weight, {**choice.activation, name: k}, choice.kept)
    for unit in np.flatnonzero(removable & ~choice.kept):
        kept = choice.kept.copy()
        kept[unit] = True
        yield network(weight, choice.activation, kept)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "budgets",
    [
        ["weights=50B"],
        ["weights=150B"],
        ["size=1400B"],
        ["size=1500B"],
        ["bitops=300k", "weights=200B"],
        ["bops=400k", "ram=1kB"],
    ],
    ids=" ".join,
)
def test_no_single_move_upward_fits(seed, budgets, monkeypatch):
    """Against all of them, one by one, priced exactly."""
    assert check_full(graphs.residual(channels=4), [Budget.parse(text) for text in budgets], seed, monkeypatch) > 10


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.1, 0.25, 0.4])
def test_no_single_move_upward_fits_where_places_matter(share, seed, monkeypatch):
    """Groups, two filters on each channel, halves: it decides what is stored of their order, which has which bits."""
    s = graphs.Sketch()
    grouped = s.conv("grouped", s.conv("stem", "x", 4), 6, groups=2)
    left, right = s.split("left", grouped, 0, 3), s.split("right", grouped, 3, 3)
    depth = s.conv("depth", s.concat("both", s.conv("own", left, 2), right), 10, groups=5)
    graph = s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", s.conv("last", depth, 4))), 3))
    space, coupling, removable, _ = case(graph, seed)
    most = exact("size", graph, space.uniform(8, 8).bits)
    least = FilterDiscretizer(space, coupling, removable, [Budget(cost="size", limit=most)]).least().blueprint
    low = exact("size", least.graph, least.bits)
    assert check_full(graph, [Budget(cost="size", limit=int(low + share * (most - low)))], seed, monkeypatch) > 2


def check_full(graph, parsed, seed, monkeypatch):
    """No single move upward fits; how many there are."""
    space, coupling, removable, shares = case(graph, seed)
    chosen = []

    def noted(*arguments):
        chosen.append(fill(*arguments))
        return chosen[-1]

    fill = discretize.fill
    monkeypatch.setattr(discretize, "fill", noted)
    found = pruned(shares, space, coupling, removable, parsed).blueprint
    assert fits(found.graph, found.bits, parsed)
    others = list(risen(space, chosen[0], removable))
    assert not any(fits(other.graph, other.bits, parsed) for other in others)
    return len(others)


def test_the_least_network_is_filled_too(monkeypatch):
    """Where moves down lead nowhere."""
    graph = graphs.residual(channels=4)
    space, coupling, removable, shares = case(graph, 0)
    monkeypatch.setattr(FilterDiscretizer, "_inside", lambda *_: None)
    budget = Budget.parse("weights=200B")
    discretized = FilterDiscretizer(space, coupling, removable, [budget]).discretize(shares)
    assert discretized.fell_back
    found = discretized.pruned.blueprint
    assert 190 < exact("weights", found.graph, found.bits) <= 200


def test_activations_meet_budgets_together_at_the_least():
    """Tables make 2 bits dear in size and cheap in bitops: what is wide in one layer and narrow in another fits."""
    graph = graphs.residual(channels=4)
    space = precision(graphs.blueprint(graph), (2, 8), (2, 8))
    coupling = couple(graph)
    nothing = np.zeros(len(coupling.pinned), bool)
    budgets = [Budget.parse("size=1536B"), Budget.parse("bitops=748032")]
    for low, high in ((2, 2), (2, 8)):
        assert not fits(graph, space.uniform(low, high).bits, budgets)
    least = FilterDiscretizer(space, coupling, nothing, budgets).least().blueprint
    assert fits(least.graph, least.bits, budgets)
    assert {bits.activation for bits in least.bits.values()} == {2, 8}


def test_the_least_value_that_is_told_is_reached():
    graph = graphs.residual(channels=4)
    space = precision(graphs.blueprint(graph), (2, 8), (2, 8))
    coupling = couple(graph)
    removable = ~coupling.pinned & ~coupling.shuffled
    with pytest.raises(BudgetError, match=r"with as few filters as there can be, .*size is at least 1\.017 kB"):
        FilterDiscretizer(space, coupling, removable, [Budget.parse("size=1000B")]).least()
    least = FilterDiscretizer(space, coupling, removable, [Budget.parse("size=1017B")]).least().blueprint
    assert exact("size", least.graph, least.bits) == 1017


@given(data=st.data())
def test_no_filter_can_go_from_the_fewest(data):
    graph = data.draw(graphs.random_graphs())
    space, coupling = precision(graphs.blueprint(graph), (2,), (8,), ends=None), couple(graph)
    removable = ~coupling.pinned & ~coupling.shuffled
    fewest = fewest_filters(space, coupling, removable)
    assert fewest.kept[~removable].all()
    for unit in np.flatnonzero(fewest.kept & removable):
        kept = fewest.kept.copy()
        kept[unit] = False
        assert not all(kept[units].any() for units in coupling.units.values())
