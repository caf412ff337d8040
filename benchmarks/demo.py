"""What `make demo` prints, as a committed result.

    python -m benchmarks.demo             recipes/demo.yaml in runs/demo, going on from what `make demo` left there
    python -m benchmarks.demo --quick     2,000 training images, in a folder of its own

`ratios` are differences in accuracy points of the exported files on the test images.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.result import rows_of, write_result
from bitsmith import pipeline
from bitsmith.pipeline import RunFolder
from bitsmith.recipe import Recipe, read_recipe


def main() -> None:
    """Run the demo's recipe and write the result."""
    recipe = read_recipe(Path("recipes/demo.yaml"))
    if "--quick" not in sys.argv[1:]:
        print(run(recipe, Path("runs/demo"), quick=False))
        return
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"limit": 2000})})
    with tempfile.TemporaryDirectory() as folder:
        print(run(recipe, Path(folder), quick=True))


def run(recipe: Recipe, folder: Path, *, quick: bool) -> Path:
    """All stages, then the result from the run's record."""
    run = RunFolder.create(folder, recipe)
    job = pipeline.prepare(run, print)
    pipeline.train_float(job)
    pipeline.search(job, say=print)
    pipeline.train(job, say=print)
    pipeline.export(run, say=print)
    fine = pipeline.verify(job, print)
    record = pipeline.summarize(job)
    tests = {(row.name, row.budget): 100 * (row.test or 0.0) for row in record.rows}
    ratios = {
        f"composite - {other} points at {budget}": round(tests["composite", budget] - tests[other, where], 2)
        for name, budget in tests
        if name == "composite"
        for other, where in (("uniform+fill", budget), ("float", ""))
    }
    seconds = sum(row.seconds for row in record.rows)
    return write_result(
        "demo",
        ratios=ratios,
        rows=rows_of(record, run),
        settings={
            "recipe": recipe.model_dump(mode="json", exclude={"command"}),
            "data": record.data,
            "verified": fine,
            "verdict": record.verdict,
            "training_seconds": round(seconds),
        },
        seed=recipe.seed,
        core_hours=2 * seconds / 3600,  # two threads
        quick=quick,
    )


if __name__ == "__main__":
    main()
