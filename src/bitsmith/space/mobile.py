"""Mobile: the blueprints of a MobileSpace for given data.

Its names are those of `Precision`: count, sample, encode, decode, contains, mutate, neighbors. An encoding has one
option index per decision of `decisions`; decisions of blocks that are not there stand at 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

import numpy as np

from bitsmith.blueprint import Blueprint, InputContract, Options
from bitsmith.cost import COSTS, Cost
from bitsmith.errors import RecipeError, RunError
from bitsmith.space.decisions import Decisions
from bitsmith.space.mobile_choice import layer_options, make_bits, make_decisions, make_network, read_choice
from bitsmith.space.mobile_space import MobileSpace


@final
@dataclass(frozen=True, kw_only=True)
class Mobile:
    """The blueprints of a description, for images of one size and a number of classes.

    Args:
        description: what may be chosen.
        input_shape: (channels, height, width) of the images.
        outputs: of the classifier.
        quantizer, input, classes: as in `Blueprint`.
        costs: what its blueprints cost; those of a target know its energy and latency too.

    Raises:
        RecipeError: a stage with a stride on a map of one pixel; the message names it.

    Example:
        >>> space = Mobile(description=MOBILE_SPACES["mobile-32"], input_shape=(3, 32, 32), outputs=10)
        >>> blueprint = space.sample(np.random.default_rng(0))
        >>> space.decode(space.encode(blueprint)) == blueprint
        True
    """

    description: MobileSpace
    input_shape: tuple[int, int, int]
    outputs: int
    quantizer: str = "lsq"
    input: InputContract = field(default_factory=InputContract)
    classes: tuple[str, ...] = ()
    costs: Mapping[str, Cost] = field(default_factory=lambda: COSTS)

    def __post_init__(self) -> None:
        _, height, width = self.input_shape
        strides = [("stem", self.description.stem.stride)]
        strides += [(f"stage {s}", stage.stride) for s, stage in enumerate(self.description.stages, start=1)]
        for where, stride in strides:
            if stride > 1 and max(height, width) == 1:
                raise RecipeError(
                    f"{where}, stride: of an image of {self.input_shape[1]}x{self.input_shape[2]} pixels one is left "
                    "there; make the stride 1, or take larger images"
                )
            height, width = -(-height // stride), -(-width // stride)

    @cached_property
    def decisions(self) -> Decisions:
        """What is chosen, see `make_decisions`."""
        return make_decisions(self.description)

    @property
    def sizes(self) -> np.ndarray:
        """Number of options of each decision, int64 [decisions]."""
        return self.decisions.sizes

    @cached_property
    def options(self) -> dict[str, Options]:
        """For every priced layer that any blueprint has, in execution order, the bit-widths that it may take."""
        return layer_options(self.description)

    def count(self) -> int:
        """How many blueprints there are."""
        return self.decisions.count()

    def at(self, number: int) -> Blueprint:
        """The blueprint of a number 0 .. count - 1; every blueprint has one."""
        return self.decode(self.decisions.at(number))

    def decode(self, indices: np.ndarray) -> Blueprint:
        """The blueprint at option indices [decisions]; the inverse of `encode`. Inactive decisions don't matter."""
        assert indices.shape == self.sizes.shape, indices.shape
        assert np.all(indices >= 0), indices
        assert np.all(indices < self.sizes), indices
        chosen = self.decisions.options(indices)
        network = make_network(self.description, chosen, self.input_shape, self.outputs)
        return Blueprint(
            graph=network.graph(),
            bits=make_bits(self.description, chosen, network),
            quantizer=self.quantizer,
            input=self.input,
            classes=self.classes,
        )

    def encode(self, blueprint: Blueprint) -> np.ndarray:
        """The option indices of a blueprint, int64 [decisions], canonical.

        Raises:
            RunError: the blueprint is not of this space.
        """
        indices = self._find(blueprint)
        if indices is None:
            raise RunError("the blueprint is not of this space: another network, or options that it doesn't have")
        return indices

    def contains(self, blueprint: Blueprint) -> bool:
        """Whether some choice gives this blueprint."""
        return self._find(blueprint) is not None

    def sample(self, generator: np.random.Generator) -> Blueprint:
        """A blueprint drawn uniformly."""
        return self.decode(self.decisions.sample(generator))

    def mutate(self, blueprint: Blueprint, generator: np.random.Generator) -> Blueprint:
        """The blueprint with one decision, drawn uniformly, at another option; a block that comes with it is drawn too.

        Raises:
            RecipeError: nothing can be chosen.
            RunError: the blueprint is not of this space.
        """
        return self.decode(self.decisions.mutate(self.encode(blueprint), generator))

    def neighbors(self, blueprint: Blueprint) -> tuple[Blueprint, ...]:
        """All blueprints with one decision one option down or up; see `Decisions.neighbors`.

        Raises:
            RunError: the blueprint is not of this space.
        """
        return tuple(self.decode(indices) for indices in self.decisions.neighbors(self.encode(blueprint)))

    def uniform(self, weight: int, activation: int) -> Blueprint:
        """The last option of everything but bits; bits as given, or the nearest allowed (of two, the higher)."""
        nearest = {
            "weight_bits": _nearest(self.description.weight_bits, weight),
            "activation_bits": _nearest(self.description.activation_bits, activation),
        }
        indices = self.sizes - 1
        for i, decision in enumerate(self.decisions.decisions):
            indices[i] = nearest.get(decision.name.rpartition(".")[2], indices[i])
        return self.decode(indices)

    def _find(self, blueprint: Blueprint) -> np.ndarray | None:
        chosen = read_choice(self.description, blueprint)
        indices = np.zeros(len(self.sizes), dtype=np.int64)
        for i, decision in enumerate(self.decisions.decisions):
            option = chosen.get(decision.name, decision.options[0])  # what isn't said is inactive, or shows below
            if option not in decision.options:
                return None
            indices[i] = decision.options.index(option)
        indices = self.decisions.canonical(indices)
        return indices if self.decode(indices) == blueprint else None


def _nearest(options: Sequence[int], wanted: int) -> int:
    """Index of the nearest option."""
    return min(range(len(options)), key=lambda i: (abs(options[i] - wanted), -i))
