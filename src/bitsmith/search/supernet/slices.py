"""Slices: the part of a shared network that one blueprint is."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from bitsmith.blueprint import Blueprint, NetworkGraph
from bitsmith.quantize import Stream, build
from bitsmith.search.supernet.block import INPUT, Block
from bitsmith.search.supernet.network import SharedNetwork
from bitsmith.search.supernet.parts import Reader, Shared
from bitsmith.space.mobile_graph import CLASSIFIER, HEAD, STEM


@torch.no_grad()
def slices(network: SharedNetwork, blueprint: Blueprint) -> dict[str, Tensor]:
    """The state of `build(blueprint)` with the shared network's weights: first channels, centre crops, chosen steps.

    In eval mode the built network then computes what the shared one does with the blueprint's choice fixed; BatchNorm's
    statistics are the shared network's own and have to be estimated anew before its accuracy means anything.

    Args:
        network: of a space that has the blueprint.

    Raises:
        RunError: the blueprint is not of the space.
    """
    network.space.encode(blueprint)
    built = build(blueprint).to(network.stem.weight.device, network.stem.weight.dtype)
    for name, layer in built.priced():
        source = _layer(network, name)
        weight_bits, activation_bits = blueprint.bits[name].pair(name)
        layer.weight.copy_(_crop(source.weight, layer.weight))
        if layer.bias is not None:
            layer.bias.copy_(cast(Tensor, source.bias)[: len(layer.bias)])
        if layer.norm is not None:
            _copy(cast(nn.Module, source.norm), layer.norm)
        _copy(_at(source.candidates, weight_bits), cast(nn.Module, layer.quantize_weight))
        if layer.quantize_input is not None:
            _copy(_at(_reader(network, built.graph, name).candidates, activation_bits), layer.quantize_input)
    for carrier in built.grids.stream:
        _copy(_stream(network, blueprint, carrier), built.stream(carrier))
    return built.state_dict()


def _layer(network: SharedNetwork, name: str) -> Shared:
    block, _, part = name.rpartition(".")
    return cast(Shared, getattr(_block(network, block), part) if block else getattr(network, part))


def _block(network: SharedNetwork, name: str) -> Block:
    stage, number = (int(part.lstrip("stageblock")) for part in name.split("."))
    return cast(Block, cast(nn.ModuleList, network.stages[stage - 1])[number - 1])


def _reader(network: SharedNetwork, graph: NetworkGraph, name: str) -> Reader:
    """The reader of what a layer reads in the built network."""
    block, _, part = name.rpartition(".")
    if not block:
        return {STEM: network.stem_in, HEAD: getattr(network, "head_in", None), CLASSIFIER: network.classifier_in}[part]
    found = _block(network, block)
    if part == "excite":
        return found.excite_in
    if part == "expand":
        return found.expand_in
    if part == "depthwise" and f"{block}.expand" not in {node.name for node in graph.nodes}:
        return cast(Reader, found.depthwise_in[INPUT])
    readers = {"depthwise": found.depthwise_in, "squeeze": getattr(found, "squeeze_in", None)}.get(
        part, found.project_in
    )
    return cast(Reader, cast(nn.ModuleDict, readers)[graph[f"{block}.activation"].op])


def _stream(network: SharedNetwork, blueprint: Blueprint, carrier: str) -> Stream:
    """The stream that a carrier writes onto."""
    block, _, part = carrier.rpartition(".")
    description = network.space.description
    if carrier in (STEM, HEAD):  # in front of a function that is no clip
        functions = network.stem_function if carrier == STEM else network.head_function
        return cast(Stream, functions.before[description.activation])
    if block == HEAD:
        return network.head_stream
    if block == STEM:
        return cast(Stream, network.added["0"])
    found, op = _block(network, block), blueprint.graph[f"{block}.activation"].op
    if part in ("project", "add"):
        stage = int(block.split(".")[0].removeprefix("stage"))
        return cast(Stream, network.added[str(network.chains[stage])])
    if part in ("expand", "depthwise"):
        functions = found.expanded if part == "expand" else found.activation
        return cast(Stream, functions.before[op])
    return cast(Stream, found.streams[op if part == "activation" else part])


def _at(candidates: nn.ModuleList, bits: int) -> nn.Module:
    return next(candidate for candidate in candidates if candidate.bits == bits)


def _crop(source: Tensor, like: Tensor) -> Tensor:
    """The first filters and channels, and the centre of the kernel."""
    part = source[: like.shape[0], : like.shape[1]]
    for axis in range(2, like.ndim):
        part = part.narrow(axis, (part.shape[axis] - like.shape[axis]) // 2, like.shape[axis])
    return part


def _copy(source: nn.Module, target: nn.Module) -> None:
    """Take over a module's state, of which the target may have the first channels alone."""
    state = source.state_dict()
    for key, value in target.state_dict().items():
        value.copy_(state[key][: len(value)] if value.ndim else state[key])
