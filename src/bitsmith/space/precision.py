"""Precision: the space of all bit-widths of one given network.

A decision is the weight bits or the activation bits of one priced layer; decisions are independent, so the space is a
product. The ends of the network (the layers that nothing priced comes before, and those that nothing priced comes
after) are pinned to 8 bits by default: they hold few of the bits and most of the harm.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from bitsmith.blueprint import PRICED, Bits, Blueprint, NetworkGraph, Options
from bitsmith.cost import COSTS, Cost, costs_at_streams
from bitsmith.errors import RecipeError, RunError
from bitsmith.space.pins import Pin, resolve_pins


@final
@dataclass(frozen=True, kw_only=True)
class Precision:
    """The blueprints of one network that differ in bits alone.

    Args:
        template: the network; its own bits are placeholders.
        options: for every priced layer the bit-widths it may take; use `precision` to fill them in.
        costs: what its blueprints cost; those of a target know its energy and latency too.

    Raises:
        RecipeError: options that don't name the graph's priced layers, or a graph without any.

    Example:
        >>> space = precision(resnet8, weight_bits=(2, 3, 4))       # 10 priced layers, both ends pinned
        >>> space.count()
        6561
    """

    template: Blueprint
    options: Mapping[str, Options]
    costs: Mapping[str, Cost] = field(default_factory=lambda: COSTS)

    def __post_init__(self) -> None:
        names = [layer.name for layer in self.template.graph.layers]
        if not names:
            raise RecipeError("the network has no conv or linear layer, so there are no bits to choose")
        if set(names) != set(self.options):
            raise RecipeError(
                f"options don't fit the network: missing {sorted(set(names) - set(self.options))}, "
                f"unknown {sorted(set(self.options) - set(names))}"
            )
        object.__setattr__(self, "options", {name: self.options[name] for name in names})  # in execution order

    @property
    def kind(self) -> str:
        """As in recipes."""
        return "precision"

    @property
    def quantizer(self) -> str:
        """Of all its blueprints."""
        return self.template.quantizer

    @property
    def graphs(self) -> tuple[NetworkGraph, ...]:
        """The one network."""
        return (self.template.graph,)

    @property
    def sizes(self) -> np.ndarray:
        """Number of options of each decision, int64 [layers, 2] (weight, activation)."""
        return np.array([(len(o.weight), len(o.activation)) for o in self.options.values()], dtype=np.int64)

    def count(self) -> int:
        """How many blueprints there are."""
        return math.prod(int(size) for size in self.sizes.flat)

    def decode(self, indices: np.ndarray) -> Blueprint:
        """The blueprint at option indices [layers, 2]; the inverse of `encode`."""
        assert indices.shape == (len(self.options), 2), indices.shape
        assert np.all(indices >= 0), indices
        assert np.all(indices < self.sizes), indices
        return self.template.with_bits(
            {
                name: Bits(weight=options.weight[w], activation=options.activation[a])
                for (name, options), (w, a) in zip(self.options.items(), indices, strict=True)
            }
        )

    def encode(self, blueprint: Blueprint) -> np.ndarray:
        """The option indices of a blueprint, int64 [layers, 2] (weight, activation), layers in execution order.

        Example:
            With weight bits (2, 3, 4, 8) and activation bits (8,), a layer at w3a8 is the row [1, 0].

        Raises:
            RunError: the blueprint is not of this space.
        """
        if not self.contains(blueprint):
            raise RunError("the blueprint is not of this space: another network, or bits that its options don't have")
        return np.array(
            [
                (
                    options.weight.index(blueprint.bits[name].weight),
                    options.activation.index(blueprint.bits[name].activation),
                )
                for name, options in self.options.items()
            ],
            dtype=np.int64,
        )

    def contains(self, blueprint: Blueprint) -> bool:
        """Whether a blueprint is the template at bits that the options have."""
        return blueprint.with_bits(self.template.bits) == self.template if self._allows(blueprint) else False

    def _allows(self, blueprint: Blueprint) -> bool:
        return set(blueprint.bits) == set(self.options) and all(
            bits.weight in self.options[name].weight and bits.activation in self.options[name].activation
            for name, bits in blueprint.bits.items()
        )

    def sample(self, generator: np.random.Generator) -> Blueprint:
        """A blueprint drawn uniformly."""
        return self.decode(generator.integers(self.sizes))

    def mutate(self, blueprint: Blueprint, generator: np.random.Generator) -> Blueprint:
        """The blueprint with one decision, drawn uniformly, at another of its options, drawn uniformly.

        Raises:
            RecipeError: every layer is pinned, so there is no other blueprint.
            RunError: the blueprint is not of this space.
        """
        indices = self.encode(blueprint)
        free = np.argwhere(self.sizes > 1)
        if not len(free):
            raise RecipeError(
                "every layer is pinned to one option; nothing can be mutated: give a layer more bit-widths"
            )
        decision = tuple(free[generator.integers(len(free))])
        step = generator.integers(1, self.sizes[decision])
        indices[decision] = (indices[decision] + step) % self.sizes[decision]
        return self.decode(indices)

    def neighbors(self, blueprint: Blueprint) -> tuple[Blueprint, ...]:
        """All blueprints with one decision one step down or up, in order of layers, weight before activation.

        Raises:
            RunError: the blueprint is not of this space.
        """
        indices, sizes = self.encode(blueprint), self.sizes
        found = []
        for decision in np.ndindex(*indices.shape):
            for step in (-1, 1):
                moved = indices.copy()
                moved[decision] += step
                if 0 <= moved[decision] < sizes[decision]:
                    found.append(self.decode(moved))
        return tuple(found)

    def uniform(self, weight: int, activation: int) -> Blueprint:
        """Every layer at the given bits, or at the nearest it may take (of two as near, the higher)."""
        return self.template.with_bits(
            {
                name: Bits(weight=_nearest(options.weight, weight), activation=_nearest(options.activation, activation))
                for name, options in self.options.items()
            }
        )

    def uniforms(self) -> tuple[Blueprint, ...]:
        """The blueprints with one pair of bits wherever layers may take it, each once; weights rise, then activations.

        Example:
            Weight bits (2, 4), activation bits (4, 8), ends pinned: inner layers at w2a4, w2a8, w4a4, w4a8.
        """
        weights = sorted({bits for options in self.options.values() for bits in options.weight})
        activations = sorted({bits for options in self.options.values() for bits in options.activation})
        points = [self.uniform(w, a) for w in weights for a in activations]
        return tuple({self.encode(point).tobytes(): point for point in points}.values())

    def raised(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """The encodings with one decision one option up, in order of layers, weight before activation."""
        for decision in np.ndindex(*indices.shape):
            if indices[decision] + 1 < self.sizes[decision]:
                moved = indices.copy()
                moved[decision] += 1
                yield moved

    def key(self, blueprint: Blueprint) -> str:
        """Its bits."""
        return json.dumps({name: [bits.weight, bits.activation] for name, bits in blueprint.bits.items()})

    def identity(self) -> dict[str, Any]:
        """The network without the lines of code that it was captured from, and its quantizer."""
        graph = self.template.graph.to_dict()
        nodes = [{key: value for key, value in node.items() if key != "source"} for node in graph["nodes"]]
        text = json.dumps([graph["output"], nodes, self.template.stream_bits])
        return {"graph": hashlib.sha256(text.encode()).hexdigest(), "quantizer": self.quantizer}


def precision(
    template: Blueprint,
    weight_bits: Sequence[int] = (2, 3, 4, 8),
    activation_bits: Sequence[int] = (8,),
    *,
    ends: int | None = 8,
    pins: Mapping[str, Pin] | None = None,
    costs: Mapping[str, Cost] = COSTS,
) -> Precision:
    """The precision space of a network, with its ends and some layers pinned.

    Args:
        template: the network; its own bits don't matter.
        weight_bits, activation_bits: what layers that are not pinned may take, 1..8 or 32 (float).
        ends: weight and activation bits of the first and last layers; None leaves them free.
        pins: layer or pattern ("layer3.*") -> 8, "w4a8", "w4", "a8" or "float"; goes before `ends`, see `resolve_pins`.
        costs: what blueprints of the space cost; where the template's streams are float, `ram` and `size` know it.

    Raises:
        RecipeError: a pin on a layer that the network doesn't have, pins that contradict each other, a bit-width out of
            range, or none given.
    """
    names = [layer.name for layer in template.graph.layers]
    fixed = resolve_pins(names, pins or {})
    at_ends = _ends(template.graph) if ends is not None else set()

    def chosen(name: str, side: int, free: tuple[int, ...]) -> tuple[int, ...]:
        pin = fixed.get(name, (None, None))[side]
        pin = ends if pin is None and name in at_ends else pin
        return free if pin is None else (pin,)

    weight, activation = tuple(sorted(set(weight_bits))), tuple(sorted(set(activation_bits)))
    try:
        Options(weight=weight, activation=activation)  # also where every layer is pinned
        options = {
            name: Options(weight=chosen(name, 0, weight), activation=chosen(name, 1, activation)) for name in names
        }
    except RunError as error:  # a bit-width out of range
        raise RecipeError(f"the precision space can't be made: {error}") from error
    return Precision(template=template, options=options, costs=costs_at_streams(template.stream_bits, costs))


def _ends(graph: NetworkGraph) -> set[str]:
    """Priced layers with no priced layer before them on any path, and those with none after them."""
    before: set[str] = set()  # nodes whose value depends on a priced layer
    first: set[str] = set()
    for node in graph.nodes:
        behind = any(read in before for read in node.inputs)
        if node.op in PRICED and not behind:
            first.add(node.owner)
        if behind or node.op in PRICED:
            before.add(node.name)
    after: set[str] = set()  # nodes whose value reaches a priced layer
    last: set[str] = set()
    for node in reversed(graph.nodes):
        ahead = any(reader in after or graph[reader].op in PRICED for reader in graph.consumers[node.name])
        if ahead:
            after.add(node.name)
        elif node.op in PRICED:
            last.add(node.owner)
    return first | last


def _nearest(allowed: Sequence[int], wanted: int) -> int:
    return min(allowed, key=lambda bits: (abs(bits - wanted), -bits))
