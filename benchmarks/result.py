"""The one form of a benchmark's result."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student

from bitsmith.pipeline import RunFolder, environment
from bitsmith.report import Record
from bitsmith.train import write_json

RESULTS = Path(__file__).parent / "results"


def write_result(
    name: str,
    *,
    ratios: Mapping[str, float],
    settings: Mapping[str, Any],
    seed: int,
    core_hours: float,
    rows: list[dict[str, Any]] | None = None,
    quick: bool = False,
) -> Path:
    """Write benchmarks/results/NAME.json; a quick run goes beside it under NAME.quick.json, which is not committed."""
    facts = environment(seed)
    machine = {key: facts.pop(key) for key in ("system", "cpu", "cores")}
    path = RESULTS / f"{name}{'.quick' if quick else ''}.json"
    write_json(
        path,
        {
            "name": name,
            "ratios": dict(ratios),
            "rows": rows or [],
            "settings": dict(settings),
            "machine": machine,
            "versions": facts,
            "commit": _commit(),
            "core_hours": round(core_hours, 3),
        },
    )
    return path


def gain(differences: Sequence[float], what: str) -> dict[str, float]:
    """A mean difference and its 95 % interval by Student's t, as ratios of a result.

    Args:
        differences: of at least two pairs, taken as independent.
        what: what they are called.

    Example:
        Ahead by 0.6, 1.5 and 1.7 points: points 1.27, points_low -0.19, points_high 2.72.
    """
    middle = mean(differences)
    half = float(student.ppf(0.975, len(differences) - 1)) * stdev(differences) / len(differences) ** 0.5
    return {what + end: round(middle + by, 2) for end, by in (("", 0.0), ("_low", -half), ("_high", half))}


def rows_of(record: Record, run: RunFolder) -> list[dict[str, Any]]:
    """The low-precision networks of a run, with their bits, as plain values."""
    blueprints = {entry.slug: blueprint for entry, blueprint in run.entries()}
    return [
        {
            "name": row.name,
            "budget": row.budget,
            "weight_bytes": row.costs["weights"],
            "size_bytes": row.costs["size"],
            "epochs": row.epochs,
            "seed": row.seed,
            "validation": row.validation,
            "test": row.test,
            "source": row.source,
            "seconds": row.seconds,
        }
        | (
            {"bits": {layer: [b.weight, b.activation] for layer, b in blueprints[row.folder].bits.items()}}
            if row.folder in blueprints
            else {}
        )
        for row in record.rows
    ]


def _commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
