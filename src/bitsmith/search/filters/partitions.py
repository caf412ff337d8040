"""How many filters of each layer have which bits: what a draw of the multinomial search is, and what it means.

A filter takes one of a few pairs (weight bits, activation bits of the map that it makes). A layer of N filters is n =
(n_1, ..., n_K), n_k filters at pair k, assigned in order: the first n_1 filters have pair 1, the next n_2 pair 2, and
so on (Zur et al., arXiv 1904.09872). For n ~ Multinomial(N, p), filter i (from 0) is among the first k pairs with

    P(n_1 + ... + n_k > i) = sum_{j > i} C(N, j) c_k^j (1 - c_k)^(N - j),    c_k = p_1 + ... + p_k,

so expected bits of every filter and of every map have closed forms, and slopes in p.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor

from bitsmith.blueprint import FLOAT, Bits, Blueprint, Options, couple
from bitsmith.errors import RecipeError
from bitsmith.search.filters.makers import find_makers
from bitsmith.search.filters.soft import Shares
from bitsmith.space import Precision

Pair = tuple[int, int]
Counts = dict[str, np.ndarray]  # layer -> how many of its filters have each of its choices, int64 [choices]

_TINY = 1e-12  # of probabilities


@final
class Partitions:
    """The partitions of a space's filters among pairs.

    A layer pinned to one weight bit-width keeps it, and its filters choose among the activation bits of the pairs;
    where nothing that reads its maps may choose, as behind the logits, among the weight bits alone. Maps that no filter
    makes have the most bits that their reader may take.

    Args:
        pairs: (weight bits, activation bits), in the order in which filters are assigned.

    Attributes:
        pairs: as given.
        choices: for each priced layer its pairs; activation bits of 0 mean that it has none to choose.
        coupling: of the space's graph.
        makers: of the maps that each layer reads.
        readers: the layers that read some map of a layer and may choose its bits.
        used: for each layer the bits that can come out.
        rising: the layers whose filters have rising bits in every partition.

    Raises:
        RecipeError: a pair whose bits a layer with a choice can't take, a layer that may stay float, or no choice.
    """

    def __init__(self, space: Precision, pairs: Sequence[Pair]) -> None:
        self.space, self.pairs = space, tuple(pairs)
        self.coupling = couple(space.template.graph)
        graph, options = space.template.graph, space.options
        self.layers = {layer.name: layer for layer in graph.layers}
        self.makers = find_makers(graph)
        self.readers: dict[str, tuple[str, ...]] = dict.fromkeys(self.layers, ())
        for reader, makers in self.makers.items():
            if len(options[reader].activation) > 1:
                for number in np.unique(makers.owner[makers.owner >= 0]).tolist():
                    self.readers[makers.layers[number]] += (reader,)
        self.choices: dict[str, tuple[Pair, ...]] = {}
        for name in options:
            self._refuse(name)
            self.choices[name] = tuple(dict.fromkeys(self._at(name, pair) for pair in pairs))
        if not self.free:
            raise RecipeError(
                "there is nothing to search: pairs, ends and pins leave the filters of every layer one choice; give "
                "more pairs, free the ends or unpin layers"
            )
        self.used = {name: self._used(name) for name in self.layers}
        weights = {name: [weight for weight, _ in choices] for name, choices in self.choices.items()}
        self.rising = frozenset(name for name, bits in weights.items() if bits == sorted(bits))

    @property
    def free(self) -> list[str]:
        """The layers whose filters have a choice."""
        return [name for name, choices in self.choices.items() if len(choices) > 1]

    def _at(self, name: str, pair: Pair) -> Pair:
        """What a pair means in a layer."""
        weight = self.space.options[name].weight
        return pair[0] if len(weight) > 1 else min(weight), pair[1] if self.readers[name] else 0

    def _refuse(self, name: str) -> None:
        options = self.space.options[name]
        if FLOAT in (*options.weight, *options.activation):
            raise RecipeError(f"layer {name!r} may stay float, and filters have 1 to 8 bits: pin it to 8 instead")
        for what, place, allowed in (("weight", 0, options.weight), ("activation", 1, options.activation)):
            missing = [f"w{pair[0]}a{pair[1]}" for pair in self.pairs if pair[place] not in allowed]
            if len(allowed) > 1 and missing:
                raise RecipeError(
                    f"pairs: layer {name!r} can't take the {what} bits of {', '.join(missing)}, the space has "
                    f"{', '.join(map(str, allowed))}; add them to {what}_bits of the space, or give other pairs"
                )

    def _used(self, name: str) -> Options:
        makers, options = self.makers[name], self.space.options[name]
        activation = options.activation
        if len(activation) > 1:
            owners = np.unique(makers.owner).tolist()
            bits = {a for number in owners if number >= 0 for _, a in self.choices[makers.layers[number]]}
            activation = tuple(sorted(bits | ({activation[-1]} if -1 in owners else set())))
        return Options(weight=tuple(sorted({w for w, _ in self.choices[name]})), activation=activation)

    def homogeneous(self, pair: int) -> Counts:
        """All filters at what one of the pairs means in their layer."""
        found = {}
        for name, choices in self.choices.items():
            found[name] = np.zeros(len(choices), np.int64)
            found[name][choices.index(self._at(name, self.pairs[pair]))] = self.layers[name].out_channels
        return found

    def draw(self, p: Mapping[str, Tensor]) -> Counts:
        """n ~ Multinomial(N, p) for every layer, by torch's global generator.

        Args:
            p: of the free layers, [choices].
        """
        found = self.homogeneous(0)
        for name in self.free:
            drawn = torch.multinomial(p[name].detach(), self.layers[name].out_channels, replacement=True)
            found[name] = drawn.bincount(minlength=len(self.choices[name])).numpy()
        return found

    def nearest(self, p: Mapping[str, Tensor]) -> Counts:
        """The counts nearest to N p: rounded down, what is left to the largest remainders."""
        found = self.homogeneous(0)
        for name in self.free:
            wanted = p[name].detach().double().numpy() * self.layers[name].out_channels
            counts = np.floor(wanted).astype(np.int64)
            missing = self.layers[name].out_channels - counts.sum()
            counts[np.argsort(counts - wanted, kind="stable")[:missing]] += 1
            found[name] = counts
        return found

    def weight_bits(self, name: str, counts: Counts) -> np.ndarray:
        """The weight bits of each filter of a layer, in order."""
        return np.repeat([w for w, _ in self.choices[name]], counts[name])

    def activation_bits(self, name: str, counts: Counts) -> int | np.ndarray:
        """The bits of each map that a layer reads, or of all."""
        options, makers = self.space.options[name].activation, self.makers[name]
        if len(options) == 1:
            return options[0]
        found = np.full(len(makers.owner), options[-1])
        for number in np.unique(makers.owner[makers.owner >= 0]).tolist():
            layer, maps = makers.layers[number], makers.owner == number
            made = np.repeat([a for _, a in self.choices[layer]], counts[layer])
            found[maps] = made[makers.filter[maps]]
        return found

    def bits(self, name: str, counts: Counts) -> Bits:
        """The bits of one layer."""
        activation = self.activation_bits(name, counts)
        return Bits(
            weight=tuple(self.weight_bits(name, counts).tolist()),
            activation=activation if isinstance(activation, int) else tuple(activation.tolist()),
        )

    def blueprint(self, counts: Counts) -> Blueprint:
        """The network of some counts."""
        return self.space.template.with_bits({name: self.bits(name, counts) for name in self.layers})

    def shares(self, p: Mapping[str, Tensor]) -> Shares:
        """The probabilities of every filter's and every map's bits, differentiable in p; all filters stay.

        Args:
            p: of the free layers, [choices].

        Returns:
            float64; activation [maps, options] where maps are free, else [options].
        """
        each = {}
        for name, choices in self.choices.items():
            count = self.layers[name].out_channels
            each[name] = marginals(p[name].double(), count) if len(choices) > 1 else torch.ones(count, 1).double()
        weight, activation = {}, {}
        for name, options in self.space.options.items():
            weight[name] = each[name] @ _one_hot([w for w, _ in self.choices[name]], options.weight)
            if len(options.activation) == 1:
                activation[name] = torch.ones(1, dtype=torch.float64)
                continue
            makers = self.makers[name]
            q = _one_hot([options.activation[-1]] * len(makers.owner), options.activation)
            for number in np.unique(makers.owner[makers.owner >= 0]).tolist():
                layer, maps = makers.layers[number], np.flatnonzero(makers.owner == number)
                made = each[layer] @ _one_hot([a for _, a in self.choices[layer]], options.activation)
                q = q.index_copy(0, torch.from_numpy(maps), made[torch.from_numpy(makers.filter[maps])])
            activation[name] = q
        return Shares(weight=weight, activation=activation, kept=torch.ones(len(self.coupling.pinned)).double())


def marginals(p: Tensor, count: int) -> Tensor:
    """The probabilities of each filter's choices, float64 [count, choices]; see the module's text.

    Args:
        p: float64 [choices], of n ~ Multinomial(count, p).

    Example:
        Two filters at p = (1/2, 1/2): the first has the first choice unless n_1 = 0, so with probability 3/4; the
        second only if n_1 = 2, so with 1/4.
    """
    c = p.cumsum(0)[:-1, None].clamp(_TINY, 1 - _TINY)  # [choices - 1, 1]
    j = torch.arange(count + 1, dtype=torch.float64)
    ways = math.lgamma(count + 1) - torch.lgamma(j + 1) - torch.lgamma(count - j + 1)
    masses = (ways + j * c.log() + (count - j) * (1 - c).log()).exp()
    beyond = masses.flip(1).cumsum(1).flip(1)[:, 1:]  # P(n_1 + ... + n_k > i), [choices - 1, count]
    ends = beyond.new_zeros(1, count), beyond.new_ones(1, count)
    return torch.cat([ends[0], beyond, ends[1]]).diff(dim=0).T


def _one_hot(values: Sequence[int], options: Sequence[int]) -> Tensor:
    """[values, options], float64."""
    return torch.tensor([[float(value == option) for option in options] for value in values], dtype=torch.float64)
