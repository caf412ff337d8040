"""Energy and time of multiply-accumulates at low precision: tables of processors, and one from circuits.

Every layer is rounded up to whole parts (cycles and picoseconds; femtojoules), so that a total is exact and no layer is
priced below its formula. What the formulas leave out, for every model here: what a device draws while it waits, and the
arithmetic of adds, pools and functions, which no published table of bits has. The operators that go unpriced so are
those of `bitsmith.cost.layout.STORED` beside conv and linear; one outside that list is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import final

from bitsmith.blueprint import CLIPS, FLOAT, PRICED, Bits, GridPlan, LayerSpec, NetworkGraph, Node
from bitsmith.cost.additive import Cost, fractional
from bitsmith.cost.counts import macs_by_bits, weights_by_bits
from bitsmith.errors import RecipeError

FEMTOJOULES = 1e15
PICOSECONDS = 1e12
_STREAM_BITS = 8
_ALIASES = frozenset({"flatten", "dropout"})

# (activation bits, weight bits) -> a number
ByBits = Mapping[tuple[int, int], float]


def at_bits(table: ByBits, bits: tuple[int, int], layer: str) -> float:
    """The entry of a table for (weight bits, activation bits); those in between take the next up, as hardware pads.

    Example:
        In a table of 2, 4 and 8 bits w3a5 is priced as w4a8.

    Raises:
        RecipeError: bits above all of the table, such as those of a float layer.
    """
    activation = min((a for a, _ in table if a >= bits[1]), default=None)
    weight = min((w for _, w in table if w >= bits[0]), default=None)
    if activation is None or weight is None:
        most = max(table)
        raise RecipeError(
            f"layer {layer!r} at w{bits[0]}a{bits[1]} has no entry in the target's table, which goes up to "
            f"w{most[1]}a{most[0]}; pin the layer to fewer bits"
        )
    return table[activation, weight]


@final
@dataclass(frozen=True, kw_only=True)
class Cycles:
    """A processor whose speed depends on bits.

    cycles_l = ceil(MACs_l / rate(a_l, w_l)), latency = sum cycles_l / hertz, energy = latency * watts

    and where filters or maps differ in bits, one such term for each pair of bits, as the kernel of each is called.

    Args:
        rates: MACs per cycle; every pair of its activation and weight bits.
        hertz: of its clock.
        watts: drawn while it computes, or None where that isn't known (then there is no energy).

    Example:
        10 MACs at 2.1 a cycle are 5 cycles: 20 ns at 250 MHz, 0.1076 nJ at 5.38 mW.
    """

    rates: ByBits
    hertz: float
    watts: float | None = None

    def latency(self) -> Cost:
        """In seconds; whole picoseconds per layer."""
        return fractional("latency", PICOSECONDS, self._per_cycle(_exactly(PICOSECONDS) / _exactly(self.hertz)))

    def energy(self) -> Cost:
        """In joules; whole femtojoules per layer."""
        assert self.watts is not None
        each = _exactly(FEMTOJOULES) * _exactly(self.watts) / _exactly(self.hertz)
        return fractional("energy", FEMTOJOULES, self._per_cycle(each))

    def _per_cycle(self, each: Fraction) -> Callable[[NetworkGraph, GridPlan, LayerSpec, Bits], float]:
        def entry(graph: NetworkGraph, plan: GridPlan, layer: LayerSpec, bits: Bits) -> float:
            counts = macs_by_bits(layer, bits).items()
            cycles = sum(math.ceil(macs / _exactly(at_bits(self.rates, pair, layer.name))) for pair, macs in counts)
            return math.ceil(cycles * each)

        return entry


@final
@dataclass(frozen=True, kw_only=True)
class PerMac:
    """Energy by a table per multiply-accumulate, and by bytes moved.

    energy_l = MACs_l e(a_l, w_l) + weight bits / 8 weight_byte + activation bits / 8 activation_byte

    with the bits moved as `moved_bits` counts them.

    Args:
        joules: per MAC; every pair of its activation and weight bits.
        weight_byte, activation_byte: joules per byte read or written.
    """

    joules: ByBits
    weight_byte: float = 0.0
    activation_byte: float = 0.0

    def energy(self) -> Cost:
        """In joules; whole femtojoules per layer."""

        def entry(graph: NetworkGraph, plan: GridPlan, layer: LayerSpec, bits: Bits) -> float:
            weights, activations = moved_bits(graph, plan, layer, bits)
            counts = macs_by_bits(layer, bits).items()
            total = sum(macs * _exactly(at_bits(self.joules, pair, layer.name)) for pair, macs in counts)
            total += Fraction(weights, 8) * _exactly(self.weight_byte)
            total += activations / 8 * _exactly(self.activation_byte)
            return math.ceil(total * _exactly(FEMTOJOULES))

        def fixed(graph: NetworkGraph, plan: GridPlan) -> float:
            return math.ceil(
                Fraction(free_bits(graph, plan), 8) * _exactly(self.activation_byte) * _exactly(FEMTOJOULES)
            )

        return fractional("energy", FEMTOJOULES, entry, fixed)


# 45 nm, 0.9 V: M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, fig. 1.1.9.
MULTIPLY_8 = 200  # fJ, 8 by 8 bits; 32 by 32 takes 3100, 15.5 times as much for 16 times the product of bits
ADD_32 = 100  # fJ
SRAM_64 = 10_000  # fJ to read 64 bits of an 8 kB memory


def bitops_energy() -> Cost:
    """Energy from what circuits take: multipliers that grow with both bit-widths, 32-bit sums, and on-chip memory.

    E_l = MACs (200 fJ w a / 64 + 100 fJ) + 156.25 fJ (weight bits + activation bits moved)

    Source: Horowitz, ISSCC 2014, fig. 1.1.9 (45 nm, 0.9 V): an 8-bit multiply 0.2 pJ, a 32-bit add 0.1 pJ, 64 bits of
    an 8 kB SRAM 10 pJ. Ours: the product of bit-widths between its 8- and 32-bit multipliers (3.1 pJ), and one price
    for every memory. It leaves out control and instructions, registers, clock and leakage, larger or off-chip memories
    (a DRAM takes 1.3-2.6 nJ for 64 bits) and data read more than once: good for comparing networks, not for batteries.

    Example:
        1,000 MACs at w2a8, 100 weights, 50 activations read by this layer alone: 1,000 (50 + 100) + 156.25 (200 + 800)
        = 306,250 fJ.
    """
    bit = Fraction(SRAM_64, 64)

    def entry(graph: NetworkGraph, plan: GridPlan, layer: LayerSpec, bits: Bits) -> float:
        products = sum(macs * w * a for (w, a), macs in macs_by_bits(layer, bits).items())
        compute = Fraction(MULTIPLY_8 * products, 64) + layer.macs * ADD_32
        return math.ceil(compute + bit * sum(moved_bits(graph, plan, layer, bits)))

    def fixed(graph: NetworkGraph, plan: GridPlan) -> float:
        return math.ceil(bit * free_bits(graph, plan))

    return fractional("energy", FEMTOJOULES, entry, fixed)


# name -> an energy model that needs no table, for any target
ENERGY_MODELS: dict[str, Callable[[], Cost]] = {"bitops-energy": bitops_energy}


def moved_bits(graph: NetworkGraph, plan: GridPlan, layer: LayerSpec, bits: Bits) -> tuple[int, Fraction]:
    """Bits of weights and of activations that a layer moves, each as if it were moved once.

    Weights are read once per use of the layer, at their bits. Tensors on the layer's own grid (what it reads, and what
    a pool between makes of it) are written and read at its activation bits, or the mean of its maps'; a stream is read
    at 8 bits, or as floats (its writing is in `free_bits`).
    """
    weights, activations = 0, Fraction(0)
    maps = bits.maps(layer)
    stored = sum(count * width for width, count in weights_by_bits(layer, bits).items())
    for use in graph.uses[layer.name]:
        weights += stored
        carrier = plan.reads[use]
        if carrier in plan.direct:
            activations += (
                2 * Fraction(sum(maps), len(maps)) * sum(_elements(node) for node in _written(graph, plan, carrier))
            )
        else:
            read = _elements(graph[graph[use].inputs[0]])
            activations += read * (FLOAT if bits.activation == FLOAT else _STREAM_BITS)
    return weights, activations


def free_bits(graph: NetworkGraph, plan: GridPlan) -> int:
    """Bits of activations moved whatever the layers' bits are: streams at 8 bits, the output at 32.

    Every tensor on a stream is written once; every operator but conv and linear reads its operands once. What is only
    another name of its input (flatten, dropout, a clip that merges) moves nothing.
    """
    total = 0
    for node in graph.nodes:
        reads_own = node.op in PRICED or node.op in _ALIASES or (node.op in CLIPS and plan.is_merged(node))
        if not reads_own:
            streams = [read for read in node.inputs if plan.carrier[read] in plan.stream]
            total += _STREAM_BITS * sum(_elements(graph[read]) for read in streams)
    for carrier in plan.stream:
        total += _STREAM_BITS * sum(_elements(node) for node in _written(graph, plan, carrier))
    return total + FLOAT * _elements(graph[graph.output])


def _written(graph: NetworkGraph, plan: GridPlan, carrier: str) -> list[Node]:
    """The nodes that write tensors on a carrier's grid: itself, and transparent ones after it."""
    return [node for node in graph.nodes if plan.carrier[node.name] == carrier and node.op not in _ALIASES]


def _elements(node: Node) -> int:
    return math.prod(node.shape)


def _exactly(number: float) -> Fraction:
    """A number as it is written: 2.1 is 21/10."""
    return Fraction(repr(float(number)))
