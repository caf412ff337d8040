"""What the leave-one-out baseline does to the variance of the multinomial search's gradient.

    python -m benchmarks.score_variance            about a minute
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
from bitsmith.search.filters.score import Baseline, score_gradient
from bitsmith.search.searching import choices_of_bits, open_loop
from bitsmith.space import precision
from bitsmith.train import Piece, Task, TrainPlan

SEED, SAMPLES, TRIPLES = 0, 3, 4000
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


def estimates(learner: Alternating, draws: int) -> dict[str, np.ndarray]:
    """Baseline -> estimates of the gradient, [triples, choices of all layers]."""
    p = {name: q.detach() for name, q in learner.probabilities().items()}
    expected = {n: learner.partitions.layers[n].out_channels * q.double().numpy() for n, q in p.items()}
    size = learner.method.plan.batch_size
    x, y = next(learner.problem.task.data.search.batches(batch_size=size, seed=SEED))
    found: dict[str, list[np.ndarray]] = {baseline: [] for baseline in get_args(Baseline)}
    counts = [learner.partitions.draw(p) for _ in range(draws)]
    losses = [learner.score(n, x, y) for n in counts]
    rng = np.random.default_rng(SEED)
    for _ in range(TRIPLES):
        chosen = rng.choice(draws, SAMPLES, replace=False).tolist()
        for baseline in get_args(Baseline):
            drawn = [counts[k] for k in chosen]
            gradient = score_gradient([losses[k] for k in chosen], drawn, expected, baseline=baseline)
            found[baseline].append(np.concatenate([slope.numpy() for slope in gradient.values()]))
    return {baseline: np.stack(rows) for baseline, rows in found.items()}


def main() -> None:
    """Measure both baselines at both times and write the result."""
    torch.set_num_threads(1)
    quick, began = "--quick" in sys.argv, time.process_time()
    draws = 20 if quick else 240
    learner, ratios, rows = start(), {}, []
    for when in WANTED:
        if when == "one epoch":
            batches = learner.loop.split.batches(batch_size=learner.method.plan.batch_size, seed=SEED)
            for step, (x, y) in enumerate(batches):
                learner.begin(step)
                learner.loss(Piece(x=x, y=y, batch=y), step).backward()
                learner.update(step)
        found = estimates(learner, draws)
        totals = {baseline: float(rows_.var(0, ddof=1).sum()) for baseline, rows_ in found.items()}
        ratios[when] = totals["none"] / totals["leave-one-out"]
        for baseline in found:
            rows.append({"when": when, "baseline": baseline, "variance": totals[baseline]})
            print(f"{when:10} {baseline:14} variance {totals[baseline]:.4g}", flush=True)
        print(f"{when:10} without a baseline {ratios[when]:.1f} times the variance", flush=True)
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
            "wanted": WANTED,
        },
        seed=SEED,
        core_hours=(time.process_time() - began) / 3600,
        quick=quick,
    )
    print(path)


if __name__ == "__main__":
    main()
