"""Expected costs of undecided filters: exact at one-hot where they say so, within their stated slack elsewhere."""

import graphs
import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from bitsmith.blueprint import Bits, Blueprint, Options, couple, plan_grids, prune
from bitsmith.cost import TARGETS, price
from bitsmith.cost.layout import operators, order_bytes
from bitsmith.errors import RunError
from bitsmith.search.filters.costs import RELAXED, RelaxedCosts, rising_layers
from bitsmith.search.filters.soft import Shares
from bitsmith.space import Precision

WEIGHT, ACTIVATION = (1, 2, 4, 8), (2, 8)


@st.composite
def choices(draw):
    """A space, one-hot shares of it, and the pruned blueprint that they stand for."""
    graph = draw(graphs.random_graphs())
    options = {layer.name: Options(weight=WEIGHT, activation=ACTIVATION) for layer in graph.layers}
    space = Precision(template=graphs.blueprint(graph), options=options, costs=TARGETS["c"].costs)
    coupling = couple(graph)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    gone = (rng.random(len(coupling.pinned)) < 0.3) & ~coupling.pinned & ~coupling.shuffled
    bits, weight, activation = {}, {}, {}
    for layer in graph.layers:
        k, a = rng.integers(4, size=layer.out_channels), int(rng.integers(2))
        widths = np.array(WEIGHT)[k] * ~gone[coupling.units[layer.name]]
        bits[layer.name] = Bits(weight=tuple(widths.tolist()), activation=ACTIVATION[a])
        weight[layer.name], activation[layer.name] = torch.eye(4)[torch.from_numpy(k)], torch.eye(2)[a]
    try:
        pruned = prune(Blueprint(graph=graph, bits=bits))
    except RunError:
        pruned = None
    shares = Shares(weight=weight, activation=activation, kept=torch.from_numpy(~gone).float())
    return space, coupling, shares, pruned


@given(choices())
def test_at_one_hot(case):
    space, coupling, shares, pruned = case
    assume(pruned is not None)
    found = pruned.blueprint
    exact = price(found.graph, found.bits)
    rising = rising_layers(space, coupling)
    costs = RelaxedCosts(space, coupling, RELAXED, rising=rising)
    relaxed = dict(zip(RELAXED, map(float, costs(shares)), strict=True))
    for cost in ("params", "macs", "bitops"):
        assert relaxed[cost] == exact[cost]
    streams = sum(len(bits.weight_widths) for bits in found.bits.values())
    assert relaxed["weights"] <= exact["weights"] < relaxed["weights"] + streams
    sums = sum(layer.macs for layer in found.graph.layers)  # at most one accumulator bit for each
    assert relaxed["bops"] <= exact["bops"] * (1 + 1e-12) <= relaxed["bops"] + sums + 1e-6
    # Where filters end in order, or at one number of bits, their places are not stored; what is not left of a concat's
    # operands may need no table of another sign.
    in_order = {layer.name for layer in found.graph.layers if order_bytes(layer, found.bits[layer.name]) == 0}
    assert rising <= in_order
    places = sum(layer.out_channels for layer in found.graph.layers if layer.name in in_order - rising)
    assert relaxed["size"] - places - 1e-6 <= exact["size"] < relaxed["size"] + streams
    calls = 100 * operators(space.template.graph, plan_grids(space.template.graph))
    assert relaxed["flash"] == 10_000 + calls + relaxed["size"]


def test_which_layers_will_rise():
    """The stem has one choice, so the sum's order is conv2's; `down` comes after its conv2; outputs stay."""
    graph = graphs.residual(channels=4)
    options = {layer.name: Options(weight=WEIGHT, activation=ACTIVATION) for layer in graph.layers}
    options["stem"] = Options(weight=(8,), activation=(8,))
    space = Precision(template=graphs.blueprint(graph), options=options)
    assert rising_layers(space, couple(graph)) == {"a.conv1", "a.conv2", "b.conv1", "b.conv2"}


@given(choices(), st.floats(0.1, 0.9))
def test_slopes_are_differences(case, share):
    """Costs are linear in the shares of one filter: the slope is the whole difference between its options."""
    space, coupling, shares, _ = case
    names = ("weights", "macs", "bitops", "size")
    costs = RelaxedCosts(space, coupling, names)
    layer = space.template.graph.layers[0]
    for k in range(4):
        mixed = {n: p.double() for n, p in shares.weight.items()}
        two = []
        for option in (0, k):
            mixed[layer.name] = mixed[layer.name].clone()
            mixed[layer.name][0] = torch.eye(4, dtype=torch.float64)[option]
            two.append(costs(Shares(weight=mixed, activation=shares.activation, kept=shares.kept)))
        between = mixed[layer.name].clone()
        between[0] = (1 - share) * torch.eye(4)[0] + share * torch.eye(4)[k]
        mixed[layer.name] = between
        values = costs(Shares(weight=mixed, activation=shares.activation, kept=shares.kept))
        for value, low, high in zip(values, *two, strict=True):
            torch.testing.assert_close(value, low + share * (high - low), rtol=1e-6, atol=1e-6)
