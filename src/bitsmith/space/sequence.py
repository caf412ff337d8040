"""Sequences: the blueprints of a SequenceSpace for given data.

An encoding is a row of token numbers, one per layer, ended and filled up by 0. Not every row is a network: what may
follow what says the automaton. So decisions hang on each other here; what a mobile space does one decision at a time,
this does by edits: a layer becomes another, comes or goes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, final

import numpy as np

from bitsmith.blueprint import Blueprint, InputContract, NetworkGraph, Options
from bitsmith.cost import COSTS, Cost
from bitsmith.errors import RecipeError, RunError
from bitsmith.space.decisions import below
from bitsmith.space.sequence_automaton import Automaton
from bitsmith.space.sequence_costs import SequenceCosts
from bitsmith.space.sequence_edits import Edits, with_token
from bitsmith.space.sequence_graph import layer_options, make_bits, make_graph, read_layers
from bitsmith.space.sequence_space import POOL, SequenceSpace, Token, canonical
from bitsmith.space.sequence_yaml import dump_sequence_space


@final
@dataclass(frozen=True, kw_only=True)
class Sequences:
    """The blueprints of a description, for images of one size and a number of classes.

    Args:
        description: what may be chosen.
        input_shape: (channels, height, width) of the images.
        outputs: of the classifier.
        quantizer, input, classes: as in `Blueprint`.
        costs: what its blueprints cost; those of a target know its energy and latency too.

    Raises:
        RecipeError: images so small that after all strides a kernel reaches over the whole map.

    Example:
        >>> space = Sequences(description=SEQUENCE_SPACES["sequence-32"], input_shape=(3, 32, 32), outputs=10)
        >>> blueprint = space.sample(np.random.default_rng(0))
        >>> space.decode(space.encode(blueprint)) == blueprint
        True
    """

    description: SequenceSpace
    input_shape: tuple[int, int, int]
    outputs: int
    quantizer: str = "lsq"
    input: InputContract = field(default_factory=InputContract)
    classes: tuple[str, ...] = ()
    costs: Mapping[str, Cost] = field(default_factory=lambda: COSTS, hash=False)

    def __post_init__(self) -> None:
        stem, strided = self.description.stem, self.description.strided[1]
        side = -(-min(self.input_shape[1:]) // stem.stride)
        for _ in range(strided):
            side = -(-side // 2)
        reach = max((*self.description.kernels, 3)) // 2
        if side <= reach:
            raise RecipeError(
                f"strided: of images of {self.input_shape[1]}x{self.input_shape[2]} pixels {side} are left after "
                f"{strided} layers of stride 2, and kernels reach {reach} to each side, over all of them; allow fewer "
                "strided layers or smaller kernels, or take larger images"
            )

    @cached_property
    def automaton(self) -> Automaton:
        """What may follow what."""
        return Automaton(self.description)

    @cached_property
    def edits(self) -> Edits:
        """What lies how near to what."""
        return Edits(self.automaton)

    @cached_property
    def additive(self) -> SequenceCosts:
        """Costs of many networks at once."""
        return SequenceCosts(automaton=self.automaton, input_shape=self.input_shape, outputs=self.outputs)

    @property
    def kind(self) -> str:
        """As in recipes."""
        return "sequence"

    @property
    def graphs(self) -> tuple[NetworkGraph, ...]:
        """For every operator, with and without a skip, a network that has it."""
        return self._graphs

    @cached_property
    def _graphs(self) -> tuple[NetworkGraph, ...]:
        found: dict[tuple[str, bool], np.ndarray] = {}
        for token, number in self.automaton.index.items():
            kind = (token.operator, token.skip > 0)
            if kind not in found and (sequence := self.automaton.through(number)) is not None:
                found[kind] = sequence
        return tuple(self.decode(sequence).graph for sequence in found.values())

    @property
    def sizes(self) -> np.ndarray:
        """Number of tokens, the end among them, for every place: int64 [most layers]."""
        return np.full(self.automaton.length, len(self.automaton.tokens), dtype=np.int64)

    @property
    def options(self) -> Mapping[str, Options]:
        """For every priced layer that any blueprint has, the bit-widths that it may take."""
        return self._options

    @cached_property
    def _options(self) -> dict[str, Options]:
        return layer_options(self.description)

    def count(self) -> int:
        """How many blueprints there are."""
        return self.automaton.count()

    def at(self, number: int) -> Blueprint:
        """The blueprint of a number 0 .. count - 1; every blueprint has one."""
        return self.decode(self.automaton.at(number))

    def build(self, layers: tuple[Token, ...]) -> Blueprint:
        """The blueprint of layers, in whatever form.

        Raises:
            RunError: they are not of this space; the message names the layer and the reason.
        """
        self.automaton.read(layers)
        layers = canonical(layers)
        return Blueprint(
            graph=make_graph(self.description, layers, self.input_shape, self.outputs),
            bits=make_bits(self.description, layers),
            quantizer=self.quantizer,
            input=self.input,
            classes=self.classes,
        )

    def layers(self, blueprint: Blueprint) -> tuple[Token, ...]:
        """The layers of a blueprint, canonical; the inverse of `build`.

        Raises:
            RunError: the blueprint is not of this space.
        """
        return self.automaton.layers(self.encode(blueprint))

    def decode(self, indices: np.ndarray) -> Blueprint:
        """The blueprint of a sequence [most layers]; what stands behind its end doesn't matter.

        Raises:
            RunError: a layer can't stand where it does; the message says why.
        """
        assert indices.shape == (self.automaton.length,), indices.shape
        assert np.all((indices >= 0) & (indices < self.sizes)), indices
        return self.build(self.automaton.layers(indices))

    def encode(self, blueprint: Blueprint) -> np.ndarray:
        """The sequence of a blueprint, int64 [most layers], canonical.

        Raises:
            RunError: the blueprint is not of this space.
        """
        found = self._find(blueprint)
        if found is None:
            raise RunError("the blueprint is not of this space: another network, or layers that it doesn't have")
        return found

    def contains(self, blueprint: Blueprint) -> bool:
        """Whether some sequence gives this blueprint."""
        return self._find(blueprint) is not None

    def sample(self, generator: np.random.Generator) -> Blueprint:
        """A blueprint drawn uniformly; see `SequenceCosts.stratified` for many of all sizes."""
        return self.at(below(self.count(), generator))

    def mutate(self, blueprint: Blueprint, generator: np.random.Generator) -> Blueprint:
        """The blueprint after one edit: one field of a layer changed, a layer more or one less (`Edits.edit`).

        Raises:
            RecipeError: no edit leads to a network of the space.
            RunError: the blueprint is not of this space.
        """
        return self.decode(self.edits.edit(self.encode(blueprint), generator))

    def neighbors(self, blueprint: Blueprint) -> tuple[Blueprint, ...]:
        """All blueprints with one field of one layer one option down or up, or one of two equal layers in a row less.

        Or one layer more, equal to the one before it: so the relation is symmetric.

        Raises:
            RunError: the blueprint is not of this space.
        """
        return tuple(self.decode(row) for row in self.edits.neighbors(self.encode(blueprint)))

    def uniform(self, weight: int, activation: int) -> Blueprint:
        """The network with the most MACs whose layers have these bits, or the nearest allowed (of two, the higher)."""
        space = self.description
        pair = (_nearest(space.weight_bits, weight), _nearest(space.activation_bits, activation))
        allowed = np.array(
            [t is not None and (t == POOL or (t.weight_bits, t.activation_bits) == pair) for t in self.automaton.tokens]
        )
        return self.decode(self.additive.extreme("macs", greatest=True, tokens=allowed)[0])

    def uniforms(self) -> tuple[Blueprint, ...]:
        """Networks of one number of layers, one width and one pair of bits, each once; sizes rise, then the bits.

        A rule of thumb: the first operator with weights, the first kernel, no skips, as many layers of stride 2 as
        there may be, evenly among the layers; behind h of H of them the width stands at option
        floor(t (n - 1) (h + 1) / (H + 1) + 1/2) of n, for t of 0, 1/2 and 1.
        """
        space, found = self.description, {}
        for length in self.automaton.ways_of_length:
            for scale in (0.0, 0.5, 1.0):
                for weight in space.weight_bits:
                    for activation in space.activation_bits:
                        row = self.automaton.rows([self._scaled(length, scale, weight, activation)])
                        if self.automaton.valid(row)[0]:
                            found.setdefault(row.tobytes(), row[0])
        return tuple(self.decode(row) for row in found.values())

    def raised(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """The sequences with the weight or activation bits of one layer one option up."""
        for at, token in enumerate(self.automaton.layers(indices)):
            for name in ("weight_bits", "activation_bits") if token != POOL else ():
                higher = [bits for bits in getattr(self.description, name) if bits > getattr(token, name)]
                if higher:
                    yield with_token(indices, at, self.automaton.index[replace(token, **{name: higher[0]})])

    def key(self, blueprint: Blueprint) -> str:
        """Its layers in words: "conv k3 c16 s2 w4a8 | max_pool"."""
        return " | ".join(map(str, self.layers(blueprint)))

    def digest(self, blueprint: Blueprint) -> str:
        """A SHA-256 of `key` and `identity`: equal for equal networks on every machine, different for others."""
        return hashlib.sha256(f"{self.identity()['graph']} {self.key(blueprint)}".encode()).hexdigest()

    def identity(self) -> dict[str, Any]:
        """The description with all its options, the shape of the images, the number of outputs, the quantizer."""
        text = f"{dump_sequence_space(self.description)} {self.input_shape} {self.outputs}"
        return {"graph": hashlib.sha256(text.encode()).hexdigest(), "quantizer": self.quantizer}

    def distance(self, a: Blueprint, b: Blueprint) -> float:
        """The edit distance of two networks, see `Edits.distances`."""
        return float(self.edits.distances(self.encode(a)[None], self.encode(b)[None])[0])

    def _find(self, blueprint: Blueprint) -> np.ndarray | None:
        try:
            layers = read_layers(blueprint)
            return self.automaton.read(layers) if self.build(layers) == blueprint else None
        except RunError:
            return None

    def _scaled(self, length: int, scale: float, weight: int, activation: int) -> tuple[Token, ...]:
        space, found = self.description, []
        strided = min(space.strided[1], length)
        for at in range(length):
            behind = (at + 1) * strided // length  # layers of stride 2 up to this one
            level = scale * (len(space.channels) - 1) * (behind + 1) / (strided + 1)
            found.append(
                Token(
                    operator=next(o for o in space.operators if o != POOL.operator),
                    kernel=space.kernels[0],
                    channels=space.channels[int(level + 0.5 + 1e-9)],
                    stride=2 if behind > at * strided // length else 1,
                    weight_bits=weight,
                    activation_bits=activation,
                )
            )
        return tuple(found)


def _nearest(options: tuple[int, ...], wanted: int) -> int:
    """The nearest option; of two, the higher."""
    return min(options, key=lambda option: (abs(option - wanted), -option))
