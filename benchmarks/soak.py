"""Searches, trainings and exports in a loop, in one process: does its memory grow?

    python -m benchmarks.soak --hours 2
    python -m benchmarks.soak --quick          three rounds

A round is a whole run on scikit-learn's digits, in a folder that is deleted after it: float network, composite search,
`uniform+fill`, final training, export, verification, report. The resident memory is read after every round. The first
third of the rounds is the warm-up (allocators, caches of libraries); `growth_percent` is the median of the last third
over that of the middle third, which more than 2 % would be a leak of.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.result import write_result
from bitsmith import pipeline
from bitsmith.pipeline import RunFolder
from bitsmith.recipe import Recipe, parse_recipe

NAME = "soak"
PLAN = {"epochs": 1, "batch_size": 64, "lr": 0.05, "compile": "none", "device": "cpu"}
RECIPE: dict[str, Any] = {
    "name": "soak",
    "model": {"spec": "resnet8_slim"},
    "data": {"source": "digits", "limit": 400},
    "space": {"weight_bits": [2, 4, 8], "activation_bits": [8]},
    "budgets": ["size=7kB"],
    "method": {"name": "composite", "plan": PLAN | {"epochs": 2}, "norm_batches": 1, "loss_batches": 1},
    "baselines": ["uniform+fill"],
    "float_plan": PLAN,
    "train": PLAN,
    "verify_images": 40,
}


def main() -> None:
    """Go round for so long and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    began, started = time.monotonic(), time.process_time()
    resident: list[int] = []
    while len(resident) < 3 or (not arguments.quick and time.monotonic() - began < 3600 * arguments.hours):
        go_round(parse_recipe(RECIPE | {"seed": len(resident)}, "the benchmark"))
        resident.append(resident_bytes())
        print(f"round {len(resident)}: {resident[-1] / 2**20:.1f} MiB", flush=True)
    path = write_result(
        NAME,
        ratios={"growth_percent": round(growth(resident), 3), "rounds": len(resident)},
        rows=[{"round": n + 1, "resident_bytes": value} for n, value in enumerate(resident)],
        settings={"recipe": RECIPE, "hours": arguments.hours, "threads": torch.get_num_threads()},
        seed=0,
        core_hours=(time.process_time() - started) / 3600,
        quick=arguments.quick,
    )
    print(f"{growth(resident):+.2f} % after the warm-up; {path}")


def go_round(recipe: Recipe) -> None:
    """One whole run."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run", recipe)
        job = pipeline.prepare(run)
        pipeline.train_float(job)
        pipeline.search(job)
        pipeline.train(job)
        pipeline.export(run)
        assert pipeline.verify(job)
        pipeline.report(job)
    gc.collect()


def growth(resident: list[int]) -> float:
    """Percent from the middle third to the last one.

    Example:
        >>> round(growth([90, 95, 100, 100, 101, 103]), 6)
        2.0
    """
    third = len(resident) // 3
    return 100 * (median(resident[-third:]) / median(resident[third : len(resident) - third]) - 1)


def resident_bytes() -> int:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
