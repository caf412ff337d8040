"""Networks that a search of a run has evaluated in other processes: what is asked there, and how it is done."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bitsmith.executor import PATIENCE, Executor
from bitsmith.pipeline.job import Job, Say, float_state
from bitsmith.pipeline.lock import locked
from bitsmith.pipeline.opened import opened
from bitsmith.pipeline.verbs import pose
from bitsmith.search import Elsewhere, Latent
from bitsmith.train import Watch


def search_start(job: Job) -> Mapping[str, Tensor] | None:
    """Weights that searches of a run start from."""
    return float_state(job) if job.recipe.start != "scratch" else None


def elsewhere(job: Job, budgets: int, executor: Executor | None, say: Say) -> Elsewhere | None:
    """Where the method of a run has its networks evaluated; None: in this process, as with a storage.

    Args:
        budgets: which of the recipe's.
    """
    method = job.method
    if executor is None or not isinstance(method, Latent) or method.storage is not None:
        return None
    if method.evaluations and method.batch < executor.places:
        say(
            f"latent proposes {method.batch} networks at a time behind its first {method.initial}, and there are "
            f"{executor.places} places: others wait then. A batch of {executor.places} takes all, with other proposals"
        )
    return Elsewhere(
        executor=executor,
        call="bitsmith.pipeline.evaluations:do_evaluation",
        arguments={"run": str(job.run.path.absolute()), "budgets": budgets},
    )


def do_evaluation(watch: Watch, say: Say, *, run: str, budgets: int, folder: str, request: Mapping[str, Any]) -> None:
    """Evaluate one network for a search of a run, as a trial.

    Args:
        run: its folder.
        budgets: which of its recipe's.
        folder, request: of the evaluation, see `Elsewhere`.
    """
    job = opened(Path(run), say)
    method, start = job.method, search_start(job)
    assert isinstance(method, Latent)
    with locked(Path(folder), patience=PATIENCE):  # what a killed command left may be at it still
        problem = pose(
            job.task,
            job.space,
            method,
            job.recipe.budget_sets()[budgets],
            target=job.target,
            float_state=start,
            seed=job.recipe.seed,
        )
        problem = dataclasses.replace(problem, checkpoint_seconds=job.recipe.checkpoint_seconds, watch=watch)
        method.answer(problem, request, Path(folder))
