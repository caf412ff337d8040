"""The solar cells, where the package elpv-dataset is installed; and the message where it isn't."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from bitsmith.data import open_data
from bitsmith.errors import DataError

installed = pytest.mark.skipif(importlib.util.find_spec("elpv_dataset") is None, reason="elpv-dataset isn't installed")


@pytest.fixture(scope="module")
def package():
    """What the package returns, read once: that takes seconds."""
    from elpv_dataset.utils import load_dataset

    return load_dataset()


@pytest.fixture
def cells(package, monkeypatch):
    monkeypatch.setattr("elpv_dataset.utils.load_dataset", lambda: package)
    return open_data("elpv", shape=(1, 32, 32))


@installed
def test_sizes_shares_and_licence(cells):
    assert cells.classes == ("functional", "defective")
    assert len(cells.test) == 656  # a quarter of 2,624
    assert [len(part) for part in (cells.training, cells.validation)] == [1771, 197]
    for part in (cells.train, cells.search, cells.validation, cells.test):
        assert part.labels.double().mean().item() == pytest.approx(821 / 2624, abs=0.01)
    assert len(cells.notes) == 1
    assert "CC BY-NC-SA 4.0" in cells.notes[0]


@installed
def test_pixels_are_those_of_the_package_resized(cells, package):
    images, probability, _ = package
    whole = torch.cat([cells.training.images, cells.validation.images, cells.test.images])
    labels = torch.cat([cells.training.labels, cells.validation.labels, cells.test.labels])
    assert torch.bincount(labels).tolist() == [int((probability <= 0.5).sum()), int((probability > 0.5).sum())]
    # Pillow is the oracle of the resizing; the nearest stored picture must be the one of the same label.
    flat = whole.flatten(1).float()
    for i in range(0, 2624, 400):
        small = np.asarray(Image.fromarray(images[i]).resize((32, 32), Image.Resampling.BILINEAR))
        distance = (flat - torch.tensor(small).flatten().float()).abs().amax(1)
        assert distance.min() <= 1
        assert labels[distance.argmin()] == int(probability[i] > 0.5)


@installed
def test_the_test_split_is_always_the_same(cells):
    other = open_data("elpv", shape=(1, 32, 32), seed=5)
    assert torch.equal(other.test.images, cells.test.images)
    assert not torch.equal(other.validation.images, cells.validation.images)


@installed
def test_color_is_refused():
    with pytest.raises(DataError, match="cells of elpv are grey: give a shape of 1 channel"):
        open_data("elpv", shape=(3, 32, 32))


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "elpv_dataset", None)
    monkeypatch.setitem(sys.modules, "elpv_dataset.utils", None)
    with pytest.raises(DataError, match=r"pip install 'bitsmith\[elpv\]'"):
        open_data("elpv")
