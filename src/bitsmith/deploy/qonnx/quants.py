"""Quant and BipolarQuant nodes: how numbers, maps and weights are put on their grids.

Everything in a QONNX file is float32; a Quant node says which of the numbers are integers times a scale. Grids are
written as they are: b bits unsigned (0..2^b - 1) or signed (-2^(b-1)..2^(b-1) - 1), symmetric weights as narrow ranges,
signs as BipolarQuant, and odd weight codes (+-1, +-3, ... at half the scale) at a zero point of -1/2, which keeps their
bits. A Quant node has one bit-width, so that filters or maps that differ are parts: each has its node, and a Concat and
a Gather bring them into the order of channels again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitsmith.deploy.onnx_writer import Writer
from bitsmith.deploy.operators import Conv, Logits, StoredGrid, Table
from bitsmith.errors import ExportError
from bitsmith.quantize import Folded

DOMAIN = "qonnx.custom_op.general"


def quant(
    writer: Writer,
    source: str,
    target: str,
    *,
    scale: float | np.float32,
    bits: int,
    signed: bool,
    narrow: bool = False,
    zero: float = 0.0,
) -> str:
    """scale * (clip(round(x / scale + zero), of these bits) - zero), round half to even."""
    inputs = [source, *(writer.shared(np.float32(value)) for value in (scale, zero, bits))]
    return writer.node(
        "Quant", inputs, target, domain=DOMAIN, signed=int(signed), narrow=int(narrow), rounding_mode="ROUND"
    )


def signs(writer: Writer, source: str, target: str, scale: float | np.float32) -> str:
    """+-scale; 0 counts as +1."""
    return writer.node("BipolarQuant", [source, writer.shared(np.float32(scale))], target, domain=DOMAIN)


def onto(writer: Writer, source: str, tensor: str, top: int) -> None:
    """Numbers onto a tensor's grid, below a bound that a ReLU6 can have lowered."""
    grid, y = writer.program.grids[tensor], writer.read(tensor)
    if grid.is_sign:
        signs(writer, source, y, grid.step)
        return
    bits = bits_of(grid, tensor)
    clips = top < grid.top
    placed = f"{tensor}.placed" if clips else y
    quant(writer, source, placed, scale=grid.step, bits=bits, signed=grid.zero_point > 0)
    if clips:
        bounds = [writer.shared(np.float32(level) * grid.step) for level in (-grid.zero_point, top - grid.zero_point)]
        writer.node("Clip", [placed, *bounds], y)


def bits_of(grid: StoredGrid, tensor: str) -> int:
    """The bit-width of a grid that is not of signs.

    Raises:
        ExportError: its levels are not those of a Quant node.
    """
    bits = grid.top.bit_length()
    if grid.top != 2**bits - 1 or grid.zero_point not in (0, 2 ** (bits - 1)):
        raise ExportError(
            f"{tensor!r} lies on levels {-grid.zero_point}..{grid.top - grid.zero_point}, which no Quant node has; "
            "export to onnx, or use a quantizer with the levels of its bits"
        )
    return bits


def narrow_maps(writer: Writer, operator: Table, widths: Sequence[int]) -> None:
    """What a layer reads, each map at its own bits: onto the grid of the widest first, then each on its own."""
    name, y = operator.name, writer.read(operator.name)
    grid, most = writer.program.grids[name], max(widths)
    signed = grid.zero_point > 0
    first = quant(writer, writer.read(operator.inputs[0]), f"{name}.widest", scale=grid.step, bits=most, signed=signed)
    parts, order = [], []
    for bits in sorted(set(widths)):
        maps = np.flatnonzero(np.array(widths) == bits)
        order.append(maps)
        part = writer.node("Gather", [first, writer.shared(maps)], f"{name}.maps{bits}", axis=1)
        target, scale = f"{name}.narrow{bits}", grid.step * np.float32(2 ** (most - bits))
        if signed and bits == 1:
            signs(writer, part, target, scale / 2)
        elif bits < most:
            quant(writer, part, target, scale=scale, bits=bits, signed=signed)
        else:
            target = part
        parts.append(target)
    _join(writer, parts, order, name, y, axis=1)


def weights(writer: Writer, operator: Conv | Logits, *, columns: bool) -> str:
    """The name of an operator's integer weights, as Quant nodes give them.

    Args:
        columns: whether a matrix of (inputs, filters) is wanted, else (filters, channels, height, width).
    """
    sums, folded = operator.sums, operator.sums.folded
    assert folded is not None
    name = f"{sums.owner}.weight"
    if name in writer.written:
        return name
    writer.written.add(name)
    pieces = [piece for filters, part in folded.parts() for piece in _pieces(filters, part)]
    targets, order = [], []
    for number, (filters, part, dead) in enumerate(pieces):
        values = sums.weight[filters].astype(np.float32)
        values = values.reshape(len(values), -1).T if columns else values
        whole = len(pieces) == 1
        source = writer.constant(f"{name}.values{'' if whole else number}", np.ascontiguousarray(values))
        target, unit = name if whole else f"{name}{number}", float(2**part.shift)
        assert isinstance(part.bits, int)
        if dead:
            quant(writer, source, target, scale=unit, bits=2, signed=True, narrow=True)
        elif part.bits == 1:
            signs(writer, source, target, unit)
        elif part.odd:
            quant(writer, source, target, scale=2 * unit, bits=part.bits, signed=True, zero=-0.5)
        else:
            quant(writer, source, target, scale=unit, bits=part.bits, signed=True, narrow=True)
        targets.append(target)
        order.append(filters)
    if len(pieces) > 1:
        _join(writer, targets, order, name, name, axis=1 if columns else 0)
    return name


def _pieces(filters: np.ndarray, part: Folded) -> list[tuple[np.ndarray, Folded, bool]]:
    """Filters of one bit-width; those frozen constant by themselves where their grid has no zero: two bits hold it."""
    dead = (part.codes.reshape(len(part.codes), -1) == 0).all(1)
    if not (part.odd or part.bits == 1) or not dead.any():
        return [(filters, part, False)]
    found = [(filters[~dead], part, False), (filters[dead], part, True)]
    return [piece for piece in found if len(piece[0])]


def _join(writer: Writer, parts: list[str], order: list[np.ndarray], name: str, target: str, *, axis: int) -> None:
    joined = writer.node("Concat", parts, f"{name}.parts", axis=axis)
    writer.node("Gather", [joined, writer.shared(np.argsort(np.concatenate(order)))], target, axis=axis)
