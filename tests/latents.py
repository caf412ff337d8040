"""What tests of latent searches share."""

import math

from bitsmith.search.latent import Proposer, Widths

SMALL = Widths(code=8, encoder=24, decoder=48, token=16, predictor=16)


def closed_form(space, row) -> float:
    """Bits are worth something, width more, each layer less than the one before; separable layers cost a little."""
    total = 0.0
    for at, token in enumerate(space.automaton.layers(row)):
        worth = math.log2(token.weight_bits) + 0.5 * math.log2(token.channels) + 0.7 * bool(token.skip)
        total += (worth - 0.9 * (token.operator == "separable")) * 0.6**at
    return total


def proposer(space, model, *budgets, traded=()) -> Proposer:
    return Proposer(space, model, budgets, traded)
