"""The integer program against all networks of a small space."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import mobile

from bitsmith.blueprint import Budget
from bitsmith.cost import COSTS, ENERGY_MODELS, exact
from bitsmith.errors import BudgetError
from bitsmith.search.supernet.discretize import Discretizer
from bitsmith.space import MobileSpace, Stage, Stem


def few(bits: str = "block"):
    """1,600 to 3,000 networks whose widths couple through two stages and the head."""
    plain = {"kernels": (3,), "squeeze_excite": (False,), "activations": ("relu",)}
    first = Stage(channels=(4, 6), expansions=(1.0, 2.0), **plain)
    second = Stage(channels=(4, 8), blocks=(1, 2), expansions=(2.0,), **(plain | {"squeeze_excite": (False, True)}))
    description = MobileSpace(
        stem=Stem(channels=4),
        stages=(first, second),
        head=(8, 12),
        weight_bits=(2, 8),
        activation_bits=(8,) if bits == "block" else (4,),
        bits=bits,
        divisor=2,
    )
    return mobile(description, side=5, costs=COSTS | {"energy": ENERGY_MODELS["bitops-energy"]()})


SPACES = {bits: few(bits) for bits in ("block", "layer")}
COSTS_OF_ALL: dict[tuple[str, str], np.ndarray] = {}
ENCODED = {
    bits: np.array([space.decisions.at(i) for i in range(0, space.count(), 1 if bits == "block" else 5)])
    for bits, space in SPACES.items()
}


def all_costs(bits: str, cost: str) -> np.ndarray:
    if (bits, cost) not in COSTS_OF_ALL:
        space = SPACES[bits]
        blueprints = [space.decode(indices) for indices in ENCODED[bits]]
        COSTS_OF_ALL[bits, cost] = np.array([exact(cost, b.graph, b.bits, space.costs) for b in blueprints])
    return COSTS_OF_ALL[bits, cost]


@pytest.mark.parametrize("costs", [("size",), ("bitops", "params"), ("avg_bits", "size"), ("energy", "weights")])
@given(seed=st.integers(0, 10**6), share=st.floats(0.02, 0.9))
@settings(max_examples=6)
def test_the_best_of_all_networks(costs, seed, share):
    space, encoded = SPACES["block"], ENCODED["block"]
    rng = np.random.default_rng(seed)
    penalties = {d.name: rng.normal(size=len(d.options)) for d in space.decisions.decisions}
    rows = [all_costs("block", cost) for cost in costs]
    # The cost of some network: a limit met exactly is met.
    budgets = [Budget(cost=c, limit=float(np.quantile(v, share, method="lower"))) for c, v in zip(costs, rows)]  # noqa: B905
    inside = np.all([v <= b.limit for v, b in zip(rows, budgets, strict=True)], axis=0)
    active = np.array([space.decisions.active(indices) for indices in encoded])
    by_hand = sum(
        np.where(active[:, i], penalties[d.name][encoded[:, i]], 0) for i, d in enumerate(space.decisions.decisions)
    )
    discretizer = Discretizer(space, budgets)
    if not inside.any():
        with pytest.raises(BudgetError):
            discretizer.best(penalties)
        return
    chosen = discretizer.best(penalties)
    assert all(exact(b.cost, chosen.graph, chosen.bits, space.costs) <= b.limit for b in budgets)
    found = space.encode(chosen)
    best = np.flatnonzero(inside)[by_hand[inside].argmin()]
    score = sum(
        penalties[d.name][found[i]] for i, d in enumerate(space.decisions.decisions) if space.decisions.active(found)[i]
    )
    assert score == pytest.approx(by_hand[best], abs=1e-9)


def test_with_bits_per_layer_nothing_drawn_is_better():
    space, encoded = SPACES["layer"], ENCODED["layer"]
    rng = np.random.default_rng(0)
    penalties = {d.name: rng.normal(size=len(d.options)) for d in space.decisions.decisions}
    sizes = all_costs("layer", "size")
    budget = Budget(cost="size", limit=float(np.quantile(sizes, 0.3)))
    found = space.encode(Discretizer(space, [budget]).best(penalties))

    def score(indices):
        active = space.decisions.active(indices)
        return sum(
            penalties[d.name][k] for d, k, a in zip(space.decisions.decisions, indices, active, strict=True) if a
        )

    best = space.decode(found)
    assert exact("size", best.graph, best.bits, space.costs) <= budget.limit
    assert score(found) <= min(score(e) for e, size in zip(encoded, sizes, strict=True) if size <= budget.limit) + 1e-9


def test_least_and_what_is_out_of_reach():
    space = SPACES["block"]
    sizes, bitops = all_costs("block", "size"), all_costs("block", "bitops")
    least = [Budget(cost="size", limit=sizes.min()), Budget(cost="bitops", limit=bitops.min())]
    assert Discretizer(space, least).least() == [sizes.min(), bitops.min()]
    with pytest.raises(BudgetError, match=r"size is at least .* in this space, the budget is"):
        Discretizer(space, [Budget(cost="size", limit=sizes.min() - 1)]).check()
