"""ResNet-8 as C99 beside the same network in onnxruntime: latency, bytes, equality; and on an emulated Cortex-M4F.

    python -m benchmarks.c_target             all
    python -m benchmarks.c_target --quick     fewer images and rounds

Weights are random (`benchmarks.sample`). The C code is compiled by gcc -O3 -march=native, for which onnxruntime chooses
its kernels too, and by plain -O3, which on x86 means SSE2. One thread, batch 1, CPU time; onnxruntime and the C
programs take turns, so that a slower minute hits all alike, and `latency_vs_onnxruntime` is the ratio of medians.
`text_bytes` are the instructions by gcc -Os on this machine; `flash` and `ram` those of the linked image on a
Cortex-M4F, where gcc-arm-none-eabi and qemu are installed, beside what the cost model says.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.result import write_result
from benchmarks.sample import SEED, sample, with_inner
from bitsmith.blueprint import Bits
from bitsmith.cost import TARGETS, exact, plan_arena
from bitsmith.deploy import write_onnx
from bitsmith.deploy.c import CFiles, cortex_m_tools, run_fixed, run_on_cortex_m, verify_c, write_c
from bitsmith.deploy.c.verify import STRICT
from bitsmith.deploy.reference import run as reference
from bitsmith.deploy.runtime import infer, session

INNER = ((8, 8), (4, 8), (2, 8), (4, 4))
BUILDS = {"native": ("-O3", "-march=native"), "baseline": ("-O3",)}


def main() -> None:
    """Measure and write the result."""
    quick = "--quick" in sys.argv[1:]
    torch.set_num_threads(1)
    started = time.process_time()
    rows: list[dict[str, Any]] = []
    for bits in INNER:
        of = sample("resnet8", with_inner(Bits(weight=bits[0], activation=bits[1])), 200 if quick else 1000)
        blueprint, program, images = of.blueprint, of.program, of.images
        arena = plan_arena(blueprint.graph)
        with tempfile.TemporaryDirectory() as folder:
            onnx = write_onnx(program, Path(folder) / "n.onnx")
            files = write_c(program, arena, Path(folder) / "c", images=images)
            fixed = write_c(program, arena, Path(folder) / "fixed", images=images, fpu=False)
            found = verify_c(files, program, arena, images, of.labels, flags=BUILDS["native"])
            wanted = infer(session(onnx), images)[0]
            row = {
                "name": f"w{bits[0]}a{bits[1]}",
                "images": len(images),
                "equal_outputs": found.equal_images,
                "equal_to_onnxruntime": bool((wanted == reference(program, images)).all()),
                "fixed_point_agreement": float((run_fixed(program, images).argmax(1) == wanted.argmax(1)).mean()),
                "text_bytes": text_bytes(files),
                "text_bytes_no_fpu": text_bytes(fixed),
                "priced_ram": exact("ram", blueprint.graph, blueprint.bits),
                "priced_size": exact("size", blueprint.graph, blueprint.bits),
                "priced_flash": exact("flash", blueprint.graph, blueprint.bits, TARGETS["c"].costs),
                "data_bytes": files.data,
            }
            row |= latencies(files, onnx, images[:1], rounds=5 if quick else 40)
            row |= on_device(files, "") | on_device(fixed, "_no_fpu")
        rows.append(row)
        print(row, flush=True)
    path = write_result(
        "c_target",
        ratios={
            f"{row['name']} {key}": row[key] for row in rows for key in row if key.startswith("latency_vs_onnxruntime")
        },
        rows=rows,
        settings={"threads": 1, "batch": 1, "builds": {name: list(flags) for name, flags in BUILDS.items()}},
        seed=SEED,
        core_hours=(time.process_time() - started) / 3600,
        quick=quick,
    )
    print(path)


def text_bytes(files: CFiles) -> int:
    """Bytes of instructions by gcc -Os."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.o"
        subprocess.run(["gcc", *STRICT, "-Os", "-c", "-o", target, files.source], check=True)
        listed = subprocess.run(["size", "-A", target], check=True, capture_output=True, text=True).stdout
    return sum(int(line.split()[1]) for line in listed.splitlines() if line.startswith(".text"))


def latencies(files: CFiles, onnx: Path, image: np.ndarray, *, rounds: int) -> dict[str, float]:
    """Milliseconds of CPU time of one inference, and the ratios of their medians."""
    (files.folder / "timing.c").write_text(_TIMING)
    for name, flags in BUILDS.items():
        command = ["gcc", *STRICT, *flags, "timing.c", "model.c", "-o", f"timing_{name}"]
        subprocess.run(command, cwd=files.folder, check=True)
    running = session(onnx)
    feed = {running.get_inputs()[0].name: image}
    found: dict[str, list[float]] = {"onnxruntime": [], **{name: [] for name in BUILDS}}
    for _ in range(rounds):
        for _ in range(3):
            running.run(None, feed)
        began = time.process_time()
        for _ in range(20):
            running.run(None, feed)
        found["onnxruntime"].append(1000 * (time.process_time() - began) / 20)
        for name in BUILDS:
            done = subprocess.run([files.folder / f"timing_{name}"], check=True, capture_output=True, text=True)
            found[name].append(float(done.stdout))
    medians = {name: float(np.median(values)) for name, values in found.items()}
    return {
        **{f"milliseconds_{name}": round(value, 4) for name, value in medians.items()},
        "latency_vs_onnxruntime": round(medians["native"] / medians["onnxruntime"], 3),
        "latency_vs_onnxruntime_baseline": round(medians["baseline"] / medians["onnxruntime"], 3),
    }


def on_device(files: CFiles, mark: str) -> dict[str, int]:
    """What the image on a Cortex-M4F takes; nothing where the tools are missing."""
    missing = cortex_m_tools()
    if missing is not None:
        print(missing)
        return {}
    device = run_on_cortex_m(files)
    return {
        f"cortex_m4{mark}_differing_of_10": device.differing,
        f"cortex_m4{mark}_code": device.code,
        f"cortex_m4{mark}_flash": device.flash,
        f"cortex_m4{mark}_ram": device.ram,
        f"cortex_m4{mark}_stack": device.stack,
    }


_TIMING = """
#include "model.h"
#include <stdio.h>
#include <time.h>

int main(void)
{
    static uint8_t image[MODEL_INPUTS];
    static float output[MODEL_OUTPUTS];
    for (int i = 0; i < MODEL_INPUTS; i++)
        image[i] = (uint8_t)(i * 37 + i / 7);
    for (int i = 0; i < 3; i++)
        model_run(image, output);
    const clock_t began = clock();
    for (int i = 0; i < 20; i++)
        model_run(image, output);
    printf("%.6f\\n", 1000.0 * (double)(clock() - began) / CLOCKS_PER_SEC / 20);
    return 0;
}
"""


if __name__ == "__main__":
    main()
