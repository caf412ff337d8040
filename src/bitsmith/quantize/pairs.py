"""Which quantizers a network is made of: one for weights and one for activations, under a name.

lsq             learned steps (LSQ); the default
lsq-pow2        the same with every step a power of two: input, activation, stream and weight steps, as hls4ml and FINN
                want them. The scale of a layer with BatchNorm is not one, since BatchNorm's gain is folded into it.
pact            activations clipped at a learned bound (PACT), weights clipped by their moments (SAWB)
nice            learned steps, one for a weight tensor, started at |mean| + 3.45 deviations (NICE)
gaussian        fixed steps times the measured deviation
hwgq            fixed steps for unit variance, as EdMIPS publishes them
hwgq-optimal    the same with the best activation steps for the rounding as it is done
package.module:Name    a QuantizerPair of your own; `bitsmith.testing` has the checks that its quantizers must pass
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from bitsmith.errors import BitsmithError
from bitsmith.quantize.gaussian import GaussianActivation, GaussianWeight
from bitsmith.quantize.lsq import LsqActivation, LsqWeight
from bitsmith.quantize.maps import LsqMaps
from bitsmith.quantize.nice import NiceWeight
from bitsmith.quantize.pact import PactActivation, SawbWeight
from bitsmith.quantize.quantizer import ActivationQuantizer, Quantizer


@dataclass(frozen=True, kw_only=True)
class QuantizerPair:
    """How to make the quantizers of a layer.

    Args:
        weight: of (bits, shape of the weight, whether one step per filter is allowed).
        activation: of (bits, signed).
        power_of_two: whether the streams between layers have steps that are powers of two as well.
        maps: of (bits of each map, signed), where it can give maps bits of their own.

    Example:
        MINE = QuantizerPair(
            weight=lambda bits, shape, per_filter: MyWeight(bits),
            activation=lambda bits, signed: LsqActivation(bits, signed=signed),
        )
        and in a recipe `quantizer: my_package.my_module:MINE`.
    """

    weight: Callable[[int, tuple[int, ...], bool], Quantizer]
    activation: Callable[[int, bool], ActivationQuantizer]
    power_of_two: bool = False
    maps: Callable[[tuple[int, ...], bool], LsqMaps] | None = None

    def odd_bits(self) -> frozenset[int]:
        """The weight bits above one at which codes are odd integers, levels half a step off zero."""
        return frozenset(bits for bits in range(2, 9) if self.weight(bits, (1, 1, 1, 1), False).odd)


QUANTIZERS: dict[str, QuantizerPair] = {
    "lsq": QuantizerPair(
        weight=lambda bits, shape, per_filter: LsqWeight(bits, shape, per_filter=per_filter),
        activation=lambda bits, signed: LsqActivation(bits, signed=signed),
        maps=lambda widths, signed: LsqMaps(widths, signed=signed),
    ),
    "lsq-pow2": QuantizerPair(
        weight=lambda bits, shape, per_filter: LsqWeight(bits, shape, per_filter=per_filter, power_of_two=True),
        activation=lambda bits, signed: LsqActivation(bits, signed=signed, power_of_two=True),
        power_of_two=True,
        maps=lambda widths, signed: LsqMaps(widths, signed=signed, power_of_two=True),
    ),
    "pact": QuantizerPair(
        weight=lambda bits, shape, per_filter: SawbWeight(bits),
        activation=lambda bits, signed: PactActivation(bits, signed=signed),
    ),
    "nice": QuantizerPair(
        weight=lambda bits, shape, per_filter: NiceWeight(bits, shape),
        activation=lambda bits, signed: LsqActivation(bits, signed=signed),
        maps=lambda widths, signed: LsqMaps(widths, signed=signed),
    ),
    "gaussian": QuantizerPair(
        weight=lambda bits, shape, per_filter: GaussianWeight(bits),
        activation=lambda bits, signed: GaussianActivation(bits, signed=signed, unit_variance=False),
    ),
    "hwgq": QuantizerPair(
        weight=lambda bits, shape, per_filter: GaussianWeight(bits),
        activation=lambda bits, signed: GaussianActivation(bits, signed=signed, unit_variance=True),
    ),
    "hwgq-optimal": QuantizerPair(
        weight=lambda bits, shape, per_filter: GaussianWeight(bits),
        activation=lambda bits, signed: GaussianActivation(bits, signed=signed, unit_variance=True, optimal=True),
    ),
}


def find_quantizers(name: str) -> QuantizerPair:
    """The quantizers of a name.

    A blueprint is a file, and no file makes bitsmith import code: "package.module:Name" is found only where somebody
    imported package.module (a recipe that names it does).

    Raises:
        BitsmithError: the name is unknown, its module was not imported, or it is not a QuantizerPair.
    """
    if name in QUANTIZERS:
        return QUANTIZERS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        known = ", ".join(QUANTIZERS)
        raise BitsmithError(f"unknown quantizer {name!r}; known are {known}, or give package.module:Name of your own")
    if module not in sys.modules:
        raise BitsmithError(f"the quantizer {name!r} is not of bitsmith; import {module} first, if you trust it")
    found = getattr(sys.modules[module], attribute, None)
    if not isinstance(found, QuantizerPair):
        raise BitsmithError(f"the quantizer {name!r} must be a bitsmith.quantize.QuantizerPair, got {found!r}")
    return found
