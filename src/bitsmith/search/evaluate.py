"""Scoring one blueprint: a short training, or none, and its metric on validation data."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from bitsmith.blueprint import Blueprint
from bitsmith.errors import RecipeError
from bitsmith.quantize import build
from bitsmith.search.problem import Problem
from bitsmith.seeding import derive
from bitsmith.space import Mobile, Sequences, Space
from bitsmith.train import TrainPlan, calibrate, evaluate, fit, reestimate_norms, save_state


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one evaluation of a blueprint gave.

    Args:
        metric: of the task on validation data, larger is better.
        loss: there; decides between equal metrics.
        epochs: of training that it took.
        seconds: that it took.
    """

    metric: float
    loss: float
    epochs: int
    seconds: float


def evaluate_blueprint(
    problem: Problem,
    blueprint: Blueprint,
    plan: TrainPlan | None,
    *,
    stage: str = "evaluate",
    checkpoint: Path | None = None,
    weights: Path | None = None,
) -> Score:
    """Build a blueprint's network, start it from the problem's float weights if it has any, train it shortly, score it.

    All blueprints of a problem get the same first weights and the same batches, so that their differences are their
    own. The budgets are not looked at.

    Args:
        plan: of the training; None scores the rounded float weights (post-training), steps calibrated and BatchNorm
            re-estimated on training data.
        checkpoint: file that the training continues from and writes.
        weights: file that gets what the network has learned.

    Raises:
        RecipeError: no plan, and no float weights to round; float weights for networks of a mobile space.
        TrainingError: the loss is not finite.
    """
    require_start(problem.space, trained=problem.float_state is not None, plan=plan)
    started = time.monotonic()
    task, seed = problem.task, derive(problem.seed, "evaluate")
    torch.manual_seed(derive(seed, "weights"))
    network = build(blueprint)
    if problem.float_state is not None:
        network.load_float(problem.float_state)
    batch_size = plan.batch_size if plan else 128
    calibrate(network, task.data.training, batch_size=batch_size, seed=derive(seed, "calibrate"))
    if plan is None:
        reestimate_norms(network, task.data.training, batch_size=batch_size, seed=derive(seed, "norms"))
    else:
        learning = time.monotonic()
        history = fit(
            network,
            task,
            plan,
            seed=seed,
            stage=stage,
            checkpoint=checkpoint,
            checkpoint_seconds=problem.checkpoint_seconds,
            watch=problem.watch,
        )
        started -= history.seconds - (time.monotonic() - learning)  # what processes before this one took
    metric, loss = evaluate(network.eval(), task.data.validation, task)
    if weights is not None:
        save_state(network.state_dict(), weights)
    return Score(metric=metric, loss=loss, epochs=plan.epochs if plan else 0, seconds=time.monotonic() - started)


def require_start(space: Space, *, trained: bool, plan: TrainPlan | None) -> None:
    """Refuse to score networks that were never trained, and float weights that fit one network for many.

    Raises:
        RecipeError: neither float weights nor a plan, or weights for a mobile space.
    """
    if isinstance(space, Mobile | Sequences):
        if trained:
            raise RecipeError(
                f"float weights are those of one network; the networks of a {space.kind} space start without"
            )
        if plan is None:
            raise RecipeError(
                f"networks of a {space.kind} space have no float weights to round; give the method a plan"
            )
    elif plan is None and not trained:
        raise RecipeError(
            "without trained float weights, rounded networks can't be scored: train the float network first "
            "(--float-epochs, float_plan) or give its weights, or give the method a plan to train with"
        )
