"""What `make demo` prints, as a committed result: python -m benchmarks.demo [--quick]

Runs recipes/demo.yaml in a folder of its own. `ratios` are differences in accuracy points of the exported files on the
test images. --quick: 2,000 training images.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from benchmarks.result import rows_of, write_result
from bitsmith import pipeline
from bitsmith.pipeline import RunFolder
from bitsmith.recipe import read_recipe


def main() -> None:
    """Run the demo's recipe and write the result."""
    quick = "--quick" in sys.argv[1:]
    recipe = read_recipe(Path("recipes/demo.yaml"))
    if quick:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"limit": 2000})})
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder), recipe)
        job = pipeline.prepare(run, print)
        pipeline.train_float(job)
        pipeline.search(job, say=print)
        pipeline.train(job, say=print)
        pipeline.export(run, say=print)
        fine = pipeline.verify(job, print)
        record = pipeline.summarize(job)
        tests = {(row.name, row.budget): 100 * (row.test or 0.0) for row in record.rows}
        ratios = {
            f"{name} - {other} points at {budget}": round(
                tests[name, budget] - tests[other, budget if other != "float" else ""], 2
            )
            for (name, budget) in tests
            if name == "composite"
            for other in ("uniform+fill", "float")
        }
        seconds = time.monotonic() - started
        path = write_result(
            "demo",
            ratios=ratios,
            rows=rows_of(record, run),
            settings={
                "recipe": recipe.model_dump(mode="json", exclude={"command"}),
                "data": record.data,
                "verified": fine,
                "verdict": record.verdict,
                "seconds": round(seconds),
            },
            seed=recipe.seed,
            core_hours=2 * seconds / 3600,
            quick=quick,
        )
    print(path)


if __name__ == "__main__":
    main()
