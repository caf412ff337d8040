"""What shared convolutions save: a step of the supernet against networks with a branch per choice.

    python -m benchmarks.supernet_cost             some four minutes of one core, about 9 GB of memory
    python -m benchmarks.supernet_cost --quick     small images, one repeat

The space is four stages like mobile-32's with W {2,3,4,8} x A {2,3,4,8} x kernel {3,5}; widths, gates, functions and
depth are mixed alike in all. "branches" has a whole block, weights and BatchNorm of its own, per kernel, weight bits
and activation bits (32 for each block), mixed by the product of their probabilities, which learn; "tied" four, one per
bit-width of both, each with both kernels as crops. Stem, head and classifier are shared in all, which favors the
branches; so does the small batch, as weights are mixed once per batch. Nothing is compiled. The choice of bits and
kernels is ours; the paper's abstract says nearly 3x less time and 2x less memory than FBNet-V2.
`growth_1_to_8` is the supernet with 2 x 2 x 2 such choices over that with one, at the largest kernel and width.

Every network runs in a process of its own, one thread: CPU time of forward, backward and optimizer, the median of
some steps after one to warm up; and the most resident memory above what the process held before the network was made.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.result import write_result
from bitsmith.blueprint import Node
from bitsmith.quantize import find_quantizers
from bitsmith.search import SharedNetwork
from bitsmith.search.supernet.block import Block
from bitsmith.search.supernet.network import largest_nodes
from bitsmith.search.supernet.parts import Flow
from bitsmith.space import MOBILE_SPACES, Mobile

SEED = 0
BITS = (2, 3, 4, 8)
KERNELS = (3, 5)
OF_BITS = ("weight_bits", "activation_bits")
WANTED = {
    "time_vs_branches": "at least 6",
    "memory_vs_branches": "at least 4",
    "time_vs_tied": "at least 3",
    "memory_vs_tied": "at least 2",
    "growth_1_to_8": "at most 1.3",
}


class Branched(nn.Module):
    """One block per choice, their outputs weighted by the choice's probability.

    Args:
        blocks: with one option of each of `alone`.
        alone: what they have one option of: "weight_bits", "activation_bits", "kernel".
        mixed: those of them whose probabilities are multiplied to that of a block, in the order of the blocks.
    """

    def __init__(
        self, name: str, adds: bool, blocks: Sequence[Block], *, alone: Sequence[str], mixed: Sequence[str]
    ) -> None:
        super().__init__()
        self.name, self.adds, self.blocks = name, adds, nn.ModuleList(blocks)
        self._alone = [f"{name}.{what}" for what in alone]
        self._mixed = [f"{name}.{what}" for what in mixed]

    def forward(self, flow: Flow, p: Mapping[str, Tensor]) -> Tensor:
        shares = flow.x.new_ones(1)
        for name in self._mixed:
            shares = (shares[:, None] * p[name]).flatten()
        alone = {**p, **{name: flow.x.new_ones(1) for name in self._alone}}
        outputs = (share * block(flow, alone) for share, block in zip(shares, self.blocks, strict=True))
        return cast(Tensor, sum(outputs))


def make_space(pixels: int, weight: Sequence[int], activation: Sequence[int], kernels: Sequence[int]) -> Mobile:
    """mobile-32 with these options."""
    preset = MOBILE_SPACES["mobile-32"]
    stages = tuple(replace(stage, kernels=tuple(kernels)) for stage in preset.stages)
    description = replace(preset, stages=stages, weight_bits=tuple(weight), activation_bits=tuple(activation))
    return Mobile(description=description, input_shape=(3, pixels, pixels), outputs=10)


def make_network(kind: str, pixels: int) -> SharedNetwork:
    """The network of a row of the result."""
    if kind in ("one", "eight"):
        some = {"one": ((8,), (8,), (5,)), "eight": ((2, 8), (2, 8), KERNELS)}[kind]
        return SharedNetwork(make_space(pixels, *some))
    network = SharedNetwork(make_space(pixels, BITS, BITS, KERNELS))
    if kind != "shared":
        for s, stage in enumerate(network.stages, start=1):
            blocks = cast(nn.ModuleList, stage)
            for b, block in enumerate(list(blocks), start=1):
                blocks[b - 1] = make_branched(kind, network.space, s, b, adds=cast(Block, block).adds)
    return network


def make_branched(kind: str, space: Mobile, stage: int, number: int, *, adds: bool) -> Branched:
    """A block of the network "branches" or "tied"."""
    if kind == "tied":
        choices, alone, mixed = [(bits, bits, KERNELS) for bits in BITS], OF_BITS, OF_BITS[:1]
    else:
        choices = [(w, a, (k,)) for w, a, k in product(BITS, BITS, KERNELS)]
        alone = mixed = (*OF_BITS, "kernel")
    blocks = []
    for weight, activation, kernels in choices:
        only = make_space(space.input_shape[1], (weight,), (activation,), kernels)
        signed = not stage == number == 1
        quantizers = find_quantizers(space.quantizer)
        nodes = _nodes(space.input_shape[1], kernels)
        blocks.append(
            Block(only.description, stage, number, nodes, signed=signed, quantizers=quantizers, scaling="mask")
        )
    return Branched(f"stage{stage}.block{number}", adds, blocks, alone=alone, mixed=mixed)


@cache
def _nodes(pixels: int, kernels: tuple[int, ...]) -> dict[str, Node]:
    return largest_nodes(make_space(pixels, BITS, BITS, kernels))


def measure(kind: str, pixels: int, batch_size: int, repeats: int) -> dict[str, float]:
    """CPU seconds of a step and peak megabytes of one network, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    x, y = torch.randn(batch_size, 3, pixels, pixels), torch.randint(0, 10, (batch_size,))
    warm = nn.Linear(2, 2)  # what torch loads at its first step belongs to no network
    optimizer = torch.optim.SGD(warm.parameters(), lr=1e-3)
    warm(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    network = make_network(kind, pixels).train()
    logits = {name: nn.Parameter(torch.zeros(len(p))) for name, p in network.present.items()}
    optimizer = torch.optim.SGD([*network.parameters(), *logits.values()], lr=1e-3, momentum=0.9)
    times = []
    for _ in range(repeats + 1):
        started = time.process_time()
        network.present = {name: values.softmax(0) for name, values in logits.items()}
        loss = F.cross_entropy(network(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        times.append(time.process_time() - started)
    total = time.process_time()
    return {"total": total, "seconds": median(times[1:]), "megabytes": (_memory("VmHWM") - before) / 1024}


def _memory(field: str) -> int:
    """Kilobytes of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def main() -> None:
    """Measure every network in a process of its own and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="small images, one repeat")
    parser.add_argument("--one", nargs=4, metavar=("KIND", "PIXELS", "BATCH", "REPEATS"), help="measure one network")
    arguments = parser.parse_args()
    if arguments.one:
        kind, *numbers = arguments.one
        print(json.dumps(measure(kind, *map(int, numbers))))
        return
    quick: bool = arguments.quick
    pixels, batch_size, repeats = (8, 2, 1) if quick else (32, 8, 5)
    found: dict[str, dict[str, Any]] = {}
    for kind in ("shared", "branches", "tied", "one", "eight"):
        command = [
            sys.executable,
            "-m",
            "benchmarks.supernet_cost",
            "--one",
            kind,
            *map(str, (pixels, batch_size, repeats)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[kind] = json.loads(done.stdout.splitlines()[-1])
        print(kind, found[kind], flush=True)
    shared = found["shared"]
    ratios = {
        f"{what}_vs_{kind}": round(found[kind][key] / shared[key], 3)
        for kind in ("branches", "tied")
        for what, key in (("time", "seconds"), ("memory", "megabytes"))
    }
    ratios["growth_1_to_8"] = round(found["eight"]["seconds"] / found["one"]["seconds"], 3)
    path = write_result(
        "supernet_cost",
        ratios=ratios,
        rows=[{"name": kind} | values for kind, values in found.items()],
        settings={
            "pixels": pixels,
            "batch": batch_size,
            "repeats": repeats,
            "threads": 1,
            "precision": "float32",
            "space": "mobile-32",
            "weight_bits": BITS,
            "activation_bits": BITS,
            "kernels": KERNELS,
            "wanted": WANTED,
        },
        seed=SEED,
        core_hours=sum(values["total"] for values in found.values()) / 3600,
        quick=quick,
    )
    print(ratios, path)


if __name__ == "__main__":
    main()
