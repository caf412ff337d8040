"""The static arena: where every tensor of the network lies in RAM while one input is computed.

Which tensors there are:

- The input holds uint8 pixels; its normalization table is applied in place, one byte per element. A cost doesn't know
  the input contract: a float input comes in 4 bytes per element more, the caller's own tensor, which `ram` leaves out.
- Every operator writes a tensor of its own, one byte per element whatever the bits (a kernel reads whole bytes).
  A layer with fewer activation bits than its stream narrows what it reads while it reads it, through its table; a float
  layer makes numbers of integers while it reads them, and integers of its sums while it writes them.
- What only a float layer reads is float32: four bytes per element (the plan's `floats`). Other bits don't reach `ram`.
  So is every stream of a network whose streams are float (composite as published); a layer of integers quantizes such
  a stream while it reads it.
- The logits are float32, and so is what transparent operators make of them: four bytes per element. Where the output
  isn't logits (it ends in an add, a concat, a multiply, a function, a zero pad), it lies on a stream; one step after
  the last node reads it and writes it as float32: a tensor called after it, `name:float`. A float stream needs none.
- flatten and dropout are other names of their input; a clip that merges writes its producer's tensor. Everything else
  writes: concat, split and shuffle too, although a kernel that reads with strides could do without.
- A tensor lives from the step that writes it to the last step that reads it, both included; the output lives to the
  end. No operator works in place, and kernels need no scratch (convolutions accumulate in registers).

Offsets: greedy best fit in decreasing size (Pisarchyk and Lee, "Efficient memory management for deep neural net
inference", arXiv 2001.03288, algorithm 3). That is not optimal even on a plain chain (a chain of 5, 4, 4.5, 6 takes
14.5 where 10.5 do), so where it misses the lower bound, a second plan is tried (ours): an arena as high as the bound,
filled in execution order from its two ends in turn. It is optimal on chains; the better plan of the two is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bitsmith.blueprint import CLIPS, GridPlan, NetworkGraph, plan_grids
from bitsmith.cost.layout import check_operators

_FLOAT_BYTES = 4
_ALIASES = frozenset({"flatten", "dropout"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """A piece of memory: its size in bytes and the first and last step (index of a node) at which it is needed."""

    name: str
    size: int
    first: int
    last: int

    def meets(self, other: Tensor) -> bool:
        """Whether both are needed at some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, kw_only=True)
class ArenaPlan:
    """A static memory plan.

    Args:
        offsets: for each tensor (named after the node that writes it; `name:float`, the dequantized output) its first
            byte in the arena.
        sizes: for each tensor its bytes.
        storage: for each node the tensor that holds its output.
        total: bytes of the arena.
        lower_bound: most bytes live at any step; no plan takes less.
    """

    offsets: Mapping[str, int]
    sizes: Mapping[str, int]
    storage: Mapping[str, str]
    total: int
    lower_bound: int


def plan_arena(graph: NetworkGraph, plan: GridPlan | None = None) -> ArenaPlan:
    """Lay out the activations of one inference; see the module's text for the rule.

    Args:
        plan: of the graph, where it knows of layers that read floats, or of float streams.

    Example:
        input 3x8x8 (192 B) -> conv 4x8x8 (256 B) -> conv 2x8x8 (128 B): total = 192 + 256 = 448 B.

    Raises:
        CaptureError: the graph has an operator without a price.
    """
    check_operators(graph)
    plan = plan or plan_grids(graph)
    storage, tensors = _storage(graph, plan), live_tensors(graph, plan)
    bound = max(sum(t.size for t in tensors if t.first <= step <= t.last) for step in range(len(graph.nodes) + 1))
    offsets = _greedy_by_size(tensors)
    if _height(tensors, offsets) > bound:
        offsets = _from_both_ends(tensors, bound) or offsets
    return ArenaPlan(
        offsets=offsets,
        sizes={t.name: t.size for t in tensors},
        storage=storage,
        total=_height(tensors, offsets),
        lower_bound=bound,
    )


def widening(graph: NetworkGraph, plan: GridPlan, carrier: str) -> int:
    """Bytes that an arena grows by at most where the tensors of a carrier become float32.

    A gap of three times its bytes behind such a tensor moves up what lies above, and nothing that lives meets.
    """
    sizes = {t.name: t.size for t in live_tensors(graph, plan)}
    written = {tensor for name, tensor in _storage(graph, plan).items() if plan.carrier[name] == carrier}
    return (_FLOAT_BYTES - 1) * sum(sizes[tensor] for tensor in written)


def live_tensors(graph: NetworkGraph, plan: GridPlan) -> tuple[Tensor, ...]:
    """The tensors of a graph with their sizes and lifetimes, in the order in which they are written."""
    storage = _storage(graph, plan)
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for step, node in enumerate(graph.nodes):
        first.setdefault(storage[node.name], step)
        for name in (node.name, *node.inputs):
            last[storage[name]] = step
    known = plan.floats | {plan.logits}
    floats = {storage[node.name] for node in graph.nodes if plan.carrier[node.name] in known}
    end, output = len(graph.nodes), storage[graph.output]
    last[output] = end
    tensors = [
        Tensor(
            name=name,
            size=math.prod(graph[name].shape) * (_FLOAT_BYTES if name in floats else 1),
            first=first[name],
            last=last[name],
        )
        for name in first
    ]
    if plan.logits is None and plan.carrier[graph.output] not in plan.floats:
        size = math.prod(graph[output].shape) * _FLOAT_BYTES
        tensors.append(Tensor(name=f"{output}:float", size=size, first=end, last=end))
    return tuple(tensors)


def _storage(graph: NetworkGraph, plan: GridPlan) -> dict[str, str]:
    storage: dict[str, str] = {}
    for node in graph.nodes:
        aliases = node.op in _ALIASES or (node.op in CLIPS and plan.is_merged(node))
        storage[node.name] = storage[node.inputs[0]] if aliases else node.name
    return storage


def _height(tensors: Sequence[Tensor], offsets: Mapping[str, int]) -> int:
    return max(offsets[t.name] + t.size for t in tensors)


def _gaps(tensor: Tensor, placed: Sequence[Tensor], offsets: Mapping[str, int]) -> list[tuple[int, float]]:
    """Free (start, end) ranges of the arena while a tensor lives; the last one is open."""
    gaps: list[tuple[int, float]] = []
    start = 0
    for other in sorted((t for t in placed if t.meets(tensor)), key=lambda t: offsets[t.name]):
        if offsets[other.name] > start:
            gaps.append((start, offsets[other.name]))
        start = max(start, offsets[other.name] + other.size)
    return [*gaps, (start, math.inf)]


def _greedy_by_size(tensors: Sequence[Tensor]) -> dict[str, int]:
    placed: list[Tensor] = []
    offsets: dict[str, int] = {}
    for tensor in sorted(tensors, key=lambda t: (-t.size, t.first)):
        fitting = [gap for gap in _gaps(tensor, placed, offsets) if gap[1] - gap[0] >= tensor.size]
        offsets[tensor.name] = min(fitting, key=lambda gap: (gap[1] - gap[0], gap[0]))[0]
        placed.append(tensor)
    return offsets


def _from_both_ends(tensors: Sequence[Tensor], height: int) -> dict[str, int] | None:
    """Place in execution order at the lowest and the highest free place in turn; None where one doesn't fit."""
    offsets: dict[str, int] = {}
    for index, tensor in enumerate(tensors):
        gaps = [(start, min(end, height)) for start, end in _gaps(tensor, tensors[:index], offsets)]
        fitting = [(start, int(end)) for start, end in gaps if end - start >= tensor.size]
        if not fitting:
            return None
        offsets[tensor.name] = fitting[0][0] if index % 2 == 0 else fitting[-1][1] - tensor.size
    return offsets
