"""What a network found by the supernet is chosen and trained from: measured losses or probabilities, slices or scratch.

    python -m benchmarks.start --seeds 0,1,2,3,4          half an hour on one core
    python -m benchmarks.start --quick                    an epoch of everything

The recipe is recipes/digits-supernet.yaml; each way and seed is a run of its own under --out, which goes on where it
was stopped. All ways of a seed have the same search, and networks the same epochs of final training. What slices gain
over scratch, and measured losses over probabilities, is a mean over seeds of test points (exported files), with
Student's 95 % interval; validation is beside it, and chooses the defaults.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.result import gain, write_result
from benchmarks.scaling import with_epochs
from bitsmith import pipeline
from bitsmith.pipeline import RunFolder
from bitsmith.recipe import Recipe, read_recipe

NAME = "start"
RECIPE = Path("recipes/digits-supernet.yaml")
WAYS = {  # (score of the search, start of the final training)
    "slices": ("sensitivity", "search"),
    "scratch": ("sensitivity", "scratch"),
    "probability": ("probability", "scratch"),
}
_COMPARED = (("slices", "scratch"), ("scratch", "probability"))


def main() -> None:
    """Run what is missing and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--out", type=Path, default=Path("runs") / NAME)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = read_recipe(RECIPE)
    if arguments.quick:
        with tempfile.TemporaryDirectory() as folder:
            rows = [run(with_epochs(recipe, 1, 1), way, 0, Path(folder)) for way in WAYS]
        print(write(rows, recipe, quick=True))
        return
    rows = []
    for seed in map(int, arguments.seeds.split(",")):
        for way in WAYS:  # seed by seed, so that what is there of a stopped run compares
            rows.append(run(recipe, way, seed, arguments.out))
            print(
                f"{way:12} seed {seed}: validation {rows[-1]['validation']:.4f}, test {rows[-1]['test']:.4f}",
                flush=True,
            )
    print(write(rows, recipe, quick=False))


def run(recipe: Recipe, way: str, seed: int, out: Path) -> dict[str, Any]:
    """One way and seed through all stages; what is done already is read."""
    name, (score, start) = f"{way}-seed{seed}", WAYS[way]
    changes = {"name": name, "method": recipe.method | {"score": score}, "start": start, "seed": seed}
    folder = RunFolder.create(out / name, Recipe.model_validate(recipe.model_dump() | changes))
    job = pipeline.prepare(folder, print)
    pipeline.search(job, say=print)
    pipeline.train(job, say=print)
    pipeline.export(folder, say=print)
    fine = pipeline.verify(job, print)
    pipeline.report(job)
    (row,) = pipeline.summarize(job).rows
    return {
        "name": name,
        "way": way,
        "seed": seed,
        "validation": row.validation,
        "test": row.test,
        "verified": fine,
        "seconds": row.seconds,
    }


def write(rows: list[dict[str, Any]], recipe: Recipe, *, quick: bool) -> Path:
    """The result: per way the means over seeds, and what one gains over another."""
    ratios: dict[str, float] = {}
    tested = {(row["way"], row["seed"]): 100 * row["test"] for row in rows}
    for way in dict.fromkeys(row["way"] for row in rows):
        for what in ("validation", "test"):
            ratios[f"{way} {what}_percent"] = round(mean(100 * row[what] for row in rows if row["way"] == way), 2)
    seeds = sorted({row["seed"] for row in rows})
    for better, other in _COMPARED:
        ahead = [tested[better, seed] - tested[other, seed] for seed in seeds]
        if len(ahead) > 1:
            ratios |= gain(ahead, f"{better} over {other} test_points")
    return write_result(
        NAME,
        ratios=ratios,
        rows=rows,
        settings={"recipe": recipe.model_dump(mode="json", exclude={"command", "seed", "start"}), "threads": 1},
        seed=seeds[0],
        core_hours=sum(row["seconds"] for row in rows) / 3600,
        quick=quick,
    )


if __name__ == "__main__":
    main()
