"""The verdict: one sentence for one budget, also where it is against us."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, variance

from bitsmith.blueprint import Budget, format_cost, spoken_cost
from bitsmith.errors import RunError
from bitsmith.report.parts import Row
from bitsmith.report.plot import spoken_metric

ENOUGH_SEEDS = 5  # below this a difference is called indicative
_Z95 = 1.96


def verdict(rows: Sequence[Row], budget: str, *, test_images: int | None = None, tried: bool = True) -> str:
    """Compare what was found for a budget with the best baseline inside it, by the metric on the test set.

    Rows of one name and budget are seeds of one network; their tests are averaged. Taking the best baseline by test
    favors the baselines. With n test images and k seeds on each side, the noise of the difference is

        1.96 sqrt(2 p (1 - p) / n + v_found / k_found + v_base / k_base),

    p the mean of both accuracies, v the variance over seeds (0 for one seed). The binomial part takes the two as
    independent; on the same images they mostly aren't, so it is wide rather than narrow. Source: ours; the normal
    approximation of a difference of proportions. It holds for accuracy only and is left out for another metric.

    Args:
        rows: all rows of the record.
        budget: as the rows spell it, "size=20kB"; several that hold together are joined by ", ".
        test_images: size of the test set, where known.
        tried: whether any baseline was asked for, also where none has a row.

    Returns:
        One sentence for each found network of this budget, or one that says why there is none.

    Raises:
        RunError: no row speaks of this budget.

    Example, from one row of each kind and 10,000 test images:
        "Inside size=20kB composite reaches 91.20 % against 90.80 % for uniform+fill: +0.40 points, within the noise
        of 10,000 test images (±0.79 points); one seed, indicative."
    """
    parts = budget.split(", ")
    if not any(part in row.meets for part in parts for row in rows):
        known = sorted({text for row in rows for text in row.meets})
        raise RunError(f"no row says whether it meets {budget!r}; the rows speak of {known}")
    inside = [row for row in rows if all(row.meets.get(part, False) for part in parts)]
    baselines = _seeds([row for row in inside if row.kind == "baseline"])
    best = max(baselines, key=lambda group: mean(_tests(group)), default=None)
    asked = [row for row in rows if row.kind == "found" and row.budget == budget]
    names = list(dict.fromkeys(row.name for row in asked))
    if names:
        tried = tried or any(row.kind == "baseline" for row in rows)
        return " ".join(
            _sentence([row for row in asked if row.name == n], best, parts, test_images, tried) for n in names
        )
    if best is None:
        return f"Inside {budget} there is no network with a test result."
    theirs = _score(best[0], mean(_tests(best)))
    return f"Inside {budget} nothing was searched; the best baseline is {best[0].name} with {theirs}."


def _sentence(
    found: list[Row], best: list[Row] | None, parts: Sequence[str], test_images: int | None, tried: bool
) -> str:
    name, budget = found[0].name, ", ".join(parts)
    outside = [row for row in found if not all(row.meets.get(part, False) for part in parts)]
    if outside:
        which = f" with {len(outside)} of {len(found)} seeds" if len(found) > 1 else ""
        return f"{name} misses {budget}{which}{_excess(outside, parts)}: no claim."
    if any(row.test is None for row in found):
        return f"Inside {budget} {name} has no test result: no claim."
    ours = mean(_tests(found))
    if best is None:
        why = "no tested baseline fits inside" if tried else "no baseline was tried"
        return f"Inside {budget} {name} reaches {_score(found[0], ours)}; {why}: no comparison."
    theirs = mean(_tests(best))
    points = 100 * (ours - theirs)
    start = f"Inside {budget} {name} reaches {_score(found[0], ours)}"
    # Compared as printed: a lead that rounds to nothing is none.
    if round(points, 2) > 0:
        start += f" against {_share(theirs)} for {best[0].name}"
    else:
        start += f" and does not beat {best[0].name} with {_share(theirs)}"
    seeds = min(len(found), len(best))
    count = "one seed" if seeds == 1 else f"{seeds} seeds"
    caution = ", indicative" if seeds < ENOUGH_SEEDS else ""
    difference = f"{points:+.2f} points" if round(points, 2) else "0.00 points"
    return f"{start}: {difference}, {_noise(found, best, points, test_images)}; {count}{caution}."


def _excess(outside: Sequence[Row], parts: Sequence[str]) -> str:
    """By how much networks are above their budgets, the worst of each budget: " by 18 B of weights"."""
    texts = []
    for budget in map(Budget.parse, parts):
        most = max((row.costs.get(budget.cost, 0.0) for row in outside), default=0.0)
        if most > budget.limit:
            over = f"{format_cost(budget.cost, most - budget.limit)} of {spoken_cost(budget.cost)}"
            texts.append(f"{over} ({100 * (most / budget.limit - 1):.2g} %)")
    return f" by {'up to ' if len(outside) > 1 else ''}{' and '.join(texts)}" if texts else ""


def _noise(found: list[Row], best: list[Row], points: float, test_images: int | None) -> str:
    if found[0].metric != "accuracy":
        return f"sampling error of {spoken_metric(found[0].metric)} not estimated"
    if test_images is None:
        return "sampling error unknown (the size of the test set isn't recorded)"
    p = (mean(_tests(found)) + mean(_tests(best))) / 2
    spread = sum(variance(_tests(group)) / len(group) for group in (found, best) if len(group) > 1)
    if p in (0, 1) and not spread:  # the approximation would claim that there is no noise
        return f"{'all' if p else 'none'} of the {test_images:,} test images right on both sides"
    margin = 100 * _Z95 * math.sqrt(2 * p * (1 - p) / test_images + spread)
    seeds = " and of the seeds" if spread else ""
    word = "within" if abs(points) <= margin else "beyond"
    return f"{word} the noise of {test_images:,} test images{seeds} (±{margin:.2f} points)"


def _seeds(rows: Sequence[Row]) -> list[list[Row]]:
    """Tested rows that are seeds of one network."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.test is not None:
            groups.setdefault((row.name, row.budget), []).append(row)
    return list(groups.values())


def _tests(rows: Sequence[Row]) -> list[float]:
    return [row.test for row in rows if row.test is not None]


def _score(row: Row, value: float) -> str:
    """A share, with the metric's name where it isn't the usual one."""
    return _share(value) if row.metric == "accuracy" else f"{spoken_metric(row.metric)} {_share(value)}"


def _share(value: float) -> str:
    return f"{100 * value:.2f} %"
