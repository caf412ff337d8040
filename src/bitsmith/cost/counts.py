"""How many weights and multiply-accumulates of a layer there are at each bit-width, filter by filter and map by map."""

from __future__ import annotations

from collections import Counter

from bitsmith.blueprint import Bits, LayerSpec


def weights_by_bits(layer: LayerSpec, bits: Bits) -> dict[int, int]:
    """Weight bits -> how many weights have them, by rising bits.

    Example:
        A convolution of 3 maps with filters of 3x3 at 2, 8 and 2 bits: {2: 54, 8: 27}.
    """
    if isinstance(bits.weight, int):
        return {bits.weight: layer.weights}
    each = layer.weights // layer.out_channels
    return {width: count * each for width, count in sorted(Counter(bits.filters(layer)).items())}


def macs_by_bits(layer: LayerSpec, bits: Bits) -> dict[tuple[int, int], int]:
    """(weight bits, activation bits) -> how many multiply-accumulates have them, over all uses of the layer.

    Each filter reads the maps of its group.

    Example:
        Two 1x1 filters of 2 bits on two maps of 4 and 8 bits, 64 positions: {(2, 4): 128, (2, 8): 128}.
    """
    if isinstance(bits.weight, int) and isinstance(bits.activation, int):
        return {(bits.weight, bits.activation): layer.macs}
    each = layer.macs * layer.groups // (layer.in_channels * layer.out_channels)
    found: Counter[tuple[int, int]] = Counter()
    for filters, maps, times in groups_by_bits(layer, bits):
        for weight, rows in filters.items():
            for activation, columns in maps.items():
                found[weight, activation] += rows * columns * times * each
    return dict(sorted(found.items()))


def groups_by_bits(layer: LayerSpec, bits: Bits) -> list[tuple[Counter[int], Counter[int], int]]:
    """How many filters of a group, and of the maps that they read, have which bits; and how many groups are such."""
    rows, columns = layer.out_channels // layer.groups, layer.in_channels // layer.groups
    if isinstance(bits.weight, int) and isinstance(bits.activation, int):
        return [(Counter({bits.weight: rows}), Counter({bits.activation: columns}), layer.groups)]
    filters, maps = bits.filters(layer), bits.maps(layer)
    return [
        (Counter(filters[g * rows : (g + 1) * rows]), Counter(maps[g * columns : (g + 1) * columns]), 1)
        for g in range(layer.groups)
    ]
