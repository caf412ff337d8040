"""MobileSpace: a space of mobile networks as data, in the shape of FBNet-V2's.

Stem (a 3x3 convolution), stages of inverted residual blocks, head (a 1x1 convolution), classifier. What is searched:

- per stage one width for all its blocks, and how many blocks there are: the first so many. Widths per block, as in
  FBNet-V2, would put a pair of decisions on every residual add, and skips per block would count one network several
  times (which of three equal blocks is left out makes no difference);
- per block kernel, expansion, squeeze-and-excitation, activation function;
- weight and activation bits, one pair per block or one per convolution. The ends (stem, classifier) have fixed bits.
  The two 1x1 convolutions of a squeeze-and-excitation have the weight bits of their block (of its projection) and
  read activations at the ends' bits: they compute one pixel, but hold many weights.

A block with expansion 1 has no expanding convolution. Hidden widths are expansion times input width, rounded to a
multiple of `divisor` as MobileNet's published code does (never more than 10 % down).

A block adds its input where its stride is 1 and its output has the input's width *whatever is chosen*: every block of a
stage but the first; the first if its stage and what comes before have one width, the same. So which tensors are added
depends on how many blocks there are and on nothing else.

Source: FBNetV2, arXiv 2004.05565, its tables of the search space (kernels 3 and 5, expansions .75 to 4.5 by .75,
squeeze-and-excitation, relu and hard-swish); that bits join it is from the abstract of "Neural Architecture Search for
Low-Precision Neural Networks" (ICANN 2022). Which bits, and one width per stage, are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

from bitsmith.blueprint import Bits, Options
from bitsmith.errors import RecipeError, RunError

Activation = Literal["relu", "relu6", "hard_swish"]
_ACTIVATIONS = ("relu", "relu6", "hard_swish")
BIT_OPTIONS = (2, 3, 4, 8)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage: blocks of one width. Every field but `blocks` and `stride` lists options.

    Args:
        channels: output widths.
        blocks: fewest and most. Fewest may be 0 only where the first block has a residual.
        stride: of the first block.
        kernels: odd side lengths of the depthwise convolution.
        expansions: hidden width / input width.
        squeeze_excite: whether blocks weigh their channels by what they hold on average.
        activations: behind the expanding and the depthwise convolution.
    """

    channels: tuple[int, ...]
    blocks: tuple[int, int] = (1, 1)
    stride: int = 1
    kernels: tuple[int, ...] = (3, 5)
    expansions: tuple[float, ...] = (0.75, 1.5, 2.25, 3.0, 3.75, 4.5)
    squeeze_excite: tuple[bool, ...] = (False, True)
    activations: tuple[Activation, ...] = ("relu", "hard_swish")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Stem:
    """The first convolution, 3x3.

    Args:
        channels: its width.
        stride: 1 or 2.
    """

    channels: int
    stride: int = 1


@final
@dataclass(frozen=True, kw_only=True)
class MobileSpace:
    """What a mobile network may look like, whatever the data; `Mobile` is the space for given data.

    Args:
        head: widths of the 1x1 convolution behind the stages; () for none.
        activation: behind stem and head.
        weight_bits, activation_bits: options of every block and of the head.
        bits: whether a block has one pair of bits, or each of its convolutions its own.
        ends: bits of stem and classifier, and of the activations in squeeze-and-excitation.
        divisor: hidden widths are multiples of it.

    Raises:
        RecipeError: something that can't be; the message names stage and field.

    Example:
        >>> stage = Stage(channels=(8, 16), blocks=(1, 2), expansions=(3.0,), squeeze_excite=(False,))
        >>> space = MobileSpace(stem=Stem(channels=8), stages=(stage,), weight_bits=(2, 8), activation_bits=(8,))

        holds 2 widths x (8 + 8^2) = 144 networks: a block has 2 kernels, 2 activations and 2 weight bits.
    """

    stem: Stem
    stages: tuple[Stage, ...]
    head: tuple[int, ...] = ()
    activation: Activation = "relu"
    weight_bits: tuple[int, ...] = BIT_OPTIONS
    activation_bits: tuple[int, ...] = BIT_OPTIONS
    bits: Literal["block", "layer"] = "block"
    ends: int = 8
    divisor: int = 4

    def __post_init__(self) -> None:
        _at_least_one("stem.channels", self.stem.channels)
        _one_of("stem.stride", self.stem.stride, (1, 2))
        _at_least_one("divisor", self.divisor)
        _one_of("activation", self.activation, _ACTIVATIONS)
        _one_of("bits", self.bits, ("block", "layer"))
        try:
            Options(weight=self.weight_bits, activation=self.activation_bits)
            Bits(weight=self.ends, activation=self.ends)
        except RunError as error:
            raise RecipeError(f"the bits of the space: {error}") from error
        if self.head:
            _rising("head", self.head)
        if not self.stages:
            raise RecipeError("stages: a space needs at least one")
        for number in range(1, len(self.stages) + 1):
            self._check(number)

    def _check(self, number: int) -> None:
        stage, where = self.stages[number - 1], f"stage {number}, "
        _rising(where + "channels", stage.channels)
        _one_of(where + "stride", stage.stride, (1, 2))
        least, most = stage.blocks
        if not 0 <= least <= most or most < 1:
            raise RecipeError(f"{where}blocks: fewest and most must rise from 0 on, and most be 1, got {least}..{most}")
        if least == 0 and not self.adds_first(number):
            raise RecipeError(
                f"{where}blocks: all can't be left out, since the first one changes the shape; "
                "fewest must be 1, unless the stride is 1 and the stage has the one width that its input has"
            )
        _rising(where + "kernels", stage.kernels)
        for kernel in stage.kernels:
            if kernel % 2 == 0:
                raise RecipeError(f"{where}kernels: must be odd, got {kernel}")
        _rising(where + "expansions", stage.expansions)
        _different(where + "squeeze_excite", stage.squeeze_excite)
        _different(where + "activations", stage.activations)
        for activation in stage.activations:
            _one_of(where + "activations", activation, _ACTIVATIONS)
        for width in sorted({*self.input_widths(number), *(stage.channels if most > 1 else ())}):
            taken: dict[int, float] = {}
            for expansion in stage.expansions:
                if expansion == 1:  # no expanding convolution: another network, whatever its width
                    continue
                hidden = self.hidden(width, expansion)
                if hidden in taken:
                    raise RecipeError(
                        f"{where}expansions: {taken[hidden]:g} and {expansion:g} both give {hidden} hidden channels "
                        f"from {width}; leave one out, or lower the divisor ({self.divisor})"
                    )
                taken[hidden] = expansion

    def input_widths(self, number: int) -> tuple[int, ...]:
        """What the first block of a stage may read; stages count from 1."""
        return self.stages[number - 2].channels if number > 1 else (self.stem.channels,)

    def adds_first(self, number: int) -> bool:
        """Whether the first block of a stage adds its input; stages count from 1."""
        stage = self.stages[number - 1]
        return stage.stride == 1 and len(stage.channels) == 1 and stage.channels == self.input_widths(number)

    def hidden(self, width: int, expansion: float) -> int:
        """Hidden channels of a block that reads `width` channels; at expansion 1 the width itself."""
        return width if expansion == 1 else divisible(width * expansion, self.divisor)

    def squeezed(self, hidden: int) -> int:
        """Channels between the two convolutions of a squeeze-and-excitation, a quarter."""
        return divisible(hidden // 4, self.divisor)


def divisible(value: float, divisor: int) -> int:
    """The nearest multiple, at least one, the next one up where the nearest is more than 10 % less (MobileNet's rule).

    Example:
        >>> divisible(18, 8), divisible(20, 8), divisible(1, 8)
        (24, 24, 8)
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def _at_least_one(field: str, value: int) -> None:
    if value < 1:
        raise RecipeError(f"{field}: must be at least 1, got {value}")


def _one_of(field: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise RecipeError(f"{field}: must be one of {', '.join(map(str, allowed))}, got {value}")


def _rising(field: str, values: Sequence[float]) -> None:
    if not values or list(values) != sorted(set(values)) or values[0] <= 0:
        raise RecipeError(f"{field}: options must be positive, once each and rising, got {list(values)}")


def _different(field: str, values: Sequence[object]) -> None:
    if not values or len(set(values)) != len(values):
        raise RecipeError(f"{field}: at least one option, each once, got {list(values)}")
