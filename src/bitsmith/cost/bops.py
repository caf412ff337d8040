"""BOPs: bit-operations of products and of the sums that follow, filter by filter.

    bops = sum over filters f of  H W k^2 sum_maps (bw - 1) ba  +  H W (C k^2 - 1) ceil(log2(k^2 sum_maps largest)),
    largest = (2^ba - 1) (2^(bw - 1) - 1)

C is the number of maps that a filter reads, H W that of its outputs: products of ba bits by the bw - 1 bits beside the
sign, and sums in an accumulator that holds the largest of them. Source: Zur, Baskin, Zheltonozhskii et al., arXiv
1904.09872, after UNIQ (Baskin et al., arXiv 1804.10969). Where we differ: weights of one bit are -1 and +1, so that the
largest magnitude is 1 and not 2^0 - 1 = 0; groups count; a filter's bias costs nothing.
"""

from __future__ import annotations

from bitsmith.blueprint import Bits, LayerSpec
from bitsmith.cost.counts import groups_by_bits


def layer_bops(layer: LayerSpec, bits: Bits) -> int:
    """The BOPs of a layer over all its uses.

    Example:
        One filter of 3x3 on two maps at 4 bits, weights of 3 bits, 64 positions: products 64 * 9 * 2 * 2 * 4 = 9,216;
        the largest sum is 2 * 15 * 3 * 9 = 810 < 2^10, so sums take 64 * 17 * 10 = 10,880; 20,096 in all.
    """
    window = layer.kernel[0] * layer.kernel[1]
    positions = layer.macs // layer.weights
    total = 0
    for filters, maps, times in groups_by_bits(layer, bits):
        count = sum(maps.values())
        wires = sum(width * number for width, number in maps.items())
        reach = sum((2**width - 1) * number for width, number in maps.items()) * window
        for weight, number in filters.items():
            largest = reach * max(1, 2 ** (weight - 1) - 1)
            accumulator = (largest - 1).bit_length()  # ceil(log2(largest))
            total += times * number * positions * (window * (weight - 1) * wires + (count * window - 1) * accumulator)
    return total
