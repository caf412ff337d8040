"""What `filters` reaches on CIFAR-10 with ResNet-8, beside a published frontier of joint pruning and bits per channel.

    bitsmith run recipes/cifar10-plinio.yaml --data npy:FOLDER --out runs/plinio
    python -m benchmarks.frontier runs/plinio

Every budget of the run whose network is verified is a row; `ratios` holds points of test accuracy, that of the files,
ahead of PLiNIO's network of as much weight (arXiv 2407.01054, read off the figure; its training differs).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.result import rows_of, write_result
from bitsmith.errors import BitsmithError, RunError
from bitsmith.pipeline import RunFolder
from bitsmith.recipe import read_recipe
from bitsmith.report import read_record

NAME = "cifar10_plinio"
PUBLISHED = {"weights=26kB": 84.4, "weights=15kB": 81.9, "weights=6kB": 72.7, "weights=2.9kB": 62.0}  # percent


def main() -> None:
    """Read a run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, help="of a run of recipes/cifar10-plinio.yaml")
    try:
        print(frontier(parser.parse_args().folder))
    except BitsmithError as error:
        sys.exit(f"error: {error}")


def frontier(folder: Path) -> Path:
    """The result of a run, or of what is finished of it.

    Raises:
        RunError: there is no report in the folder, or a budget has no published point.
    """
    run, record = RunFolder(path=folder), read_record(folder)
    recipe = read_recipe(run.recipe_file)
    filters = {entry.slug: entry.details["filters"] for entry, _ in run.entries() if "filters" in entry.details}
    found = [row for row in record.rows if row.folder in filters and row.test is not None]
    unknown = [row.budget for row in found if row.budget not in PUBLISHED]
    if unknown:
        raise RunError(
            f"{folder} has budgets without a published point: {', '.join(unknown)}; known: {', '.join(PUBLISHED)}"
        )
    return write_result(
        NAME,
        ratios={
            f"points_ahead {row.budget}": round(100 * (row.test or 0.0) - PUBLISHED[row.budget], 2) for row in found
        },
        rows=[
            values
            | {"macs": row.costs["macs"], "bits": filters[row.folder]}  # of each layer, bits: filters; 0 is removed
            for row, values in zip(record.rows, rows_of(record, run), strict=True)
            if row in found
        ],
        settings={
            "recipe": recipe.model_dump(mode="json", exclude={"command", "data"}),
            "augment": recipe.data.augment,
            "data": record.data,
            "published": PUBLISHED,
            "verdict": record.verdict,
        },
        seed=recipe.seed,
        core_hours=sum(row.seconds for row in record.rows) / 3600,
    )


if __name__ == "__main__":
    main()
