"""Are the networks that a search found better than others, the epochs that it took aside?

    python -m benchmarks.trained_alike runs/NAME --space sequences --method latent
    python -m benchmarks.trained_alike runs/NAME --space all --method multinomial --beside uniform

`bitsmith compare` gives all networks equal epochs, those of the search included, so a network that was searched for is
trained for less than others. Here what a method found is trained like those of other methods in its space (by default
of its networks drawn at random): by the same plan and seed, for the same epochs, from where they started, scratch or
the seed's float network. Test accuracy of what was found in PyTorch, of the others by their files, both on the images
that `compare` verifies; `points_ahead` is the mean difference over seeds and budgets from the mean of the others, with
its 95 % interval, which takes the budgets of a seed as independent. A training that was stopped goes on.
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
from bitsmith.pipeline.job import float_state
from bitsmith.seeding import derive
from bitsmith.train import History, infer

NAME = "trained_alike"


def main() -> None:
    """Train what was found, score all, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, help="of a comparison")
    parser.add_argument("--space", required=True)
    parser.add_argument("--method", required=True)
    parser.add_argument("--beside", default="random*", help="labels of the other methods, as a pattern of folders")
    arguments = parser.parse_args()
    try:
        rows = compared(arguments.folder, arguments.space, arguments.method, arguments.beside)
    except BitsmithError as error:
        sys.exit(f"error: {error}")
    ahead = [100 * (row["found_test"] - mean(row["others_test"])) for row in rows]
    points = gain(ahead, "points_ahead") if len(ahead) > 1 else {"points_ahead": round(ahead[0], 2)}
    named = (arguments.folder.name.replace("-", "_"), arguments.space, arguments.method)
    path = write_result(
        "_".join((NAME, *named)),
        ratios=points | {"better": sum(points > 0 for points in ahead), "of": len(ahead)},
        rows=rows,
        settings={"comparison": arguments.folder.name}
        | {name: getattr(arguments, name) for name in ("space", "method", "beside")},
        seed=0,
        core_hours=sum(row["seconds"] for row in rows) / 3600,
    )
    print(path)


def compared(folder: Path, space: str, method: str, beside: str) -> list[dict[str, Any]]:
    """A row per seed and budget: what was found, trained alike, beside the others.

    Raises:
        RunError: no run of the method, or none of the others with the same seed, is there and finished; or the others
            were not trained alike.
    """
    runs = {
        own: [path for path in sorted((folder / "runs" / space).glob(f"{own}/seed*")) if is_finished(path)]
        for own in (method, beside)
    }
    others: dict[tuple[int, str], list[float]] = defaultdict(list)
    ways = set[tuple[int, str]]()
    for run in (RunFolder(path=path) for path in runs[beside]):
        for entry, _ in run.entries():
            others[run.recipe().seed, entry.budget].append(
                read_json(run.folder(entry) / "verification.json", "what was verified")["test"]
            )
            ways.add((run.recipe().train.epochs, run.recipe().start))
    if len(ways) > 1:
        raise RunError(f"networks of {beside} in {folder} had different (epochs, starts): {sorted(ways)}")
    if not ways:
        raise RunError(f"no run of {beside} in {space} is finished in {folder}")
    ((epochs, start),) = ways
    if start not in ("scratch", "float"):
        raise RunError(f"networks of {beside} in {folder} started from their {start}, which others can't")
    torch.set_num_threads(1)  # as the workers of a comparison
    rows = []
    for path in runs[method]:
        job = pipeline.prepare(RunFolder(path=path))
        for entry, blueprint in job.run.entries():
            tested = others[job.recipe.seed, entry.budget]
            if not tested:
                raise RunError(f"none of {beside} of seed {job.recipe.seed} at {entry.budget} is finished in {folder}")
            plan, history = replace(job.recipe.train, epochs=epochs), History()
            network = bs.train(
                job.task,
                blueprint,
                plan,
                float_state=float_state(job) if start == "float" else None,
                seed=derive(job.recipe.seed, "final"),
                checkpoint=folder / NAME / space / f"{method}-{entry.slug}-{job.recipe.seed}.checkpoint",
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
                    "others_test": tested,
                    "seconds": round(history.seconds, 1),
                }
            )
            print(rows[-1], flush=True)
    if not rows:
        raise RunError(f"no run of {method} in {space} is finished in {folder}")
    return rows


if __name__ == "__main__":
    main()
