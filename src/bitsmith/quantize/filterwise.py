"""Weights whose filters differ in bits: those of equal bits are quantized together, by the quantizer of these bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast, final

import numpy as np
import torch
from torch import Tensor, nn

from bitsmith.quantize.lsq import LearnedStep
from bitsmith.quantize.quantizer import Quantizer


@final
class FilterWise(Quantizer):
    """One quantizer per bit-width, each for its own filters.

    Args:
        widths: the bits of each filter, 1..8.
        shape: of the weight, filters first.
        make: of (bits, shape of the weight of these filters alone) -> their quantizer.

    Attributes:
        bits: the most of `widths`.
        odd: whether all codes are odd integers; `odds` tells it for each filter.

    Example:
        Filters 0 and 2 on levels -1, 0, 1 with a step each, filter 1 on -7..7:

        >>> FilterWise((2, 4, 2), (3, 8, 3, 3), lambda bits, shape: LsqWeight(bits, shape))
    """

    order: Tensor
    places: Tensor

    def __init__(
        self, widths: Sequence[int], shape: tuple[int, ...], make: Callable[[int, tuple[int, ...]], Quantizer]
    ) -> None:
        super().__init__()
        assert len(widths) == shape[0], f"{len(widths)} bit-widths for {shape[0]} filters"
        self.widths, self.bits = tuple(widths), max(widths)
        self.counts = {bits: self.widths.count(bits) for bits in sorted(set(widths))}
        self.parts = nn.ModuleDict({str(bits): make(bits, (n, *shape[1:])) for bits, n in self.counts.items()})
        order = np.argsort(self.widths, kind="stable")
        self._rising = self.widths == tuple(sorted(self.widths))  # nothing to arrange
        self.register_buffer("order", torch.from_numpy(order), persistent=False)
        self.register_buffer("places", torch.from_numpy(np.argsort(order)), persistent=False)
        self.odds = tuple(self._part(bits).odd for bits in self.widths)
        self.odd = all(self.odds)

    def _part(self, bits: int) -> Quantizer:
        return cast(Quantizer, self.parts[str(bits)])

    def _each(self, x: Tensor) -> list[tuple[Quantizer, Tensor]]:
        """The quantizers with their filters, by rising bits."""
        pieces = (x if self._rising else x[self.order]).split(list(self.counts.values()))
        return [(self._part(bits), piece) for bits, piece in zip(self.counts, pieces, strict=True)]

    def _arranged(self, pieces: list[Tensor], x: Tensor) -> Tensor:
        y = torch.cat(pieces)
        y = y if self._rising else y[self.places]
        channels_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        return y.contiguous(memory_format=torch.channels_last) if channels_last else y

    def forward(self, x: Tensor) -> Tensor:
        return self._arranged([part(piece) for part, piece in self._each(x)], x)

    def noisy(self, x: Tensor, share: float) -> Tensor:
        """As of `LearnedStep`, whose quantizers it must be made of."""
        return self._arranged([cast(LearnedStep, part).noisy(piece, share) for part, piece in self._each(x)], x)

    def codes(self, x: Tensor) -> Tensor:
        return self._arranged([part.codes(piece) for part, piece in self._each(x)], x)

    def step(self, x: Tensor) -> Tensor:
        """One per filter, (filters, 1, ...)."""
        column = (-1, *[1] * (x.ndim - 1))
        steps = [part.step(piece).reshape(column).expand(len(piece), *column[1:]) for part, piece in self._each(x)]
        return torch.cat(steps)[self.places]

    def calibrate(self, x: Tensor) -> None:
        for part, piece in self._each(x):
            part.calibrate(piece)
