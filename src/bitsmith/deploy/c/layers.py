"""The constants of a layer with weights: streams of exactly its bits, four bytes per channel, its geometry."""

from __future__ import annotations

import math

import numpy as np

from bitsmith.deploy.c.factors import halves
from bitsmith.deploy.c.fixed import layer_factor
from bitsmith.deploy.c.literals import number
from bitsmith.deploy.c.source import Source, fixed_text, grid_text, window_text
from bitsmith.deploy.operators import Conv, Logits
from bitsmith.deploy.packing import pack_codes, pack_layer
from bitsmith.errors import ExportError
from bitsmith.quantize import Folded

_MOST_TAPS = 121  # of a depthwise kernel that unpacks a band of channels at once


def write_layer(source: Source, place: int, operator: Conv | Logits, x: str, y: str) -> tuple[str, str]:
    """A layer with weights."""
    program, sums = source.program, operator.sums
    folded = sums.folded
    assert folded is not None
    filters, depth, height, width = sums.weight.shape
    grid = program.grids[operator.inputs[0]]
    raw = int((np.abs(sums.weight.astype(np.int64)).reshape(filters, -1).sum(1) * grid.top + np.abs(sums.bias)).max())
    if raw >= 2**31:
        raise ExportError(
            f"layer {operator.layer!r}: its sums can reach {raw} in C code, beyond 32 bits; use fewer weight or "
            "activation bits there"
        )
    taps = height * width
    depthwise = isinstance(folded.bits, int) and depth == 1 and sums.groups == filters and taps <= _MOST_TAPS
    order = source.layout.order.get(operator.inputs[0])
    parts = []
    for chosen, part in folded.parts():
        codes, places = part.codes.reshape(len(chosen), depth, taps), np.arange(len(chosen))
        codes = codes.transpose(0, 2, 1).reshape(len(chosen), -1)  # by row, column and channel
        if depthwise:
            places = places if order is None else order
            codes = codes[places].T
        elif order is not None:
            codes = codes[:, order]
        parts.append(_part(source, place, None if isinstance(folded.bits, int) else chosen, part, codes, places))
    narrow, widths = _narrowing(source, place, operator)
    steps = (
        ", ".join(number(value) for value in (grid.step, folded.layer_scale, folded.granule))
        if source.fpu
        else f"{fixed_text(layer_factor(program, operator))}, {round(math.log2(float(folded.granule)))}"
    )
    listed = source.struct("part", f"parts{place}", f"{{{', '.join(parts)}}}", extent=f"[{len(parts)}]")
    window = window_text(program, operator.name, operator.inputs[0], (height, width), sums.stride, sums.padding,
                     sums.dilation)  # fmt: skip
    out = grid_text(source, operator.name, operator.top if isinstance(operator, Conv) else 0)
    text = (
        f"{{{window}, {depth}, {filters // sums.groups}, {listed}, {len(parts)}, "
        f"{grid.zero_point}, {narrow}, {widths}, {out}, {steps}}}"
    )
    layer = source.struct("conv_layer", f"layer{place}", text)
    kernel = "depthwise" if depthwise else "conv"
    if depthwise:
        source.depthwise_taps = max(source.depthwise_taps, taps)
    source.kernels |= {"nearest", "store", "conv_layer", kernel}
    return layer, f"{kernel}(&{layer}, {x}, {y});"


def _part(
    source: Source, place: int, chosen: np.ndarray | None, part: Folded, codes: np.ndarray, places: np.ndarray
) -> str:
    """The filters of one bit-width (`chosen` of the layer, or all): codes as stored, filter `places[i]` at place i."""
    assert isinstance(part.bits, int)
    assert isinstance(part.odd, bool)
    halves(part.half)  # refuses what C code would read otherwise
    source.bits.add(part.bits)
    name = f"{place}" if chosen is None else f"{place}_{part.bits}bit"
    if part.bits == 8:
        stream, gain, offset, half = (codes * 2**part.shift).astype(np.int8).view(np.uint8), 1, 0, part.half
    else:
        stream, gain, offset = pack_codes(codes, part.bits, odd=part.odd, shift=part.shift)
        half = pack_layer(part).half
    which, first = "0", 0 if chosen is None else int(chosen[0])
    if chosen is not None and (chosen != first + np.arange(len(chosen))).any():
        which = source.array(f"filters{name}", chosen.astype(np.uint16 if source.wide else np.uint8))
    streamed = source.array(f"weights{name}", stream)
    scales = source.array(f"half{name}", half[places].view(np.uint16))
    biases = source.array(f"bias{name}", part.stored_bias[places].astype(np.int16))
    return f"{{{streamed}, {which}, {scales}, {biases}, {first}, {len(places)}, {part.bits}, {gain}, {offset}}}"


def _narrowing(source: Source, place: int, operator: Conv | Logits) -> tuple[str, str]:
    """The tables that bring what a layer reads onto its own grid, and which channel takes which."""
    table = source.layout.fused.get(operator.inputs[0])
    if table is None:
        return "0", "0"
    source.narrows = True
    if table.table.ndim == 1:
        return source.array(f"narrow{place}", table.table), "0"
    source.narrows_maps = True
    tables, which = np.unique(table.table, axis=0, return_inverse=True)
    order = source.layout.order.get(operator.inputs[0])
    which = which.reshape(-1) if order is None else which.reshape(-1)[order]
    return source.array(f"narrow{place}", tables), source.array(f"widths{place}", which.astype(np.uint8))
