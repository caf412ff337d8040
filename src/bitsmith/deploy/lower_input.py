"""Lowering of the input: what arrives, onto the first grid, or as numbers where the first layer stays float."""

from __future__ import annotations

import numpy as np

from bitsmith.blueprint import InputContract, Node
from bitsmith.deploy.float_operators import Numbers, Pixels
from bitsmith.deploy.operators import InputQuantize, InputTable, StoredGrid
from bitsmith.deploy.reference_float import compute
from bitsmith.errors import ExportError


def input_operator(node: Node, grid: StoredGrid, contract: InputContract) -> InputTable | InputQuantize:
    """The operator of an input node: raw pixels through a table of float32 numbers, or float numbers rounded.

    Raises:
        ExportError: the contract doesn't fit the graph.
    """
    gain, offset = _line(node)
    if contract.kind == "float":
        return InputQuantize(name=node.name, layer=node.name, gain=gain, offset=offset)
    mean, std = _normalization(node, contract)
    numbers = compute(
        Pixels(name=node.name, layer=node.name, mean=mean, std=std, gain=gain, offset=offset),
        [np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(-1, *[1] * len(node.shape)), (256, *mean.shape))],
    )
    return InputTable(name=node.name, layer=node.name, table=grid.store(numbers.reshape(256, -1).T))


def input_numbers(node: Node, contract: InputContract) -> Pixels | Numbers:
    """The operator of an input node that is read as float32 numbers.

    Raises:
        ExportError: the contract doesn't fit the graph.
    """
    gain, offset = _line(node)
    if contract.kind == "float":
        return Numbers(name=node.name, layer=node.name, gain=gain, offset=offset)
    mean, std = _normalization(node, contract)
    return Pixels(name=node.name, layer=node.name, mean=mean, std=std, gain=gain, offset=offset)


def _line(node: Node) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """gain and offset of an input node, as float32 columns."""
    if not node.gain:
        return None, None
    return _column(node, node.gain), _column(node, node.offset)


def _normalization(node: Node, contract: InputContract) -> tuple[np.ndarray, np.ndarray]:
    channels = node.shape[0]
    if contract.kind != "uint8" or not len(contract.mean) == len(contract.std) == channels:
        raise ExportError(
            f"the input contract {contract} doesn't fit an input of {channels} channels; "
            'kind is "uint8" with one mean and std per channel, or "float"'
        )
    return _column(node, contract.mean), _column(node, contract.std)


def _column(node: Node, values: tuple[float, ...]) -> np.ndarray:
    return np.asarray(values, np.float32).reshape(-1, *[1] * (len(node.shape) - 1))
