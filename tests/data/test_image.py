"""Decoder: pixels as torchvision has them; every kind of file is converted, or refused by name."""

import io
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from bitsmith.data import Augment
from bitsmith.data.image import Decoder
from bitsmith.errors import DataError


def _photo(path, width=61, height=43, seed=0, **options):
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    image.save(path, **options)
    return path


@given(st.integers(20, 90), st.integers(20, 90), st.sampled_from([14, 28, 56]))
def test_center_is_torchvisions_resize_and_center_crop(tmp_path_factory, width, height, side):
    path = _photo(tmp_path_factory.mktemp("image") / "a.png", width, height)
    pixels, _ = Decoder(shape=(3, side, side), fit="center").read(path)
    with Image.open(path) as image:
        wanted = v2.CenterCrop(side)(v2.Resize(side * 8 // 7)(image))
    assert np.array_equal(pixels, np.asarray(wanted).transpose(2, 0, 1))


@pytest.mark.parametrize(("width", "height"), [(200, 30), (30, 200), (64, 48), (3, 2)])
def test_center_of_other_shapes_covers_the_target(tmp_path, width, height):
    path = tmp_path / "a.png"
    Image.new("RGB", (width, height), (7, 8, 9)).save(path)
    pixels, _ = Decoder(shape=(3, 24, 40), fit="center").read(path)
    assert pixels.shape == (3, 24, 40)
    assert pixels.reshape(3, -1).min(1).tolist() == pixels.reshape(3, -1).max(1).tolist() == [7, 8, 9]


def test_a_resized_crop_is_the_box_resized(tmp_path):
    path, augment = _photo(tmp_path / "a.png"), Augment(resized=(0.1, 0.6))
    pixels, _ = Decoder(shape=(3, 20, 30)).read(path, augment, torch.Generator().manual_seed(2))
    y, x, h, w = augment.box(43, 61, torch.Generator().manual_seed(2))
    with Image.open(path) as image:
        wanted = v2.functional.resized_crop(image, y, x, h, w, [20, 30])
    assert np.array_equal(pixels, np.asarray(wanted).transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "RGBX", "P", "1", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_eight_bit_mode_is_converted(tmp_path, mode, channels):
    suffix = "tif" if mode in ("CMYK", "YCbCr", "RGBX") else "png"
    image = Image.new("RGB", (5, 4), (255, 255, 255))
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    image.save(tmp_path / f"a.{suffix}")
    pixels, more = Decoder(shape=(channels, 4, 4)).read(tmp_path / f"a.{suffix}")
    assert pixels.shape == (channels, 4, 4)
    assert pixels.dtype == np.uint8
    assert pixels.min() >= 254
    assert not more


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp", "png"])
def test_the_first_frame_of_several_is_taken_and_told(tmp_path, suffix):
    frames = [Image.new("RGB", (6, 6), color) for color in ("white", "black", "red")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    pixels, more = Decoder(shape=(3, 6, 6)).read(tmp_path / f"a.{suffix}")
    assert more
    assert pixels.min() >= 250


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_grey_is_refused(tmp_path, dtype):
    suffix = "png" if dtype == np.uint16 else "tif"
    Image.fromarray(np.full((4, 4), 4000, dtype)).save(tmp_path / f"deep.{suffix}")
    with pytest.raises(DataError, match=rf"deep\.{suffix} has pixels of more than 8 bits \(mode .*; convert it"):
        Decoder(shape=(1, 4, 4)).read(tmp_path / f"deep.{suffix}")


def test_a_mode_that_pillow_cannot_convert_is_refused(tmp_path):
    Image.new("LAB", (5, 4), (255, 0, 0)).save(tmp_path / "lab.tif")
    with pytest.raises(DataError, match=r"lab\.tif can't be read \(ValueError: conversion from LAB"):
        Decoder(shape=(1, 4, 4)).read(tmp_path / "lab.tif")


@pytest.mark.parametrize("pixels", [70, 150])  # Pillow warns above the limit and raises above twice the limit
def test_decompression_bombs_are_refused(tmp_path, monkeypatch, pixels):
    Image.new("L", (10, pixels // 10)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    with pytest.raises(DataError, match=r"bomb\.png has more pixels than the 60 that are taken for sane"):
        Decoder(shape=(1, 4, 4)).read(tmp_path / "bomb.png")


@pytest.mark.parametrize(("damage", "reason"), [("empty", "it is empty"), ("text", "Unidentified"), ("cut", "truncat")])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_damage_is_named_with_its_reason(tmp_path, damage, reason, suffix):
    path = _photo(tmp_path / f"a.{suffix}", 80, 80)
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"hello, I am no image", "cut": whole[: len(whole) // 2]}[damage])
    with pytest.raises(DataError, match=rf"image .*a\.{suffix} can't be read \(.*{reason}.*--skip-bad"):
        Decoder(shape=(3, 8, 8)).read(path)


@given(st.data())
def test_damaged_bytes_are_an_image_or_a_data_error_and_never_a_warning(tmp_path_factory, data):
    buffer = io.BytesIO()
    suffix = data.draw(st.sampled_from(["png", "jpeg", "gif", "tiff", "webp", "bmp"]))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, suffix)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / f"a.{suffix}"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            pixels, _ = Decoder(shape=(3, 8, 8)).read(path)
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017 - either outcome is fine
        else:
            assert pixels.shape == (3, 8, 8)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png can't be read \(FileNotFoundError"):
        Decoder(shape=(3, 8, 8)).read(tmp_path / "gone.png")
