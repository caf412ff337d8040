"""Hand-made networks, frozen and lowered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bitsmith.blueprint import Bits, Blueprint, InputContract, NetworkGraph, Node, Norm
from bitsmith.deploy import IntegerProgram, lower
from bitsmith.quantize import Network, build, freeze
from bitsmith.seeding import derive


class Draft:
    """Writes a graph node by node; every method returns the new node's name."""

    def __init__(self, *shape: int) -> None:
        self.nodes = [Node(name="x", op="input", shape=shape)]

    def __getitem__(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    @property
    def last(self) -> str:
        return self.nodes[-1].name

    def put(self, op: Any, shape: tuple[int, ...], *inputs: str, name: str = "", **fields: Any) -> str:
        name = name or f"block{len(self.nodes)}.{op}"
        self.nodes.append(Node(name=name, op=op, inputs=inputs or (self.last,), shape=shape, **fields))
        return name

    def window(self, shape: tuple[int, ...], kernel: int, stride: int, pad: Any, dilation: int = 1) -> dict[str, Any]:
        padding = pad if isinstance(pad, tuple) else (pad,) * 4
        span = (kernel - 1) * dilation + 1
        height = (shape[1] + padding[0] + padding[2] - span) // stride + 1
        width = (shape[2] + padding[1] + padding[3] - span) // stride + 1
        fields = {"kernel": (kernel,) * 2, "stride": (stride,) * 2, "padding": padding, "dilation": (dilation,) * 2}
        return fields | {"size": (height, width)}

    def conv(
        self,
        filters: int,
        kernel: int = 3,
        *,
        source: str = "",
        stride: int = 1,
        pad: Any = None,
        dilation: int = 1,
        norm: bool = True,
        **fields: Any,
    ) -> str:
        source = source or self.last
        padding = kernel // 2 * dilation if pad is None else pad
        fields |= self.window(self[source].shape, kernel, stride, padding, dilation)
        size = fields.pop("size")
        return self.put("conv", (filters, *size), source, norm=Norm() if norm else None, bias=not norm, **fields)

    def same(self, op: str, *inputs: str, **fields: Any) -> str:
        shape = self[inputs[0] if inputs else self.last].shape
        return self.put(op, shape, *inputs, **(fields | ({"norm": Norm()} if op == "affine" else {})))

    def pool(self, op: str, kernel: int, stride: int, pad: Any = 0) -> str:
        shape = self[self.last].shape
        fields = self.window(shape, kernel, stride, pad)
        return self.put(op, (shape[0], *fields.pop("size")), **fields)

    def global_pool(self) -> str:
        shape = self[self.last].shape
        return self.put("avg_pool", (shape[0], 1, 1), kernel=shape[1:], stride=shape[1:])

    def flatten(self) -> str:
        return self.put("flatten", (int(np.prod(self[self.last].shape)),))

    def linear(self, features: int, *, norm: bool = False) -> str:
        return self.put("linear", (features,), bias=not norm, norm=Norm() if norm else None)

    def graph(self) -> NetworkGraph:
        return NetworkGraph(nodes=tuple(self.nodes), output=self.last)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A frozen network with images of its kind."""

    blueprint: Blueprint
    trained: Network
    frozen: Network
    program: IntegerProgram
    images: np.ndarray
    labels: np.ndarray


def make_case(
    graph: NetworkGraph,
    bits: Any = (4, 4),
    *,
    seed: int = 0,
    kind: str = "uint8",
    quantizer: str = "lsq",
    stream_bits: int = 8,
    images: int = 40,
    dead_gain: bool = True,
    change: Callable[[Network], object] = lambda network: None,
) -> Case:
    """A network with random weights and BatchNorm statistics, its steps calibrated on random images.

    Args:
        bits: one (weight, activation) pair for all priced layers, or a list with one for each; 32 = float.
        dead_gain: set the first gain of every BatchNorm to zero and make others negative.
        change: what to do to the network before its steps are calibrated.
    """
    names = [layer.name for layer in graph.layers]
    pairs = [bits] * len(names) if isinstance(bits, tuple) else bits
    channels = graph.input_shape[0]
    contract = InputContract(kind=kind)
    if kind == "uint8":
        contract = replace(contract, mean=(0.48, 0.45, 0.4, 0.5)[:channels], std=(0.22, 0.23, 0.24, 0.2)[:channels])
    blueprint = Blueprint(
        graph=graph,
        bits={name: Bits(weight=w, activation=a) for name, (w, a) in zip(names, pairs, strict=True)},
        quantizer=quantizer,
        stream_bits=stream_bits,
        input=contract,
        classes=tuple(f"class {i}" for i in range(graph.output_shape[0])),
    )
    rng = np.random.default_rng(derive(seed, "images"))
    # Images differ in brightness, contrast and tint, so that even one-bit networks tell them apart.
    light = rng.uniform(0, 255, (images, *graph.input_shape[:1], *[1] * (len(graph.input_shape) - 1)))
    pixels = (light + rng.uniform(5, 90, (images, 1, 1, 1)) * rng.normal(size=(images, *graph.input_shape))).clip(
        0, 255
    )
    pixels = pixels.round().astype(np.uint8)
    x = torch.from_numpy(pixels).float() / 255 if kind == "uint8" else torch.from_numpy(pixels).float() / 64 - 2
    if kind == "uint8":
        shape = (-1, *[1] * (x.ndim - 2))
        x = (x - torch.tensor(contract.mean).reshape(shape)) / torch.tensor(contract.std).reshape(shape)
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "weights"))
        network = build(blueprint)
        with torch.no_grad():
            _randomize(network, x, dead_gain=dead_gain, change=change)
    network.eval()
    frozen = freeze(network, blueprint)
    data = pixels if kind == "uint8" else x.numpy()
    return Case(
        blueprint=blueprint,
        trained=network,
        frozen=frozen,
        program=lower(frozen, blueprint),
        images=data,
        labels=rng.integers(0, graph.output_shape[0], images),
    )


def _randomize(network: Network, x: torch.Tensor, *, dead_gain: bool, change: Callable[[Network], object]) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.3)
            if dead_gain:
                module.weight[1::3] *= -1
                module.weight[0] = 0
    for name, layer in network.priced():
        if layer.bias is not None:
            layer.bias.normal_(0, 0.1)
        if name.endswith("zero"):
            layer.weight[0] = 0
    change(network)
    network.calibrate_weights()
    calibrated = list(network.calibrated())
    for _ in range(2):  # the statistics of BatchNorm, then the steps behind them
        for module in calibrated:
            module.begin()
        network.train()(x)
        for module in calibrated:
            module.end()
    for module in calibrated:
        module.begin()
    network.eval()(x)
    for module in calibrated:
        module.end()


@pytest.fixture(scope="session")
def draft() -> type[Draft]:
    return Draft


@pytest.fixture(scope="session")
def case_of() -> Any:
    return make_case


@pytest.fixture(scope="session")
def residual(draft: type[Draft]) -> NetworkGraph:
    """A small ResNet: identity shortcut, downsampling shortcut, global average pool, linear."""
    d = draft(3, 12, 12)
    d.conv(6)
    start = d.same("relu")
    d.conv(6)
    d.same("relu")
    d.same("add", d.conv(6), start)
    start = d.same("relu")
    d.conv(8, stride=2)
    d.same("relu")
    branch = d.conv(8)
    d.same("add", branch, d.conv(8, 1, source=start, stride=2))
    d.same("relu")
    d.global_pool()
    d.flatten()
    d.linear(5)
    return d.graph()
