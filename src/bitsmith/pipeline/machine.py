"""What a result was made with: versions and machine, for records, benchmark results and latency tables."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

_VERSIONED = ("bitsmith", "torch", "onnx", "onnxruntime", "numpy", "scipy")


def environment(seed: int) -> dict[str, str]:
    """Versions, machine and seed."""
    return {
        **{name: version(name) for name in _VERSIONED},
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": cpu(),
        "cores": str(os.cpu_count()),
        "seed": str(seed),
    }


def cpu() -> str:
    """The processor, as it calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
