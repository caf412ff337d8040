"""Lowering of the input: what arrives, onto the first grid."""

from __future__ import annotations

import numpy as np

from bitsmith.blueprint import InputContract, Node
from bitsmith.deploy.operators import InputQuantize, InputTable, StoredGrid
from bitsmith.errors import ExportError


def input_operator(node: Node, grid: StoredGrid, contract: InputContract) -> InputTable | InputQuantize:
    """The operator of an input node: raw pixels through a table of float32 numbers, or float numbers rounded.

    Raises:
        ExportError: the contract doesn't fit the graph.
    """
    channels = node.shape[0]
    gain, offset = np.asarray(node.gain, np.float32), np.asarray(node.offset, np.float32)
    if contract.kind == "float":
        if not node.gain:
            return InputQuantize(name=node.name, layer=node.name)
        column = (-1, *[1] * (len(node.shape) - 1))
        return InputQuantize(name=node.name, layer=node.name, gain=gain.reshape(column), offset=offset.reshape(column))
    if contract.kind != "uint8" or not len(contract.mean) == len(contract.std) == channels:
        raise ExportError(
            f"the input contract {contract} doesn't fit an input of {channels} channels; "
            'kind is "uint8" with one mean and std per channel, or "float"'
        )
    mean = np.asarray(contract.mean, np.float32)[:, None]
    std = np.asarray(contract.std, np.float32)[:, None]
    pixels = np.arange(256, dtype=np.float32)[None] / np.float32(255)
    numbers = (pixels - mean) / std
    if node.gain:
        numbers = numbers * gain[:, None] + offset[:, None]
    return InputTable(name=node.name, layer=node.name, table=grid.store(numbers))
