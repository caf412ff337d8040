"""Peaks: the most bytes that live at once in each block of a mobile network, so that RAM can be budgeted.

    ram >= max over blocks of peak(block),    peak(block) = max over its steps of the bytes live there

What lives in a block is its input and what it writes itself: nothing else of the network is needed meanwhile. So a
block's peak depends on the width that it reads and on what it chooses, and a budget holds every step of the network by
one comparison per block. Bits and kernels change no byte. `ram` itself is the arena that `cost/memory.py` lays out; it
exceeds the peaks where tensors don't pack without gaps (in 1 of 450 random networks of the three presets), so whoever
decides prices what it found.

A search by gradients is led by the largest of the blocks' expected peaks; at one-hot that is the network's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numpy as np
import torch
from torch import Tensor

from bitsmith.blueprint import NetworkGraph
from bitsmith.cost.additive import planned
from bitsmith.cost.memory import live_tensors
from bitsmith.search.supernet.factors import Factor
from bitsmith.space import Mobile, Stage
from bitsmith.space.decisions import Decisions
from bitsmith.space.mobile_choice import BLOCK, make_block
from bitsmith.space.mobile_graph import HEAD, INPUT, STEM, Block, MobileNetwork

PEAKED = "ram"  # the cost that is a maximum over blocks
# What of a block changes its tensors, and what doesn't.
SHAPING, SHAPELESS = ("expansion", "squeeze_excite", "activation"), ("kernel", "weight_bits", "activation_bits")


@final
@dataclass(frozen=True, kw_only=True)
class Peaks:
    """The peaks of a mobile space, in bytes.

    Args:
        fixed: of the stem.
        factors: one per block, and one for what comes behind the last.
    """

    fixed: float
    factors: tuple[Factor, ...]

    def total(self, decisions: Decisions, indices: np.ndarray) -> float:
        """The largest peak at option indices [decisions]; no arena is smaller."""
        return max(self.fixed, *(factor.at(decisions, indices) for factor in self.factors))

    def least(self, stages: Sequence[Stage]) -> float:
        """The least that the largest peak of any network of the space is.

        Stage by stage, the least for every width; each with its fewest blocks.
        """
        by_name = {factor.decisions[-1].rpartition(".")[0]: factor for factor in self.factors}
        reached = np.array([self.fixed])  # per width
        for s, stage in enumerate(stages, start=1):
            first = _least_of_own(by_name[f"stage{s}.block1"])
            reached = np.maximum(reached[:, None], first.reshape(len(reached), -1)).min(0)
            for b in range(2, stage.blocks[0] + 1):
                reached = np.maximum(reached, _least_of_own(by_name[f"stage{s}.block{b}"]))
        last = self.factors[-1].entries
        return float(np.maximum(reached.reshape(-1, *(1,) * (last.ndim - 1)), last).min())

    def largest(self) -> tuple[Factor, tuple[int, ...]]:
        """The block with the greatest peak of all, and the options that it has it at."""
        factor = max(self.factors, key=lambda f: float(f.entries.max()))
        return factor, tuple(int(i) for i in np.unravel_index(int(factor.entries.argmax()), factor.entries.shape))


@final
class ExpectedPeak:
    """The largest of the blocks' expected peaks, differentiable; at one-hot the network's own.

    E = max over blocks of P(there) sum peaks[i, j, ...] p_i q_j ...; by Jensen's inequality at most the expected peak
    of a network drawn by these probabilities.

    Example:
        Blocks of (1, 3) kB and of 2 kB at (.25, .75): max(2.5, 2) = 2.5 kB.
    """

    def __init__(self, peaks: Peaks) -> None:
        self._fixed = peaks.fixed
        self._factors = [(factor, torch.from_numpy(factor.entries)) for factor in peaks.factors]

    def __call__(self, p: Mapping[str, Tensor]) -> Tensor:
        """A float64 scalar.

        Args:
            p: decision -> one probability per option.
        """
        device = next(iter(p.values())).device
        found = [torch.tensor(self._fixed, dtype=torch.float64, device=device)]
        for factor, entries in self._factors:
            value = entries.to(device)
            for name in reversed(factor.decisions):
                value = value @ p[name].double()
            if factor.when is not None:
                value = value * p[factor.when[0]][factor.when[1] :].double().sum()
            found.append(value)
        return torch.stack(found).max()


@lru_cache(maxsize=8)
def price_peaks(space: Mobile) -> Peaks:
    """The peaks of a mobile space, from the tensors of small networks with one block each."""
    description, factors = space.description, []
    _, height, width = space.input_shape
    height, width = _strided(height, width, description.stem.stride)
    graph = space.at(0).graph
    fixed = max(_live(graph, [i for i, n in enumerate(graph.nodes) if _part(n.name) in (INPUT, STEM)]).values())
    for s, stage in enumerate(description.stages, start=1):
        own = [len(of) for of in (stage.expansions, stage.kernels, stage.squeeze_excite, stage.activations)]
        forms = [(e, g, f) for e in range(own[0]) for g in range(own[2]) for f in range(own[3])]
        before = description.input_widths(s)
        first = np.zeros((len(before), len(stage.channels), *own))
        later = np.zeros((len(stage.channels), *own))
        after = _strided(height, width, stage.stride)
        for e, g, f in forms:
            chosen = {
                "expansion": stage.expansions[e],
                "kernel": stage.kernels[0],
                "squeeze_excite": stage.squeeze_excite[g],
                "activation": stage.activations[f],
            }
            for i, reads in enumerate(before):
                block = make_block(description, s, 1, reads, stage.channels[0], chosen)
                peaks = _block_peaks(space, block, reads, (height, width), stage.channels)
                first[i, :, e, :, g, f] = np.array(peaks)[:, None]
            for o, channels in enumerate(stage.channels if stage.blocks[1] > 1 else ()):
                block = make_block(description, s, 2, channels, channels, chosen)
                later[o, e, :, g, f] = _block_peaks(space, block, channels, after, (channels,))[0]
        height, width = after
        reading = (f"stage{s - 1}.channels",) if s > 1 else ()
        for b in range(1, stage.blocks[1] + 1):
            shared = (*(reading if b == 1 else ()), f"stage{s}.channels")
            table = later if b > 1 else first if s > 1 else first[0]
            factors.append(
                Factor(
                    decisions=(*shared, *(f"stage{s}.block{b}.{what}" for what in BLOCK)),
                    entries=np.ascontiguousarray(table),
                    when=(f"stage{s}.blocks", max(0, b - stage.blocks[0])) if b > 1 else None,
                )
            )
    n = len(description.stages)
    heads = description.head or (0,)
    ends = np.array(
        [[_end_peak(space, c, head, (height, width)) for head in heads] for c in description.stages[-1].channels],
        dtype=np.float64,
    )
    names = (f"stage{n}.channels", *((f"{HEAD}.channels",) if description.head else ()))
    factors.append(Factor(decisions=names, entries=ends if description.head else ends[:, 0].copy()))
    return Peaks(fixed=fixed, factors=tuple(factors))


def _block_peaks(
    space: Mobile, block: Block, reads: int, size: tuple[int, int], widths: Sequence[int]
) -> tuple[float, ...]:
    """The peak of a block for each of the widths that it may write; the block has the first of them.

    Only what is live while it projects depends on that width, and in proportion.
    """
    graph = _network(space, reads, size, (block,), 0)
    steps = [i for i, node in enumerate(graph.nodes) if node.name.startswith(f"{block.name}.")]
    live = _live(graph, steps)
    project = next(i for i in steps if graph.nodes[i].name == f"{block.name}.project")
    assert len(widths) == 1 or project == steps[-1], "a block that adds has one width"
    a_channel = math.prod(graph.nodes[project].shape[1:])
    before = max(live[i] for i in steps if i < project)
    behind = max(live[i] for i in steps if i >= project)
    return tuple(max(before, behind + (width - widths[0]) * a_channel) for width in widths)


def _end_peak(space: Mobile, reads: int, head: int, size: tuple[int, int]) -> float:
    """Of head, pool and classifier."""
    graph = _network(space, reads, size, (), head)
    inside = [i for i, node in enumerate(graph.nodes) if _part(node.name) not in (INPUT, STEM)]
    return max(_live(graph, [*inside, len(graph.nodes)]).values())


def _network(space: Mobile, reads: int, size: tuple[int, int], blocks: tuple[Block, ...], head: int) -> NetworkGraph:
    """A network whose block, or head, reads so many channels."""
    return MobileNetwork(
        input_shape=(1, *size),
        stem=reads,
        stem_stride=1,
        blocks=blocks,
        head=head,
        activation=space.description.activation,
        outputs=space.outputs,
    ).graph()


def _live(graph: NetworkGraph, steps: Sequence[int]) -> dict[int, int]:
    """Bytes live at some steps."""
    tensors = live_tensors(graph, planned(graph))
    return {step: sum(t.size for t in tensors if t.first <= step <= t.last) for step in steps}


def _least_of_own(factor: Factor) -> np.ndarray:
    """The least over what a block chooses by itself, [widths]."""
    return factor.entries.min(axis=tuple(range(factor.entries.ndim - len(BLOCK), factor.entries.ndim)))


def _strided(height: int, width: int, stride: int) -> tuple[int, int]:
    return -(-height // stride), -(-width // stride)


def _part(name: str) -> str:
    return name.partition(".")[0]
