"""Readers of whole data sets into uint8 tensors: Fashion-MNIST, digits, folders of .npy files."""

from __future__ import annotations

import gzip
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bitsmith.data.stratify import stratified_draw
from bitsmith.errors import DataError

# Where the Debian package dataset-fashion-mnist puts its files.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Labeled:
    """Images uint8 (N, C, H, W) and their labels int64 (N,)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Raw:
    """A data set as read, before anything is carved out of its training images.

    Args:
        validation: where the source itself has one.
    """

    name: str
    train: Labeled
    test: Labeled
    classes: tuple[str, ...]
    validation: Labeled | None = None


def carve_test(images: Tensor, labels: Tensor) -> tuple[Labeled, Labeled]:
    """Set 20 % aside as test, stratified, by a fixed seed: the same images whatever the user's seed is."""
    test, train = stratified_draw(labels, round(0.2 * len(labels)), 0, "fixed test split")
    return Labeled(images=images[train], labels=labels[train]), Labeled(images=images[test], labels=labels[test])


def read_digits() -> Raw:
    """scikit-learn's 1797 handwritten digits, 8x8, levels 0..16 stretched to 0..255 (UCI, Alpaydin and Kaynak 1998)."""
    from sklearn.datasets import load_digits  # slow to import, and needed here alone

    rows, digits = load_digits(return_X_y=True)
    levels = torch.from_numpy(np.asarray(rows)).to(torch.int64).view(-1, 1, 8, 8)
    images = ((levels * 255 + 8) // 16).to(torch.uint8)
    train, test = carve_test(images, torch.from_numpy(np.asarray(digits)).to(torch.int64))
    return Raw(name="digits", train=train, test=test, classes=tuple("0123456789"))


def read_fashion_mnist() -> Raw:
    """Fashion-MNIST, 60,000 + 10,000 grey images of 28x28 (Xiao et al. 2017, arXiv 1708.07747).

    Read from the Debian package if it is installed, else from torchvision's copy in the cache folder, else downloaded
    there by torchvision.

    Raises:
        DataError: a damaged file, or no copy and no network.
    """
    if DEBIAN_FASHION_MNIST.is_dir():
        train, test = (
            Labeled(
                images=_read_idx(DEBIAN_FASHION_MNIST / f"{part}-images-idx3-ubyte.gz", rank=3)[:, None],
                labels=_read_idx(DEBIAN_FASHION_MNIST / f"{part}-labels-idx1-ubyte.gz", rank=1).to(torch.int64),
            )
            for part in ("train", "t10k")
        )
    else:
        train, test = _fashion_mnist_of_torchvision()
    return Raw(name="fashion-mnist", train=train, test=test, classes=FASHION_CLASSES)


def _fashion_mnist_of_torchvision() -> tuple[Labeled, Labeled]:
    from torchvision.datasets import FashionMNIST

    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bitsmith"
    try:
        parts = [FashionMNIST(str(folder), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError, ValueError, EOFError, zlib.error) as error:
        raise DataError(
            f"Fashion-MNIST is neither in {DEBIAN_FASHION_MNIST} nor in {folder}, and can't be downloaded ({error}); "
            "install it with `apt install dataset-fashion-mnist`, or use --data digits"
        ) from error
    train, test = (Labeled(images=p.data[:, None].contiguous(), labels=p.targets.to(torch.int64)) for p in parts)
    return train, test


def _read_idx(path: Path, *, rank: int) -> Tensor:
    """A gzipped idx file of bytes: two zeros, 8 = unsigned byte, the rank, the sizes as big-endian int32, the data."""
    try:
        data = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; reinstall the package dataset-fashion-mnist") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} can't be read: {error}") from error
    sizes = np.frombuffer(data[4 : 4 + 4 * rank], dtype=">i4").astype(int).tolist()
    body = data[4 + 4 * rank :]
    if data[:4] != bytes((0, 0, 8, rank)) or len(sizes) != rank or len(body) != np.prod(sizes):
        raise DataError(f"{path} is not an idx file of unsigned bytes and rank {rank}, or it is cut off")
    return torch.frombuffer(bytearray(body), dtype=torch.uint8).reshape(sizes)


def read_npy(folder: Path) -> Raw:
    """A folder of train_images.npy, train_labels.npy, test_images.npy, test_labels.npy.

    Images are uint8 (N, H, W, C) or (N, H, W), labels integers (N,) from 0; the highest training label tells the
    number of classes.

    Raises:
        DataError: a file is missing or not a plain array; wrong dtype, rank or length; a label outside the classes;
            train and test images of different sizes.
    """
    train, test = (_read_npy_part(folder, part) for part in ("train", "test"))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"{folder}: training images are {tuple(train.images.shape[1:])} (C, H, W), "
            f"test images {tuple(test.images.shape[1:])}"
        )
    classes = int(train.labels.max()) + 1
    for part, labels in (("train", train.labels), ("test", test.labels)):
        wrong = labels[(labels < 0) | (labels >= classes)]
        if len(wrong):
            raise DataError(f"{folder / f'{part}_labels.npy'}: label {int(wrong[0])} is outside 0..{classes - 1}")
    name = f"npy:{folder.resolve().name}"
    return Raw(name=name, train=train, test=test, classes=tuple(map(str, range(classes))))


def _read_npy_part(folder: Path, part: str) -> Labeled:
    images_file, labels_file = folder / f"{part}_images.npy", folder / f"{part}_labels.npy"
    images, labels = _load_array(images_file), _load_array(labels_file)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(f"{images_file} must be uint8 (N, H, W) or (N, H, W, C), got {images.dtype} {images.shape}")
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise DataError(f"{labels_file} must be integers (N,), got {labels.dtype} {labels.shape}")
    if len(images) != len(labels):
        raise DataError(f"{images_file} holds {len(images)} images, but {labels_file.name} {len(labels)} labels")
    if not images.size:
        raise DataError(f"{images_file} holds no image")
    pixels = torch.from_numpy(images)
    pixels = pixels[:, None] if images.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return Labeled(images=pixels, labels=torch.from_numpy(labels.astype(np.int64)))


def _load_array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; an npy folder holds {{train,test}}_{{images,labels}}.npy") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} can't be read as a plain .npy array: {error}") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} is an archive of arrays, not a plain .npy array")
    return array
