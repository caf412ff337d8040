"""The factors of every block of a mobile space: what it adds to a short network that gives what it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np

from bitsmith.blueprint import Bits, NetworkGraph
from bitsmith.cost import Cost
from bitsmith.cost.additive import planned
from bitsmith.search.supernet.factors import Factor
from bitsmith.space import Mobile, Stage
from bitsmith.space.mobile_choice import BLOCK, DECIDED_BY, GATE, make_block
from bitsmith.space.mobile_graph import HEAD, Block, MobileNetwork


@dataclass(frozen=True, kw_only=True)
class _Before:
    """A short network that gives what a block reads.

    Args:
        stem: channels, of a stem with `stride` on an input of `shape`.
        blocks: behind it.
    """

    shape: tuple[int, int, int]
    stem: int
    stride: int
    blocks: tuple[Block, ...]


@final
@dataclass(frozen=True, kw_only=True)
class BlockPrices:
    """The prices of all blocks; see `pricing`.

    Args:
        space: whose blocks they are.
        costs: by name.
    """

    space: Mobile
    costs: Mapping[str, Cost]

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) behind the stem, the first stage, ...."""
        description = self.space.description
        _, height, width = self.space.input_shape
        found = []
        for stride in (description.stem.stride, *(stage.stride for stage in description.stages)):
            height, width = -(-height // stride), -(-width // stride)
            found.append((height, width))
        return found

    @cached_property
    def base(self) -> dict[str, float]:
        """Stem, pool and classifier."""
        return dict(zip(self.costs, self._rest(self._before(1, 1, 0, 0)), strict=True))

    @cached_property
    def factors(self) -> list[dict[str, list[Factor]]]:
        """Per block and for the head, the factors of every cost."""
        description = self.space.description
        found = []
        for s, stage in enumerate(description.stages, start=1):
            for b in range(1, stage.blocks[1] + 1):
                found.append(self._first_block(s) if b == 1 else self._later_block(s, b))
        return [*found, self._head()] if description.head else found

    def _before(self, s: int, b: int, width: int, blocks: int) -> _Before:
        """What comes before block b of stage s, or (b = 1, s one more than there are) before the head.

        Args:
            width: of what it reads.
            blocks: of the stage before, where b is 1.
        """
        description = self.space.description
        if (s, b) == (1, 1):
            return _Before(
                shape=self.space.input_shape,
                stem=description.stem.channels,
                stride=description.stem.stride,
                blocks=(),
            )
        stage, count = (s - 1, min(blocks, 2)) if b == 1 else (s, min(b - 1, 2))
        plain = tuple(
            Block(
                name=f"before.block{i}",
                channels=width,
                stride=1,
                kernel=1,
                hidden=width,
                expands=False,
                squeezed=0,
                activation="relu",
                adds=i > 1 or description.adds_first(stage),
            )
            for i in range(1, count + 1)
        )
        height, wide = self.sizes[stage]
        return _Before(shape=(self.space.input_shape[0], height, wide), stem=width, stride=1, blocks=plain)

    def _rest(self, before: _Before) -> np.ndarray:
        """What a short network costs without a block behind it, [costs]."""
        graph = _graph(before, (), 0, self.space)
        return np.array([self._priced(cost, graph, [], "")[0] for cost in self.costs.values()])

    def _priced(self, cost: Cost, graph: NetworkGraph, owners: Sequence[str], name: str) -> np.ndarray:
        """Of a network whose block or head is called `name`: the rest, then per owner of bits a table, all in a row."""
        description, plan = self.space.description, planned(graph)
        ends = Bits(weight=description.ends, activation=description.ends)
        found = np.zeros((1 + len(owners), len(description.weight_bits), len(description.activation_bits)))
        rest = cost.fixed(graph, plan)
        for layer in graph.layers:
            block, _, part = layer.name.rpartition(".")
            if not name or name not in (block, layer.name):
                rest += cost.entry(graph, plan, layer, ends)
                continue
            owner = owners.index(DECIDED_BY[part]) if len(owners) > 1 else 0
            for w, weight in enumerate(description.weight_bits):
                for a, activation in enumerate(description.activation_bits):
                    bits = Bits(weight=weight, activation=description.ends if part in GATE else activation)
                    found[1 + owner, w, a] += cost.entry(graph, plan, layer, bits)
        return np.concatenate([[rest], found[1:].ravel()])

    def _adds(self, before: _Before, block: Block, owners: Sequence[str]) -> np.ndarray:
        """What a block adds, [costs, 1 + owners * weight bits * activation bits]."""
        graph = _graph(before, (block,), 0, self.space)
        found = np.array([self._priced(cost, graph, owners, block.name) for cost in self.costs.values()])
        found[:, 0] -= self._rest(before)
        return found

    def _owners(self, s: int) -> list[str]:
        """The layers of a block that bits hang on; one stands for the whole block."""
        if self.space.description.bits == "block":
            return [""]
        expands = self.space.description.stages[s - 1].expansions != (1,)
        return ["expand", "depthwise", "project"] if expands else ["depthwise", "project"]

    def _first_block(self, s: int) -> dict[str, list[Factor]]:
        """The first block of a stage: what it reads, and so its price, depends on the stage before."""
        description = self.space.description
        stage, owners, name = description.stages[s - 1], self._owners(s), f"stage{s}.block1"
        least, most = description.stages[s - 2].blocks if s > 1 else (0, 0)
        widths, depths = description.input_widths(s), range(least, most + 1)
        befores = [[self._before(s, 1, width, d) for width in widths] for d in depths]

        def adds(d: int, i: int, o: int, own: tuple[int, ...]) -> np.ndarray:
            block = make_block(description, s, 1, widths[i], stage.channels[o], _own(stage, own))
            return self._adds(befores[d][i], block, owners)

        own = _own_sizes(stage)
        shape = (len(depths), len(widths), len(stage.channels), *own)
        found = np.zeros((*shape, *adds(0, 0, 0, (0, 0, 0, 0)).shape))
        for i in range(len(widths)):
            for e in range(own[0]):
                plain = (e, 0, 0, 0)
                at_first = adds(0, i, 0, plain)
                for o in range(shape[2]):
                    found[:, i, o, e] += adds(0, i, o, plain) - at_first
                for form in np.ndindex(*own[1:]):
                    found[(slice(None), i, slice(None), e, *form)] += adds(0, i, 0, (e, *form))
                for f in range(own[3]):
                    function = (e, 0, 0, f)
                    read_first = adds(0, i, 0, function)
                    for d, depth in enumerate(depths):
                        if min(depth, 2) != min(least, 2):
                            found[d, i, :, e, :, :, f] += adds(d, i, 0, function) - read_first
        before = (f"stage{s - 1}.blocks", f"stage{s - 1}.channels") if s > 1 else ()
        found = found if s > 1 else found[0, 0]
        return self._factors(found, (*before, f"stage{s}.channels"), name, owners, None)

    def _later_block(self, s: int, b: int) -> dict[str, list[Factor]]:
        description = self.space.description
        stage, owners = description.stages[s - 1], self._owners(s)
        found = []
        for width in stage.channels:
            before = self._before(s, b, width, 0)
            for own in np.ndindex(*_own_sizes(stage)):
                block = make_block(description, s, b, width, width, _own(stage, own))
                found.append(self._adds(before, block, owners))
        table = np.array(found).reshape(len(stage.channels), *_own_sizes(stage), *found[0].shape)
        when = (f"stage{s}.blocks", max(0, b - stage.blocks[0]))
        return self._factors(table, (f"stage{s}.channels",), f"stage{s}.block{b}", owners, when)

    def _factors(
        self,
        table: np.ndarray,
        shared: tuple[str, ...],
        name: str,
        owners: Sequence[str],
        when: tuple[str, int] | None,
    ) -> dict[str, list[Factor]]:
        """Factors of a table [shared..., own..., costs, 1 + owners * bits]."""
        description = self.space.description
        decisions = (*shared, *(f"{name}.{what}" for what in BLOCK))
        bits = (len(description.weight_bits), len(description.activation_bits))
        found: dict[str, list[Factor]] = {}
        for c, cost in enumerate(self.costs):
            rest = table[..., c, 0]
            tables = table[..., c, 1:].reshape(*rest.shape, len(owners), *bits)
            factors = [] if len(owners) == 1 else [Factor(decisions=decisions, entries=rest, when=when)]
            for k, owner in enumerate(owners):
                by = f"{name}.{owner}" if owner else name
                entries = tables[..., k, :, :] + (rest[..., None, None] if len(owners) == 1 else 0)
                named = (*decisions, f"{by}.weight_bits", f"{by}.activation_bits")
                factors.append(Factor(decisions=named, entries=np.ascontiguousarray(entries), when=when))
            found[cost] = factors
        return found

    def _head(self) -> dict[str, list[Factor]]:
        description = self.space.description
        n = len(description.stages)
        stage = description.stages[-1]
        depths = range(stage.blocks[0], stage.blocks[1] + 1)
        found = []
        for depth in depths:
            for width in stage.channels:
                before = self._before(n + 1, 1, width, depth)
                without = self._rest(before)
                for channels in description.head:
                    graph = _graph(before, (), channels, self.space)
                    priced = np.array([self._priced(cost, graph, [""], HEAD) for cost in self.costs.values()])
                    priced[:, 0] -= without
                    found.append(priced)
        table = np.array(found).reshape(len(depths), len(stage.channels), len(description.head), *found[0].shape)
        bits = (len(description.weight_bits), len(description.activation_bits))
        names = (f"stage{n}.blocks", f"stage{n}.channels", f"{HEAD}.channels")
        return {
            cost: [
                Factor(
                    decisions=(*names, f"{HEAD}.weight_bits", f"{HEAD}.activation_bits"),
                    entries=table[..., c, :1, None] + table[..., c, 1:].reshape(*table.shape[:3], *bits),
                )
            ]
            for c, cost in enumerate(self.costs)
        }


def _graph(before: _Before, blocks: tuple[Block, ...], head: int, space: Mobile) -> NetworkGraph:
    return MobileNetwork(
        input_shape=before.shape,
        stem=before.stem,
        stem_stride=before.stride,
        blocks=before.blocks + blocks,
        head=head,
        activation=space.description.activation,
        outputs=space.outputs,
    ).graph()


def _own_sizes(stage: Stage) -> tuple[int, ...]:
    return tuple(map(len, (stage.expansions, stage.kernels, stage.squeeze_excite, stage.activations)))


def _own(stage: Stage, at: tuple[int, ...]) -> dict[str, Any]:
    options = (stage.expansions, stage.kernels, stage.squeeze_excite, stage.activations)
    return {what: of[i] for what, of, i in zip(BLOCK, options, at, strict=True)}
