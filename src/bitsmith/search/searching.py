"""The loop that searches by gradients share: over the training split, with a checkpoint in the problem's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from bitsmith.search.problem import Problem
from bitsmith.seeding import derive
from bitsmith.train import Loop

if TYPE_CHECKING:
    from bitsmith.search.composite import Composite
    from bitsmith.search.supernet.method import Supernet


def open_loop(method: Composite | Supernet, problem: Problem, *, depends_on: Mapping[str, Any]) -> Loop:
    """A loop over the method's plan, from its checkpoint on where there is one.

    Args:
        depends_on: what a checkpoint must agree in to be gone on from, beside the method's settings, seed, budgets and
            data: the space. JSON-able.

    Raises:
        RunError: as `Loop`.
    """
    settings = json.loads(json.dumps(asdict(method)))  # tuples become lists, as in a checkpoint
    return Loop(
        stage=f"search {method.name} {at(problem)}",
        task=problem.task,
        split=problem.task.data.train,
        plan=method.plan,
        epoch_seed=partial(derive, problem.seed, "search batches"),
        settings=settings | {"seed": problem.seed, "budgets": [str(b) for b in problem.budgets]} | dict(depends_on),
        checkpoint=problem.folder / "search.checkpoint" if problem.folder else None,
        checkpoint_seconds=problem.checkpoint_seconds,
        watch=problem.watch,
    )


def at(problem: Problem) -> str:
    """Which of several searches this is, for progress."""
    return "at " + ", ".join(map(str, problem.budgets))
