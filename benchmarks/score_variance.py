"""What the leave-one-out baseline and more draws do to the variance of the multinomial search's gradient.

    python -m benchmarks.score_variance            about five minutes
    python -m benchmarks.score_variance --quick    fewer draws

The slim ResNet-8 on digits, pairs w2a2, w2a4, w3a3 and w8a8, all equally likely, as a search begins: with fresh weights
and after one epoch under drawn partitions. 240 drawn partitions are scored on one batch of search data, BatchNorm
re-estimated for each; an estimate is of three of them, and 4,000 random triples stand for all. Both baselines see the
same triples. What is compared is the total variance: that of each coordinate over all estimates, summed. A ratio of r
means that r times as many draws without a baseline give a gradient as sure as with it.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import get_args

import numpy as np
import torch

from benchmarks.result import write_result
from bitsmith.blueprint import Budget
from bitsmith.capture import capture
from bitsmith.data import open_data
from bitsmith.models import load_model
from bitsmith.pipeline.verbs import template
from bitsmith.search import Multinomial, Partitions, Problem
from bitsmith.search.filters.alternating import Alternating
from bitsmith.search.filters.partitions import Counts
from bitsmith.search.filters.score import Baseline, score_gradient
from bitsmith.search.searching import choices_of_bits, open_loop
from bitsmith.space import precision
from bitsmith.train import Piece, Task, TrainPlan

SEED, SAMPLES, TRIPLES = 0, 3, 4000
NORMS, PASSES = (20, 5, 2, 1), 63  # batches that re-estimate BatchNorm; forward passes of an estimate
WANTED = {"fresh": "above 1", "one epoch": "above 1"}


def start() -> Alternating:
    """A search on digits before its first step."""
    torch.manual_seed(SEED)
    data = open_data("digits")
    module, _ = load_model("resnet8_slim", classes=10, shape=data.shape, seed=SEED)
    space = precision(template(capture(module, data.shape), data), (2, 3, 8), (2, 3, 4, 8))
    plan = TrainPlan(epochs=2, batch_size=64, lr=0.05, device="cpu", compile="none")
    method = Multinomial(plan=plan, samples=SAMPLES, norm_batches=2)
    problem = Problem(task=Task(data=data.without_test()), space=space, budgets=[Budget.parse("bops=4M")], seed=SEED)
    loop = open_loop(method, problem, depends_on=choices_of_bits(problem))
    return Alternating(method, problem, loop, Partitions(space, method.pairs))


def draw(learner: Alternating, draws: int) -> tuple[list[Counts], dict[int, list[float]], dict[str, np.ndarray]]:
    """Partitions, their losses by the number of batches that re-estimate BatchNorm, and N p of the layers."""
    p = {name: q.detach() for name, q in learner.probabilities().items()}
    expected = {n: learner.partitions.layers[n].out_channels * q.double().numpy() for n, q in p.items()}
    size = learner.method.plan.batch_size
    x, y = next(learner.problem.task.data.search.batches(batch_size=size, seed=SEED))
    counts, losses = [learner.partitions.draw(p) for _ in range(draws)], {}
    for norms in (learner.method.norm_batches, *NORMS):
        learner.method = replace(learner.method, norm_batches=norms)
        losses[norms] = [learner.score(n, x, y) for n in counts]
    return counts, losses, expected


def variance(
    losses: list[float], counts: list[Counts], expected: dict[str, np.ndarray], samples: int, baseline: Baseline
) -> float:
    """Total variance of the estimates that so many draws give, over random choices of them."""
    rng, rows = np.random.default_rng(SEED), []
    for _ in range(TRIPLES):
        chosen = rng.choice(len(counts), samples, replace=False).tolist()
        gradient = score_gradient([losses[k] for k in chosen], [counts[k] for k in chosen], expected, baseline=baseline)
        rows.append(np.concatenate([slope.numpy() for slope in gradient.values()]))
    return float(np.stack(rows).var(0, ddof=1).sum())


def main() -> None:
    """Measure both baselines at both times and write the result."""
    torch.set_num_threads(1)
    quick, began = "--quick" in sys.argv, time.process_time()
    draws = 40 if quick else 240
    learner, ratios, rows = start(), {}, []
    for when in WANTED:
        if when == "one epoch":
            batches = learner.loop.split.batches(batch_size=learner.method.plan.batch_size, seed=SEED)
            for step, (x, y) in enumerate(batches):
                learner.begin(step)
                learner.loss(Piece(x=x, y=y, batch=y), step).backward()
                learner.update(step)
        norms = learner.method.norm_batches
        counts, losses, expected = draw(learner, draws)
        learner.method = replace(learner.method, norm_batches=norms)
        totals = {b: variance(losses[norms], counts, expected, SAMPLES, b) for b in get_args(Baseline)}
        ratios[when] = totals["none"] / totals["leave-one-out"]
        for baseline, total in totals.items():
            rows.append({"when": when, "baseline": baseline, "variance": total})
            print(f"{when:10} {baseline:14} variance {total:.4g}", flush=True)
        print(f"{when:10} without a baseline {ratios[when]:.1f} times the variance", flush=True)
        for norms in NORMS:
            samples = PASSES // (norms + 1)
            total = variance(losses[norms], counts, expected, samples, "leave-one-out")
            alike = float(np.corrcoef(losses[norms], losses[NORMS[0]])[0, 1])
            row = {"when": when, "norm_batches": norms, "samples": samples, "variance": total, "correlation": alike}
            rows.append(row)
            print(
                f"{when:10} {samples:2} draws at {norms:2} batches: variance {total:.4g}, correlation {alike:.3f}",
                flush=True,
            )
    plan = learner.method.plan
    path = write_result(
        "score_variance",
        ratios={when: round(ratio, 2) for when, ratio in ratios.items()},
        rows=rows,
        settings={
            "network": "resnet8_slim",
            "data": "digits",
            "pairs": learner.method.pairs,
            "samples": SAMPLES,
            "draws": draws,
            "triples": TRIPLES,
            "batch_size": plan.batch_size,
            "norm_batches": learner.method.norm_batches,
            "passes": PASSES,
            "wanted": WANTED,
        },
        seed=SEED,
        core_hours=(time.process_time() - began) / 3600,
        quick=quick,
    )
    print(path)


if __name__ == "__main__":
    main()
