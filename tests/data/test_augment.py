"""Augmentation: against a slow reference that moves one image at a time, and the shares of its draws."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.data import Augment
from bitsmith.errors import DataError


def _moved(image, dy, dx, flip, crop):
    """One image (C, H, W): pad by black, cut at (dy, dx), then mirror; pixel by pixel."""
    _, H, W = image.shape
    out = torch.zeros_like(image)
    for y in range(H):
        for x in range(W):
            from_x = (W - 1 - x) if flip else x
            sy, sx = y + dy - crop, from_x + dx - crop
            if 0 <= sy < H and 0 <= sx < W:
                out[:, y, x] = image[:, sy, sx]
    return out


@given(
    st.integers(0, 3),
    st.booleans(),
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(2, 6), st.integers(2, 7)),
    st.integers(0, 2**31),
)
def test_each_image_is_one_of_the_moves_of_the_slow_reference(crop, flip, size, seed):
    images = torch.randint(1, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    before = images.clone()
    out = Augment(crop=crop, flip=flip)(images, torch.Generator().manual_seed(seed + 1))
    assert out.dtype == torch.uint8
    assert out.shape == images.shape
    assert torch.equal(images, before)
    side = range(2 * crop + 1)
    for image, moved in zip(images, out, strict=True):
        moves = [
            _moved(image, dy, dx, mirror, crop)
            for dy in side
            for dx in side
            for mirror in ((False, True) if flip else (False,))
        ]
        assert any(torch.equal(moved, move) for move in moves)


def test_every_move_is_drawn_about_equally_often():
    # Pixel values name the place, so that each of the 2 * 3 * 3 moves of this image is another picture.
    image = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4)
    n = 18000
    out = Augment(crop=1, flip=True)(image.expand(n, 1, 4, 4), torch.Generator().manual_seed(0))
    moves = [_moved(image[0], dy, dx, f, 1) for dy in range(3) for dx in range(3) for f in (False, True)]
    counts = [int((out == move).flatten(1).all(1).sum()) for move in moves]
    assert sum(counts) == n
    chi_squared = sum((c - n / 18) ** 2 / (n / 18) for c in counts)
    assert chi_squared < 40.8  # 17 degrees of freedom, p = .001


def test_same_generator_state_same_images():
    images = torch.randint(256, (8, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    augment = Augment(crop=2, flip=True)
    first, second, other = (augment(images, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_channels_move_together():
    plane = torch.randint(256, (16, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    out = Augment(crop=3, flip=True)(plane.expand(16, 3, 8, 8), torch.Generator().manual_seed(1))
    assert torch.equal(out[:, 0], out[:, 1])
    assert torch.equal(out[:, 0], out[:, 2])


def test_a_negative_crop_is_refused():
    with pytest.raises(DataError, match="can't be negative, got -1"):
        Augment(crop=-1)
