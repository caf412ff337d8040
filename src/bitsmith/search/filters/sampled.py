"""The network of which any partition of the filters can be held: one shared weight for all bits.

Each filter is quantized at the bits that it has in the partition held, from the one float weight that it has at any
bits (the released code has weights of their own for each filter and bit-width: most of them see few batches). Its steps
are learned for each bit-width. What a layer reads is quantized map by map; steps of activations are learned for each
width of the widest map, since all maps of a tensor lie on its grid (`bitsmith.quantize.maps`), where all maps are as
wide and where they differ.

With a step for each filter (lsq, lsq-pow2) held counts so compute what the network built of their blueprint computes,
to the bit. A step that filters share (nice; a classifier whose bits are free) is that of all filters here and of those
of one bit-width there: `hand_on` gives it to them. Quantizers that measure a whole tensor (pact, gaussian, hwgq)
compute something near.
"""

from __future__ import annotations

from typing import cast, final

import numpy as np
import torch
from torch import Tensor, nn

from bitsmith.blueprint import LayerSpec
from bitsmith.errors import RecipeError
from bitsmith.quantize import FilterWise, LsqWeight, Network, Priced, Stepped, find_quantizers
from bitsmith.quantize.maps import LsqMaps
from bitsmith.quantize.pairs import QuantizerPair
from bitsmith.quantize.quantizer import ActivationQuantizer
from bitsmith.search.filters.partitions import Counts, Partitions
from bitsmith.search.filters.soft import FilterMixture


@final
class SampledMaps(nn.Module):
    """Quantizes what a layer reads at the bits held: one number, or one per map.

    Where maps differ they have another step than where all have as many bits as the widest.

    Args:
        options: the bits that there are.
        as_it_is: bits at which it leaves its input alone, of a stream.

    Attributes:
        bits: those held.
    """

    def __init__(self, quantizers: QuantizerPair, options: tuple[int, ...], *, signed: bool, as_it_is: int) -> None:
        super().__init__()
        self.bits: int | np.ndarray = options[-1]
        self._options, self._as_it_is = options, as_it_is
        self.candidates = nn.ModuleDict({str(bits): quantizers.activation(bits, signed) for bits in options})
        self.mixed = nn.ModuleDict()
        if quantizers.maps is not None:
            upto = [options[: k + 1] for k in range(1, len(options))]
            self.mixed.update({str(some[-1]): quantizers.maps(some, signed) for some in upto})

    def forward(self, x: Tensor) -> Tensor:
        held = np.unique(self.bits).tolist()
        self._start(x, held)
        if held == [self._as_it_is]:
            return x
        if len(held) == 1:
            return self.candidates[str(held[0])](x)
        return self._maps(held[-1], np.asarray(self.bits))(x)

    def _start(self, x: Tensor, held: list[int]) -> None:
        """All that is being calibrated starts from what passes: what isn't held from an even mixture of its bits."""
        for candidate in self.candidates.values():
            if cast(ActivationQuantizer, candidate).calibrating:
                candidate(x)
        for bits, mixed in self.mixed.items():
            if cast(LsqMaps, mixed).calibrating and (len(held) == 1 or held[-1] != int(bits)):
                some = [b for b in self._options if b <= int(bits)]
                self._maps(int(bits), np.resize(some[::-1], x.shape[1]))(x)

    def _maps(self, widest: int, bits: np.ndarray) -> LsqMaps:
        return cast(LsqMaps, self.mixed[str(widest)]).over(tuple(bits.tolist()))


@final
class SampledFilters(Stepped):
    """A network that computes with whatever counts it holds, at first as many filters at each of a layer's choices.

    Args:
        partitions: that `check_maps` takes.
    """

    def __init__(self, partitions: Partitions) -> None:
        super().__init__()
        self.partitions = partitions
        self.network = _network(partitions)
        equal = {name: torch.ones(len(partitions.choices[name])).softmax(0) for name in partitions.free}
        self.hold(partitions.nearest(equal))

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def hold(self, counts: Counts) -> None:
        """Compute with a partition from now on."""
        for name, layer in self.network.priced():
            options = self.partitions.used[name].weight
            weights = self.partitions.weight_bits(name, counts)
            shares = torch.from_numpy(weights[:, None] == np.array(options)).to(layer.weight)
            cast(FilterMixture, layer.quantize_weight).shares = shares
            cast(SampledMaps, layer.quantize_input).bits = self.partitions.activation_bits(name, counts)

    @torch.no_grad()
    def hand_on(self, network: Network) -> None:
        """Give a network of one partition the steps that filters share; started anew from fewer, they'd be others."""
        for name, layer in network.priced():
            mixture = cast(FilterMixture, cast(Priced, self.network.layer(name)).quantize_weight)
            shared = dict(zip(self.partitions.used[name].weight, mixture.candidates, strict=True))
            quantizer = layer.quantize_weight
            for part in quantizer.parts.values() if isinstance(quantizer, FilterWise) else [quantizer]:
                if isinstance(part, LsqWeight):
                    learned = cast(LsqWeight, shared[part.bits]).log_step
                    if learned.numel() == 1:
                        part.log_step.copy_(learned)


def check_maps(partitions: Partitions) -> None:
    """Refuse maps that differ under a quantizer that has no levels of their own for them.

    Raises:
        RecipeError: with the way out.
    """
    quantizer = partitions.space.quantizer
    differ = any(len(options.activation) > 1 for options in partitions.used.values())
    if differ and find_quantizers(quantizer).maps is None:
        raise RecipeError(
            f"maps can't differ in bits under the quantizer {quantizer!r}; take lsq, lsq-pow2 or nice, or give "
            "the space one activation bit-width"
        )


def _network(partitions: Partitions) -> Network:
    template = partitions.space.template
    quantizers = find_quantizers(template.quantizer)

    def make_weight(layer: LayerSpec, shape: tuple[int, ...], per_filter: bool) -> nn.Module:
        options = partitions.used[layer.name].weight
        return FilterMixture([quantizers.weight(bits, shape, per_filter) for bits in options])

    def make_input(layer: LayerSpec, signed: bool, narrows: bool) -> nn.Module:
        options = partitions.used[layer.name].activation
        return SampledMaps(quantizers, options, signed=signed, as_it_is=template.stream_bits if narrows else 0)

    return Network(
        template.graph,
        make_weight,
        make_input,
        stream_bits=template.stream_bits,
        power_of_two=quantizers.power_of_two,
    )
