"""EBOPs: bit-operations of the multipliers of a network that is unrolled into hardware.

    ebops = sum over weights of  max(1, bw - 1) max(1, ba - s),      s = 1 where activations have a sign, else 0

Every weight has one multiplier, which all positions and all uses of its layer share in time. Its operands are
magnitudes: signs take no bits of a multiplier. Source: effective bit operations of HGQ, Sun et al., arXiv 2405.00645,
which report that they grow as LUT + 55 DSP of what hls4ml builds. Where we differ: a weight counts the bits that its
layer or filter has, before anything is trained; they count those between its own first and last bit that is set, so
that zeros and powers of two are cheaper. So this is an upper bound of theirs, at one multiplier per weight.
"""

from __future__ import annotations

from bitsmith.blueprint import Bits, GridPlan, LayerSpec, NetworkGraph
from bitsmith.cost.additive import Cost
from bitsmith.cost.counts import macs_by_bits


def layer_ebops(layer: LayerSpec, bits: Bits, *, signed: bool) -> int:
    """The EBOPs of a layer.

    Args:
        signed: whether what it reads can be negative.

    Example:
        A 3x3 convolution of 4 to 8 maps at 4-bit weights and 8-bit activations without sign: 288 * 3 * 8 = 6,912.
    """
    positions = layer.macs // layer.weights
    total = sum(
        macs * max(1, weight - 1) * max(1, activation - signed)
        for (weight, activation), macs in macs_by_bits(layer, bits).items()
    )
    return total // positions


def ebops() -> Cost:
    """The cost `ebops`."""
    return Cost(name="ebops", entry=_entry, fixed=_none)


def _entry(graph: NetworkGraph, plan: GridPlan, layer: LayerSpec, bits: Bits) -> float:
    return layer_ebops(layer, bits, signed=plan.reads_signed(layer.name))


def _none(graph: NetworkGraph, plan: GridPlan) -> float:
    return 0.0
