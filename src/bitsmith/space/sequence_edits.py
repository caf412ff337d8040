"""How near networks of a sequence space lie: the edit distance, single edits, neighbors."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from functools import cached_property
from typing import final

import numpy as np

from bitsmith.errors import RecipeError
from bitsmith.space.sequence_automaton import Automaton
from bitsmith.space.sequence_space import FIELDS, POOL, Token

EDITS = ("substitute", "insert", "delete")


@final
@dataclass(frozen=True)
class Edits:
    """Distances and edits of the sequences of an automaton.

    Example:
        A layer whose kernel changes is 1/7 away, as it has seven fields; a layer more or less is 1 away.
    """

    automaton: Automaton

    @cached_property
    def differences(self) -> np.ndarray:
        """Share of the fields in which two layers differ, float64 [tokens, tokens]; of the end and any layer 1."""
        end = [""] * len(FIELDS)
        fields = np.array(
            [end if token is None else [str(v) for v in astuple(token)] for token in self.automaton.tokens]
        )
        return (fields[:, None] != fields[None]).mean(-1)

    def distances(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Edit distances of pairs of sequences, float64 [n].

        The least sum over steps that make one of the other: a layer that comes or goes costs 1, a layer that becomes
        another one the share of its fields that changes (Wagner and Fischer's recursion, all pairs at once). It is a
        metric: the share of differing fields is one, and never more than a layer that goes and one that comes.

        Args:
            a, b: int64 [n, length].
        """
        n, length = a.shape
        row = np.tile(np.arange(length + 1, dtype=float), (n, 1))
        table = [row]
        for i in range(1, length + 1):
            above, row = row, np.full((n, length + 1), float(i))
            for j in range(1, length + 1):
                changed = above[:, j - 1] + self.differences[a[:, i - 1], b[:, j - 1]]
                row[:, j] = np.minimum(np.minimum(above[:, j], row[:, j - 1]) + 1, changed)
            table.append(row)
        return np.stack(table, axis=1)[np.arange(n), (a > 0).sum(1), (b > 0).sum(1)]

    def edit(self, sequence: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """A network one edit away, int64 [length]: one field of a layer changed, a layer more or one less.

        The kind of edit is drawn uniformly among those that some network results from, then the edit.

        Args:
            sequence: canonical.

        Raises:
            RecipeError: no edit leads to a network of the space.
        """
        kinds = [found for kind in EDITS if len(found := self.edits(sequence, kind))]
        if not kinds:
            raise RecipeError("no layer can change, come or go; nothing can be mutated: allow more options")
        edits = kinds[generator.integers(len(kinds))]
        return edits[generator.integers(len(edits))]

    def edits(self, sequence: np.ndarray, kind: str) -> np.ndarray:
        """All networks that one edit of a kind (EDITS) leads to, each once, int64 [n, length]."""
        length, rows = int((sequence > 0).sum()), []
        if kind == "substitute":
            for at in range(length):
                one = (self.differences[sequence[at]] * len(FIELDS)).round() == 1
                rows += [with_token(sequence, at, int(token)) for token in np.flatnonzero(one)]
        elif kind == "insert" and length < len(sequence):
            longer = [np.insert(sequence, at, 0)[:-1] for at in range(length + 1)]
            rows = [
                with_token(row, at, token)
                for at, row in enumerate(longer)
                for token in range(1, len(self.automaton.tokens))
            ]
        elif kind == "delete":
            rows = [np.append(np.delete(sequence, at), 0) for at in range(length)]
        found = np.array(rows, dtype=np.int64).reshape(-1, len(sequence))
        return np.unique(found[self.automaton.valid(found)], axis=0)

    def neighbors(self, sequence: np.ndarray) -> np.ndarray:
        """All networks one small step away, int64 [n, length]: the relation is symmetric.

        One field of one layer one option down or up; one layer more, equal to the one before it; or one of two equal
        layers in a row less.

        Args:
            sequence: canonical.
        """
        layers, near = self.automaton.layers(sequence), []
        for at, token in enumerate(layers):
            near += [(*layers[:at], other, *layers[at + 1 :]) for other in self._next_to(token)]
            near.append((*layers[:at], token, *layers[at:]))
            if at and token == layers[at - 1]:
                near.append((*layers[:at], *layers[at + 1 :]))
        rows = self.automaton.rows(near)
        different = {row.tobytes(): row for row in rows[self.automaton.valid(rows)]}
        return np.array(list(different.values()), dtype=np.int64).reshape(-1, len(sequence))

    def _next_to(self, token: Token) -> list[Token]:
        """The layers with one field one option down or up."""
        space, found = self.automaton.space, []
        options = {
            "operator": tuple(o for o in space.operators if o != POOL.operator),
            "kernel": space.kernels,
            "channels": space.channels,
            "stride": (1, 2),
            "skip": space.skips,
            "weight_bits": space.weight_bits,
            "activation_bits": space.activation_bits,
        }
        for name, choices in options.items() if token != POOL else ():
            place = choices.index(getattr(token, name))
            for other in (place - 1, place + 1):
                if 0 <= other < len(choices):
                    moved = replace(token, **{name: choices[other]})
                    found += [moved] if moved in self.automaton.index else []
        return found


def with_token(sequence: np.ndarray, at: int, token: int) -> np.ndarray:
    """The sequence with another token in one place."""
    found = sequence.copy()
    found[at] = token
    return found
