"""Augmentation of uint8 batches: random shift with black borders, random resized crop, random mirror image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bitsmith.errors import DataError

_RATIO = (3 / 4, 4 / 3)  # width to height of a resized crop
_ATTEMPTS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    """Random crop and random horizontal flip, drawn anew for each image.

    A `crop` of p pads each side with p black pixels (value 0, before normalization) and cuts the original size out at
    one of (2p + 1)^2 places, all equally likely; a flip mirrors left and right with probability 1/2.
    Source: He et al. 2016, section 4.2 (crop=4, flip=True for CIFAR-10).

    `resized` cuts out a rectangle of a random share of the area, between the two numbers, with sides of 3:4 to 4:3,
    and resizes it to the original size. Source: Szegedy et al. 2015 (arXiv 1409.4842, section 6), numbers as
    torchvision's RandomResizedCrop: (0.08, 1.0) for ImageNet.

    Args:
        crop: pixels of padding on each side; 0 = no crop.
        flip: whether images are mirrored.
        resized: least and greatest share of the area, 0..1; None = no such crop.

    Raises:
        DataError: a negative crop, both kinds of crop at once, shares outside 0..1.
    """

    crop: int = 0
    flip: bool = False
    resized: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.crop < 0:
            raise DataError(f"the crop of an augmentation can't be negative, got {self.crop}")
        if self.resized is not None:
            if self.crop:
                raise DataError("an augmentation crops after padding or crops and resizes, not both")
            if not 0 < self.resized[0] <= self.resized[1] <= 1:
                raise DataError(f"the shares of a resized crop must rise within 0..1, got {self.resized}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment `images`, uint8 (N, C, H, W), with draws from `generator`; the input is left as it is."""
        if self.resized is not None:
            images = torch.stack([self._resize(image, generator) for image in images])
        return self.shift(images, generator)

    def shift(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Crop and flip alone, for images that are resized crops already."""
        if not self.crop and not self.flip:
            return images
        N, _, H, W = images.shape
        mirrored, top, left = [False] * N, [0] * N, [0] * N
        if self.flip:
            mirrored = torch.randint(2, (N,), generator=generator, dtype=torch.bool).tolist()
        if self.crop:
            top, left = torch.randint(2 * self.crop + 1, (2, N), generator=generator).tolist()
        # Copying windows one by one is two to six times as fast as one gather over all pixels (measured).
        padded, moved = F.pad(images, (self.crop,) * 4).numpy(), np.empty(images.shape, np.uint8)
        for source, target, y, x, mirror in zip(padded, moved, top, left, mirrored, strict=True):
            window = source[:, y : y + H, x : x + W]
            target[:] = window[:, :, ::-1] if mirror else window
        return torch.from_numpy(moved)

    def box(self, H: int, W: int, generator: torch.Generator) -> tuple[int, int, int, int]:
        """(top, left, height, width) of a resized crop from an image of H x W pixels."""
        assert self.resized is not None
        low, high = np.log(_RATIO)
        draws = torch.rand((_ATTEMPTS, 4), generator=generator, dtype=torch.float64).tolist()
        for area, ratio, vertical, horizontal in draws:
            share = self.resized[0] + area * (self.resized[1] - self.resized[0])
            aspect = float(np.exp(low + ratio * (high - low)))
            h, w = round((H * W * share / aspect) ** 0.5), round((H * W * share * aspect) ** 0.5)
            if 0 < h <= H and 0 < w <= W:
                return int(vertical * (H - h + 1)), int(horizontal * (W - w + 1)), h, w
        # No rectangle fitted: the largest central one of an allowed shape.
        h, w = min(H, round(W / _RATIO[0])), min(W, round(H * _RATIO[1]))
        return (H - h) // 2, (W - w) // 2, h, w

    def _resize(self, image: Tensor, generator: torch.Generator) -> Tensor:
        _, H, W = image.shape
        y, x, h, w = self.box(H, W, generator)
        window = image[None, :, y : y + h, x : x + w]
        return F.interpolate(window, (H, W), mode="bilinear", antialias=True)[0]
