"""From tested networks to a comparison's statistics: cells, verdicts in words, hypervolumes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np

from bitsmith.blueprint import Budget
from bitsmith.errors import RunError
from bitsmith.report.bootstrap import COUNTED, DRAWS, Interval, hypervolume, interval, resample
from bitsmith.report.compared import Cell, CompareVerdict, Contest, Member, Volume
from bitsmith.report.plot import spoken_metric
from bitsmith.report.verdict import ENOUGH_SEEDS

# Of the largest limit of a cost: where hypervolumes end, so that a network that uses all of a budget counts too.
BEYOND = 1.1
_DRAWN = re.compile(r"random( \(\d+\))?")  # the labels of random draws, which nothing else may have
SEARCHED = ("sensitivity",)  # baselines that search, so that they are compared with the other baselines themselves


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Test scores of every network, as they are and, where the metric lets, on resampled images.

    Args:
        metric: its name.
        drawn: (contest, seed) -> (1 + draws,), first the score as it is; (1,) where there is no interval.
        chance: the score of guessing, the reference of hypervolumes.
    """

    metric: str
    drawn: Mapping[tuple[Contest, int], np.ndarray]
    chance: float

    @property
    def has_intervals(self) -> bool:
        """Whether the metric could be resampled."""
        return self.metric in COUNTED

    def of(self, contest: Contest, seeds: Sequence[int]) -> np.ndarray:
        """(1 + draws, seeds)."""
        return np.stack([self.drawn[contest, seed] for seed in seeds], axis=1)


def make_scores(
    members: Sequence[Member],
    predictions: Mapping[tuple[Contest, int], np.ndarray],
    labels: np.ndarray,
    *,
    metric: str,
    classes: int,
    positive: int = 1,
    draws: int = DRAWS,
) -> Scores:
    """Score all networks on the same resampled test images.

    Args:
        predictions: of every member, of the images of `labels` in their order.

    Raises:
        RunError: what a file predicts doesn't give the score that verification wrote down.
    """
    chance = 1 / classes if metric in ("accuracy", "balanced_accuracy") else 0.0
    if metric not in COUNTED:
        drawn = {(member.contest, member.seed): np.array([member.test]) for member in members}
        return Scores(metric=metric, drawn=drawn, chance=chance)
    drawn = resample(predictions, labels, metric=metric, classes=classes, positive=positive, draws=draws)
    for member in members:
        found = drawn[member.contest, member.seed][0]
        if abs(found - member.test) > 1e-6:
            raise RunError(
                f"{member.folder}: the predictions kept there score {found:.4f}, its report says {member.test:.4f}; "
                f"run bitsmith verify and bitsmith report on that folder"
            )
    return Scores(metric=metric, drawn=drawn, chance=chance)


def make_cells(members: Sequence[Member], scores: Scores) -> list[Cell]:
    """One cell per contest, in the order of the members."""
    cells = []
    for contest, mine in _contests(members).items():
        seeds = [member.seed for member in mine]
        found = _bounded(_interval(scores, scores.of(contest, seeds)))
        cells.append(
            Cell(
                contest=contest,
                kind=mine[0].kind,
                seeds=seeds,
                bits=list(dict.fromkeys(member.bits for member in mine)),
                test=mean(member.test for member in mine),
                low=found and found.low,
                high=found and found.high,
                validation=mean(member.validation for member in mine),
                costs={cost: mean(member.costs[cost] for member in mine) for cost in mine[0].costs},
                epochs=mean(member.epochs for member in mine),
                search_epochs=mean(member.search_epochs for member in mine),
                hours=sum(member.seconds for member in mine) / 3600,
            )
        )
    return cells


def make_verdicts(members: Sequence[Member], scores: Scores) -> list[CompareVerdict]:
    """Each method against the best baseline at each of its budgets, and against what else there is.

    The best baseline is the one with the highest mean validation score over the common seeds, whatever its space: a
    choice by test would favor the baselines. `sensitivity` is both: a baseline for others, and compared with the rest.
    Where the best of all others by validation was searched too, a method is compared with that one as well; where its
    space has several random draws of a seed, also with their mean.
    """
    contests = _contests(members)
    verdicts = []
    for ours, mine in contests.items():
        if mine[0].kind != "found" and ours.method not in SEARCHED:
            continue
        others = [rival for rival in contests if rival.budget == ours.budget and rival.method != ours.method]
        baselines = [rival for rival in others if contests[rival][0].kind == "baseline"]
        found = [_verdict(ours, baselines, contests, scores)]
        if mine[0].kind == "found":
            best = _verdict(ours, others, contests, scores)
            found += [best] if best is not None and contests[best.theirs][0].kind == "found" else []
            found.append(_against_mean(ours, contests, scores))
        verdicts += [verdict for verdict in found if verdict is not None]
    return verdicts


def _against_mean(ours: Contest, contests: Mapping[Contest, list[Member]], scores: Scores) -> CompareVerdict | None:
    """A method against the mean of several random draws in its space; None where there are not several."""
    draws = [
        rival
        for rival in contests
        if (rival.space, rival.budget) == (ours.space, ours.budget) and _DRAWN.fullmatch(rival.method)
    ]
    seeds = [
        member.seed
        for member in contests[ours]
        if draws and all(member.seed in {m.seed for m in contests[draw]} for draw in draws)
    ]
    if len(draws) < 2 or not seeds:
        return None
    theirs = Contest(method=f"mean of {len(draws)} random", space=ours.space, budget=ours.budget)
    difference = scores.of(ours, seeds) - np.mean([scores.of(draw, seeds) for draw in draws], axis=0)
    return _said(ours, theirs, contests, scores, difference, seeds, same=[])


def _verdict(
    ours: Contest, rivals: Sequence[Contest], contests: Mapping[Contest, list[Member]], scores: Scores
) -> CompareVerdict | None:
    mine = {member.seed: member for member in contests[ours]}
    common = {rival: [m for m in contests[rival] if m.seed in mine] for rival in rivals}
    common = {rival: both for rival, both in common.items() if both}
    if not common:
        return None
    most = max(len(both) for both in common.values())  # a rival of fewer seeds is not chosen by their luck
    theirs = max(
        (rival for rival, both in common.items() if len(both) == most),
        key=lambda rival: mean(member.validation for member in common[rival]),
    )
    seeds = [member.seed for member in common[theirs]]
    same = [member.seed for member in common[theirs] if member.network == mine[member.seed].network]
    difference = scores.of(ours, seeds) - scores.of(theirs, seeds)
    return _said(ours, theirs, contests, scores, difference, seeds, same=same)


def _said(
    ours: Contest,
    theirs: Contest,
    contests: Mapping[Contest, list[Member]],
    scores: Scores,
    difference: np.ndarray,
    seeds: list[int],
    *,
    same: list[int],
) -> CompareVerdict:
    """The verdict on a difference (1 + draws, seeds) of scores.

    Args:
        same: seeds for which both are the same network.
    """
    found = _interval(scores, difference)
    gain = float(difference[0].mean())
    if same == seeds:
        outcome = "identical"
    elif found is None:
        outcome = "no interval"
    else:
        outcome = "shown" if found.low > 0 else "against" if found.high < 0 else "not shown"
    several = len({contest.space for contest in contests}) > 1
    names = name_of(ours, several), name_of(theirs, several)
    trained_alike = not difference.any()
    text = _words(*names, ours.budget, outcome, found, gain, seeds, same, trained_alike=trained_alike)
    if outcome == "no interval":
        text += f" No interval: {spoken_metric(scores.metric)} needs more than predicted classes, so nothing is shown."
    return CompareVerdict(
        ours=ours,
        theirs=theirs,
        outcome=outcome,
        gain=gain,
        low=found and found.low,
        high=found and found.high,
        seeds=seeds,
        same=same,
        text=text,
    )


def name_of(contest: Contest, several: bool) -> str:
    """A method, with its space where there are several."""
    return f"{contest.method} in {contest.space}" if several else contest.method


def _words(
    ours: str,
    theirs: str,
    budget: str,
    outcome: str,
    found: Interval | None,
    gain: float,
    seeds: Sequence[int],
    same: Sequence[int],
    *,
    trained_alike: bool,
) -> str:
    count = "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
    caution = "" if len(seeds) >= ENOUGH_SEEDS else ", indicative"
    if outcome == "identical" and trained_alike:
        return f"At {budget} {ours} is the same network as {theirs} ({count}): there is nothing to compare."
    points = f"{abs(100 * gain):.2f}"
    if found is not None:
        # Of a loss, the interval of the loss.
        low, high = (found.low, found.high) if gain >= 0 else (-found.high, -found.low)
        points += f" [{100 * low:.2f}, {100 * high:.2f}]"
    if outcome == "identical":  # one went on from what its search had trained
        more = "more" if gain >= 0 else "less"
        return (
            f"At {budget} {ours} is the same network as {theirs}, only trained from other weights: it scores {points} "
            f"points {more} ({count}{caution})."
        )
    verb = f"gains {points} points over" if gain >= 0 else f"loses {points} points to"
    said = {"shown": "shown", "not shown": "not shown", "against": "the other is better, shown", "no interval": ""}
    equal = f"; the same network for {len(same)} of them" if same else ""
    ending = f": {said[outcome]}" if said[outcome] else ""
    return f"At {budget} {ours} {verb} {theirs}{ending} ({count}{caution}{equal})."


def make_volumes(members: Sequence[Member], scores: Scores) -> list[Volume]:
    """The hypervolume of every method in every space that has several budgets of a cost.

    The reference point is the cost 1.1 times the largest limit and the score of guessing; volumes are shares of the
    rectangle between it, cost 0 and score 1. Per seed, then the mean over seeds that have all budgets.
    """
    limits: dict[str, set[float]] = {}
    for member in members:
        for budget in map(Budget.parse, member.contest.budget.split(", ")):
            limits.setdefault(budget.cost, set()).add(budget.limit)
    volumes = []
    for cost, values in limits.items():
        if len(values) < 2:
            continue
        edge = BEYOND * max(values)
        groups: dict[tuple[str, str], dict[int, list[Member]]] = {}
        for member in members:
            group = groups.setdefault((member.contest.method, member.contest.space), {})
            group.setdefault(member.seed, []).append(member)
        for (method, space), by_seed in groups.items():
            most = max(len(mine) for mine in by_seed.values())
            whole = {seed: mine for seed, mine in by_seed.items() if len(mine) == most}
            if most < 2:
                continue
            shares = [
                hypervolume(
                    np.array([member.costs[cost] for member in mine]),
                    np.stack([scores.drawn[member.contest, seed] for member in mine], axis=-1),
                    cost=edge,
                    score=scores.chance,
                )
                / (edge * (1 - scores.chance))
                for seed, mine in whole.items()
            ]
            found = _bounded(_interval(scores, np.stack(shares, axis=1)))
            volumes.append(
                Volume(
                    method=method,
                    space=space,
                    cost=cost,
                    reference_cost=edge,
                    reference_score=scores.chance,
                    value=float(np.mean([share[0] for share in shares])),
                    low=found and found.low,
                    high=found and found.high,
                    seeds=list(whole),
                )
            )
    return volumes


def summarize_verdicts(verdicts: Sequence[CompareVerdict]) -> str:
    """All verdicts in a sentence or two, with how many there were to choose from."""
    if not verdicts:
        return "Nothing was searched that a baseline could be compared with."
    counts = {outcome: sum(v.outcome == outcome for v in verdicts) for outcome in ("shown", "against", "identical")}
    total = len(verdicts)
    parts = [
        f"a gain is shown in {counts['shown']} of {total}",
        *([f"the other is better in {counts['against']}"] if counts["against"] else []),
        *([f"{counts['identical']} found the other's own network"] if counts["identical"] else []),
    ]
    text = f"{total} comparison{'s' if total > 1 else ''}: {', '.join(parts)}."
    tested = sum(v.outcome in ("shown", "against", "not shown") for v in verdicts)
    if tested > 1:
        text += (
            f" Each has its own 95 % interval: of {tested} between equals about {0.05 * tested:.2g} would be shown "
            "one way or the other by chance alone."
        )
    return text


def _contests(members: Sequence[Member]) -> dict[Contest, list[Member]]:
    groups: dict[Contest, list[Member]] = {}
    for member in members:
        groups.setdefault(member.contest, []).append(member)
    return groups


def _interval(scores: Scores, values: np.ndarray) -> Interval | None:
    return interval(values) if scores.has_intervals else None


def _bounded(found: Interval | None) -> Interval | None:
    """Of a share: few seeds that differ much reach beyond 0 or 1, where no share can be."""
    return found and replace(found, low=max(0.0, found.low), high=min(1.0, found.high))
