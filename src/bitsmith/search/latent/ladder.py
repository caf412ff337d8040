"""The evaluation ladder: a score that takes no training, few epochs, ever longer trainings of ever fewer networks.

Every rung trains at the network's own low precision, from scratch: a schedule of few epochs is no beginning of a longer
one. Failures are results: what was evaluated and gave no number is never evaluated again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from bitsmith.blueprint import NetworkGraph
from bitsmith.cost import price
from bitsmith.errors import TrainingError
from bitsmith.files import read_json, write_json
from bitsmith.quantize import build, float_blueprint
from bitsmith.quantize.layers import Priced
from bitsmith.search.evaluate import evaluate_blueprint
from bitsmith.search.latent.trials import Trial
from bitsmith.search.problem import Problem
from bitsmith.seeding import derive
from bitsmith.train import Event, TrainPlan

# Of an evaluation's folder; weights are those of the highest rung alone, which the final training starts from.
CHECKPOINT, ATTEMPTS, WEIGHTS = "evaluation.checkpoint", "evaluating.json", "learned.safetensors"
_DEATHS = 3  # of the process at one place of one evaluation, before it counts as its fault
# What a training that can't go on raises; other errors are faults of a program, and stop the search.
_FAILURES = (TrainingError, RuntimeError, MemoryError, ArithmeticError)


@final
@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Trains and scores networks of a problem's space, and turns what fails into trials.

    Args:
        problem: of the search; `folder` gets the checkpoint of the network that is evaluated, and its weights on the
            highest rung, for whoever keeps the trial to delete.
        plan: of the first rung.
        rungs: epochs of the others.
        limit: seconds after which a training is given up, or None; counted anew where a stopped search goes on.
    """

    problem: Problem
    plan: TrainPlan
    rungs: tuple[int, ...] = ()
    limit: float | None = None

    def evaluate(self, sequence: np.ndarray, number: int, rung: int = 0) -> Trial:
        """Train and score one network.

        Returns:
            Its trial; failed where the loss was not finite, the training raised or took longer than `limit`, or the
            process died three times at the same place of it.
        """
        space = self.problem.space
        blueprint = space.decode(sequence)
        plan = self.plan_of(rung)
        blank = Trial(
            number=number,
            rung=rung,
            network=space.key(blueprint),
            sequence=tuple(int(token) for token in sequence),
            costs=price(blueprint.graph, blueprint.bits, space.costs),
            seed=self.problem.seed,
        )
        folder, began = self.problem.folder, time.monotonic()
        checkpoint = folder / CHECKPOINT if folder else None
        attempt = _Attempt(folder / ATTEMPTS, checkpoint, f"{rung}/{number}") if folder and checkpoint else None
        if attempt is not None and attempt.died == _DEATHS:
            attempt.end()
            return replace(blank, failed=f"the process died {_DEATHS} times while it was trained")
        guard = _Guard(self.problem, self.limit)
        try:
            if attempt is not None:
                attempt.begin()
            stage = "latent networks" + (f", {plan.epochs} epochs" if rung else "")  # one bar, from anew for each
            weights = folder / WEIGHTS if folder and rung == len(self.rungs) else None
            score = evaluate_blueprint(
                guard.problem, blueprint, plan, stage=stage, checkpoint=checkpoint, weights=weights
            )
        except _FAILURES as error:
            if error is guard.from_outside:
                raise
            failed = f"{type(error).__name__}: {error}".splitlines()[0]
            trial = replace(blank, failed=failed, seconds=time.monotonic() - began)
        else:
            numbers = {"metric": score.metric, "loss": score.loss}
            bad = [f"the validation {name} is {value}" for name, value in numbers.items() if not math.isfinite(value)]
            done = replace(blank, epochs=score.epochs, seconds=score.seconds)
            trial = replace(done, failed=bad[0]) if bad else replace(done, metric=score.metric, loss=score.loss)
        finally:
            if attempt is not None:
                attempt.end()
        return trial

    def plan_of(self, rung: int) -> TrainPlan:
        """The training of a rung's networks."""
        return self.plan if rung == 0 else replace(self.plan, epochs=self.rungs[rung - 1])


@final
class _Attempt:
    """How often the process died at an evaluation without its checkpoint moving on."""

    def __init__(self, file: Path, checkpoint: Path, name: str) -> None:
        self._file, self._now = file, {"name": name, "at": _moved(checkpoint)}
        before: dict[str, Any] = read_json(file, "what is evaluated") if file.exists() else {}
        same = {key: before.get(key) for key in self._now} == self._now
        self.died: int = before.get("died", 0) if same else 0

    def begin(self) -> None:
        """Count this attempt as a death, until `end`."""
        write_json(self._file, self._now | {"died": self.died + 1})

    def end(self) -> None:
        """It ended alive."""
        self._file.unlink(missing_ok=True)


def _moved(checkpoint: Path) -> int:
    return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0


@final
class _Guard:
    """A problem whose watch gives up what takes too long, and remembers what the real watch raised.

    That is meant for the search, such as to stop it, and no failure of the network.
    """

    def __init__(self, problem: Problem, limit: float | None) -> None:
        self.from_outside: Exception | None = None
        ends = math.inf if limit is None else time.monotonic() + limit

        def watch(event: Event) -> None:
            try:
                problem.watch(event)
            except Exception as error:
                self.from_outside = error
                raise
            if time.monotonic() > ends:
                raise TrainingError(f"it took longer than {limit:g} seconds, at step {event.step} of {event.steps}")

        self.problem = replace(problem, watch=watch)


def promoted(scores: Sequence[float], depths: Sequence[int], eta: int) -> list[int]:
    """Which of a rung climb to the next: 1 / eta of them, rounded up, the best first; what failed (NaN) never.

    Successive halving (Jamieson and Talwalkar, arXiv 1502.07943).

    Args:
        scores: larger is better.
        depths: of each, as `front_depths` has it; shallower ones first. All 0 for one objective.

    Example:
        >>> promoted([0.5, 0.9, float("nan"), 0.7], [0, 0, 0, 0], 2)
        [1, 3]
    """
    alive = [i for i, score in enumerate(scores) if not math.isnan(score)]
    return sorted(alive, key=lambda i: (depths[i], -scores[i]))[: math.ceil(len(scores) / eta)]


def front_depths(points: np.ndarray) -> list[int]:
    """How many fronts lie before each point, larger being better in every column; NaN rows lie behind all.

    Example:
        >>> front_depths(np.array([[1.0, 1.0], [2.0, 0.0], [0.5, 0.5]]))
        [0, 0, 1]
    """
    depths = np.full(len(points), len(points))
    left = [i for i in range(len(points)) if not np.isnan(points[i]).any()]
    depth = 0
    while left:
        rows = points[left]
        beaten = [i for i in left if any((points[i] <= rows).all(1) & (points[i] < rows).any(1))]
        depths[[i for i in left if i not in beaten]] = depth
        left, depth = beaten, depth + 1
    return depths.tolist()


def synflow(graph: NetworkGraph, seed: int = 0) -> float:
    """A score of a topology without data or training: the logarithm of the synaptic flow.

        log sum over weights of |w dR/dw|,    R = sum of the outputs of the float network at |w|, of an input of ones

    BatchNorm hands on what it gets, as in eval mode before any training. It sees width, depth and connections, and no
    bits. Sources: SynFlow, arXiv 2006.05467, eq. 3; as a score of architectures, arXiv 2101.08134.

    Args:
        seed: of the first weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "synflow"))
        network = build(float_blueprint(graph)).double().eval()
    weights = [layer.weight for layer in network.modules() if isinstance(layer, Priced)]
    with torch.no_grad():
        for weight in weights:
            weight.abs_()
    network(torch.ones(1, *graph.input_shape, dtype=torch.float64)).sum().backward()
    flow = sum(float((weight.detach() * weight.grad).sum()) for weight in weights if weight.grad is not None)
    return math.log(max(flow, 1e-300))
