"""Mode: how a machine computes a training. Equal modes on one machine give equal bits; a checkpoint keeps its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from bitsmith.errors import RecipeError, RunError
from bitsmith.train.compiling import CompileMode, has_compiler, resolve
from bitsmith.train.plan import TrainPlan

Precision = Literal["float32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Mode:
    """What rounding depends on, beside the machine.

    Args:
        compile: what is compiled.
        precision: what layers compute in.
        threads: of torch; sums are split among them.
    """

    compile: CompileMode
    precision: Precision
    threads: int


def choose_mode(plan: TrainPlan, *, steps: int, device: torch.device) -> Mode:
    """What a plan means on this machine now."""
    return Mode(
        compile=resolve(plan.compile, steps=steps, device=device),
        precision=choose_precision(plan, device),
        threads=torch.get_num_threads(),
    )


def saved_mode(saved: Mapping[str, Any], checkpoint: Path, device: torch.device) -> Mode:
    """The mode that a checkpoint was made in.

    Raises:
        RunError: it was compiled, and there is no compiler now.
    """
    mode = Mode(**saved["mode"])
    if mode.compile != "none" and not has_compiler(device):
        raise RunError(
            f"{checkpoint} was made with compiled {mode.compile}, and torch.compile finds no compiler here now, so it "
            "can't go on to the same numbers; install one (on Debian: apt-get install g++), or delete that file to "
            "start this stage again"
        )
    return mode


def choose_precision(plan: TrainPlan, device: torch.device) -> Precision:
    """bf16 where "auto" finds it fast: AMX or AVX-512 BF16 on a CPU, Ampere and later on CUDA."""
    if plan.precision != "auto":
        return plan.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    # torch.cpu.get_capabilities, which is public, is not there yet in the oldest torch that we take.
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if fast else "float32"


@contextmanager
def on_threads(threads: int) -> Iterator[None]:
    """So many threads of torch inside; as many as before afterwards."""
    before = torch.get_num_threads()
    if threads != before:  # setting it makes a new pool, even where nothing changes
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if threads != before:
            torch.set_num_threads(before)


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """A precision as a context; Accelerate would fix one per process."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def pick_device(plan: TrainPlan) -> torch.device:
    """The device of a plan.

    Raises:
        RecipeError: it asks for cuda where there is none.
    """
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise RecipeError("there is no CUDA device that torch can use; take --device auto or cpu")
    return torch.device("cuda" if torch.cuda.is_available() and plan.device != "cpu" else "cpu")
