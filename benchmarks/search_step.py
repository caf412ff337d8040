"""What a step of the composite search costs, against a plain float step and against other ways to search bits.

    python -m benchmarks.search_step            about a quarter of an hour, most of it compiling
    python -m benchmarks.search_step --quick    fewer rounds

ResNet-20, 3x32x32, batch 128, one thread, forward and backward. Weights {1,2,3,4} and activations {2,3,4} bits.

- float: the network without quantizers.
- ours: as `bitsmith search` runs it: 8-bit ends and 8-bit grids for the sums included, which the others don't have.
- bare: ours with float ends and sums, so the same network as published and pairs.
- published: the same mixtures as EdMIPS' code computes them: by automatic differentiation, one tensor per bit-width.
- pairs: one convolution for each pair of a weight and an activation bit-width.

All variants in one process, round by round in turn, CPU time, the least of all rounds; so other load on the machine
slows all alike. Every variant runs eager (`none`) and compiled as a whole (`network`), ours also with its quantizers
alone compiled (`quantizers`); pairs are run eager only. Memory: the peak of the resident memory in a process of its
own over one step, above what it holds between steps, eager. bf16 is measured where the CPU computes it natively.
"""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.result import write_result
from bitsmith.blueprint import FLOAT, Bits, Blueprint, NetworkGraph, Node
from bitsmith.capture import capture
from bitsmith.models import load_model
from bitsmith.quantize import Mixture, Network, Priced, build, float_blueprint
from bitsmith.quantize.layers import apply_weight
from bitsmith.quantize.lsq import LearnedStep
from bitsmith.search import build_mixed
from bitsmith.space import precision
from bitsmith.train.compiling import CompileMode, compiled
from bitsmith.train.mode import choose_precision
from bitsmith.train.plan import TrainPlan

SEED, BATCH, SHAPE = 0, 128, (3, 32, 32)
WEIGHT, ACTIVATION = (1, 2, 3, 4), (2, 3, 4)
WANTED = {
    "time_vs_float": "at most 1.3",
    "time_vs_published": "at least 1.9",
    "time_vs_pairs": "at least 9",
    "memory_vs_published": "at least 2",
    "memory_vs_pairs": "at least 4",
    "growth_2_to_8": "at most 1.15",
    "best_vs_published": "at least 2.8",
    "best_vs_pairs": "at least 12",
}


class Published(nn.Module):
    """sum_i p_i Q_i(x) by automatic differentiation, a tensor per bit-width."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        self.mixture = mixture

    def parts(self, x: Tensor) -> list[Tensor]:
        """Q_i(x)."""
        found = []
        for candidate in self.mixture.candidates:
            if not isinstance(candidate, LearnedStep):
                found.append(candidate(x))
                continue
            step = candidate.step(x)
            clipped = (x / step).clamp(candidate.range.lo, candidate.range.hi)
            codes = torch.where(x >= 0, 1.0, -1.0) if candidate.range.binary else torch.round(clipped)
            found.append(step * (clipped + (codes - clipped).detach()))
        return found

    def forward(self, x: Tensor) -> Tensor:
        parts = self.parts(x)
        return sum((p * part for p, part in zip(self.mixture.probabilities(), parts, strict=True)), torch.zeros(()))


class Pairs(nn.Module):
    """sum_ij p_i q_j conv(Q_i(x), Q_j(W)): a convolution per pair of bit-widths."""

    def __init__(self, layer: Priced) -> None:
        super().__init__()
        self.layer = layer
        self.weights = Published(cast(Mixture, layer.quantize_weight))
        self.inputs = Published(cast(Mixture, layer.quantize_input))

    def forward(self, x: Tensor, node: Node) -> Tensor:
        p, q = self.inputs.mixture.probabilities(), self.weights.mixture.probabilities()
        weights, y = self.weights.parts(self.layer.weight), torch.zeros(())
        for i, part in enumerate(self.inputs.parts(x)):
            for j, weight in enumerate(weights):
                y = y + p[i] * q[j] * apply_weight(node, part, weight, self.layer.bias)
        return y if self.layer.norm is None else self.layer.norm(y)


def make(variant: str, graph: NetworkGraph) -> Network:
    """The network of a variant; ours with other bit-widths is "ours:BITS"."""
    torch.manual_seed(SEED)
    if variant == "float":
        return build(float_blueprint(graph))
    kind, _, widths = variant.partition(":")
    ours = kind == "ours"
    weight = activation = tuple(int(bits) for bits in widths.split(",")) if widths else ()
    bits = {layer.name: Bits(weight=8, activation=8) for layer in graph.layers}
    template = Blueprint(graph=graph, bits=bits, stream_bits=8 if ours else FLOAT)
    space = precision(template, weight or WEIGHT, activation or ACTIVATION, ends=8 if ours else FLOAT)
    network = build_mixed(space)
    for name, layer in list(network.priced()) if kind in ("published", "pairs") else ():
        if len(cast(Mixture, layer.quantize_weight).candidates) == 1:
            layer.quantize_weight = layer.quantize_input = None  # the float ends
        elif variant == "pairs":
            network.set_submodule(name, Pairs(layer))
        else:
            layer.quantize_weight = Published(cast(Mixture, layer.quantize_weight))
            layer.quantize_input = Published(cast(Mixture, layer.quantize_input))
    return network


def make_step(variant: str, mode: CompileMode, graph: NetworkGraph, *, bf16: bool = False) -> Callable[[], None]:
    """A function that does one forward and backward pass."""
    network = make(variant, graph)
    forward = compiled(network, mode)
    generator = torch.Generator().manual_seed(SEED)
    x = torch.randn(BATCH, *SHAPE, generator=generator).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (BATCH,), generator=generator)

    def step() -> None:
        network.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = forward(x)
        F.cross_entropy(logits.float(), y).backward()

    return step


def capture_resnet20() -> NetworkGraph:
    """The graph that all variants compute."""
    module, _ = load_model("resnet20", classes=10, shape=SHAPE, seed=SEED)
    return capture(module, SHAPE).graph


def peak(variant: str, graph: NetworkGraph) -> int:
    """Bytes that a step takes at its peak above what the process holds between steps; call it in a fresh process."""
    step = make_step(variant, "none", graph)
    step()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    held = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    step()
    return _memory("VmHWM") - held


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def peak_of(variant: str) -> int:
    """`peak` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.search_step", "--peak", variant]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    """Measure every variant and write the result."""
    torch.set_num_threads(1)
    graph = capture_resnet20()
    if "--peak" in sys.argv:
        print(peak(sys.argv[-1], graph))
        return
    quick = "--quick" in sys.argv
    started = time.process_time()
    modes: dict[str, tuple[str, CompileMode, bool]] = {
        "float none": ("float", "none", False),
        "float network": ("float", "network", False),
        "ours none": ("ours", "none", False),
        "ours quantizers": ("ours", "quantizers", False),
        "ours network": ("ours", "network", False),
        "ours 2 options network": ("ours:2,4", "network", False),
        "ours 8 options network": ("ours:1,2,3,4,5,6,7,8", "network", False),
        "bare none": ("bare", "none", False),
        "bare network": ("bare", "network", False),
        "published none": ("published", "none", False),
        "published network": ("published", "network", False),
        "pairs none": ("pairs", "none", False),
    }
    bf16 = choose_precision(TrainPlan(precision="auto"), torch.device("cpu")) == "bf16"
    if bf16:
        modes["float network bf16"] = ("float", "network", True)
        modes["ours network bf16"] = ("ours", "network", True)
    steps, compiling = {}, {}
    for name, (variant, mode, low) in modes.items():
        steps[name] = make_step(variant, mode, graph, bf16=low)
        began = time.perf_counter()
        steps[name]()
        compiling[name] = time.perf_counter() - began
        print(f"{name}: first step {compiling[name]:.1f} s", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(3 if quick else 15):
        for name, step in steps.items():
            began = time.process_time()
            step()
            seconds[name].append(time.process_time() - began)
    best = {name: min(times) for name, times in seconds.items()}
    memory = {variant: peak_of(variant) for variant in ("float", "ours", "published", "pairs")}
    fastest = min(best["ours network"], best["ours quantizers"])
    ours_best = min(fastest, best.get("ours network bf16", fastest))
    ratios = {
        "time_vs_float": fastest / best["float network"],
        "time_vs_float_bare": best["bare network"] / best["float network"],
        "time_vs_float_eager": best["ours none"] / best["float none"],
        "time_vs_published": best["published none"] / best["bare none"],
        "time_vs_published_compiled": best["published network"] / best["bare network"],
        "time_vs_published_whole": best["published none"] / best["ours none"],
        "time_vs_pairs": best["pairs none"] / best["bare none"],
        "time_vs_pairs_whole": best["pairs none"] / best["ours none"],
        "memory_vs_published": memory["published"] / memory["ours"],
        "memory_vs_pairs": memory["pairs"] / memory["ours"],
        "memory_vs_float": memory["ours"] / memory["float"],
        "growth_2_to_8": best["ours 8 options network"] / best["ours 2 options network"],
        "best_vs_published": best["published none"] / ours_best,
        "best_vs_pairs": best["pairs none"] / ours_best,
    }
    rows = [
        {
            "variant": name,
            "seconds": round(best[name], 4),
            "median": round(sorted(seconds[name])[len(seconds[name]) // 2], 4),
            "first_step": round(compiling[name], 1),
        }
        for name in steps
    ]
    for row in rows:
        print(f"{row['variant']:26} {row['seconds']:.3f} s (median {row['median']:.3f})")
    for name, value in ratios.items():
        print(f"{name:26} {value:.2f}  {WANTED.get(name, '')}")
    path = write_result(
        "search_step",
        ratios={name: round(value, 3) for name, value in ratios.items()},
        rows=rows,
        settings={
            "network": "resnet20",
            "batch_size": BATCH,
            "threads": 1,
            "weight_bits": WEIGHT,
            "activation_bits": ACTIVATION,
            "peak_bytes": memory,
            "bf16": "native" if bf16 else "not measured: this CPU has no bf16 instructions",
            "wanted": WANTED,
        },
        seed=SEED,
        core_hours=(time.process_time() - started) / 3600,
        quick=quick,
    )
    print(path)


if __name__ == "__main__":
    main()
