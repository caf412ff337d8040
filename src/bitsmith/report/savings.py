"""Savings: how much less one method takes than another at equal scores, in words; "27 % less energy at equal accuracy".

Verdicts compare scores at equal budgets; here costs are compared at equal scores, which takes methods with several
budgets of one cost. The whole figure is made anew in every draw of the bootstrap: from the means over drawn seeds and
drawn images of both methods' scores, and over the same seeds of the logarithms of what their networks cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from bitsmith.blueprint import Budget, spoken_cost
from bitsmith.report.bootstrap import saving, seed_means
from bitsmith.report.compare_verdicts import name_of
from bitsmith.report.compared import Contest, Member, Saving, SavingOutcome
from bitsmith.report.contests import Scores, group
from bitsmith.report.plot import spoken_metric
from bitsmith.report.verdict import ENOUGH_SEEDS

_MOST = 0.5  # of the draws that must have scores that both reach
_COUNTED = ("params", "macs", "bitops", "bops", "ebops", "avg_bits")  # fewer, not less
_NOUNS = {"size": "storage", "weights": "storage for weights", "params": "parameters"}


@dataclass(frozen=True, kw_only=True)
class _Front:
    """A method's networks at several budgets.

    Args:
        members: per contest and seed.
        seeds: that have all of them.
    """

    name: str
    found: bool
    members: Mapping[Contest, Mapping[int, Member]]
    seeds: tuple[int, ...]


def make_savings(members: Sequence[Member], scores: Scores) -> list[Saving]:
    """Of every cost with several budgets, every pair of methods that both have several of them.

    Those that were searched come first in a pair. Who is outside a budget with any seed takes no part there.
    """
    every = group(members)
    several = len({contest.space for contest in every}) > 1
    inside = {contest: mine for contest, mine in every.items() if not any(member.outside for member in mine)}
    limits: dict[str, set[float]] = {}
    for contest in inside:
        for cost, limit in _limits(contest).items():
            limits.setdefault(cost, set()).add(limit)
    found = []
    for cost in (cost for cost, values in limits.items() if len(values) > 1):
        fronts = sorted(_fronts(inside, cost, several), key=lambda front: not front.found)
        for ours, theirs in combinations(fronts, 2):
            seeds = [seed for seed in ours.seeds if seed in theirs.seeds]
            if seeds:
                found.append(_saving(ours, theirs, cost, seeds, scores))
    return found


def _limits(contest: Contest) -> dict[str, float]:
    return {budget.cost: budget.limit for budget in map(Budget.parse, contest.budget.split(", "))}


def _fronts(contests: Mapping[Contest, list[Member]], cost: str, several: bool) -> list[_Front]:
    """The methods that have several budgets of a cost, with the seeds that have all of these."""
    found = []
    for method, space in dict.fromkeys((contest.method, contest.space) for contest in contests):
        mine = {
            contest: {member.seed: member for member in its}
            for contest, its in contests.items()
            if (contest.method, contest.space) == (method, space) and cost in _limits(contest)
        }
        if len({_limits(contest)[cost] for contest in mine}) < 2:
            continue
        first = next(iter(mine))
        found.append(
            _Front(
                name=name_of(first, several),
                found=next(iter(mine[first].values())).kind == "found",
                members=mine,
                seeds=tuple(seed for seed in mine[first] if all(seed in of_seed for of_seed in mine.values())),
            )
        )
    return found


def _saving(ours: _Front, theirs: _Front, cost: str, seeds: list[int], scores: Scores) -> Saving:
    saved, low, high = saving(_points(ours, cost, seeds, scores), _points(theirs, cost, seeds, scores))
    drawn = saved[1:] if scores.has_intervals else saved
    met = drawn[~np.isnan(drawn)]
    meets = len(met) / len(drawn)
    networks = [[front.members[c][s].network for c in front.members for s in seeds] for front in (ours, theirs)]
    value: float | None = None
    interval: tuple[float, float] | None = None
    levels: tuple[float, float] | None = None
    both = ~np.isnan(saved)
    as_is = bool(both[0])
    if meets > _MOST:
        # By chance the measured fronts may just miss each other where most drawn ones meet.
        value = float(saved[0]) if as_is else float(np.median(met))
        least, most = (float(v[0] if as_is else np.median(v[both])) for v in (low, high))
        levels = least, most
        if scores.has_intervals:
            interval = float(np.quantile(met, 0.025)), float(np.quantile(met, 0.975))
    outcome: SavingOutcome
    if value is None or levels is None:
        outcome = "not comparable"
    elif networks[0] == networks[1] and not saved[both].any():
        outcome = "identical"
    elif interval is None:
        outcome = "no interval"
    else:
        outcome = "shown" if interval[0] > 0 else "against" if interval[1] < 0 else "not shown"
    return Saving(
        ours=ours.name,
        theirs=theirs.name,
        cost=cost,
        outcome=outcome,
        value=value,
        low=None if interval is None else interval[0],
        high=None if interval is None else interval[1],
        scores=levels,
        meets=meets,
        seeds=seeds,
        text=_words(
            ours.name,
            theirs.name,
            cost,
            outcome,
            value,
            interval,
            levels,
            scores.metric,
            len(seeds),
            _drawn(meets, as_is),
        ),
    )


def _points(front: _Front, cost: str, seeds: Sequence[int], scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Costs and scores of a method's networks in every draw, both (1 + draws, networks)."""
    costs, reached = [], []
    for contest, of_seed in front.members.items():
        drawn = scores.of(contest, seeds)
        logarithms = np.log([of_seed[seed].costs[cost] for seed in seeds])
        costs.append(np.exp(seed_means(np.broadcast_to(logarithms, drawn.shape))))
        reached.append(seed_means(drawn))
    return np.stack(costs, axis=-1), np.stack(reached, axis=-1)


def _words(
    ours: str,
    theirs: str,
    cost: str,
    outcome: SavingOutcome,
    value: float | None,
    interval: tuple[float, ...] | None,
    levels: tuple[float, ...] | None,
    metric: str,
    seeds: int,
    drawn: str,
) -> str:
    """As "supernet takes 27 % [12, 40] less energy than composite at equal accuracy, 80.1 to 84.2 %: shown"."""
    count = "one seed" if seeds == 1 else f"{seeds} seeds"
    ending = f"({count}{'' if seeds >= ENOUGH_SEEDS else ', indicative'})."
    noun, metric = _NOUNS.get(cost, spoken_cost(cost)), spoken_metric(metric)
    if value is None or levels is None:
        return f"{ours} and {theirs} are not comparable in {noun} at equal {metric}, since {drawn} {ending}"
    if outcome == "identical":
        return f"{ours} and {theirs} are the same networks at every budget on {cost} {ending}"
    less = value >= 0
    much = f"{100 * abs(value):.0f} %"
    if interval is not None:
        low, high = interval if less else (-interval[1], -interval[0])
        much += f" [{round(100 * low)}, {round(100 * high)}]"
    word = ("fewer" if cost in _COUNTED else "less") if less else "more"
    said = {"shown": ": shown", "not shown": ": not shown", "against": ": the other is better, shown"}.get(outcome, "")
    return (
        f"{ours} takes {much} {word} {noun} than {theirs} at equal {metric}, {100 * levels[0]:.1f} to "
        f"{100 * levels[1]:.1f} %{drawn}{said} {ending}"
    )


def _drawn(meets: float, as_is: bool) -> str:
    """What a figure is of where not all draws have scores that both reach, or why there is none."""
    share = f"{math.floor(100 * meets)} % of the draws"
    if meets == 1:
        return ""
    if meets <= _MOST:
        return f"both reach one in only {share}" if meets else "there is none that both reach"
    if as_is:
        return f" (the interval is of the {share} in which both reach some score)"
    return f" (the median of the {share} in which both reach some score; as measured they reach none)"
