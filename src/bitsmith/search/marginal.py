"""What one bit-width more or less does to a trained network, layer by layer, measured on validation images.

BatchNorm's statistics are re-estimated, in the network as it is too, on the same batches, so that a step that changes
nothing shows exactly nothing. A step up is mostly worth little before the network is trained at it: the weights have
settled on the levels they had.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from bitsmith.errors import RunError
from bitsmith.quantize import Network
from bitsmith.search.kept import Kept
from bitsmith.search.step import Passes, Step, take_step
from bitsmith.train import Difference, Event, Metric, Task, Watch, digest, infer, paired, silent


@dataclass(frozen=True, kw_only=True, slots=True)
class Marginal:
    """What a step changes: the metric and the loss on validation images, after minus before."""

    step: Step
    score: Difference
    loss: Difference


@dataclass(frozen=True, kw_only=True, slots=True)
class Marginals:
    """All steps of a network.

    Args:
        score, loss: of the network with BatchNorm re-estimated, which the differences are against.
        trained_score: of the network as it was given.
        images: of validation.
        seconds: that it took, in processes before this one too.
    """

    score: float
    loss: float
    trained_score: float
    images: int
    seconds: float
    steps: Sequence[Marginal]


@torch.no_grad()
def measure_steps(
    network: Network,
    task: Task,
    steps: Sequence[Step],
    *,
    norm_batches: int = 20,
    batch_size: int = 128,
    seed: int = 0,
    stage: str = "explain",
    file: Path | None = None,
    watch: Watch = silent,
) -> Marginals:
    """Measure steps of a trained network, each alone.

    Args:
        norm_batches: of training data, that re-estimate BatchNorm.
        file: where each measured step is kept, so that a measurement that was stopped goes on there; of another
            network, other data or settings, it starts anew.

    Raises:
        RunError: the validation data comes in another order each time, so that images can't be paired; the kept file is
            damaged.
    """
    assert network.blueprint is not None, "made by build"
    data = task.data
    passes = Passes(norm_batches=norm_batches, batch_size=batch_size, seed=seed)
    settings = asdict(passes) | {"network": digest(network.state_dict())}
    settings |= {"blueprint": hashlib.sha256(network.blueprint.to_json().encode()).hexdigest()}
    settings |= {"metric": task.metric_name, "positive": task.positive, "class_weights": task.class_weights}
    settings |= {"data": [data.training.fingerprint(), data.validation.fingerprint()]} if file else {}
    kept = Kept(file, settings)
    if "as it is" in kept.values and all(_name(step) in kept.values for step in steps):
        return _joined(kept, steps)
    started = time.monotonic()
    base = copy.deepcopy(network).eval()
    passes.settle(base, data.training)
    logits, labels = infer(base, data.validation)
    if "as it is" not in kept.values:
        trained, again = infer(network, data.validation)
        _require_order(labels, again)
        as_is = {"score": task.score(logits, labels), "loss": _loss(task)(logits, labels), "images": len(labels)}
        kept.keep(
            "as it is",
            as_is | {"trained_score": task.score(trained, again), "seconds": time.monotonic() - started},
        )
    images = norm_batches * batch_size + len(labels)
    for done, step in enumerate(steps, start=1):
        if _name(step) not in kept.values:
            started = time.monotonic()
            after, again = infer(take_step(base, step, task, passes), data.validation)
            _require_order(labels, again)
            score = paired(task.score, logits, after, labels, seed=seed)
            loss = paired(_loss(task), logits, after, labels, seed=seed)
            kept.keep(
                _name(step),
                {"score": asdict(score), "loss": asdict(loss), "seconds": time.monotonic() - started},
            )
        watch(Event(stage=stage, step=done, steps=len(steps), images=images))
    return _joined(kept, steps)


def _name(step: Step) -> str:
    return f"{step.layer} {step.kind} {step.after}"


def _loss(task: Task) -> Metric:
    return lambda logits, labels: float(task.compute_loss(logits, labels, smooth=False))


def _require_order(labels: Tensor, again: Tensor) -> None:
    if not torch.equal(labels, again):
        raise RunError(
            "the validation data comes in another order each time, so that networks can't be compared image by image; "
            "give a loader that does not shuffle"
        )


def _joined(kept: Kept, steps: Sequence[Step]) -> Marginals:
    values = [kept.values["as it is"], *(kept.values[_name(step)] for step in steps)]
    return Marginals(
        **{name: values[0][name] for name in ("score", "loss", "trained_score", "images")},
        seconds=sum(value["seconds"] for value in values),
        steps=[
            Marginal(step=step, score=Difference(**value["score"]), loss=Difference(**value["loss"]))
            for step, value in zip(steps, values[1:], strict=True)
        ],
    )
