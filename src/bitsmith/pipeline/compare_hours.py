"""How long a comparison will take on one core, from a few real steps of every kind of network."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from bitsmith.pipeline.compare_plan import Plan
from bitsmith.pipeline.estimate import Estimate, estimate
from bitsmith.pipeline.folder import RunFolder
from bitsmith.pipeline.job import prepare
from bitsmith.pipeline.planned import PlannedRun


def estimate_hours(laid_out: Plan) -> dict[tuple[str, str], float]:
    """Core-hours by (space, method), all seeds and budgets together; float networks under (space, "float").

    One run of every space is timed, and one of every method that trains while it searches. Nothing is counted as
    compiled; export and verification, seconds per network, are left out.
    """
    found: dict[tuple[str, str], float] = {}
    timed: dict[tuple[str, ...], tuple[PlannedRun, Estimate]] = {}
    for runs in _alike(laid_out.runs):
        run = runs[0]
        kind = (run.space, run.method if run.search_epochs else "", f"{run.recipe.model.width}")
        if kind not in timed:
            with tempfile.TemporaryDirectory() as folder:
                timed[kind] = run, estimate(prepare(RunFolder.create(Path(folder), run.recipe)))
        other, seconds = timed[kind]  # which may train for more budgets
        share = len(run.recipe.budgets) / len(other.recipe.budgets)
        own = seconds.float_seconds if run.recipe.float_plan is not None and run.floats is None else 0.0
        each = share * (seconds.search_seconds + seconds.train_seconds) + own
        found[run.space, run.method] = len(runs) * each / 3600
    for path in laid_out.floats:
        user = next(run for run in laid_out.runs if run.floats == path)
        seconds = next(of for (space, *_), (_, of) in timed.items() if space == user.space).float_seconds
        key = (user.space, "float")
        found[key] = found.get(key, 0.0) + seconds / 3600
    return found


def _alike(runs: Sequence[PlannedRun]) -> list[list[PlannedRun]]:
    """Runs that differ in their seed alone, or, narrowed, in their budget."""
    groups: dict[tuple[str, str], list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault((run.space, run.method), []).append(run)
    return list(groups.values())
