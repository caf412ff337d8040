"""From tested networks to a comparison's statistics: scores on resampled images, cells, hypervolumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np

from bitsmith.blueprint import Budget
from bitsmith.errors import RunError
from bitsmith.report.bootstrap import COUNTED, DRAWS, Interval, hypervolume, interval, resample
from bitsmith.report.compared import Cell, Contest, Member, Volume

# Of the largest limit of a cost: where hypervolumes end, so that a network that uses all of a budget counts too.
BEYOND = 1.1


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

    def interval(self, values: np.ndarray) -> Interval | None:
        """Of the mean of (1 + draws, seeds), None where the metric has none."""
        return interval(values) if self.has_intervals else None


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
    for contest, mine in group(members).items():
        seeds = [member.seed for member in mine]
        found = _bounded(scores.interval(scores.of(contest, seeds)))
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
            found = _bounded(scores.interval(np.stack(shares, axis=1)))
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


def group(members: Sequence[Member]) -> dict[Contest, list[Member]]:
    """The seeds of every contest, in the order of the members."""
    groups: dict[Contest, list[Member]] = {}
    for member in members:
        groups.setdefault(member.contest, []).append(member)
    return groups


def _bounded(found: Interval | None) -> Interval | None:
    """Of a share: few seeds that differ much reach beyond 0 or 1, where no share can be."""
    return found and replace(found, low=max(0.0, found.low), high=min(1.0, found.high))
