"""What becomes of a network in every format: bytes, numbers that differ from the integer reference, time.

    python -m benchmarks.artefacts             all
    python -m benchmarks.artefacts --quick     fewer images and rounds

Weights are random (`benchmarks.sample`); ten classes at 32 pixels. Of ONNX, C and exact QONNX files single outputs are
counted that are another number than the reference's, of C without floating point and of TFLite, whose logits lie on an
int8 grid, images of the same class. Bytes are those of the file, of C code those of its constants, of Cortex-M the
flash of the linked image. Milliseconds: ONNX in onnxruntime and C by gcc -O3 -march=native take turns, one thread, CPU
time; of TFLite Vela's estimate for ethos-u55-128. What a format can't hold says so in its own words.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.c_target import latencies
from benchmarks.result import write_result
from benchmarks.sample import PIXELS, SEED, Sample, sample, with_inner
from bitsmith.blueprint import Bits, NetworkGraph
from bitsmith.cost import exact, plan_arena
from bitsmith.deploy import write_onnx
from bitsmith.deploy.c import cortex_m_tools, run_fixed, run_on_cortex_m, verify_c, write_c
from bitsmith.deploy.qonnx import verify_qonnx, write_qonnx
from bitsmith.deploy.reference import run as reference
from bitsmith.deploy.runtime import infer, session
from bitsmith.deploy.tflite import compile_with_vela, vela_missing, verify_tflite, write_tflite
from bitsmith.errors import BitsmithError


def per_filter(graph: NetworkGraph) -> Mapping[str, Bits]:
    """8-bit ends; of the other layers every third filter at 2, 4 and 8 bits."""
    bits = dict(with_inner(Bits(weight=8, activation=8))(graph))
    for layer in graph.layers[1:-1]:
        filters = graph[layer.name].shape[0]
        bits[layer.name] = Bits(weight=tuple((2, 4, 8)[i % 3] for i in range(filters)), activation=8)
    return bits


CASES: Mapping[str, Callable[[int], Sample]] = {
    "ResNet-8 w8a8": lambda n: sample("resnet8", with_inner(Bits(weight=8, activation=8)), n),
    "ResNet-8 w4a8": lambda n: sample("resnet8", with_inner(Bits(weight=4, activation=8)), n),
    "ResNet-8 w4a8, steps of powers of two": lambda n: sample(
        "resnet8", with_inner(Bits(weight=4, activation=8)), n, quantizer="lsq-pow2"
    ),
    "ResNet-8 w4a4": lambda n: sample("resnet8", with_inner(Bits(weight=4, activation=4)), n),
    "ResNet-8 w2/4/8 per filter": lambda n: sample("resnet8", per_filter, n),
    "ResNet-20 w2a8": lambda n: sample("resnet20", with_inner(Bits(weight=2, activation=8)), n),
    "MobileNetV2 w4a8": lambda n: sample("mobilenet_v2_small", with_inner(Bits(weight=4, activation=8)), n),
}


def main() -> None:
    """Measure and write the result."""
    quick = "--quick" in sys.argv[1:]
    torch.set_num_threads(1)
    started = time.process_time()
    rows: list[dict[str, Any]] = []
    for name, make in CASES.items():
        made = make(100 if quick else 1000)
        with tempfile.TemporaryDirectory() as folder:
            rows += [{"name": name, **row} for row in artefacts(made, Path(folder), 5 if quick else 40)]
        for row in rows[-6:]:
            print(row, flush=True)
    differing = [row["differing_outputs"] for row in rows if "differing_outputs" in row]
    path = write_result(
        "artefacts",
        ratios={"differing outputs of ONNX, C and exact QONNX": sum(differing)},
        rows=rows,
        settings={"threads": 1, "batch": 1, "pixels": list(PIXELS)},
        seed=SEED,
        core_hours=(time.process_time() - started) / 3600,
        quick=quick,
    )
    print(path)


def artefacts(made: Sample, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """A row for each format."""
    program, blueprint, images = made.program, made.blueprint, made.images
    arena = plan_arena(blueprint.graph)
    wanted = reference(program, images)
    onnx = write_onnx(program, folder / "n.onnx")
    files = write_c(program, arena, folder / "c", images=images)
    fixed = write_c(program, arena, folder / "fixed", images=images, fpu=False)
    taken = latencies(files, onnx, images[:1], rounds=rounds)
    got = infer(session(onnx), images)[0]
    plain = verify_c(files, program, arena, images, made.labels)
    same = float((run_fixed(program, images).argmax(1) == wanted.argmax(1)).mean())
    rows = [
        {
            "artefact": "onnx",
            "bytes": onnx.stat().st_size,
            "priced_size": exact("size", blueprint.graph, blueprint.bits),
            "differing_outputs": int((got.view(np.uint32) != wanted.view(np.uint32)).sum()),
            "outputs": wanted.size,
            "milliseconds": taken["milliseconds_onnxruntime"],
        },
        {
            "artefact": "c",
            "bytes": files.data,
            "ram": files.arena,
            "priced_ram": exact("ram", blueprint.graph, blueprint.bits),
            "differing_outputs": plain.differing_outputs,
            "outputs": wanted.size,
            "milliseconds": taken["milliseconds_native"],
        },
        {"artefact": "c without floating point", "bytes": fixed.data, "same_class": same},
    ]
    if cortex_m_tools() is None:
        device = run_on_cortex_m(files)
        rows.append(
            {
                "artefact": "cortex-m4f in qemu",
                "bytes": device.flash,
                "ram": device.ram,
                "differing_images_of_10": device.differing,
            }
        )
    return [*rows, _said("qonnx", _qonnx, made, folder), _said("tflite", _tflite, made, folder)]


def _said(artefact: str, rest: Callable[[Sample, Path], dict[str, Any]], made: Sample, folder: Path) -> dict[str, Any]:
    try:
        return {"artefact": artefact} | rest(made, folder)
    except BitsmithError as error:
        return {"artefact": artefact, "refused": str(error)}


def _qonnx(made: Sample, folder: Path) -> dict[str, Any]:
    file = write_qonnx(made.program, made.blueprint.graph, folder / "n.qonnx")
    few = made.images[:200]  # its runner takes a tenth of a second an image
    found = verify_qonnx(file, made.program, few, made.labels[:200])
    row = {"bytes": file.stat().st_size, "problems": list(found.problems)}
    if found.exact:
        return row | {"differing_outputs": found.differing_outputs, "outputs": len(few) * 10}
    return row | {
        "float_rounding": found.differing_outputs,
        "one_level_beside": [found.neighbors, found.compared],
        "same_class": found.agreement,
    }


def _tflite(made: Sample, folder: Path) -> dict[str, Any]:
    file = write_tflite(made.program, folder / "n.tflite", made.images[:256])
    found = verify_tflite(file, made.program, made.images, made.labels)
    row = {
        "bytes": file.stat().st_size,
        "problems": list(found.problems),
        "same_class": found.agreement,
        "one_level_beside": {name: list(counts) for name, counts in found.differing.items()},
    }
    if vela_missing() is not None:
        return row
    vela = compile_with_vela(file)
    return row | {"vela_flash": vela.flash, "vela_sram": vela.sram, "vela_milliseconds": round(1000 * vela.seconds, 4)}


if __name__ == "__main__":
    main()
