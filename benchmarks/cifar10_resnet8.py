"""Composite search on CIFAR-10 with the MLPerf Tiny ResNet-8, beside uniform bits of equal total training.

    python -m benchmarks.cifar10_resnet8 --data npy:FOLDER     the recipe recipes/cifar10-resnet8.yaml; resumes
    python -m benchmarks.cifar10_resnet8 --quick               one epoch of everything, on scikit-learn's digits

FOLDER holds {train,test}_{images,labels}.npy. Test accuracy is that of the exported ONNX files. `ratios` holds
differences in accuracy points against PLiNIO's published point at 26 kB of weights (84.4 %, read off its figure).
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.result import rows_of, write_result
from bitsmith import pipeline
from bitsmith.pipeline import RunFolder
from bitsmith.recipe import Recipe, make_method, read_recipe
from bitsmith.search import Composite

NAME = "cifar10_resnet8"
PUBLISHED = 84.4  # percent at 26 kB; arXiv 2407.01054, figure


def main() -> None:
    """Run the recipe to its end and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", default="npy:cifar10")
    parser.add_argument("--out", type=Path, default=Path("runs") / NAME)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    recipe = read_recipe(Path("recipes/cifar10-resnet8.yaml"))
    if arguments.quick:
        with tempfile.TemporaryDirectory() as folder:
            print(run(_quick(recipe), Path(folder), quick=True))
        return
    source = recipe.data.model_copy(update={"source": arguments.data})
    print(run(recipe.model_copy(update={"data": source}), arguments.out, quick=False))


def run(recipe: Recipe, folder: Path, *, quick: bool) -> Path:
    """All stages, then the result from the run's record."""
    run = RunFolder.create(folder, recipe)
    job = pipeline.prepare(run, print)
    pipeline.search(job, say=print)
    pipeline.train(job, say=print)
    pipeline.export(run, say=print)
    fine = pipeline.verify(job, print)
    pipeline.report(job)
    record = pipeline.summarize(job)
    tests = {row.name: 100 * (row.test or 0.0) for row in record.rows}
    ratios = {
        "composite_minus_published_points": tests["composite"] - PUBLISHED,
        "composite_minus_uniform_fill_points": tests["composite"] - tests["uniform+fill"],
        "composite_minus_uniform_2_bit_points": tests["composite"] - tests["w2a8"],
    }
    return write_result(
        NAME,
        ratios={name: round(value, 2) for name, value in ratios.items()},
        rows=rows_of(record, run),
        settings={
            "recipe": recipe.model_dump(mode="json", exclude={"command", "data"}),
            "data": record.data,
            "verified": fine,
            "verdict": record.verdict,
            "threads": torch.get_num_threads(),
        },
        seed=recipe.seed,
        core_hours=sum(row.seconds for row in record.rows) / 3600,
        quick=quick,
    )


def _quick(recipe: Recipe) -> Recipe:
    method = make_method(recipe.method)
    assert isinstance(method, Composite)
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"source": "digits"}),
            "method": {
                "name": "composite",
                "plan": {"epochs": 1, "lr": 0.1},
                "weights_first": 0,
                "norm_batches": 2,
                "loss_batches": 1,
            },
            "train": replace(recipe.train, epochs=1, compile="none"),
        }
    )


if __name__ == "__main__":
    main()
