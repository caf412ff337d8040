"""The searchable network of a precision space: every decision a softmax mixture around one convolution per layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from bitsmith.blueprint import FLOAT, Blueprint, LayerSpec
from bitsmith.quantize import Affine, Identity, Mixture, Network, build, find_quantizers
from bitsmith.space import Precision


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One decision with the mixture that softens it.

    Args:
        layer: the priced layer.
        kind: whether it is about its weights or the activations it reads.
        mixture: its candidates, in the order of the space's options.
    """

    layer: str
    kind: Literal["weight", "activation"]
    mixture: Mixture


def build_mixed(space: Precision, *, start: float = 0.01) -> Network:
    """The network whose layers compute conv(sum_i p_i Q_i(x), sum_j q_j Q_j(W)); one shared weight per layer.

    Args:
        start: first value of every logit.
    """
    template = space.template
    quantizers = find_quantizers(template.quantizer)

    def make_weight(layer: LayerSpec, shape: tuple[int, ...], per_filter: bool) -> nn.Module:
        options = space.options[layer.name].weight
        make = quantizers.weight
        return Mixture([Identity(b) if b == FLOAT else make(b, shape, per_filter) for b in options], start=start)

    def make_input(layer: LayerSpec, signed: bool, narrows: bool) -> nn.Module:
        as_it_is = {FLOAT, template.stream_bits} if narrows else {FLOAT}
        options = space.options[layer.name].activation
        make = quantizers.activation
        return Mixture([Identity(b) if b in as_it_is else make(b, signed) for b in options], start=start)

    network = Network(
        template.graph,
        make_weight,
        make_input,
        stream_bits=template.stream_bits,
        power_of_two=quantizers.power_of_two,
    )
    network.calibrate_weights()
    return network


def decisions(network: Network) -> Iterator[Decision]:
    """Every decision of a mixed network, weights before activations, layers in execution order."""
    for name, layer in network.priced():
        yield Decision(layer=name, kind="weight", mixture=cast(Mixture, layer.quantize_weight))
        yield Decision(layer=name, kind="activation", mixture=cast(Mixture, layer.quantize_input))


def probabilities(network: Network) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Per layer the probabilities of its weight and of its activation options, as `ExpectedCost` takes them."""
    weight, activation = {}, {}
    for decision in decisions(network):
        (weight if decision.kind == "weight" else activation)[decision.layer] = decision.mixture.probabilities()
    return weight, activation


def most_likely(space: Precision, network: Network) -> Blueprint:
    """Each decision at its option of the greatest probability, whatever it costs."""
    weight, activation = probabilities(network)
    rows = [[int(weight[name].argmax()), int(activation[name].argmax())] for name in space.options]
    return space.decode(torch.tensor(rows).numpy())


@torch.no_grad()
def inherit(space: Precision, network: Network, blueprint: Blueprint) -> Mapping[str, Tensor]:
    """The state of `build(blueprint)` with the mixed network's weights, BatchNorms and chosen steps."""
    built = build(blueprint)
    indices = space.encode(blueprint)
    for (name, target), (w, a) in zip(built.priced(), indices, strict=True):
        source = network.layer(name)
        state = {
            key: value
            for key, value in source.state_dict().items()
            if not key.startswith(("quantize_weight.", "quantize_input."))
        }
        for part, index in (("quantize_weight", int(w)), ("quantize_input", int(a))):
            chosen = cast(Mixture, getattr(source, part)).candidates[index]
            state |= {f"{part}.{key}": value for key, value in chosen.state_dict().items()}
        target.load_state_dict(state, strict=True)
    for node in space.template.graph.nodes:
        if node.op == "affine":
            cast(Affine, built.layer(node.name)).load_state_dict(network.layer(node.name).state_dict())
    built.streams.load_state_dict(network.streams.state_dict())
    return built.state_dict()
