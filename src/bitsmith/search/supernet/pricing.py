"""Pricing: the factors of a cost, taken from the cost itself on small networks.

A block is worth what it adds to a short network: T(before, block) - T(before), where `before` is a stem and one or
two plain blocks that give what the block reads, as wide and as large, from a convolution or from an add. So totals
telescope along the network, and nothing of any cost's formulas is repeated here. That this is right for a cost, i.e.
that a block's price depends on nothing further away, is checked against `exact` on random blueprints; a cost that fails
is refused.

A block's width enters its price through its last layer alone, and whether it reads a stream through its first, so that
three small tables make up the large one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from bitsmith.cost import Cost, exact
from bitsmith.cost.additive import find_cost
from bitsmith.errors import BudgetError, RecipeError
from bitsmith.search.supernet.block_prices import BlockPrices
from bitsmith.search.supernet.factors import CostFactors, ExpectedCost
from bitsmith.search.supernet.peaks import PEAKED, ExpectedPeak, price_peaks
from bitsmith.space import Mobile

_CHECKED = 12  # random blueprints that a cost's factors are held against


def price_factors(space: Mobile, names: Sequence[str]) -> dict[str, CostFactors]:
    """The factors of several costs of a mobile space.

    Args:
        names: of `space.costs`; avg_bits is made of bitops and macs, so ask for these.

    Raises:
        BudgetError: a cost that isn't known, isn't a sum over blocks, or is measured on whole networks alone.
    """
    _refuse_vanishing(space)
    known, wanted = _known(space), {name: find_cost(name, space.costs) for name in dict.fromkeys(names)}
    missing = {name: cost for name, cost in wanted.items() if name not in known}
    known.update(_price(space, missing) if missing else {})
    return {name: known[name] for name in wanted}


def _refuse_vanishing(space: Mobile) -> None:
    for s, stage in enumerate(space.description.stages, start=1):
        if stage.blocks[0] == 0:
            raise BudgetError(
                f"stage {s}, blocks: networks of a space with a stage that may vanish can't be budgeted, since what "
                "the next stage reads, and so its cost, depends on stages further away; make the fewest blocks 1, or "
                "give the stage before more blocks in its place"
            )


@lru_cache(maxsize=8)
def _known(space: Mobile) -> dict[str, CostFactors]:
    """What was priced before: seconds for a large space, and asked for by every check, search and baseline."""
    return {}


def _price(space: Mobile, costs: Mapping[str, Cost]) -> dict[str, CostFactors]:
    pricing = BlockPrices(space=space, costs=costs)
    try:
        found = {
            name: CostFactors(
                cost=cost,
                graph=space.at(0).graph,
                fixed=pricing.base[name],
                factors=tuple(f for factors in pricing.factors for f in factors[name]),
            )
            for name, cost in costs.items()
        }
    except RecipeError as error:  # a table of measured times lacks what no network of the space has
        raise BudgetError(
            f"{' and '.join(costs)} of a mobile space can't be budgeted by measured times: blocks are priced in short "
            "networks that nobody measured; budget another cost, such as macs or bitops, and look at it in the report"
        ) from error
    generator = np.random.default_rng(0)
    for _ in range(_CHECKED):
        blueprint = space.sample(generator)
        indices = space.encode(blueprint)
        for name, factors in found.items():
            ours = factors.cost.value(blueprint.graph, factors.total(space.decisions, indices))
            theirs = exact(name, blueprint.graph, blueprint.bits, space.costs)
            if abs(ours - theirs) > 1e-9 * abs(theirs):
                raise BudgetError(
                    f"{name} of a mobile network is no sum over its blocks, so no search can lead it inside a "
                    f"budget; budget another cost, such as size, macs or bitops, and look at {name} in the report"
                )
    return found


def expected_costs(space: Mobile, names: Sequence[str]) -> dict[str, ExpectedCost | ExpectedPeak]:
    """The expected values of several costs; of ram the largest expected peak of a block.

    Raises:
        BudgetError: as `price_factors`.
    """
    found = price_factors(space, [part for name in names if name != PEAKED for part in parts_of(name)])
    return {
        name: ExpectedPeak(price_peaks(space))
        if name == PEAKED
        else ExpectedCost([found[part] for part in parts_of(name)])
        for name in names
    }


def parts_of(name: str) -> tuple[str, ...]:
    """The sums that a cost is made of."""
    return ("bitops", "macs") if name == "avg_bits" else (name,)
