"""Random networks of a mobile space inside budgets: neither tiny nor all at one end, at nearly equal cost.

A uniform draw is of no use: deep stages hold nearly all networks, and hardly any of those is inside a budget. So

- the number of blocks of every stage is drawn uniformly, whatever number of networks has it;
- a level u of the sizes (widths, expansions, kernels) and a level v of the bits are drawn uniformly from 0..1, and with
  them each such decision of n options as Binomial(n - 1, u), or v: large networks of few bits and small ones of many
  are as likely as what lies between;
- gates and functions are drawn uniformly.

Draws outside a budget are thrown away, so that what is left is this distribution, given the budgets. Then steps that
are drawn uniformly among those that fit (one option up of a width, an expansion, a kernel, bits; a block more only
where nothing else fits) are taken until nothing fits: what uses a budget's room alone is comparable at equal cost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitsmith.blueprint import Blueprint, Budget
from bitsmith.search.feasible import inside, limits_of
from bitsmith.search.supernet.discretize import Discretizer
from bitsmith.space import Mobile

_SIZES = ("channels", "expansion", "kernel")
_BITS = ("weight_bits", "activation_bits")


def random_network(
    space: Mobile, budgets: Sequence[Budget], generator: np.random.Generator, tries: int = 1000
) -> Blueprint:
    """A random network inside every budget that leaves no room for a step; see above for its distribution.

    Where none of `tries` draws is inside, the last one is lowered by steps of random decisions until it is; where that
    doesn't get there, the network that loses least by random penalties is taken (`Discretizer`).

    Raises:
        BudgetError: no network of the space meets the budgets, or a cost that is no sum over blocks.
    """
    limits = limits_of(space, budgets)
    indices = stratified(space, generator)
    for _ in range(tries):
        if inside(limits, indices):
            break
        indices = stratified(space, generator)
    while not inside(limits, indices):
        lower = list(space.moved(indices, (*_SIZES, *_BITS, "blocks"), -1))
        if not lower:
            penalties = {d.name: generator.random(len(d.options)) for d in space.decisions.decisions}
            program = Discretizer(space, budgets)
            program.check()
            indices = space.encode(program.best(penalties))
            break
        indices = lower[generator.integers(len(lower))]
    for whats in ((*_SIZES, *_BITS), (*_SIZES, *_BITS, "blocks")):
        while raises := [moved for moved in space.moved(indices, whats, 1) if inside(limits, moved)]:
            indices = raises[generator.integers(len(raises))]
    return space.decode(indices)


def stratified(space: Mobile, generator: np.random.Generator) -> np.ndarray:
    """The encoding of a network drawn by numbers of blocks and levels, canonical; budgets are not looked at."""
    size, bits = generator.random(2)
    indices = np.zeros_like(space.sizes)
    for i, decision in enumerate(space.decisions.decisions):
        n, what = len(decision.options), decision.name.rpartition(".")[2]
        if what in _SIZES or what in _BITS:
            indices[i] = generator.binomial(n - 1, size if what in _SIZES else bits)
        else:
            indices[i] = generator.integers(n)
    return space.decisions.canonical(indices)
