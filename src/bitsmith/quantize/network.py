"""Network: an ordinary trainable module that runs a NetworkGraph.

Parameters keep the names of the user's model where it had them: node "layer1.0.conv1" holds "layer1.0.conv1.weight";
its BatchNorm is "layer1.0.conv1.norm".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from bitsmith.blueprint import FLOAT, PRICED, Bits, Blueprint, GridPlan, LayerSpec, NetworkGraph, Node, plan_grids
from bitsmith.errors import RunError
from bitsmith.quantize.filterwise import FilterWise
from bitsmith.quantize.layers import Affine, Priced, apply_free, input_channels
from bitsmith.quantize.lsq import LearnedStep, Stream
from bitsmith.quantize.mixture import Mixture
from bitsmith.quantize.pairs import find_quantizers
from bitsmith.quantize.quantizer import ActivationQuantizer, Calibrated, Grid, Quantizer

# What a network is made of: (layer, weight shape, per filter?) -> module; (layer, signed, narrows a stream?) -> module.
MakeWeight = Callable[[LayerSpec, tuple[int, ...], bool], nn.Module | None]
MakeInput = Callable[[LayerSpec, bool, bool], nn.Module | None]


class Stepped(nn.Module):
    """A network whose steps are started from weights and from what passes."""

    def calibrated(self) -> Iterator[Calibrated]:
        """Every module whose step is set from activations."""
        for module in self.modules():
            if isinstance(module, Calibrated):
                yield module

    @torch.no_grad()
    def calibrate_weights(self) -> None:
        """Start every weight step from the weights."""
        for layer in self.modules():
            quantizer = layer.quantize_weight if isinstance(layer, Priced) else None
            for module in [] if quantizer is None else _whole(quantizer):
                module.calibrate(cast(Priced, layer).weight)


class Network(Stepped):
    """Runs a graph, one module per node that has parameters, one `Stream` per step group.

    Args:
        graph: the topology.
        make_weight, make_input: give each priced layer its quantizers (None = float).
        stream_bits: 8, or 32 for float streams.
        power_of_two: whether the steps of streams are powers of two.
    """

    gain: Tensor  # of the input, (channels, 1, 1), or empty
    offset: Tensor

    def __init__(
        self,
        graph: NetworkGraph,
        make_weight: MakeWeight,
        make_input: MakeInput,
        *,
        stream_bits: int,
        power_of_two: bool = False,
    ) -> None:
        super().__init__()
        self.graph = graph
        self.grids: GridPlan = plan_grids(graph)
        self.stream_bits = stream_bits
        self.blueprint: Blueprint | None = None  # set by `build`
        specs = {layer.name: layer for layer in graph.layers}
        for node in graph.nodes:
            if node.op in PRICED and not node.shares:
                channels = input_channels(graph, node)
                layer = Priced(node, channels)
                # The classifier has one step, so that its integer logits compare.
                per_filter = self.grids.logits not in graph.uses[node.name]
                layer.quantize_weight = make_weight(specs[node.name], tuple(layer.weight.shape), per_filter)
                layer.quantize_input = make_input(
                    specs[node.name], self.grids.reads_signed(node.name), self.grids.narrows(node.name)
                )
                _attach(self, node.name, layer)
            elif node.op == "affine":
                _attach(self, node.name, Affine(node))
        groups = sorted(set(self.grids.stream.values())) if stream_bits != FLOAT else []
        # Dots would read as module paths.
        self.streams = nn.ModuleDict(
            {group.replace(".", "/"): Stream(stream_bits, power_of_two=power_of_two) for group in groups}
        )
        self._last_read = _last_reads(graph)
        self._rectified = frozenset(node.name for node in graph.nodes if node.op == "relu" and self._is_clipped(node))
        first = graph.nodes[0]
        column = (-1, *[1] * (len(first.shape) - 1))
        self.register_buffer("gain", torch.tensor(first.gain).reshape(column), persistent=False)
        self.register_buffer("offset", torch.tensor(first.offset).reshape(column), persistent=False)
        self.to(memory_format=torch.channels_last)  # a third faster to train on CPU (measured)

    def forward(self, x: Tensor) -> Tensor:
        values: dict[str, Tensor] = {}
        for node in self.graph.nodes:
            if node.op == "input":
                y = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
                y = y * self.gain + self.offset if node.gain else y
            elif node.op in PRICED:
                y = self.layer(node.owner)(values[node.inputs[0]], node)
            elif node.op == "affine":
                y = self.layer(node.name)(values[node.inputs[0]])
            elif node.name in self._rectified:
                y = values[node.inputs[0]]
            else:
                y = apply_free(node, [values[name] for name in node.inputs], training=self.training)
            if self.streams and node.name in self.grids.stream:
                y = self.stream(node.name)(y, self.grids.signed[node.name])
            values[node.name] = y
            for name in self._last_read[node.name]:
                del values[name]
        return values[self.graph.output]

    def _is_clipped(self, node: Node) -> bool:
        """Whether the quantizer behind a ReLU clips at zero all the same, so that the ReLU is left to it."""
        if node.name in self.grids.stream:
            return bool(self.streams)
        reader = self.grids.direct.get(node.name)
        quantizer = cast(Priced, self.layer(reader)).quantize_input if reader else None
        candidates = list(quantizer.candidates) if isinstance(quantizer, Mixture) else [quantizer]
        return all(isinstance(c, LearnedStep) and c.range.lo == 0 for c in candidates)

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
        """The grid that a priced layer reads; where its uses read with and without sign, the range of both."""
        quantizer = cast(Priced, self.layer(layer)).quantize_input
        if isinstance(quantizer, ActivationQuantizer):
            return quantizer.grid()
        read = [self.grid(carrier) for carrier in self.grids.layer_reads[layer]]
        return Grid(step=read[0].step, lo=min(grid.lo for grid in read), hi=max(grid.hi for grid in read))

    @property
    def float_names(self) -> set[str]:
        """The names in its state that a float network of the same graph has: all but what quantizers hold."""
        quantizers = {
            f"{prefix}.{name}"
            for prefix, module in self.named_modules()
            if isinstance(module, Quantizer | Stream | Mixture)
            for name in module.state_dict()
        }
        return set(self.state_dict()) - quantizers

    @torch.no_grad()
    def load_float(self, state: Mapping[str, Tensor]) -> None:
        """Take over the weights and BatchNorms of a float network of the same graph; quantizers keep their steps.

        Args:
            state: the float network's state_dict.

        Raises:
            RunError: the state is of another network.
        """
        own = self.state_dict()
        wrong = sorted(set(state) ^ self.float_names)
        wrong += [name for name in state if name in own and own[name].shape != state[name].shape]
        if wrong:
            raise RunError(f"the float weights are of another network: {', '.join(wrong[:5])} do not fit")
        for name, tensor in state.items():
            own[name].copy_(tensor)
        self.calibrate_weights()


def build(blueprint: Blueprint) -> Network:
    """The trainable network of a blueprint; the same blueprint always builds the same network.

    Weights are newly initialized (torch's global generator); load a state or `train` it. 32 bits build float layers.

    Raises:
        BitsmithError: the blueprint names an unknown quantizer.
        RunError: it has removed filters (`prune` cuts them out), or maps that differ in bits under a quantizer that has
            no levels of their own for them.
    """
    quantizers = find_quantizers(blueprint.quantizer)

    def make_weight(layer: LayerSpec, shape: tuple[int, ...], per_filter: bool) -> nn.Module | None:
        bits = blueprint.bits[layer.name].weight
        if isinstance(bits, int):
            return None if bits == FLOAT else quantizers.weight(bits, shape, per_filter)
        widths = blueprint.bits[layer.name].filters(layer)
        return FilterWise(widths, shape, lambda bits, shape: quantizers.weight(bits, shape, per_filter))

    def make_input(layer: LayerSpec, signed: bool, narrows: bool) -> nn.Module | None:
        bits = blueprint.bits[layer.name].activation
        if not isinstance(bits, int):
            if quantizers.maps is None:
                raise RunError(
                    f"layer {layer.name!r} reads maps that differ in bits, and the quantizer {blueprint.quantizer!r} "
                    "has one number of levels for all of them; take lsq, or one bit-width"
                )
            return quantizers.maps(bits, signed)
        if bits == FLOAT or (narrows and bits == blueprint.stream_bits):
            return None
        return quantizers.activation(bits, signed)

    network = Network(
        blueprint.graph,
        make_weight,
        make_input,
        stream_bits=blueprint.stream_bits,
        power_of_two=quantizers.power_of_two,
    )
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


def _whole(module: nn.Module) -> Iterator[Quantizer]:
    """The quantizers of a whole tensor within a module, not those that they are made of."""
    if isinstance(module, Quantizer):
        yield module
    else:
        for child in module.children():
            yield from _whole(child)


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
