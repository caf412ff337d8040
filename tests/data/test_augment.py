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


class TestResized:
    """The resized crop; the oracle is torchvision's RandomResizedCrop."""

    def test_boxes_are_distributed_as_torchvisions(self, full: bool):
        from scipy.stats import ks_2samp
        from torchvision.transforms import RandomResizedCrop

        H, W, count = 80, 120, 4000 if full else 1000
        augment, generator = Augment(resized=(0.08, 1.0)), torch.Generator().manual_seed(3)
        ours = torch.tensor([augment.box(H, W, generator) for _ in range(count)])
        with torch.random.fork_rng():
            torch.manual_seed(4)
            image = torch.empty(3, H, W)
            theirs = torch.tensor(
                [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
            )
        for found in (ours, theirs):
            assert (found[:, 0] + found[:, 2] <= H).all()
            assert (found[:, 1] + found[:, 3] <= W).all()
        for column in range(4):
            assert ks_2samp(ours[:, column].numpy(), theirs[:, column].numpy()).pvalue > 0.001

    @pytest.mark.parametrize(("H", "W"), [(4, 100), (100, 4), (1, 1)])
    def test_where_no_box_fits_the_center_is_taken(self, H, W):
        y, x, h, w = Augment(resized=(1.0, 1.0)).box(H, W, torch.Generator().manual_seed(0))
        assert 0 < h <= H
        assert 0 < w <= W
        assert 2 * y + h in (H, H - 1)
        assert 2 * x + w in (W, W - 1)

    def test_images_in_memory_become_resized_windows(self):
        ramp = torch.arange(32, dtype=torch.uint8).mul(8).expand(16, 1, 32, 32).contiguous()
        generator = torch.Generator().manual_seed(1)
        out = Augment(resized=(0.2, 0.5))(ramp, generator)
        assert out.shape == ramp.shape
        assert out.dtype == torch.uint8
        spans = (out[:, 0, 16, -1].int() - out[:, 0, 16, 0].int()) / 8
        # The width of a window is between sqrt(.2 * 3 / 4) and sqrt(.5 * 4 / 3) of the image's.
        assert spans.min() > 32 * 0.387 - 3
        assert spans.max() < 32 * 0.817 + 1
        assert (out.int().diff(dim=3) >= 0).all()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"resized": (0.0, 1.0)}, "must rise within 0..1"),
            ({"resized": (0.5, 0.4)}, "must rise within 0..1"),
            ({"resized": (0.5, 1.1)}, "must rise within 0..1"),
            ({"resized": (0.5, 1.0), "crop": 2}, "not both"),
        ],
    )
    def test_impossible_ones_are_refused(self, options, message):
        with pytest.raises(DataError, match=message):
            Augment(**options)
