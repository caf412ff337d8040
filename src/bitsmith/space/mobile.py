"""Mobile: the blueprints of a MobileSpace for given data.

An encoding has one option index per decision of `decisions`; decisions of blocks that are not there stand at 0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, final

import numpy as np

from bitsmith.blueprint import Blueprint, InputContract, NetworkGraph, Options
from bitsmith.cost import COSTS, Cost
from bitsmith.errors import RecipeError, RunError
from bitsmith.space.decisions import Decisions
from bitsmith.space.mobile_choice import layer_options, make_bits, make_decisions, make_network, read_choice
from bitsmith.space.mobile_space import MobileSpace
from bitsmith.space.mobile_yaml import dump_mobile_space

# Decisions whose later options cost more; the others (kernels, gates, functions) are what a block is like.
SCALED = ("blocks", "channels", "expansion")
BITS = ("weight_bits", "activation_bits")


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
    costs: Mapping[str, Cost] = field(default_factory=lambda: COSTS, hash=False)

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
    def kind(self) -> str:
        """As in recipes."""
        return "mobile"

    @property
    def graphs(self) -> tuple[NetworkGraph, ...]:
        """The largest networks with each activation function in turn, squeeze-and-excitation where there may be any."""
        return self._graphs

    @cached_property
    def _graphs(self) -> tuple[NetworkGraph, ...]:
        most = max(len(stage.activations) for stage in self.description.stages)
        found = []
        for option in range(most):
            indices = self.sizes - 1
            for i, decision in enumerate(self.decisions.decisions):
                what = _what(decision.name)
                if what == "activation":
                    indices[i] = min(option, len(decision.options) - 1)
                elif what == "squeeze_excite":
                    indices[i] = decision.options.index(max(decision.options))
            found.append(self.decode(indices).graph)
        return tuple(found)

    @property
    def sizes(self) -> np.ndarray:
        """Number of options of each decision, int64 [decisions]."""
        return self.decisions.sizes

    @property
    def options(self) -> Mapping[str, Options]:
        """For every priced layer that any blueprint has, in execution order, the bit-widths that it may take."""
        return self._options

    @cached_property
    def _options(self) -> dict[str, Options]:
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
            indices[i] = nearest.get(_what(decision.name), indices[i])
        return self.decode(indices)

    def uniforms(self) -> tuple[Blueprint, ...]:
        """Networks scaled by one number and of one pair of bits, each once; sizes rise, then weights, then activations.

        At a scale t = 0..1 every number of blocks, width and expansion of n options stands at option
        floor(t (n - 1) + 1/2); kernels, squeeze-and-excitation and functions stand at their first option. All t that
        give different networks are tried. Depth and width that grow together by one number: EfficientNet's compound
        scaling (arXiv 1905.11946), on the grid of the space.
        """
        steps = {(k + 0.5) / (n - 1) for n in set(self.sizes.tolist()) if n > 1 for k in range(n - 1)}
        description, found = self.description, {}
        for scale in (0.0, *sorted(steps)):
            for w in range(len(description.weight_bits)):
                for a in range(len(description.activation_bits)):
                    indices = np.zeros_like(self.sizes)
                    for i, decision in enumerate(self.decisions.decisions):
                        what = _what(decision.name)
                        if what in SCALED:
                            indices[i] = int(scale * (len(decision.options) - 1) + 0.5 + 1e-9)
                        elif what in BITS:
                            indices[i] = w if what == "weight_bits" else a
                    found.setdefault(self.decisions.canonical(indices).tobytes(), indices)
        return tuple(self.decode(indices) for indices in found.values())

    def raised(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """The encodings with the weight or activation bits of one active decision one option up."""
        return self.moved(indices, BITS, 1)

    def moved(self, indices: np.ndarray, whats: Sequence[str], step: int) -> Iterator[np.ndarray]:
        """The canonical encodings with one active decision `step` options further, in order of decisions.

        Args:
            indices: canonical.
            whats: last parts of the names of decisions, such as "channels".
        """
        for i in np.flatnonzero(self.decisions.active(indices)):
            if _what(self.decisions.decisions[i].name) in whats and 0 <= indices[i] + step < self.sizes[i]:
                found = indices.copy()
                found[i] += step
                yield self.decisions.canonical(found)

    def key(self, blueprint: Blueprint) -> str:
        """The chosen option of every decision that is made."""
        return json.dumps(self.decisions.options(self.encode(blueprint)))

    def identity(self) -> dict[str, Any]:
        """The description with all its options, the shape of the images, the number of outputs, the quantizer."""
        text = f"{dump_mobile_space(self.description)} {self.input_shape} {self.outputs}"
        return {"graph": hashlib.sha256(text.encode()).hexdigest(), "quantizer": self.quantizer}

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


def _what(name: str) -> str:
    """What a decision chooses: "channels" of "stage1.channels"."""
    return name.rpartition(".")[2]


def _nearest(options: Sequence[int], wanted: int) -> int:
    """Index of the nearest option."""
    return min(range(len(options)), key=lambda i: (abs(options[i] - wanted), -i))
