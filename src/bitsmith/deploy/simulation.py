"""The torch networks beside the integer program: what they compute, and the first layer where they part.

Whole outputs show whether the frozen network and the program are the same function; rounding that falls to the other
side of a half is carried on from layer to layer, so that few-bit networks part a little without being wrong. So every
layer is also compared by itself: torch gets the integers that the reference's layer read, and its numbers, before they
are rounded, have to lie within half a level of the integers that the reference wrote.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from bitsmith.blueprint import PRICED
from bitsmith.deploy.operators import Operator, StoredGrid
from bitsmith.deploy.program import IntegerProgram
from bitsmith.deploy.reference import trace
from bitsmith.quantize import FrozenLayer, Network
from bitsmith.quantize.layers import apply_free

SLACK = 0.05  # levels beyond the half, for float32 sums; less than 0.002 was measured, at 1 to 8 bits
_NARROWED = 0.01  # of the numbers that a narrowing rounds: ties


@torch.no_grad()
def simulate(network: Network, program: IntegerProgram, images: np.ndarray, batch: int) -> np.ndarray:
    """Outputs of a network in eval mode on normalized pixels, in true float32 on the CPU."""
    network = copy.deepcopy(network).cpu().eval()
    with _full_precision():
        parts = [network(normalized(program, images[i : i + batch])) for i in range(0, len(images), batch)]
    return torch.cat(parts).numpy()


def normalized(program: IntegerProgram, images: np.ndarray) -> torch.Tensor:
    """What the networks read, by the input contract."""
    x = torch.from_numpy(np.array(images))
    if program.input.kind == "float":
        return x
    shape = (-1, *[1] * (x.ndim - 2))
    mean, std = torch.tensor(program.input.mean).reshape(shape), torch.tensor(program.input.std).reshape(shape)
    return x.to(torch.float32).div_(255).sub_(mean).div_(std)


def apart(outputs: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(N,): the largest difference of each image's outputs, as a part of the range of all of the reference's.

    Example:
        >>> apart(np.array([[0.0, 1.0], [2.0, 5.0]]), np.array([[0.0, 1.0], [2.0, 4.0]])).tolist()
        [0.0, 0.25]
    """
    size = float(reference.max() - reference.min()) or float(np.abs(reference).max()) or 1.0
    return np.abs(outputs - reference).reshape(len(reference), -1).max(1) / size


@torch.no_grad()
def first_parting(frozen: Network, program: IntegerProgram, images: np.ndarray) -> tuple[str, str] | None:
    """(layer, description) of the first layer whose torch module computes other numbers than the program's operator."""
    network = copy.deepcopy(frozen).cpu().eval()
    values = trace(program, images)
    for operator in program.operators:
        with _full_precision():
            numbers = _numbers(network, program, operator, values, images)
        if numbers is None:
            continue
        wrong = _wrong(numbers, values[operator.name], program.grids.get(operator.name), getattr(operator, "top", None))
        allowed = _NARROWED * wrong.size if ":" in operator.name else 0
        if wrong.sum() > allowed:
            text = f"layer {operator.layer!r}: {wrong.sum()} of {wrong.size} numbers of the simulation are others"
            return operator.layer, f"{text} than the reference's, from the same input"
    return None


@contextmanager
def _full_precision() -> Iterator[None]:
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _numbers(
    network: Network, program: IntegerProgram, operator: Operator, values: dict[str, np.ndarray], images: np.ndarray
) -> np.ndarray | None:
    """What torch computes, not rounded yet, from the integers that an operator reads."""
    if not operator.inputs:
        x = normalized(program, images)
        return (x * network.gain + network.offset if network.gain.numel() else x).numpy()
    inputs = [
        torch.from_numpy(program.grids[name].load(values[name]) if name in program.grids else values[name])
        for name in operator.inputs
    ]
    if operator.name.endswith(":narrow"):
        layer = network.layer(network.graph[operator.layer].owner)
        quantize = layer.quantize_input if isinstance(layer, FrozenLayer) else None
        return None if quantize is None else quantize(inputs[0]).numpy()
    if ":" in operator.name:  # the same numbers, stored another way
        return inputs[0].numpy()
    node = network.graph[operator.name]
    if node.op in PRICED:
        return network.layer(node.owner)(inputs[0], node).numpy()
    if node.op == "affine":
        return network.layer(node.name)(inputs[0]).numpy()
    return apply_free(node, inputs, training=False).numpy()


def _wrong(numbers: np.ndarray, stored: np.ndarray, grid: StoredGrid | None, top: int | None) -> np.ndarray:
    """Where numbers would not be rounded to what is stored, whichever way a tie goes."""
    if grid is None:
        return ~(np.abs(numbers - stored) <= 1e-4 * np.abs(stored).max(initial=0))  # NaN is wrong
    if grid.is_sign:
        return ((numbers >= 0) != (stored > 0)) & (np.abs(numbers) > 1e-5 * np.abs(numbers).max(initial=0))
    levels = numbers.astype(np.float64) / grid.step + grid.zero_point
    levels = levels.clip(0, grid.top if top is None else top)
    return np.abs(levels - stored) > 0.5 + SLACK
