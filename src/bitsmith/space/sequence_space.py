"""SequenceSpace: whole CNNs as short sequences of layers, as data.

A network is a stem (a 3x3 convolution), a sequence of layers, an average over the map and a classifier. A layer is one
*token* of (operator, kernel, channels, stride, skip, weight bits, activation bits):

- conv: k x k convolution, BatchNorm;
- separable: depthwise k x k, BatchNorm, relu, then 1x1, BatchNorm;
- inverted: 1x1 to `expansion` times the width, BatchNorm, relu, depthwise k x k, BatchNorm, relu, 1x1, BatchNorm;
- max_pool: 3x3, stride 2; it has no other field, and they stand at 0 (stride 2).

`skip` adds an earlier tensor to what the layer computes: 1 the layer's own input, 2 the input of the layer before it,
and so on; 0 none. Behind conv and separable, after the add, comes a relu; an inverted layer ends linear (MobileNetV2,
arXiv 1801.04381).

What may follow what is a rule of a few words, so that it is a mask in every state a sequence can be in
(`bitsmith.space.sequence_automaton`):

- no more layers of stride 2 than `strided` allows, and no fewer at the end;
- no layer narrower than what it reads, unless `narrowing`;
- a skip reaches a tensor of the layer's own output shape.

Budgets are no part of it: they are for whoever searches.

Source: architectures as token sequences in a learned latent space, with a size and an operations limit beside, are from
"Hardware-Aware Bayesian Neural Architecture Search of Quantized CNNs" (IEEE Embedded Systems Letters, 2024); its
vocabulary is not public, this one is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

from bitsmith.blueprint import Bits, Options
from bitsmith.errors import RecipeError, RunError
from bitsmith.space.mobile_space import Stem

LayerOperator = Literal["conv", "separable", "inverted", "max_pool"]
OPERATORS: tuple[LayerOperator, ...] = ("conv", "separable", "inverted", "max_pool")
POOL_KERNEL = 3
STATES, ALPHABET = 5_000, 5_000  # more than that is slow, and no space that an encoder learns


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """One layer.

    Args:
        operator: see above.
        kernel: side length of the k x k or depthwise convolution.
        channels: of the output.
        stride: 1 or 2.
        skip: how many layers back the tensor lies that is added, 0 for none.
        weight_bits, activation_bits: of all its convolutions.
    """

    operator: LayerOperator
    kernel: int = 0
    channels: int = 0
    stride: int = 1
    skip: int = 0
    weight_bits: int = 0
    activation_bits: int = 0

    def __str__(self) -> str:
        """As "conv k3 c16 s2 w4a8" or "separable k5 c32 s1 skip1 w2a8"."""
        if self.operator == "max_pool":
            return "max_pool"
        skip = f" skip{self.skip}" if self.skip else ""
        bits = f"w{self.weight_bits}a{self.activation_bits}"
        return f"{self.operator} k{self.kernel} c{self.channels} s{self.stride}{skip} {bits}"


FIELDS = tuple(Token.__dataclass_fields__)
POOL = Token(operator="max_pool", stride=2)


def canonical(layers: Sequence[Token]) -> tuple[Token, ...]:
    """The layers with every field that has no meaning at its one value; equal networks have equal canonical forms.

    Example:
        >>> canonical([Token(operator="max_pool", kernel=2, channels=16)]) == (POOL,)
        True
    """
    return tuple(POOL if token.operator == "max_pool" else token for token in layers)


@final
@dataclass(frozen=True, kw_only=True)
class SequenceSpace:
    """What a sequence may be, whatever the data; `Sequences` is the space for given data.

    Args:
        stem: width and stride of the first convolution.
        channels: widths of layers.
        layers: fewest and most.
        strided: fewest and most layers of stride 2, pools included.
        operators, kernels: options of a layer.
        skips: how far back an add may reach; must hold 0.
        expansion: hidden width / input width of inverted layers.
        narrowing: whether a layer may be narrower than its input.
        weight_bits, activation_bits: options of every layer.
        ends: bits of stem and classifier.

    Raises:
        RecipeError: something that can't be; the message names the field.

    Example:
        >>> space = SequenceSpace(stem=Stem(channels=4), channels=(4,), layers=(1, 2), strided=(0, 0), kernels=(3,),
        ...     operators=("conv",), skips=(0, 1), weight_bits=(4, 8), activation_bits=(8,))

        holds 4 + 4^2 networks: each layer has 2 skips and 2 weight bits.
    """

    stem: Stem
    channels: tuple[int, ...]
    layers: tuple[int, int] = (1, 6)
    strided: tuple[int, int] = (1, 3)
    operators: tuple[LayerOperator, ...] = OPERATORS
    kernels: tuple[int, ...] = (3, 5)
    skips: tuple[int, ...] = (0, 1, 2)
    expansion: int = 3
    narrowing: bool = False
    weight_bits: tuple[int, ...] = (2, 4, 8)
    activation_bits: tuple[int, ...] = (8,)
    ends: int = 8

    def __post_init__(self) -> None:
        for field, value in (("stem.channels", self.stem.channels), ("expansion", self.expansion)):
            if value < 1:
                raise RecipeError(f"{field}: must be at least 1, got {value}")
        if self.stem.stride not in (1, 2):
            raise RecipeError(f"stem.stride: must be one of 1, 2, got {self.stem.stride}")
        for field, values in (("channels", self.channels), ("kernels", self.kernels), ("skips", self.skips)):
            if not values or list(values) != sorted(set(values)) or values[0] < (field != "skips"):
                raise RecipeError(f"{field}: options must be positive, once each and rising, got {list(values)}")
        if self.skips[0] != 0:
            raise RecipeError(f"skips: must hold 0, a layer without one, got {list(self.skips)}")
        for kernel in self.kernels:
            if kernel % 2 == 0:
                raise RecipeError(f"kernels: must be odd, got {kernel}")
        if not self.operators or len(set(self.operators)) != len(self.operators):
            raise RecipeError(f"operators: at least one, each once, got {list(self.operators)}")
        for operator in self.operators:
            if operator not in OPERATORS:
                raise RecipeError(f"operators: must be of {', '.join(OPERATORS)}, got {operator}")
        if not self.narrowing and self.channels[0] < self.stem.channels:
            raise RecipeError(
                f"channels: {self.channels[0]} is narrower than the stem ({self.stem.channels}), so no layer can have "
                "it; leave it out, narrow the stem, or write narrowing: yes"
            )
        self._check_counts()
        try:
            Options(weight=self.weight_bits, activation=self.activation_bits)
            Bits(weight=self.ends, activation=self.ends)
        except RunError as error:
            raise RecipeError(f"the bits of the space: {error}") from error
        if len(self.tokens) > ALPHABET:
            raise RecipeError(f"{len(self.tokens):,} different layers are more than {ALPHABET:,}; allow fewer options")

    def _check_counts(self) -> None:
        for field, (least, most), lowest in (("layers", self.layers, 1), ("strided", self.strided, 0)):
            if not lowest <= least <= most:
                raise RecipeError(f"{field}: fewest and most must rise from {lowest} on, got {least}..{most}")
        if self.strided[0] > self.layers[1]:
            raise RecipeError(f"strided: {self.strided[0]} layers of stride 2 don't fit in {self.layers[1]} layers")
        if self.operators == ("max_pool",) and self.layers[0] > self.strided[1]:
            raise RecipeError("operators: pools alone are no more layers than strided allows; add conv")

    @property
    def tokens(self) -> tuple[Token, ...]:
        """Every layer that there may be, in a fixed order; token number 0 is the end, so these count from 1."""
        found: list[Token] = []
        for operator in self.operators:
            if operator == "max_pool":
                found += [POOL] if self.strided[1] else []
                continue
            shapes = [(1, skip) for skip in self.skips] + ([(2, 0)] if self.strided[1] else [])
            found += [
                Token(
                    operator=operator,
                    kernel=kernel,
                    channels=channels,
                    stride=stride,
                    skip=skip,
                    weight_bits=weight,
                    activation_bits=activation,
                )
                for kernel in self.kernels
                for channels in self.channels
                for stride, skip in shapes
                for weight in self.weight_bits
                for activation in self.activation_bits
            ]
        return tuple(found)
