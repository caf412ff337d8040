"""Network: an ordinary trainable module that runs a NetworkGraph.

Parameters keep the names of the user's model where it had them: node "layer1.0.conv1" holds "layer1.0.conv1.weight";
its BatchNorm is "layer1.0.conv1.norm".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from bitsmith.blueprint import FLOAT, PRICED, Bits, Blueprint, GridPlan, LayerSpec, NetworkGraph, plan_grids
from bitsmith.errors import BitsmithError, RunError
from bitsmith.quantize.gaussian import GaussianActivation, GaussianWeight
from bitsmith.quantize.layers import Affine, Priced, apply_free, input_channels
from bitsmith.quantize.lsq import LsqActivation, LsqWeight, Stream
from bitsmith.quantize.mixture import Mixture
from bitsmith.quantize.quantizer import ActivationQuantizer, Calibrated, Grid, Quantizer

WeightFactory = Callable[[int, tuple[int, ...], bool], Quantizer]
ActivationFactory = Callable[[int, bool], ActivationQuantizer]

# name -> (weight quantizer of (bits, shape, per_filter), activation quantizer of (bits, signed))
QUANTIZERS: dict[str, tuple[WeightFactory, ActivationFactory]] = {
    "lsq": (
        lambda bits, shape, per_filter: LsqWeight(bits, shape, per_filter=per_filter),
        lambda bits, signed: LsqActivation(bits, signed=signed),
    ),
    "gaussian": (
        lambda bits, shape, per_filter: GaussianWeight(bits),
        lambda bits, signed: GaussianActivation(bits, signed=signed, unit_variance=False),
    ),
    "hwgq": (
        lambda bits, shape, per_filter: GaussianWeight(bits),
        lambda bits, signed: GaussianActivation(bits, signed=signed, unit_variance=True),
    ),
}

# What a network is made of: (layer, weight shape, per filter?) -> module; (layer, signed, narrows a stream?) -> module.
MakeWeight = Callable[[LayerSpec, tuple[int, ...], bool], nn.Module | None]
MakeInput = Callable[[LayerSpec, bool, bool], nn.Module | None]


class Network(nn.Module):
    """Runs a graph, one module per node that has parameters, one `Stream` per step group.

    Args:
        graph: the topology.
        make_weight, make_input: give each priced layer its quantizers (None = float).
        stream_bits: 8, or 32 for float streams.
    """

    def __init__(
        self, graph: NetworkGraph, make_weight: MakeWeight, make_input: MakeInput, *, stream_bits: int
    ) -> None:
        super().__init__()
        self.graph = graph
        self.grids: GridPlan = plan_grids(graph)
        self.stream_bits = stream_bits
        self.blueprint: Blueprint | None = None  # set by `build`
        specs = {layer.name: layer for layer in graph.layers}
        for node in graph.nodes:
            if node.op in PRICED:
                channels = input_channels(graph, node)
                layer = Priced(node, channels)
                # The classifier has one step, so that its integer logits compare.
                per_filter = node.name != self.grids.logits
                layer.quantize_weight = make_weight(specs[node.name], tuple(layer.weight.shape), per_filter)
                carrier = self.grids.reads[node.name]
                layer.quantize_input = make_input(
                    specs[node.name], self.grids.signed[carrier], self.grids.narrows(node.name)
                )
                _attach(self, node.name, layer)
            elif node.op == "affine":
                _attach(self, node.name, Affine(node))
        groups = sorted(set(self.grids.stream.values())) if stream_bits != FLOAT else []
        # Dots would read as module paths.
        self.streams = nn.ModuleDict({group.replace(".", "/"): Stream(stream_bits) for group in groups})
        self._last_read = _last_reads(graph)
        self.to(memory_format=torch.channels_last)  # a third faster to train on CPU (measured)

    def forward(self, x: Tensor) -> Tensor:
        values: dict[str, Tensor] = {}
        for node in self.graph.nodes:
            if node.op == "input":
                y = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
            elif node.op in PRICED or node.op == "affine":
                y = self.layer(node.name)(values[node.inputs[0]])
            else:
                y = apply_free(node, [values[name] for name in node.inputs], training=self.training)
            if self.streams and node.name in self.grids.stream:
                y = self.stream(node.name)(y, self.grids.signed[node.name])
            values[node.name] = y
            for name in self._last_read[node.name]:
                del values[name]
        return values[self.graph.output]

    def layer(self, name: str) -> nn.Module:
        """The module of a priced or affine node."""
        return self.get_submodule(name)

    def priced(self) -> Iterator[tuple[str, Priced]]:
        """Every priced layer with its name, in execution order."""
        for spec in self.graph.layers:
            yield spec.name, cast(Priced, self.layer(spec.name))

    def stream(self, carrier: str) -> Stream:
        """The stream that a carrier writes onto."""
        return cast(Stream, self.streams[self.grids.stream[carrier].replace(".", "/")])

    def grid(self, carrier: str) -> Grid:
        """The grid that a carrier's output lies on, in a network with one quantizer per layer."""
        if carrier in self.grids.stream:
            return self.stream(carrier).grid(self.grids.signed[carrier])
        return self.input_grid(self.grids.direct[carrier])

    def input_grid(self, layer: str) -> Grid:
        """The grid that a priced layer reads."""
        quantizer = cast(Priced, self.layer(layer)).quantize_input
        if isinstance(quantizer, ActivationQuantizer):
            return quantizer.grid()
        return self.grid(self.grids.reads[layer])

    def calibrated(self) -> Iterator[Calibrated]:
        """Every module whose step is set from activations."""
        for module in self.modules():
            if isinstance(module, Calibrated):
                yield module

    @torch.no_grad()
    def load_float(self, state: Mapping[str, Tensor]) -> None:
        """Take over the weights and BatchNorms of a float network of the same graph; quantizers keep their steps.

        Args:
            state: the float network's state_dict.

        Raises:
            RunError: the state is of another network.
        """
        own = self.state_dict()
        quantizers = {
            f"{prefix}.{name}"
            for prefix, module in self.named_modules()
            if isinstance(module, Quantizer | Stream | Mixture)
            for name in module.state_dict()
        }
        wrong = sorted(set(state) ^ (set(own) - quantizers))
        wrong += [name for name in state if name in own and own[name].shape != state[name].shape]
        if wrong:
            raise RunError(f"the float weights are of another network: {', '.join(wrong[:5])} do not fit")
        for name, tensor in state.items():
            own[name].copy_(tensor)
        self.calibrate_weights()

    @torch.no_grad()
    def calibrate_weights(self) -> None:
        """Start every weight step from the weights."""
        for _, layer in self.priced():
            quantizer = layer.quantize_weight
            for module in [] if quantizer is None else quantizer.modules():
                if isinstance(module, Quantizer):
                    module.calibrate(layer.weight)


def build(blueprint: Blueprint) -> Network:
    """The trainable network of a blueprint; the same blueprint always builds the same network.

    Weights are newly initialized (torch's global generator); load a state or `train` it. 32 bits build float layers.

    Raises:
        BitsmithError: the blueprint names an unknown quantizer.
    """
    if blueprint.quantizer not in QUANTIZERS:
        raise BitsmithError(f"unknown quantizer {blueprint.quantizer!r}; known are {', '.join(QUANTIZERS)}")
    weight_of, activation_of = QUANTIZERS[blueprint.quantizer]

    def make_weight(layer: LayerSpec, shape: tuple[int, ...], per_filter: bool) -> nn.Module | None:
        bits = blueprint.bits[layer.name].weight
        return None if bits == FLOAT else weight_of(bits, shape, per_filter)

    def make_input(layer: LayerSpec, signed: bool, narrows: bool) -> nn.Module | None:
        bits = blueprint.bits[layer.name].activation
        if bits == FLOAT or (narrows and bits == blueprint.stream_bits):
            return None
        return activation_of(bits, signed)

    network = Network(blueprint.graph, make_weight, make_input, stream_bits=blueprint.stream_bits)
    network.blueprint = blueprint
    network.calibrate_weights()
    return network


def float_blueprint(graph: NetworkGraph) -> Blueprint:
    """The blueprint of the same network without any quantization."""
    bits = {layer.name: Bits(weight=FLOAT, activation=FLOAT) for layer in graph.layers}
    return Blueprint(graph=graph, bits=bits, stream_bits=FLOAT)


def _attach(root: nn.Module, path: str, module: nn.Module) -> None:
    """Add a module at a dotted path, making plain containers on the way."""
    *parents, last = path.split(".")
    for name in parents:
        if name not in root._modules:
            root.add_module(name, nn.Module())
        root = cast(nn.Module, root._modules[name])
    root.add_module(last, module)


def _last_reads(graph: NetworkGraph) -> dict[str, tuple[str, ...]]:
    """For each node the tensors that nobody reads after it."""
    last: dict[str, str] = {node.name: node.name for node in graph.nodes}
    for node in graph.nodes:
        for name in node.inputs:
            last[name] = node.name
    last.pop(graph.output)
    found: dict[str, list[str]] = {node.name: [] for node in graph.nodes}
    for name, reader in last.items():
        found[reader].append(name)
    return {name: tuple(names) for name, names in found.items()}
