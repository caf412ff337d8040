"""Costs of many sequences at once: those that are sums over layers, from one table of states and tokens.

params, weights, macs and bitops of a layer hang on the layer, the width that it reads and the size of the map, and so
on the automaton's state and the token. Their exact values, their least and their most over a space are sums along a
walk. The other costs (size, ram, a target's) hang on neighbors too; `bitsmith.cost` prices them one network at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

from bitsmith.errors import BudgetError
from bitsmith.space.sequence_automaton import Automaton
from bitsmith.space.sequence_graph import Convolution, convolutions

ADDITIVE = ("params", "weights", "macs", "bitops")


@final
@dataclass(frozen=True, kw_only=True)
class SequenceCosts:
    """Additive costs of the sequences of a space, for images of one shape and a number of classes.

    Args:
        automaton: of the space.
        input_shape: (channels, height, width).
        outputs: of the classifier.
    """

    automaton: Automaton
    input_shape: tuple[int, int, int]
    outputs: int

    def positions(self, strided: int) -> int:
        """Pixels of the map behind the stem and so many layers of stride 2."""
        _, height, width = self.input_shape
        stride = self.automaton.space.stem.stride
        height, width = -(-height // stride), -(-width // stride)
        for _ in range(strided):
            height, width = -(-height // 2), -(-width // 2)
        return height * width

    @cached_property
    def _start(self) -> np.ndarray:
        space = self.automaton.space
        stem = Convolution(
            name="stem",
            width=self.input_shape[0],
            channels=space.stem.channels,
            kernel=3,
            stride=space.stem.stride,
            groups=1,
        )
        return self._priced(stem.params, stem.weights, stem.weights * self.positions(0), space.ends, space.ends)

    @cached_property
    def steps(self) -> np.ndarray:
        """What a token adds in a state, whole numbers in float64 [costs, states, tokens]; 0 where it can't stand."""
        automaton, space = self.automaton, self.automaton.space
        found = np.zeros((len(ADDITIVE), *automaton.next.shape))
        known: dict[tuple[int, int, int], np.ndarray] = {}
        for s, (strided, widths) in enumerate(automaton.states):
            for t in np.flatnonzero(automaton.next[s, 1:] >= 0) + 1:
                token = automaton.tokens[t]
                assert token is not None
                place = (strided, widths[0], int(t))
                if place not in known:
                    total, at = np.zeros(len(ADDITIVE)), strided
                    for part in convolutions(token, widths[0], space.expansion):
                        at += part.stride == 2
                        total += self._priced(
                            part.params,
                            part.weights,
                            part.weights * self.positions(at),
                            token.weight_bits,
                            token.activation_bits,
                        )
                    known[place] = total
                found[:, s, t] = known[place]
        return found

    @cached_property
    def _ends(self) -> np.ndarray:
        """Of the classifier behind a state, float64 [costs, states]."""
        ends = self.automaton.space.ends
        columns = []
        for _, widths in self.automaton.states:
            weights = widths[0] * self.outputs
            columns.append(self._priced(weights + self.outputs, weights, weights, ends, ends))
        return np.stack(columns, axis=1)

    def _priced(self, params: int, weights: int, macs: int, weight_bits: int, activation_bits: int) -> np.ndarray:
        return np.array(
            [params, -(-weights * weight_bits // 8), macs, macs * weight_bits * activation_bits], dtype=float
        )

    def of(self, sequences: np.ndarray) -> np.ndarray:
        """The costs of networks, whole numbers in float64 [n, costs], in the order of ADDITIVE.

        Args:
            sequences: valid, int64 [n, length].
        """
        states = self.automaton.walk(sequences)
        inner = self.steps[:, states[:, :-1], sequences].sum(-1)  # [costs, n]
        return (self._start[:, None] + inner + self._ends[:, states[:, -1]]).T

    def extreme(
        self, cost: str, *, greatest: bool = False, tokens: np.ndarray | None = None
    ) -> tuple[np.ndarray, float]:
        """A network with the least or the greatest value of a cost, int64 [length], and the value.

        Args:
            tokens: those that it may have, bool [tokens]; all by default. Some network must be made of them alone.

        Raises:
            BudgetError: a cost that is no sum over layers.
        """
        if cost not in ADDITIVE:
            raise BudgetError(f"{cost} of sequences is no sum over layers; these are: {', '.join(ADDITIVE)}")
        k, automaton = ADDITIVE.index(cost), self.automaton
        sign = -1.0 if greatest else 1.0
        can = automaton.next >= 0
        can[:, 0] = False
        can &= True if tokens is None else tokens
        after = np.maximum(automaton.next, 0)
        best = np.where(automaton.accepting, sign * self._ends[k], np.inf)  # of what is left, [states]
        chosen, found = [], {}
        for length in range(1, automaton.length + 1):
            totals = np.where(can, sign * self.steps[k] + best[after], np.inf)
            chosen.append(totals.argmin(1))
            best = totals.min(1)
            if length >= automaton.space.layers[0] and best[0] < np.inf:
                found[length] = best[0]
        assert found, "no network of these layers"
        length = min(found, key=lambda n: found[n])
        sequence, state = np.zeros(automaton.length, dtype=np.int64), 0
        for at in range(length):
            sequence[at] = chosen[length - at - 1][state]
            state = int(automaton.next[state, sequence[at]])
        return sequence, float(sign * found[length] + self._start[k])

    @cached_property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """The least and the greatest value of every cost over the space, each by itself."""
        return {cost: (self.extreme(cost)[1], self.extreme(cost, greatest=True)[1]) for cost in ADDITIVE}

    def stratified(self, n: int, generator: np.random.Generator, *, cost: str = "macs", strata: int = 12) -> np.ndarray:
        """`n` networks spread evenly over the logarithm of a cost, in random order, int64 [n, length].

        Four times as many are drawn by number of layers and width (`Automaton.draw`), sorted into strata of equal width
        between the space's least and most log cost, and taken in equal shares; strata that hold too few give all they
        have, and the others fill up.
        """
        k = ADDITIVE.index(cost)
        drawn = self.automaton.draw(4 * n, generator, by_length=True)
        low, high = np.log(self.ranges[cost])
        place = np.log(self.of(drawn)[:, k]) - low
        stratum = np.minimum((place / max(high - low, 1e-12) * strata).astype(np.int64), strata - 1)
        order = np.argsort(stratum, kind="stable")
        counts = np.bincount(stratum, minlength=strata)
        rank = np.empty(len(drawn), dtype=np.int64)  # of each within its stratum
        rank[order] = np.arange(len(drawn)) - np.repeat(np.cumsum(counts) - counts, counts)
        taken = np.lexsort((generator.random(len(drawn)), rank))[:n]  # the firsts of all strata, then the seconds, ...
        return drawn[generator.permutation(taken)]
