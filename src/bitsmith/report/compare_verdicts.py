"""Verdicts of a comparison: who was measured by whom, what came out, in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import mean

import numpy as np

from bitsmith.report.bootstrap import Interval
from bitsmith.report.compared import CompareVerdict, Contest, Member
from bitsmith.report.contests import Scores, group
from bitsmith.report.plot import spoken_metric
from bitsmith.report.verdict import ENOUGH_SEEDS

_DRAWN = re.compile(r"random( \(\d+\))?")  # the labels of random draws, which nothing else may have
SEARCHED = ("sensitivity",)  # baselines that search, so that they are compared with the other baselines themselves


def make_verdicts(members: Sequence[Member], scores: Scores) -> list[CompareVerdict]:
    """Each method against the best baseline at each of its budgets, and against what else there is.

    The best baseline is the one with the highest mean validation score over the common seeds, whatever its space: a
    choice by test would favor the baselines. `sensitivity` is both: a baseline for others, and compared with the rest.
    Where the best of all others by validation was searched too, a method is compared with that one as well; where its
    space has several random draws of a seed, also with their mean and with a random search, per seed the draw that is
    best by validation. Who is outside a budget with any seed neither wins nor loses there.
    """
    every = group(members)
    several = len({contest.space for contest in every}) > 1
    contests = {contest: mine for contest, mine in every.items() if not any(member.outside for member in mine)}
    verdicts = []
    for ours, mine in contests.items():
        if mine[0].kind != "found" and ours.method not in SEARCHED:
            continue
        others = [rival for rival in contests if rival.budget == ours.budget and rival.method != ours.method]
        baselines = [rival for rival in others if contests[rival][0].kind == "baseline"]
        found = [_verdict(ours, baselines, contests, scores, several)]
        if mine[0].kind == "found":
            best = _verdict(ours, others, contests, scores, several)
            found += [best] if best is not None and contests[best.theirs][0].kind == "found" else []
            found += _against_draws(ours, contests, scores, several)
        verdicts += [verdict for verdict in found if verdict is not None]
    return verdicts


def _against_draws(
    ours: Contest, contests: Mapping[Contest, list[Member]], scores: Scores, several: bool
) -> list[CompareVerdict]:
    """A method against several random draws in its space: their mean, and the best of each seed by validation."""
    drawn = {
        rival: {member.seed: member for member in members}
        for rival, members in contests.items()
        if (rival.space, rival.budget) == (ours.space, ours.budget) and _DRAWN.fullmatch(rival.method)
    }
    mine = {member.seed: member for member in contests[ours]}
    seeds = [seed for seed in mine if all(seed in draw for draw in drawn.values())]
    if len(drawn) < 2 or not seeds:
        return []
    chosen = [max((draw[seed] for draw in drawn.values()), key=lambda member: member.validation) for seed in seeds]
    best = np.concatenate([scores.of(member.contest, [member.seed]) for member in chosen], axis=1)
    middle = np.mean([scores.of(draw, seeds) for draw in drawn], axis=0)
    same = [member.seed for member in chosen if member.network == mine[member.seed].network]
    found = []
    for name, theirs, equal in (
        (f"mean of {len(drawn)} random", middle, []),
        (f"random search (best of {len(drawn)})", best, same),
    ):
        rival = Contest(method=name, space=ours.space, budget=ours.budget)
        found.append(_said(ours, rival, scores, scores.of(ours, seeds) - theirs, seeds, same=equal, several=several))
    return found


def _verdict(
    ours: Contest,
    rivals: Sequence[Contest],
    contests: Mapping[Contest, list[Member]],
    scores: Scores,
    several: bool,
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
    return _said(ours, theirs, scores, difference, seeds, same=same, several=several)


def _said(
    ours: Contest,
    theirs: Contest,
    scores: Scores,
    difference: np.ndarray,
    seeds: list[int],
    *,
    same: list[int],
    several: bool,
) -> CompareVerdict:
    """The verdict on a difference (1 + draws, seeds) of scores.

    Args:
        same: seeds for which both are the same network.
        several: whether the comparison has several spaces, which are named then.
    """
    found = scores.interval(difference)
    gain = float(difference[0].mean())
    if same == seeds:
        outcome = "identical"
    elif found is None:
        outcome = "no interval"
    else:
        outcome = "shown" if found.low > 0 else "against" if found.high < 0 else "not shown"
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


def summarize_verdicts(verdicts: Sequence[CompareVerdict]) -> str:
    """All verdicts in a sentence or two, with how many there were to choose from.

    Of two methods that were each compared with the other, one's gain is the other's loss: the first verdict counts.
    """
    verdicts = list({frozenset((verdict.ours, verdict.theirs)): verdict for verdict in reversed(verdicts)}.values())
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
