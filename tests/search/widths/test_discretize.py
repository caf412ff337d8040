"""From log-odds to widths: against every choice of a tiny network."""

from itertools import product

import graphs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inverted import inverted

from bitsmith.blueprint import Bits, Budget, prune
from bitsmith.cost import exact, fits
from bitsmith.errors import BudgetError
from bitsmith.quantize import build
from bitsmith.search.widths.discretize import WidthDiscretizer
from bitsmith.search.widths.groups import width_groups
from bitsmith.space import precision

GRAPH = graphs.residual(channels=3)
SPACE = precision(graphs.blueprint(GRAPH), (4,), (8,))
GROUPS = width_groups(GRAPH, blocks=False)


def by_removal(widths):
    """The network by another road: filters at 0 bits, pruned."""
    kept = GROUPS.kept(widths)
    bits = {
        name: Bits(
            weight=tuple(np.where(kept[GROUPS.coupling.units[name]], o.weight[0], 0).tolist()),
            activation=o.activation[0],
        )
        for name, o in SPACE.options.items()
    }
    return prune(SPACE.template.with_bits(bits)).blueprint


COSTS = ("weights", "size", "bops", "macs", "params", "ram")
EVERY = list(product(*(range(1, c + 1) for c in GROUPS.channels)))
PRICED: dict[tuple[int, ...], dict[str, float]] = {}


def priced():
    """What each of all networks costs."""
    if not PRICED:
        for widths in EVERY:
            found = by_removal(widths)
            PRICED[widths] = {cost: exact(cost, found.graph, found.bits) for cost in COSTS}
    return PRICED


@settings(max_examples=12)
@given(seed=st.integers(0, 999), share=st.floats(0.02, 1.1), cost=st.sampled_from(COSTS), second=st.sampled_from(COSTS))
def test_inside_and_no_wider_network_is(seed, share, cost, second):
    whole = priced()[GROUPS.channels]
    budgets = [Budget(cost=cost, limit=share * whole[cost]), Budget(cost=second, limit=0.8 * whole[second])]
    inside = {w for w, costs in priced().items() if all(costs[b.cost] <= b.limit for b in budgets)}
    logits = np.random.default_rng(seed).normal(0, 2, len(GROUPS.channels))
    discretizer = WidthDiscretizer(SPACE, GROUPS, budgets)
    if not inside:
        with pytest.raises(BudgetError, match="is at least"):
            discretizer.discretize(logits)
        return
    found = discretizer.discretize(logits)
    assert found in inside
    if "ram" not in (cost, second):  # whose plan may need more for less
        assert not any(w != found and all(a >= b for a, b in zip(w, found, strict=True)) for w in inside)


def test_ram_is_tried_again_after_a_growth():
    """A plan may take less for a wider group: whatever is found, one channel more of any group is outside."""
    graph = inverted()
    space, groups = precision(graphs.blueprint(graph), (4,), (8,)), width_groups(graph, blocks=False)
    plain = WidthDiscretizer(space, groups, [])
    ram = {w: plain.cost("ram", w) for w in product(*(range(1, c + 1) for c in groups.channels))}
    generator = np.random.default_rng(0)
    for limit in sorted(set(ram.values())):
        discretizer = WidthDiscretizer(space, groups, [Budget(cost="ram", limit=limit)])
        discretizer._known = {w: value <= limit for w, value in ram.items()}
        for _ in range(6):
            found = discretizer.discretize(generator.normal(0, 2, len(groups.channels)))
            assert ram[found] <= limit
            for d, channels in enumerate(groups.channels):
                if found[d] < channels:
                    assert ram[(*found[:d], found[d] + 1, *found[d + 1 :])] > limit


def test_the_likeliest_widths_rise_alike():
    """As far as all fit: widths of more log-odds are nearer to the whole."""
    discretizer = WidthDiscretizer(SPACE, GROUPS, [Budget.parse("weights=160B")])
    found = discretizer.discretize(np.array([4.0, -4.0, 0.0, 0.0]))
    assert found[0] == 3
    assert found[1] == 1
    # Halved log-odds of a fair coin: 1 + floor(C / 2).
    assert discretizer.likeliest(np.zeros(4)) == tuple(1 + c // 2 for c in GROUPS.channels)


def test_ample_budgets_leave_the_whole_network():
    found = WidthDiscretizer(SPACE, GROUPS, [Budget.parse("weights=1MB")]).discretize(np.full(4, -3.0))
    assert found == GROUPS.channels


def test_prices_are_those_of_what_is_built():
    blueprint = GROUPS.blueprint(SPACE.uniform(4, 8), (3, 2, 5, 6))
    assert blueprint == by_removal((3, 2, 5, 6))
    assert fits(blueprint.graph, blueprint.bits, [Budget(cost="params", limit=priced()[3, 2, 5, 6]["params"])])
    numbers = {n: p.numel() for n, p in build(blueprint).named_parameters() if "step" not in n}
    assert sum(numbers.values()) == priced()[3, 2, 5, 6]["params"]
