"""Augmentation of whole uint8 batches: random shift with black borders, random mirror image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bitsmith.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    """Random crop after padding and random horizontal flip, drawn anew for each image.

    A crop of p pads each side with p black pixels (value 0, before normalization) and cuts the original size out at
    one of (2p + 1)^2 places, all equally likely; a flip mirrors left and right with probability 1/2.
    Source: He et al. 2016, section 4.2 (crop=4, flip=True for CIFAR-10).

    Args:
        crop: pixels of padding on each side; 0 = no crop.
        flip: whether images are mirrored.

    Raises:
        DataError: a negative crop.
    """

    crop: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.crop < 0:
            raise DataError(f"the crop of an augmentation can't be negative, got {self.crop}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment `images`, uint8 (N, C, H, W), with draws from `generator`; the input is left as it is."""
        if not self.crop and not self.flip:
            return images
        N, C, H, W = images.shape
        rows = torch.arange(H).expand(N, H)
        columns = torch.arange(W).expand(N, W)
        if self.flip:
            mirrored = torch.randint(2, (N, 1), generator=generator, dtype=torch.bool)
            columns = torch.where(mirrored, W - 1 - columns, columns)
        if self.crop:
            shifts = torch.randint(2 * self.crop + 1, (2, N, 1), generator=generator)
            rows, columns = rows + shifts[0], columns + shifts[1]
            images = F.pad(images, (self.crop,) * 4)
        # One gather for the whole batch: the place of each output pixel in its padded plane, the same in all channels.
        places = (rows[:, :, None] * images.shape[3] + columns[:, None, :]).view(N, 1, H * W).expand(N, C, H * W)
        return images.flatten(2).gather(2, places).view(N, C, H, W)
