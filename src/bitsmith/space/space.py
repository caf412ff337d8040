"""Space: what every set of blueprints can do, whatever it chooses.

Searches, baselines and checks that need no more than this work on spaces of bits (`Precision`) and on spaces of whole
networks (`Mobile`) alike. What takes an integer program (the least value of a cost, some blueprint inside budgets)
stands in `bitsmith.search.feasible`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from bitsmith.blueprint import Blueprint, NetworkGraph, Options
from bitsmith.cost import Cost


@runtime_checkable
class Space(Protocol):
    """A set of blueprints with one option index per decision."""

    @property
    def kind(self) -> str:
        """As in recipes: "precision", "mobile" or "sequence"."""
        ...

    @property
    def costs(self) -> Mapping[str, Cost]:
        """What its blueprints cost; those of a target know its energy and latency too."""
        ...

    @property
    def quantizer(self) -> str:
        """Of all its blueprints."""
        ...

    @property
    def options(self) -> Mapping[str, Options]:
        """For every priced layer that any blueprint has, the bit-widths that it may take."""
        ...

    @property
    def graphs(self) -> tuple[NetworkGraph, ...]:
        """Networks that between them hold every operator that any blueprint has."""
        ...

    @property
    def sizes(self) -> np.ndarray:
        """Number of options of each decision; the shape of an encoding."""
        ...

    def count(self) -> int:
        """How many blueprints there are."""
        ...

    def encode(self, blueprint: Blueprint) -> np.ndarray:
        """The option indices of a blueprint.

        Raises:
            RunError: the blueprint is not of this space.
        """
        ...

    def decode(self, indices: np.ndarray) -> Blueprint:
        """The blueprint at option indices; the inverse of `encode`."""
        ...

    def contains(self, blueprint: Blueprint) -> bool:
        """Whether some choice gives this blueprint."""
        ...

    def sample(self, generator: np.random.Generator) -> Blueprint:
        """A blueprint drawn uniformly."""
        ...

    def mutate(self, blueprint: Blueprint, generator: np.random.Generator) -> Blueprint:
        """The blueprint with one decision at another option."""
        ...

    def neighbors(self, blueprint: Blueprint) -> tuple[Blueprint, ...]:
        """All blueprints with one decision one option down or up."""
        ...

    def uniform(self, weight: int, activation: int) -> Blueprint:
        """The largest network at the given bits, or at the nearest that each layer may take."""
        ...

    def uniforms(self) -> tuple[Blueprint, ...]:
        """All blueprints that are chosen by a rule of thumb: one pair of bits, one size; each once, rising."""
        ...

    def raised(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """The encodings with one pair's weight or activation bits one option up, in order of decisions."""
        ...

    def key(self, blueprint: Blueprint) -> str:
        """A text that tells a blueprint from all others of the same `identity`, whatever options there are."""
        ...

    def identity(self) -> dict[str, Any]:
        """What measured values and checkpoints of a search must agree in, beside settings and data: JSON-able."""
        ...
