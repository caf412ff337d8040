"""What a latent search hands on, from the trials of all rungs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from bitsmith.errors import TrainingError
from bitsmith.search.latent.elsewhere import learned
from bitsmith.search.latent.ladder import front_depths
from bitsmith.search.latent.trials import Trial
from bitsmith.search.problem import Found, Problem
from bitsmith.train import Event, load_state


def ranked(
    trials: Sequence[Trial], value: Callable[[Trial], float], traded: Sequence[str]
) -> tuple[list[float], list[int]]:
    """Scores and depths of trials, as `promoted` takes them."""
    scores = [value(trial) for trial in trials]
    points = np.array([[s, *(-t.costs[name] for name in traded)] for s, t in zip(scores, trials, strict=True)])
    return scores, front_depths(points) if traded else [0] * len(trials)


def handed_on(
    problem: Problem,
    rungs: Sequence[Sequence[Trial]],
    epochs: Sequence[int],
    *,
    value: Callable[[Trial], float],
    traded: Sequence[str],
    seconds: float,
) -> Found:
    """The best network of the highest rung with its weights, the front there, and the curves of the first rung.

    Weights are there where they were learned for this search in a folder, on that rung.

    Args:
        rungs: trials of each rung.
        epochs: of a training in each.
        value: score of a trial, larger is better, NaN of what failed.
        traded: costs that the front trades the score against.

    Raises:
        TrainingError: every evaluation failed.
    """
    alive = [[trial for trial in rung if not trial.failed] for rung in rungs]
    last = next((rung for rung in reversed(alive) if rung), [])
    if not last:
        raise TrainingError(f"all {len(rungs[0])} evaluations failed, the first of them: {rungs[0][0].failed}")
    best = max(last, key=lambda t: (value(t), -(t.loss or 0.0), -t.number))
    _, depths = ranked(last, value, traded)
    front = [trial for trial, depth in zip(last, depths, strict=True) if depth == 0] if traded else []
    running = np.maximum.accumulate([value(trial) for trial in alive[0]])
    return Found(
        best=problem.space.decode(np.array(best.sequence)),
        method="latent",
        state=_learned(problem, best),
        epochs=sum(trial.epochs for rung in rungs for trial in rung),
        seconds=seconds,
        curves={
            "step": [float(trial.number + 1) for trial in alive[0]],
            f"validation_{problem.task.metric_name}": [float(trial.metric or 0.0) for trial in alive[0]],
            "validation_loss": [float(trial.loss or 0.0) for trial in alive[0]],
            "best_score": running.tolist(),
        },
        details={
            "evaluations": len(rungs[0]),
            "failed": {str(t.number + 1): t.failed for rung in rungs for t in rung if t.failed},
            "ladder": [{"networks": len(rung), "epochs": n} for rung, n in zip(rungs, epochs, strict=True)],
            "front": [
                {"network": t.network, "metric": t.metric, "loss": t.loss} | {name: t.costs[name] for name in traded}
                for t in front
            ],
        },
    )


def _learned(problem: Problem, best: Trial) -> dict[str, Tensor] | None:
    if problem.folder is None:
        return None
    file = learned(problem.folder, best)
    if not file.exists():
        note = f"{file} isn't there, so what the best network has learned is lost: its final training begins anew"
        problem.watch(Event(stage="search latent", step=1, steps=1, images=0, note=note))
        return None
    return load_state(file)
