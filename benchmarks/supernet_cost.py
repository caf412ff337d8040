"""What shared convolutions save: a step of the supernet against networks with a branch per choice.

    python -m benchmarks.supernet_cost             some minutes
    python -m benchmarks.supernet_cost --quick     small images, one repeat

The space is four stages like mobile-32's with W {2,3,4,8} x A {2,3,4,8} x kernel {3,5}; widths, gates, functions and
depth are mixed alike in all. "branches" has a whole block, weights and BatchNorm of its own, per kernel, weight bits
and activation bits (32 for each block); "tied" four, one per bit-width of both, each with both kernels as crops.
The choice of bits and kernels is ours; the paper's abstract says nearly 3x less time and 2x less memory than FBNet-V2.
`growth_1_to_8` is the supernet with 2 x 2 x 2 such choices over that with one, at the largest kernel and width.

Every network runs in a process of its own, one thread: CPU time of forward, backward and optimizer, the median; and
the most memory it held above what it held before the network was made.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from statistics import median
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.result import write_result
from bitsmith.quantize import find_quantizers
from bitsmith.search import SharedNetwork
from bitsmith.search.supernet.block import Block
from bitsmith.search.supernet.network import largest_nodes
from bitsmith.search.supernet.parts import Flow
from bitsmith.space import MOBILE_SPACES, Mobile, MobileSpace

SEED = 0
BITS = (2, 3, 4, 8)
KERNELS = (3, 5)
OF_BITS = ("weight_bits", "activation_bits")


class Branched(nn.Module):
    """One block per choice, their outputs weighted by the choice's probability.

    Args:
        blocks: with one weight bit-width and one activation bit-width each.
        single_kernel: whether each has one kernel too.
    """

    def __init__(self, name: str, adds: bool, blocks: Sequence[Block], *, single_kernel: bool) -> None:
        super().__init__()
        self.name, self.adds, self.blocks = name, adds, nn.ModuleList(blocks)
        self._own = [f"{name}.{what}" for what in (*OF_BITS, *(["kernel"] if single_kernel else []))]

    def forward(self, flow: Flow, p: Mapping[str, Tensor]) -> Tensor:
        share = flow.x.new_ones(()) / len(self.blocks)
        alone = {**p, **{name: flow.x.new_ones(1) for name in self._own}}
        return cast(Tensor, sum(share * block(flow, alone) for block in self.blocks))


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
        pairs = [(b, b, KERNELS) for b in BITS] if kind == "tied" else None
        choices = pairs or [(w, a, (k,)) for w, a, k in product(BITS, BITS, KERNELS)]
        for s, stage in enumerate(network.stages, start=1):
            blocks = cast(nn.ModuleList, stage)
            for b, block in enumerate(list(blocks), start=1):
                made = [_alone(network.space, s, b, *choice) for choice in choices]
                adds = cast(Block, block).adds
                blocks[b - 1] = Branched(f"stage{s}.block{b}", adds, made, single_kernel=kind == "branches")
    return network


def _alone(space: Mobile, stage: int, number: int, weight: int, activation: int, kernels: tuple[int, ...]) -> Block:
    """One block with the space's other choices."""
    old: MobileSpace = space.description
    stages = tuple(replace(s, kernels=kernels) for s in old.stages)
    alone = replace(
        space, description=replace(old, stages=stages, weight_bits=(weight,), activation_bits=(activation,))
    )
    signed = not stage == number == 1
    quantizers = find_quantizers(space.quantizer)
    return Block(
        alone.description, stage, number, largest_nodes(alone), signed=signed, quantizers=quantizers, scaling="mask"
    )


def measure(kind: str, pixels: int, batch_size: int, repeats: int) -> dict[str, float]:
    """CPU seconds of a step and peak megabytes of one network, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    x, y = torch.randn(batch_size, 3, pixels, pixels), torch.randint(0, 10, (batch_size,))
    warm = nn.Linear(2, 2)  # what torch loads at its first step belongs to no network
    optimizer = torch.optim.SGD(warm.parameters(), lr=1e-3)
    warm(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": median(times[1:]), "megabytes": peak / 1024}


def main() -> None:
    """Measure every network in a process of its own and write the result."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] == "--one":
        kind, *numbers = arguments[1:]
        print(json.dumps(measure(kind, *map(int, numbers))))
        return
    quick = "--quick" in arguments
    pixels, batch_size, repeats = (8, 8, 1) if quick else (32, 64, 7)
    found: dict[str, dict[str, Any]] = {}
    started = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
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
        found[kind] = json.loads(done.stdout)
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
        settings={"pixels": pixels, "batch": batch_size, "repeats": repeats, "threads": 1, "precision": "float32"},
        seed=SEED,
        core_hours=(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - started) / 3600,
        quick=quick,
    )
    print(ratios, path)


if __name__ == "__main__":
    main()
