"""The network whose filters are undecided: for each filter a mixture of bit-widths, for each channel a gate.

    W~_f = sum_k p_fk Q_k(W_f),    p_f = softmax(logits_f / T);        y_c = z_u norm(conv(a~, W~))_c,
    z_u ~ Bernoulli(sigmoid(gate_u / T)) for the unit u of channel c, 1 where it can't be removed

One shared weight per layer, as in the composite convolution (arXiv 2004.05795), but probabilities of its own for each
filter. Channels that can only be removed together (`bitsmith.blueprint.coupling`) have one gate. It multiplies behind
BatchNorm: before it, it would have no gradient.

A channel is there or not, drawn anew for every step; slopes pass the draw as if it were its probability (straight
through, Bengio, Leonard, Courville 2013, arXiv 1308.3432). A share of a channel instead would decide nothing:
what reads a smaller channel makes up for it by larger weights, and where BatchNorm follows, all channels of a layer
shrink together at no loss, until a budget closes all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast, final

import numpy as np
import torch
from torch import Tensor, nn

from bitsmith.blueprint import FLOAT, PRICED, Coupling, LayerSpec, couple
from bitsmith.quantize import Identity, Mixture, Network, Stepped, find_quantizers
from bitsmith.space import Precision

GATE = 2.0  # every gate's first value: channels start at sigmoid(2) = .88


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How much of everything there is; one-hot and 0 or 1 for one network.

    Args:
        weight: for each priced layer [filters, weight bits of its options].
        activation: for each priced layer [activation bits of its options], or with a row for each map that it reads.
        kept: of each unit, [units].
    """

    weight: Mapping[str, Tensor]
    activation: Mapping[str, Tensor]
    kept: Tensor


@final
class FilterMixture(nn.Module):
    """sum_k p_fk Q_k(W_f); the shares [filters, candidates] are set from outside."""

    def __init__(self, candidates: list[nn.Module]) -> None:
        super().__init__()
        self.candidates = nn.ModuleList(candidates)
        self.shares: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if len(self.candidates) == 1:
            return self.candidates[0](x)
        assert self.shares is not None
        columns = self.shares.to(x.dtype).T.reshape(len(self.candidates), -1, *[1] * (x.ndim - 1))
        parts = [column * quantize(x) for column, quantize in zip(columns, self.candidates, strict=True)]
        return torch.stack(parts).sum(0)


def removable_units(space: Precision, *, remove: bool) -> tuple[Coupling, np.ndarray]:
    """The coupled channels of a space's network, and which units may go, bool [units]."""
    coupling = couple(space.template.graph)
    free = ~coupling.pinned & ~coupling.shuffled
    return coupling, free if remove else np.zeros_like(free)


@final
class SoftFilters(Stepped):
    """A network of a space with undecided filters, and what decides them.

    Args:
        remove: whether filters may be removed.

    Attributes:
        coupling: of the space's graph.
        removable: the units that may go, bool [units]; each has a gate.
        logits: "layer" (with / for .) -> [filters, options], for layers with more than one.
        gates: [units that may go].
    """

    temperature: Tensor

    def __init__(self, space: Precision, *, remove: bool, start: float = 0.01) -> None:
        super().__init__()
        self.space = space
        graph = space.template.graph
        self.coupling, self.removable = removable_units(space, remove=remove)
        self._gated = torch.from_numpy(np.flatnonzero(self.removable))
        self.network = _network(space, start)
        self.logits = nn.ParameterDict(
            {
                _key(layer.name): nn.Parameter(torch.full((layer.out_channels, len(options)), start))
                for layer in graph.layers
                if len(options := space.options[layer.name].weight) > 1
            }
        )
        self.gates = nn.Parameter(torch.full((len(self._gated),), GATE))
        self.register_buffer("temperature", torch.tensor(1.0))
        self._kept = torch.ones(len(self.removable))
        self._drawn = torch.ones(len(self._gated))
        for node in graph.nodes:
            if (node.op in PRICED and not node.shares) or node.op == "affine":
                units = torch.from_numpy(self.coupling.units[node.name])
                self.network.layer(node.name).register_forward_hook(self._gate(units))

    def _gate(self, units: Tensor) -> Any:
        def gate(module: nn.Module, inputs: Any, y: Tensor) -> Tensor:
            return y * self._kept[units.to(y.device)].to(y.dtype).reshape(1, -1, *[1] * (y.ndim - 2))

        return gate

    def architecture(self) -> list[nn.Parameter]:
        """All that decides, bits of activations included; the rest are weights and steps."""
        return [*self.logits.values(), self.gates, *(mixture.logits for mixture in self.mixtures().values())]

    def mixtures(self) -> dict[str, Mixture]:
        """The mixture of each layer's input."""
        return {name: cast(Mixture, layer.quantize_input) for name, layer in self.network.priced()}

    def shares(self) -> Shares:
        """The present shares, with their gradients."""
        kept = torch.ones(len(self._kept), dtype=self.gates.dtype, device=self.gates.device)
        gates = torch.sigmoid(self.gates / self.temperature)
        return Shares(
            weight={
                layer.name: torch.softmax(self.logits[_key(layer.name)] / self.temperature, 1)
                if _key(layer.name) in self.logits
                else self.gates.new_ones(layer.out_channels, 1)
                for layer in self.space.template.graph.layers
            },
            activation={name: mixture.probabilities() for name, mixture in self.mixtures().items()},
            kept=kept.index_put((self._gated.to(kept.device),), gates),
        )

    @torch.no_grad()
    def draw(self) -> None:
        """Draw which units are there from now on, by torch's generator of the CPU; before the first draw all are."""
        self._drawn = torch.bernoulli(torch.sigmoid(self.gates / self.temperature).cpu())

    def forward(self, x: Tensor) -> Tensor:
        """The network's outputs at its present shares of bits and the units drawn."""
        shares = self.shares()
        drawn = torch.ones_like(shares.kept).index_put(
            (self._gated.to(shares.kept.device),), self._drawn.to(shares.kept)
        )
        self.hold(replace(shares, kept=drawn + (shares.kept - shares.kept.detach())))
        return self.network(x)

    def hold(self, shares: Shares) -> None:
        """Let `network` compute with these shares of filters and channels; activations have their own mixtures."""
        for name, layer in self.network.priced():
            cast(FilterMixture, layer.quantize_weight).shares = shares.weight[name]
        self._kept = shares.kept

    @torch.no_grad()
    def cool(self, temperature: float) -> None:
        """Set the temperature of all decisions."""
        self.temperature.fill_(temperature)
        for mixture in self.mixtures().values():
            mixture.temperature.fill_(temperature)


def _key(layer: str) -> str:
    return layer.replace(".", "/")


def _network(space: Precision, start: float) -> Network:
    template = space.template
    quantizers = find_quantizers(template.quantizer)

    def make_weight(layer: LayerSpec, shape: tuple[int, ...], per_filter: bool) -> nn.Module:
        options = space.options[layer.name].weight
        return FilterMixture([Identity(b) if b == FLOAT else quantizers.weight(b, shape, per_filter) for b in options])

    def make_input(layer: LayerSpec, signed: bool, narrows: bool) -> nn.Module:
        as_it_is = {FLOAT, template.stream_bits} if narrows else {FLOAT}
        options = space.options[layer.name].activation
        candidates = [Identity(b) if b in as_it_is else quantizers.activation(b, signed) for b in options]
        return Mixture(candidates, start=start)

    network = Network(
        template.graph,
        make_weight,
        make_input,
        stream_bits=template.stream_bits,
        power_of_two=quantizers.power_of_two,
    )
    network.calibrate_weights()
    return network
