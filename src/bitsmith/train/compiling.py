"""Whether and how a network is compiled: what `compile` of a plan means on this machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from torch import nn

CompileMode = Literal["none", "quantizers", "network"]

# Compiling a whole network takes one to two minutes, its quantizers some ten seconds; from so many steps on it pays
# (ResNet-20, W {1,2,3,4} A {2,3,4}, one thread: .68 s a step as it is, .50 with quantizers compiled, .43 as a whole;
# ResNet-8 takes a third of that).
_STEPS = {"network": 4000, "quantizers": 300}


def resolve(mode: Literal["auto"] | CompileMode, *, steps: int, device: torch.device) -> CompileMode:
    """What is compiled on this machine for a training of so many steps.

    What is wanted, but without a compiler nothing.
    """
    mode = wanted(mode, steps=steps)
    return mode if mode != "none" and has_compiler(device) else "none"


def wanted(mode: Literal["auto"] | CompileMode, *, steps: int) -> CompileMode:
    """What pays for so many steps, where the mode is "auto"; else the mode itself."""
    if mode != "auto":
        return mode
    return "network" if steps >= _STEPS["network"] else "quantizers" if steps >= _STEPS["quantizers"] else "none"


@cache
def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile finds what it needs: a C++ compiler, or on a GPU Triton."""
    # Imported where they are needed, as they take longer than all of bitsmith.
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return has_triton()
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True


def compiled(network: nn.Module, mode: CompileMode) -> Callable:
    """The forward to call on full batches, compiled as `mode` says; compiling happens at its first call.

    Whole networks compiled before are forgotten: after eight of one class torch would run the next as it is, and say so
    in a warning alone.
    """
    for module in network.modules():
        if hasattr(module, "compiled"):  # quantizers say whether a kernel of theirs is compiled
            module.compiled = mode != "none"  # pyright: ignore[reportArgumentType]
    if mode != "network":
        return network
    torch.compiler.reset()
    return torch.compile(network, dynamic=False)
