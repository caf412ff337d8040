"""Networks with random weights, calibrated on random images: speed and size don't depend on what was learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from bitsmith.blueprint import Bits, Blueprint, InputContract, NetworkGraph
from bitsmith.capture import capture
from bitsmith.data import TensorSplit
from bitsmith.deploy import IntegerProgram, lower
from bitsmith.models import load_model
from bitsmith.quantize import build, freeze
from bitsmith.train import calibrate

SEED = 0
CONTRACT = InputContract(kind="uint8", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
PIXELS = (3, 32, 32)

# (graph) -> bits of every layer with weights.
Choice = Callable[[NetworkGraph], Mapping[str, Bits]]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A lowered network and the images that its ranges come from.

    Args:
        images: (N, 3, H, W) uint8.
        labels: (N,), all 0.
    """

    blueprint: Blueprint
    program: IntegerProgram
    images: np.ndarray
    labels: np.ndarray


def with_inner(bits: Bits) -> Choice:
    """8 bits for the first and the last layer, `bits` for all others."""

    def choose(graph: NetworkGraph) -> Mapping[str, Bits]:
        layers = [layer.name for layer in graph.layers]
        ends = {layers[0], layers[-1]}
        return {name: Bits(weight=8, activation=8) if name in ends else bits for name in layers}

    return choose


def images_of(count: int, shape: tuple[int, int, int] = PIXELS) -> TensorSplit:
    """Random pixels."""
    pixels = np.random.default_rng(SEED).integers(0, 256, (count, *shape), np.uint8)
    return TensorSplit(images=torch.from_numpy(pixels), labels=torch.zeros(count, dtype=torch.int64), contract=CONTRACT)


def sample(model: str, choice: Choice, count: int, *, quantizer: str = "lsq") -> Sample:
    """One of the models at 32 pixels, ten classes.

    Args:
        count: images; the first hundred calibrate.
    """
    module, _ = load_model(model, classes=10, shape=PIXELS, seed=SEED)
    captured = capture(module, PIXELS)
    blueprint = Blueprint(graph=captured.graph, bits=choice(captured.graph), input=CONTRACT, quantizer=quantizer)
    split = images_of(count)
    network = build(blueprint)
    network.load_float(captured.state)
    calibrate(network, split, batches=1, batch_size=100, seed=SEED)
    program = lower(freeze(network.eval(), blueprint), blueprint)
    return Sample(blueprint=blueprint, program=program, images=split.images.numpy(), labels=split.labels.numpy())
