"""One image file as uint8 pixels, or a DataError that names the file and the reason."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps

from bitsmith.data.augment import Augment
from bitsmith.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoder:
    """How image files become pixels of one shape.

    Images are turned upright (EXIF), converted to grey or color and resized bilinearly with antialiasing. Palettes and
    CMYK are converted, transparency is dropped, of an animation or a file of several pages the first frame is taken.

    Args:
        shape: (C, H, W); C = 1 reads in grey, C = 3 in color.
        fit: "stretch" resizes to (H, W) without regard to the aspect ratio; "center" resizes so that the image covers
            8/7 of (H, W) and cuts out the center: 256 and 224 pixels, the usual evaluation on ImageNet.

    Raises:
        DataError: C other than 1 or 3; on use: a file that is damaged, not an image, of more than 8 bits per grey
            pixel, or of more pixels than Pillow takes for sane (a decompression bomb).
    """

    shape: tuple[int, int, int]
    fit: Literal["stretch", "center"] = "stretch"

    def __post_init__(self) -> None:
        if self.shape[0] not in _MODES:
            raise DataError(f"images are read with 1 (grey) or 3 (color) channels, not {self.shape[0]}")

    def read(
        self, path: Path, augment: Augment | None = None, generator: torch.Generator | None = None
    ) -> tuple[np.ndarray, bool]:
        """Pixels uint8 (C, H, W), and whether the file has further frames.

        Args:
            augment, generator: of a resized crop, which is cut out of the whole image; else not used.
        """
        C, H, W = self.shape
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow remarks about odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            try:
                with Image.open(path) as image:
                    if image.mode.startswith(("I", "F")):
                        raise DataError(f"{path} has pixels of more than 8 bits (mode {image.mode}); convert it to 8")
                    more = getattr(image, "n_frames", 1) > 1
                    upright = ImageOps.exif_transpose(image)
                    if upright.mode == "P":  # a palette with transparency converts cleanly only by way of RGBA
                        upright = upright.convert("RGBA")
                    upright = upright.convert(_MODES[C])
                    if augment is not None and augment.resized is not None:
                        assert generator is not None
                        y, x, h, w = augment.box(upright.height, upright.width, generator)
                        # Cut before resizing, so that no pixel from outside the box gets in.
                        fitted = upright.crop((x, y, x + w, y + h)).resize((W, H), Image.Resampling.BILINEAR)
                    elif self.fit == "center":
                        fitted = _center(upright, H, W)
                    else:
                        fitted = upright.resize((W, H), Image.Resampling.BILINEAR)
            except DataError:
                raise
            except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
                raise DataError(
                    f"the image {path} has more pixels than the {Image.MAX_IMAGE_PIXELS:,} that are taken for sane; "
                    "make it smaller"
                ) from error
            except Exception as error:  # Pillow's decoders raise all kinds of exceptions on damaged files
                reason = "it is empty" if path.is_file() and not path.stat().st_size else _reason(error)
                raise DataError(
                    f"the image {path} can't be read ({reason}); remove or repair it, or leave such images out "
                    "with --skip-bad"
                ) from error
        return np.array(fitted).reshape(H, W, C).transpose(2, 0, 1), more


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _center(image: Image.Image, H: int, W: int) -> Image.Image:
    """As torchvision's Resize(8 H / 7) and CenterCrop, for squares and for other shapes."""
    w, h = image.size
    if w * H >= h * W:  # the height is what binds
        tall = H * 8 // 7
        wide = max(W, tall * w // h)
    else:
        wide = W * 8 // 7
        tall = max(H, wide * h // w)
    left, top = round((wide - W) / 2), round((tall - H) / 2)
    return image.resize((wide, tall), Image.Resampling.BILINEAR).crop((left, top, left + W, top + H))
