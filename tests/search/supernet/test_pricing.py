"""Expected costs against `exact` at one-hot, and against the mean over sampled choices."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spaces import descriptions, mobile, tiny

from bitsmith.cost import COSTS, ENERGY_MODELS, exact
from bitsmith.cost.latency import LatencyTable, Timing, latency_cost
from bitsmith.errors import BudgetError
from bitsmith.pipeline.profile import present_setting
from bitsmith.search.supernet.pricing import expected_costs, price_factors
from bitsmith.space import Mobile

PRICED = ("params", "weights", "size", "macs", "bitops", "avg_bits", "energy")
WITH_ENERGY = COSTS | {"energy": ENERGY_MODELS["bitops-energy"]()}


def one_hot(space: Mobile, indices: np.ndarray) -> dict[str, torch.Tensor]:
    decisions = space.decisions.decisions
    return {d.name: torch.eye(len(d.options))[int(i)] for d, i in zip(decisions, indices, strict=True)}


@given(description=descriptions(), seed=st.integers(0, 10**6))
def test_at_one_hot_it_is_the_exact_cost(description, seed):
    space = mobile(description, side=9, costs=WITH_ENERGY)
    expected = expected_costs(space, PRICED)
    rng = np.random.default_rng(seed)
    for _ in range(5):
        blueprint = space.sample(rng)
        indices = space.encode(blueprint)
        elsewhere = np.where(space.decisions.active(indices), indices, rng.integers(0, space.sizes))
        for name, cost in expected.items():
            value = float(cost(one_hot(space, elsewhere)))
            assert value == pytest.approx(exact(name, blueprint.graph, blueprint.bits, space.costs), rel=1e-12), name


def test_it_is_the_mean_over_independent_choices():
    """By 400 draws, inactive decisions drawn too, within four standard errors."""
    space = mobile(tiny(head=(8, 12)))
    expected = expected_costs(space, ("size", "bitops"))
    rng = np.random.default_rng(0)
    p = {d.name: rng.dirichlet(np.ones(len(d.options))) for d in space.decisions.decisions}
    drawn = np.stack([rng.choice(len(v), size=400, p=v) for v in p.values()], axis=1)
    as_tensors = {name: torch.tensor(v) for name, v in p.items()}
    for name, cost in expected.items():
        networks = [space.decode(indices) for indices in drawn]
        values = np.array([exact(name, b.graph, b.bits) for b in networks])
        error = values.std() / np.sqrt(len(values))
        assert abs(values.mean() - float(cost(as_tensors))) < 4 * error


def test_ram_is_no_sum():
    """It has rules of its own, see test_peaks; as a sum it is refused."""
    with pytest.raises(BudgetError, match="ram of a mobile network is no sum"):
        price_factors(mobile(tiny(head=(8, 12))), ["ram"])


def test_measured_times_are_refused():
    """A table that was measured on whole networks of the space has no time for blocks between short networks."""
    space = mobile(tiny())
    empty = LatencyTable(setting=present_setting(1, "image"), call=Timing(nanoseconds=1000, spread=0, measured=8))
    space = dataclasses.replace(space, costs={**space.costs, "latency": latency_cost(empty)})
    with pytest.raises(BudgetError, match="latency of a mobile space can't be budgeted by measured times"):
        price_factors(space, ["latency"])


def test_a_stage_that_may_vanish_is_named():
    vanishing = dataclasses.replace(tiny().stages[0], channels=(8,), blocks=(0, 2))
    space = mobile(tiny(stages=(tiny().stages[1], vanishing)))
    with pytest.raises(BudgetError, match=r"stage 2, blocks: .* can't be budgeted.* make the fewest blocks 1"):
        price_factors(space, ["size"])
