"""Are the networks that a search found better than drawn ones, the epochs that it took aside?

    python -m benchmarks.trained_alike runs/NAME --space sequences --method latent

`bitsmith compare` gives all networks equal epochs, those of the search included, so a network that was searched for is
trained for less than one that was drawn. Here what a method found in a space that starts from no float weights is
trained like the networks drawn from that space: from scratch, by the same plan and seed, for the same epochs. Test
accuracy of what was found in PyTorch, of what was drawn by its files, both on the images that `compare` verifies;
`points_vs_drawn` is the mean difference over seeds and budgets from the mean of the drawn ones, with its 95 % interval,
which takes the budgets of a seed as independent. A training that was stopped goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

import bitsmith as bs
from benchmarks.result import gain, write_result
from bitsmith import pipeline
from bitsmith.errors import BitsmithError, RunError
from bitsmith.files import read_json
from bitsmith.pipeline import RunFolder
from bitsmith.pipeline.compare import is_finished
from bitsmith.seeding import derive
from bitsmith.train import History, infer

NAME = "trained_alike"


def main() -> None:
    """Train what was found, score all, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, help="of a comparison")
    parser.add_argument("--space", required=True)
    parser.add_argument("--method", required=True)
    arguments = parser.parse_args()
    try:
        rows = compared(arguments.folder, arguments.space, arguments.method)
    except BitsmithError as error:
        sys.exit(f"error: {error}")
    ahead = [100 * (row["found_test"] - mean(row["drawn_test"])) for row in rows]
    points = gain(ahead, "points_vs_drawn") if len(ahead) > 1 else {"points_vs_drawn": round(ahead[0], 2)}
    named = (arguments.folder.name.replace("-", "_"), arguments.space, arguments.method)
    path = write_result(
        "_".join((NAME, *named)),
        ratios=points | {"better_than_drawn": sum(points > 0 for points in ahead), "of": len(ahead)},
        rows=rows,
        settings={"comparison": arguments.folder.name, "space": arguments.space, "method": arguments.method},
        seed=0,
        core_hours=sum(row["seconds"] for row in rows) / 3600,
    )
    print(path)


def compared(folder: Path, space: str, method: str) -> list[dict[str, Any]]:
    """A row per seed and budget: what was found, trained alike, beside what was drawn.

    Raises:
        RunError: no run of the method, or none of drawn networks with the same seed, is there and finished.
    """
    runs = {
        own: [path for path in sorted((folder / "runs" / space).glob(f"{own}/seed*")) if is_finished(path)]
        for own in (method, "random*")
    }
    drawn: dict[tuple[int, str], list[float]] = defaultdict(list)
    epochs = set[int]()
    for run in (RunFolder(path=path) for path in runs["random*"]):
        for entry, _ in run.entries():
            if run.recipe().start != "scratch":
                raise RunError(f"{run.path} started from float weights, and this trains from scratch")
            drawn[run.recipe().seed, entry.budget].append(
                read_json(run.folder(entry) / "verification.json", "what was verified")["test"]
            )
            epochs.add(run.recipe().train.epochs)
    if len(epochs) > 1:
        raise RunError(f"the drawn networks in {folder} were trained for different epochs: {sorted(epochs)}")
    torch.set_num_threads(1)  # as the workers of a comparison
    rows = []
    for path in runs[method]:
        job = pipeline.prepare(RunFolder(path=path))
        for entry, blueprint in job.run.entries():
            others = drawn[job.recipe.seed, entry.budget]
            if not others:
                raise RunError(f"no drawn network of seed {job.recipe.seed} at {entry.budget} is finished in {folder}")
            plan, history = replace(job.recipe.train, epochs=max(epochs)), History()
            network = bs.train(
                job.task,
                blueprint,
                plan,
                seed=derive(job.recipe.seed, "final"),
                checkpoint=folder / NAME / space / f"{entry.slug}-{job.recipe.seed}.checkpoint",
                history=history,
            )
            logits, labels = infer(network, job.task.data.test)
            shown = slice(job.recipe.verify_images)
            rows.append(
                {
                    "seed": job.recipe.seed,
                    "budget": entry.budget,
                    "epochs": plan.epochs,
                    "found_test": job.task.score(logits[shown], labels[shown]),
                    "drawn_test": others,
                    "seconds": round(history.seconds, 1),
                }
            )
            print(rows[-1], flush=True)
    if not rows:
        raise RunError(f"no run of {method} in {space} is finished in {folder}")
    return rows


if __name__ == "__main__":
    main()
