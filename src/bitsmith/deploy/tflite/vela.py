"""What Arm's compiler makes of a TFLite file: memory and cycles on an Ethos-U, by its own estimate."""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bitsmith.errors import ExportError

ACCELERATORS = (
    *(f"ethos-u55-{macs}" for macs in (32, 64, 128, 256)),
    *(f"ethos-u65-{macs}" for macs in (256, 512)),
    *(f"ethos-u85-{macs}" for macs in (128, 256, 512, 1024, 2048)),
)
_KIB = 1024  # Vela's summary counts in KiB
_PATIENCE = 600  # seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class VelaReport:
    """Vela's figures of one network on one accelerator, with Vela's own default system and memory mode.

    Args:
        vela: its version.
        flash: bytes of what stays off-chip: the command stream, compressed weights, scales.
        sram: bytes of on-chip memory that tensors take.
        cycles: of one inference, estimated.
        seconds: the same at the accelerator's clock.
        macs: that the NPU computes.
        cpu_operators: operators that Vela leaves to the CPU.
        layers: cycles by the tensor that operators write; together `cycles`.
    """

    accelerator: str
    vela: str
    flash: int
    sram: int
    cycles: int
    seconds: float
    macs: int
    cpu_operators: int
    layers: Mapping[str, int]


def vela_missing() -> str | None:
    """Why Vela can't be run, or None."""
    if importlib.util.find_spec("ethosu") is not None:
        return None
    return "Vela isn't installed, so that nothing is said of Ethos-U: pip install 'bitsmith[ethos-u]'"


def compile_with_vela(path: Path | str, accelerator: str = "ethos-u55-128") -> VelaReport:
    """Compile a TFLite file and read Vela's summary; what it compiled is not kept.

    Raises:
        ExportError: Vela isn't installed or can't compile the file; an unknown accelerator.
    """
    if accelerator not in ACCELERATORS:
        raise ExportError(f"unknown accelerator {accelerator!r}; Vela knows {', '.join(ACCELERATORS)}")
    missing = vela_missing()
    if missing is not None:
        raise ExportError(missing)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ethosu.vela", str(path)]
        command += ["--accelerator-config", accelerator, "--output-dir", folder, "--verbose-performance"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        except subprocess.TimeoutExpired as error:
            raise ExportError(f"Vela did not compile {path} in {_PATIENCE} s") from error
        summary = next(iter(Path(folder).glob("*summary*.csv")), None)
        layers = next(iter(Path(folder).glob("*per-layer.csv")), None)
        if done.returncode or summary is None or layers is None:
            last = [line for line in (done.stderr + done.stdout).strip().splitlines() if line.strip()]
            raise ExportError(f"Vela can't compile {path}: {last[-1] if last else 'it says nothing'}")
        with summary.open(newline="") as file:
            row = next(csv.DictReader(file))
        cycles: Counter[str] = Counter()
        with layers.open(newline="") as file:
            for layer in csv.DictReader(file):
                cycles[layer["Name"]] += round(float(layer["Op Cycles"]))
    left = re.search(r"CPU operators = (\d+)", done.stdout)
    return VelaReport(
        accelerator=accelerator,
        vela=importlib.metadata.version("ethos-u-vela"),
        flash=round(_KIB * float(row["off_chip_flash_memory_used"])),
        sram=round(_KIB * float(row["sram_memory_used"])),
        cycles=round(float(row["cycles_total"])),
        seconds=float(row["inference_time"]),
        macs=round(float(row["nn_macs"])),
        cpu_operators=int(left[1]) if left else 0,
        layers=dict(cycles),
    )
