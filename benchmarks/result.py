"""The one form of a benchmark's result."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitsmith.pipeline import environment
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


def _commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
