"""The automaton of a SequenceSpace: which layer may come next, how many networks there are, and draws from them.

A state is all of the layers so far that what comes next hangs on: how many had stride 2, and the widths of the last
tensors of the present map size, newest first, as far back as a skip may reach. There are few of them (some hundred),
so what may follow is one table of states and tokens, and all else follows by recursion on the number of layers left:

    ways(0, s) = 1 where a network may end at s, else 0
    ways(n, s) = sum over tokens t of ways(n - 1, next(s, t))

exactly, in whole numbers. Sequences are rows of token numbers, ended and filled up by 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

from bitsmith.errors import RecipeError, RunError
from bitsmith.space.sequence_space import STATES, SequenceSpace, Token, canonical

State = tuple[int, tuple[int, ...]]  # layers of stride 2; widths, newest first
TILTS = (-1.0, -0.5, 0.0, 0.5, 1.0)


@final
@dataclass(frozen=True)
class Automaton:
    """What may follow what in a space.

    Example:
        >>> automaton = Automaton(space)  # one convolution of 4 channels, skips 0 and 1, 4 or 8 bits, 1 or 2 layers
        >>> automaton.count()
        20
    """

    space: SequenceSpace

    def __post_init__(self) -> None:
        if not self.count():
            raise RecipeError("the space holds no network: its layers, strided and operators exclude each other")

    @cached_property
    def tokens(self) -> tuple[Token | None, ...]:
        """By number; None is the end."""
        return (None, *self.space.tokens)

    @cached_property
    def index(self) -> dict[Token, int]:
        """The number of every layer."""
        return {token: i for i, token in enumerate(self.tokens) if token is not None}

    @property
    def length(self) -> int:
        """Most layers."""
        return self.space.layers[1]

    @cached_property
    def _walked(self) -> tuple[tuple[State, ...], np.ndarray]:
        first: State = (0, (self.space.stem.channels,))
        states: list[State] = [first]
        places: dict[State, int] = {first: 0}
        rows: list[list[int]] = []
        for state in states:  # grows
            row = [places[state]]
            for token in self.index:
                after = self._after(state, token)
                if isinstance(after, str):
                    row.append(-1)
                    continue
                if after not in places:
                    places[after] = len(states)
                    states.append(after)
                row.append(places[after])
            rows.append(row)
            if len(states) > STATES:
                raise RecipeError(
                    f"the sequence can be in more than {STATES:,} states; allow fewer channels or shorter skips"
                )
        return tuple(states), np.array(rows, dtype=np.int64)

    def _after(self, state: State, token: Token) -> State | str:
        """The state behind a layer, or why it can't stand there."""
        strided, widths = state
        if token.stride == 2 and strided == self.space.strided[1]:
            return f"there are {strided} layers of stride 2 already, the most there may be"
        channels = token.channels or widths[0]
        if channels < widths[0] and not self.space.narrowing:
            return f"it is narrower than what it reads, {widths[0]} channels"
        if token.stride == 2:
            return strided + 1, (channels,)
        if token.skip and widths[token.skip - 1 : token.skip] != (channels,):
            return f"no tensor of its shape lies {token.skip} back"
        return strided, (channels, *widths[: max(1, self.space.skips[-1]) - 1])

    @property
    def states(self) -> tuple[State, ...]:
        """All that can be come to, the first one first."""
        return self._walked[0]

    @property
    def next(self) -> np.ndarray:
        """The state behind a token, -1 where it can't stand there; the end stays: int64 [states, tokens]."""
        return self._walked[1]

    @cached_property
    def accepting(self) -> np.ndarray:
        """Where enough layers had stride 2 for a network to end, bool [states]."""
        return np.array([strided >= self.space.strided[0] for strided, _ in self.states])

    @cached_property
    def allowed(self) -> np.ndarray:
        """Which tokens lead to a network, bool [layers so far, states, tokens]; 0 .. length layers."""
        least, most = self.space.layers
        ends = np.array([[ways > 0 for ways in row] for row in self.ways])  # [left, states]
        found = np.zeros((most + 1, *self.next.shape), dtype=bool)
        for at in range(most + 1):
            found[at, :, 0] = self.accepting & (at >= least)
            if at < most:
                can = np.any(ends[max(0, least - at - 1) : most - at], axis=0)
                found[at] |= (self.next >= 0) & can[self.next] & (np.arange(self.next.shape[1]) > 0)
        return found

    @cached_property
    def ways(self) -> np.ndarray:
        """How many sequences of exactly so many more layers end well, whole numbers [layers left, states]."""
        states = len(self.states)
        times = np.zeros((states, states), dtype=np.int64)  # how many tokens lead from one to the other
        for s, row in enumerate(self.next):
            np.add.at(times[s], row[1:][row[1:] >= 0], 1)
        found = [np.array([int(a) for a in self.accepting], dtype=object)]
        for _ in range(self.length):
            behind = found[-1]
            found.append(
                np.array([sum(int(row[j]) * behind[j] for j in np.flatnonzero(row)) for row in times], dtype=object)
            )
        return np.stack(found)

    @cached_property
    def ways_of_length(self) -> dict[int, int]:
        """How many networks have so many layers; lengths that none has are left out."""
        least, most = self.space.layers
        return {n: int(self.ways[n, 0]) for n in range(least, most + 1) if self.ways[n, 0]}

    def count(self) -> int:
        """How many networks there are, exactly."""
        return sum(self.ways_of_length.values())

    def at(self, number: int) -> np.ndarray:
        """The sequence of a number 0 .. count - 1, int64 [length]; a bijection, shorter sequences first.

        Raises:
            IndexError: a number outside.
        """
        if not 0 <= number < self.count():
            raise IndexError(f"network {number} of {self.count()}")
        lengths = iter(self.ways_of_length.items())
        (length, ways), rest = next(lengths), number
        while rest >= ways:
            rest -= ways
            length, ways = next(lengths)
        found, state = np.zeros(self.length, dtype=np.int64), 0
        for at in range(length):
            for token in np.flatnonzero(self.next[state, 1:] >= 0) + 1:
                after = int(self.next[state, token])
                ways = self.ways[length - at - 1, after]
                if rest < ways:
                    break
                rest -= ways
            found[at], state = token, after
        return found

    def draw(self, n: int, generator: np.random.Generator, *, by_length: bool = False) -> np.ndarray:
        """`n` sequences drawn independently, int64 [n, length].

        Args:
            by_length: each number of layers is as likely as any other, and so is each of five preferences for narrow or
                wide layers; without, every network is as likely as any other (to float64), so most are long and wide.
        """
        lengths = np.array(list(self.ways_of_length))
        if by_length:
            drawn, tilt = generator.choice(lengths, n), generator.integers(len(TILTS), size=n)
        else:
            ways = np.array([float(w) for w in self.ways_of_length.values()])
            drawn, tilt = generator.choice(lengths, n, p=ways / ways.sum()), np.full(n, TILTS.index(0.0))
        found, state = np.zeros((n, self.length), dtype=np.int64), np.zeros(n, dtype=np.int64)
        for at in range(int(drawn.max(initial=0))):
            on = np.flatnonzero(drawn > at)
            rows = self._cumulated[tilt[on], drawn[on] - at - 1, state[on]]
            points = generator.random(len(on))[:, None] * rows[:, -1:]
            found[on, at] = (rows <= points).sum(1) + 1
            state[on] = self.next[state[on], found[on, at]]
        return found

    @cached_property
    def _cumulated(self) -> np.ndarray:
        """Running sums over tokens of the weight of all that follows, [tilts, layers left behind it, states, tokens].

        A layer's weight is exp(tilt * rank of its width).
        """
        ranks = [self.space.channels.index(t.channels) if t and t.channels else 0 for t in self.tokens[1:]]
        after, possible = np.maximum(self.next[:, 1:], 0), self.next[:, 1:] >= 0
        found = np.zeros((len(TILTS), self.length, *after.shape))
        for k, tilt in enumerate(TILTS):
            weight, behind = np.exp(tilt * np.array(ranks)) * possible, self.accepting.astype(float)
            for left in range(self.length):
                steps = weight * behind[after]
                found[k, left] = np.cumsum(steps, axis=1)
                behind = steps.sum(1)
                behind = behind / max(behind.max(), 1e-300)  # ratios are all that counts
        return found

    def walk(self, sequences: np.ndarray) -> np.ndarray:
        """The states before each token and at the end, int64 [n, length + 1]; -1 from where a token can't stand.

        Args:
            sequences: int64 [n, length].
        """
        states = np.zeros((len(sequences), sequences.shape[1] + 1), dtype=np.int64)
        for at in range(sequences.shape[1]):
            before = states[:, at]
            states[:, at + 1] = np.where(before < 0, -1, self.next[before, sequences[:, at]])
        return states

    def valid(self, sequences: np.ndarray) -> np.ndarray:
        """Which sequences are networks of the space, bool [n]."""
        last = self.walk(sequences)[:, -1]
        lengths = (sequences > 0).sum(1)
        whole = (np.diff((sequences > 0).astype(np.int8), axis=1) <= 0).all(1)  # no layer behind the end
        return whole & (last >= 0) & self.accepting[last] & (lengths >= self.space.layers[0])

    def rows(self, networks: Sequence[tuple[Token, ...]]) -> np.ndarray:
        """Sequences of layers that all exist, valid or not, int64 [n, length]; those that are too long are left out."""
        short = [layers for layers in networks if len(layers) <= self.length]
        found = [[self.index[t] for t in layers] + [0] * (self.length - len(layers)) for layers in short]
        return np.array(found, dtype=np.int64).reshape(-1, self.length)

    def read(self, layers: tuple[Token, ...]) -> np.ndarray:
        """The sequence of layers, canonical, int64 [length].

        Raises:
            RunError: they are not of this space; the message names the layer and the reason.
        """
        least, most = self.space.layers
        if not least <= len(layers) <= most:
            raise RunError(f"{len(layers)} layers; this space has networks of {least} to {most}")
        found, state = np.zeros(most, dtype=np.int64), self.states[0]
        for at, token in enumerate(canonical(layers)):
            if token not in self.index:
                raise RunError(f"layer {at + 1}, {token}: no layer of this space")
            after = self._after(state, token)
            if isinstance(after, str):
                raise RunError(f"layer {at + 1}, {token}: {after}")
            found[at], state = self.index[token], after
        if state[0] < self.space.strided[0]:
            raise RunError(f"{state[0]} layers of stride 2; this space has networks of {self.space.strided[0]} or more")
        return found

    def through(self, token: int) -> np.ndarray | None:
        """The shortest sequence with a token in it, int64 [length], or None where no network has it."""
        starts: dict[tuple[int, bool], tuple[int, ...]] = {(0, False): ()}
        for at in range(self.length + 1):
            reached: dict[tuple[int, bool], tuple[int, ...]] = {}
            for (state, seen), before in starts.items():
                if seen and self.allowed[at, state, 0]:
                    return np.array([*before, *[0] * (self.length - at)], dtype=np.int64)
                for number in np.flatnonzero(self.allowed[at, state, 1:]) + 1:
                    place = (int(self.next[state, number]), seen or number == token)
                    reached.setdefault(place, (*before, int(number)))
            starts = reached
        return None

    def layers(self, sequence: np.ndarray) -> tuple[Token, ...]:
        """The layers of a sequence; the inverse of `read`.

        Raises:
            RunError: it is none of this space.
        """
        numbers = sequence.tolist()
        end = numbers.index(0) if 0 in numbers else len(numbers)
        found = tuple(t for t in (self.tokens[i] for i in numbers[:end]) if t is not None)
        self.read(found)
        return found
