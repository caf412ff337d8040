"""Exported networks beside their float originals in onnxruntime: latency, file size, loading, memory.

    python -m benchmarks.deploy             torchvision's ResNet-18 at 224 pixels, ResNet-8 at 32
    python -m benchmarks.deploy --quick     few repetitions

Weights are random and activation ranges calibrated on random images: speed and size don't depend on what was learned.
The float network is torch's own ONNX export, BatchNorm folded by onnxruntime. One thread, batch 1, every network of a
group after the other in each round, so that a slower minute hits all alike. `ratios` are of medians; each row has the
quartiles of its ratios round by round. `size_vs_ideal` is the file over the priced size, `peak_megabytes` the most
memory that a process held which loads the file and runs it once, above one that only imports onnxruntime. `--vnni` rows
are files with int8 weights everywhere, as `export --vnni` writes them; on x86 machines without VNNI they may differ
from the reference.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.result import write_result
from benchmarks.sample import CONTRACT, SEED, images_of, with_inner
from bitsmith.blueprint import Bits, Blueprint
from bitsmith.capture import Captured, capture
from bitsmith.cost import price
from bitsmith.data import TensorSplit
from bitsmith.deploy import lower, write_onnx
from bitsmith.deploy.program import IntegerProgram
from bitsmith.deploy.reference import run as reference
from bitsmith.deploy.runtime import infer, session
from bitsmith.models import load_model
from bitsmith.quantize import build, freeze
from bitsmith.train import calibrate

INNER = ((8, 8), (4, 8), (2, 8), (4, 4))  # weight and activation bits of all layers but the first and the last


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network to export, and how often to run it."""

    name: str
    spec: str
    classes: int
    pixels: int
    rounds: int
    images: int


CASES = (
    Case(name="resnet18", spec="torchvision:resnet18", classes=1000, pixels=224, rounds=100, images=8),
    Case(name="resnet8", spec="resnet8", classes=10, pixels=32, rounds=1000, images=100),
)


def main() -> None:
    """Measure every case and write the result."""
    quick = "--quick" in sys.argv[1:]
    torch.set_num_threads(1)
    started = time.process_time()
    ratios: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    rounds = {case.name: case.rounds // 10 if quick else case.rounds for case in CASES}
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(case, Path(folder), rounds=rounds[case.name])
        rows += measured
        for row in measured:
            print(row)
            ratios |= {f"{case.name} {row['name']} {key}": row[key] for key in row if "_vs_" in key}
    path = write_result(
        "deploy",
        ratios=ratios,
        rows=rows,
        settings={"threads": 1, "batch": 1, "level": "all", "rounds": rounds},
        seed=SEED,
        core_hours=(time.process_time() - started) / 3600,
        quick=quick,
    )
    print(path)


def measure(case: Case, folder: Path, *, rounds: int) -> list[dict[str, Any]]:
    """One row for the float network and one for each choice of bits."""
    shape = (3, case.pixels, case.pixels)
    module, _ = load_model(case.spec, classes=case.classes, shape=shape, seed=SEED)
    split = images_of(case.images, shape)
    images = split.images.numpy()
    captured = capture(module, shape)
    files, ideal, equal = {"float": export_float(module, shape, folder / "float.onnx")}, {}, {}
    for bits in INNER:
        name = f"w{bits[0]}a{bits[1]}"
        choice = with_inner(Bits(weight=bits[0], activation=bits[1]))
        blueprint = Blueprint(graph=captured.graph, bits=choice(captured.graph), input=CONTRACT)
        program = lowered(captured, blueprint, split)
        for kind, vnni in ((name, False), (f"{name} --vnni", True)):
            files[kind] = write_onnx(replace(program, vnni=vnni), folder / f"{kind}.onnx")
            equal[kind] = is_equal(program, files[kind], images[:2])
            ideal[kind] = price(blueprint.graph, blueprint.bits)["size"]
    x, _ = next(split.batches(batch_size=1))
    feeds = {name: x.numpy() if name == "float" else images[:1] for name in files}
    seconds = time_rounds(files, feeds, rounds)
    loading = {name: [_load_seconds(path) for _ in range(3)] for name, path in files.items()}
    empty = peak_megabytes(None)
    size = {name: path.stat().st_size for name, path in files.items()}
    rows = []
    for name, path in files.items():
        row = {
            "network": case.name,
            "name": name,
            "file_bytes": size[name],
            "milliseconds": round(1000 * float(np.median(seconds[name])), 4),
            "load_seconds": round(float(np.median(loading[name])), 4),
            "peak_megabytes": round(peak_megabytes(path) - empty, 1),
        }
        if name != "float":
            quartiles = np.quantile(seconds[name] / seconds["float"], (0.25, 0.75))
            row |= {
                "size_bytes": ideal[name],
                "latency_vs_float": round(float(np.median(seconds[name]) / np.median(seconds["float"])), 3),
                "latency_ratio_quartiles": [round(float(value), 3) for value in quartiles],
                "size_vs_float": round(size[name] / size["float"], 4),
                "size_vs_ideal": round(size[name] / ideal[name], 4),
                "equal_to_reference": equal[name],
            }
        rows.append(row)
    return rows


def lowered(captured: Captured, blueprint: Blueprint, split: TensorSplit) -> IntegerProgram:
    """Calibrate, freeze and lower."""
    network = build(blueprint)
    network.load_float(captured.state)
    calibrate(network, split, batches=1, batch_size=len(split), seed=SEED)
    return lower(freeze(network.eval(), blueprint), blueprint)


def is_equal(program: IntegerProgram, path: Path, images: np.ndarray) -> bool:
    """Whether a file gives what the reference gives."""
    return bool((infer(session(path), images)[0] == reference(program, images)).all())


def export_float(module: nn.Module, shape: tuple[int, int, int], path: Path) -> Path:
    """torch's own exporter, in one file."""
    torch.onnx.export(
        module.eval(), (torch.zeros(1, *shape),), str(path), dynamo=True, external_data=False, verbose=False
    )
    return path


def time_rounds(files: Mapping[str, Path], feeds: Mapping[str, np.ndarray], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each inference, (rounds,) per file, after a few to warm up."""
    running = {name: session(path) for name, path in files.items()}
    inputs = {name: {running[name].get_inputs()[0].name: feed} for name, feed in feeds.items()}
    seconds: dict[str, list[float]] = {name: [] for name in files}
    for i in range(rounds + 3):
        for name in files:
            started = time.perf_counter()
            running[name].run(None, inputs[name])
            if i >= 3:
                seconds[name].append(time.perf_counter() - started)
    return {name: np.array(values) for name, values in seconds.items()}


def _load_seconds(path: Path) -> float:
    started = time.perf_counter()
    session(path)
    return time.perf_counter() - started


def peak_megabytes(path: Path | None) -> float:
    """The largest resident set of a fresh process that loads a file and runs it once on zeros; None: does neither."""
    done = subprocess.run(
        [sys.executable, "-c", _RESIDENT, *([] if path is None else [str(path)])],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout) / 1000


# Not getrusage: its maximum is handed down from the parent.
_RESIDENT = """
import sys
import numpy as np
import onnxruntime as ort
for path in sys.argv[1:]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    running = ort.InferenceSession(path, options)
    feed = running.get_inputs()[0]
    kind = np.uint8 if feed.type == "tensor(uint8)" else np.float32
    running.run(None, {feed.name: np.zeros([n if isinstance(n, int) else 1 for n in feed.shape], kind)})
with open("/proc/self/status") as status:
    print(next(line for line in status if line.startswith("VmHWM")).split()[1])
"""


if __name__ == "__main__":
    main()
