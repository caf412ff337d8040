"""ResNet-8 as int8 TFLite at several bits of weights: numbers that differ from ours, and what Vela makes of the file.

    python -m benchmarks.tflite             all
    python -m benchmarks.tflite --quick     fewer images

Weights are random (`benchmarks.sample`), so that nothing is said of accuracy. Differences are counted operator by
operator on eight images, classes on all. Sizes are in bytes; trained weights may compress better or worse than random
ones. `table` rows: a latency table of Vela's estimates, held against its figure of random networks of mixed bits.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.result import write_result
from benchmarks.sample import CONTRACT, PIXELS, SEED, sample, with_inner
from bitsmith.blueprint import Bits, Blueprint
from bitsmith.capture import capture
from bitsmith.cost import exact
from bitsmith.deploy.tflite import compile_with_vela, vela_missing, verify_tflite, write_tflite
from bitsmith.models import load_model
from bitsmith.pipeline.profile import predict
from bitsmith.pipeline.vela import check_vela, covering_weights, profile_vela
from bitsmith.report import median_error
from bitsmith.space import precision

INNER = (8, 4, 3, 2, 1)
TABLES = ("resnet8", "resnet20", "mobilenet_v2_small")
ACCELERATOR = "ethos-u55-128"


def main() -> None:
    """Measure and write the result."""
    quick = "--quick" in sys.argv[1:]
    torch.set_num_threads(1)
    started = time.process_time()
    rows: list[dict[str, Any]] = []
    for bits in INNER:
        of = sample("resnet8", with_inner(Bits(weight=bits, activation=8)), 100 if quick else 1000)
        with tempfile.TemporaryDirectory() as folder:
            file = write_tflite(of.program, Path(folder) / "n.tflite", of.images[:256])
            found = verify_tflite(file, of.program, of.images, of.labels)
            row: dict[str, Any] = {
                "name": f"w{bits}a8",
                "images": len(of.images),
                "problems": list(found.problems),
                "differing": {name: list(counts) for name, counts in found.differing.items()},
                "largest_levels": {name: max(gap.largest[name] for gap in found.operators) for name in found.differing},
                "equal_images_xnnpack": found.equal_images["xnnpack"],
                "same_class": found.agreement,
                "file_bytes": file.stat().st_size,
                "priced_size": exact("size", of.blueprint.graph, of.blueprint.bits),
                "priced_ram": exact("ram", of.blueprint.graph, of.blueprint.bits),
            }
            if vela_missing() is None:
                row["vela"] = dataclasses.asdict(compile_with_vela(file))
        rows.append(row)
        print(row, flush=True)
    flash = {row["name"]: row["vela"]["flash"] for row in rows if "vela" in row}
    ratios = {f"{name} Vela's flash against w8a8's": round(of / flash["w8a8"], 4) for name, of in flash.items()}
    if vela_missing() is None:
        tables = [table_row(name, 2 if quick else 10) for name in TABLES]
        ratios |= {f"{row['name']} median error": row["median_error"] for row in tables}
        rows += tables
    path = write_result(
        "tflite",
        ratios=ratios,
        rows=rows,
        settings={"batch": 1, "model": "resnet8", "ends": 8},
        seed=SEED,
        core_hours=(time.process_time() - started) / 3600,
        quick=quick,
    )
    print(path)


def table_row(model: str, count: int) -> dict[str, Any]:
    """Sums of a table of Vela's estimates against its figure of whole random networks."""
    module, _ = load_model(model, classes=10, shape=PIXELS, seed=SEED)
    graph = capture(module, PIXELS).graph
    template = Blueprint(graph=graph, bits=with_inner(Bits(weight=8, activation=8))(graph), input=CONTRACT)
    space = precision(template, INNER, (8,))
    with tempfile.TemporaryDirectory() as folder:
        table = profile_vela(covering_weights(space), Path(folder) / "table.json", ACCELERATOR, seed=SEED)
        found = check_vela(table, space, count, seed=SEED)
    row = {
        "name": f"{model} table",
        "accelerator": str(table.setting),
        "networks": count,
        "median_error": median_error(found),
        "largest_error": max(abs(one.error or 0.0) for one in found),
        "seconds": [[one.predicted, one.measured] for one in found],
        "uniform_seconds": {f"w{bits}": predict(table, space.uniform(bits, 8)) for bits in INNER},
    }
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
