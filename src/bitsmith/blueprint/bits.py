"""Bit-widths of one layer: a number for all of its filters or maps, or one for each."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bitsmith.errors import RunError

if TYPE_CHECKING:
    from bitsmith.blueprint.graph import LayerSpec

FLOAT = 32  # the bit-width that means "not quantized"
MOST = 8

Widths = int | tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bits:
    """Bit-widths of one priced layer: its weights and the activations it reads (1..8, or 32 = float).

    Args:
        weight: of all filters, or of each one; 0 removes a filter.
        activation: of all that the layer reads, or of each map (input channel, or feature of a linear layer).

    Both may also be given as lists or as whole numbers of another kind, such as numpy's; they become ints and tuples.

    Example:
        Widths that are all alike are one number:

        >>> Bits(weight=(2, 2, 2), activation=8)
        Bits(weight=2, activation=8)

    Raises:
        RunError: a bit-width that is no whole number, or out of range.
    """

    weight: Widths
    activation: Widths

    def __post_init__(self) -> None:
        for what, given, least in (("weight", self.weight, 0), ("activation", self.activation, 1)):
            width = given
            if type(given) is not int:
                width = (
                    tuple(_whole(what, w) for w in given) if isinstance(given, list | tuple) else _whole(what, given)
                )
                object.__setattr__(self, what, width)
            if isinstance(width, int):
                if width != FLOAT and not 1 <= width <= MOST:
                    raise RunError(f"{what} bits must be 1..8 (or {FLOAT} for float), got {width}")
                continue
            wrong = [bits for bits in width if not least <= bits <= MOST]
            if wrong or not width:
                each = "filter (0 removes it)" if what == "weight" else "map"
                raise RunError(f"{what} bits must be {least}..8 for each {each}, got {wrong[0] if wrong else 'none'}")
            if len(set(width)) == 1 and width[0]:
                object.__setattr__(self, what, width[0])

    @property
    def weight_widths(self) -> tuple[int, ...]:
        """The different weight bits, rising."""
        return (self.weight,) if isinstance(self.weight, int) else tuple(sorted(set(self.weight)))

    @property
    def activation_widths(self) -> tuple[int, ...]:
        """The different activation bits, rising."""
        return (self.activation,) if isinstance(self.activation, int) else tuple(sorted(set(self.activation)))

    @property
    def is_float(self) -> bool:
        """Whether weights or activations are not quantized."""
        return FLOAT in (self.weight, self.activation)

    def filters(self, layer: LayerSpec) -> tuple[int, ...]:
        """The weight bits of each filter of a layer.

        Raises:
            RunError: some filters are removed, so that the layer is another one.
        """
        self.check(layer)
        if 0 in self.weight_widths:
            raise RunError(f"filters of layer {layer.name!r} are removed; go on with prune(blueprint).blueprint")
        return (self.weight,) * layer.out_channels if isinstance(self.weight, int) else self.weight

    def maps(self, layer: LayerSpec) -> tuple[int, ...]:
        """The activation bits of each map that a layer reads."""
        self.check(layer)
        return (self.activation,) * layer.in_channels if isinstance(self.activation, int) else self.activation

    def pair(self, layer: str) -> tuple[int, int]:
        """Weight and activation bits of a layer that has one number of each.

        Raises:
            RunError: filters or maps differ.
        """
        if isinstance(self.weight, int) and isinstance(self.activation, int):
            return self.weight, self.activation
        what = "maps" if isinstance(self.weight, int) else "filters"
        raise RunError(
            f"the {what} of layer {layer!r} differ in bits, and this takes one number for a whole layer; give it a "
            "blueprint with one, as every method but filters finds"
        )

    def check(self, layer: LayerSpec) -> None:
        """Refuse as many bits as a layer has no filters or maps.

        Raises:
            RunError: naming the layer.
        """
        check_counts(layer, self.weight, self.activation)


def check_counts(layer: LayerSpec, weight: Widths, activation: Widths) -> None:
    """As `Bits.check`, of what has not become `Bits` yet, where equal numbers are still counted."""
    for what, width, things, count in (
        ("weight", weight, "filters", layer.out_channels),
        ("activation", activation, "maps to read", layer.in_channels),
    ):
        if not isinstance(width, int) and len(width) != count:
            raise RunError(f"layer {layer.name!r} has {count} {things}, but {len(width)} {what} bits")


def _whole(what: str, width: Any) -> int:
    try:
        if not isinstance(width, bool):
            return operator.index(width)
    except TypeError:
        pass
    raise RunError(f"{what} bits must be a whole number, or a list of them, got {width!r:.60}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The bit-widths that one priced layer may take: every pair of a weight and an activation bit-width."""

    weight: tuple[int, ...]
    activation: tuple[int, ...]

    def __post_init__(self) -> None:
        for values in (self.weight, self.activation):
            if not values or tuple(sorted(set(values))) != values:
                raise RunError(f"bit-widths must be given once each, in rising order; got {values}")
        for w in self.weight:
            for a in self.activation:
                Bits(weight=w, activation=a)  # checks the range
