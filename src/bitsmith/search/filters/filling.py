"""What budgets leave, filled by moves upward, those first that gain most, or lose least, for what they cost.

First many at once: all that the relaxed costs have room for, as many of them as fit exactly, without those that were
found not to. Then one by one, by exact prices alone, until none fits: neither more bits for a filter or for what a
layer reads nor a removed unit at the bits that it had. Networks of several thousand filters of many kinds may end
earlier, after as many prices as are worth their time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bitsmith.search.filters.choices import Choice, Move, Odds
from bitsmith.search.filters.pricing import Pricing

_TRIED = 1000
_Kind = tuple[Any, ...]  # moves of a kind change every exact cost alike


def fill(choice: Choice, odds: Odds, pricing: Pricing) -> Choice:
    """A choice inside the budgets, raised until no single move upward stays inside or `_TRIED` were tried singly.

    Args:
        choice: inside the budgets.
    """
    return _one_by_one(_many_at_once(choice, odds, pricing), odds, pricing)


def _many_at_once(choice: Choice, odds: Odds, pricing: Pricing) -> Choice:
    refused: set[_Kind] = set()
    while moves := _with_room(choice, odds, pricing, refused):
        fitting, low, high = choice, 0, len(moves)
        while low < high:
            middle = (low + high + 1) // 2
            trial = choice.copy()
            for move in moves[:middle]:
                trial.take(move)
            if pricing.fits(trial):
                fitting, low = trial, middle
            else:
                high = middle - 1
        if low < len(moves):
            refused.add(_kind(choice, odds, moves[low], pricing))
        choice = fitting
    return choice


def _one_by_one(choice: Choice, odds: Odds, pricing: Pricing) -> Choice:
    tried = 0
    while True:
        before, refused = choice, set[_Kind]()
        for move, _ in _by_worth(choice, odds, pricing):
            kind = _kind(choice, odds, move, pricing)
            if kind in refused or (move.layer and not _rises(choice, move)):
                continue
            if tried == _TRIED:
                return choice
            tried += 1
            trial = choice.copy()
            trial.take(move)
            if pricing.fits(trial):
                choice = trial
            else:
                refused.add(kind)
        if choice is before:
            return choice


def _with_room(choice: Choice, odds: Odds, pricing: Pricing, refused: set[_Kind]) -> list[Move]:
    """Moves up by their worth that the relaxed costs have room for, one after the other."""
    room = [left for left, _ in pricing.room(choice)]
    accepted: dict[tuple[str, int], Move] = {}
    for move, costs in _by_worth(choice, odds, pricing):
        free = move.of not in accepted and _kind(choice, odds, move, pricing) not in refused
        if free and all(cost <= left for cost, left in zip(costs, room, strict=True)):
            room = [left - cost for cost, left in zip(costs, room, strict=True)]
            accepted[move.of] = move
    return list(accepted.values())


def _by_worth(choice: Choice, odds: Odds, pricing: Pricing) -> list[tuple[Move, list[float]]]:
    """Moves up and their costs by budget: those that gain most for them first, then those that lose least for them."""
    slopes = [slope for _, slope in pricing.room(choice)]
    priced = [(move, [move.difference(choice, slope) for slope in slopes]) for move in odds.upward(choice)]
    return sorted(priced, key=lambda pair: pair[0].loss / max(sum(pair[1]), 1e-12))


def _rises(choice: Choice, move: Move) -> bool:
    return move.option > (choice.activation[move.layer] if move.place < 0 else choice.weight[move.layer][move.place])


def _kind(choice: Choice, odds: Odds, move: Move, pricing: Pricing) -> _Kind:
    if not move.layer:
        kind, unit = _of_unit(choice, odds, move.place), move.place
    else:
        now = -1 if move.place < 0 else int(choice.weight[move.layer][move.place])
        kind = move.layer, now, move.option
        if move.place < 0:
            return kind
        unit = int(odds.units[move.layer][move.place])
    if not pricing.stores_places:
        return kind
    # Whether filters can be put in the order of their bits depends on the others that go with them, and on their places
    # where these matter.
    return *kind, *(_of_unit(choice, odds, unit) if pricing.exchanged[unit] else ("at", move.place))


def _of_unit(choice: Choice, odds: Odds, unit: int) -> _Kind:
    filters = [choice.weight[name][np.flatnonzero(units == unit)] for name, units in odds.units.items()]
    return odds.nodes[:, unit].tobytes(), *(tuple(sorted(bits.tolist())) for bits in filters)
