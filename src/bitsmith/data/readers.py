"""Small sets that need no path: scikit-learn's digits, Fashion-MNIST, the solar cells of elpv."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bitsmith.data.raw import Labeled, Raw, Request, carve_test
from bitsmith.data.stratify import stratified_draw
from bitsmith.errors import DataError
from bitsmith.files import cache_folder

# Where the Debian package dataset-fashion-mnist puts its files.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def read_digits(request: Request) -> Raw:
    """scikit-learn's 1797 handwritten digits, 8x8, levels 0..16 stretched to 0..255 (UCI, Alpaydin and Kaynak 1998)."""
    from sklearn.datasets import load_digits  # slow to import, and needed here alone

    rows, digits = load_digits(return_X_y=True)
    levels = torch.from_numpy(np.asarray(rows)).to(torch.int64).view(-1, 1, 8, 8)
    images = ((levels * 255 + 8) // 16).to(torch.uint8)
    train, test = carve_test(Labeled(images=images, labels=torch.from_numpy(np.asarray(digits)).to(torch.int64)))
    return Raw(name="digits", train=train, test=test, classes=tuple("0123456789"))


def read_fashion_mnist(request: Request) -> Raw:
    """Fashion-MNIST, 60,000 + 10,000 grey images of 28x28 (Xiao et al. 2017, arXiv 1708.07747).

    Read from the Debian package if it is installed, else from torchvision's copy in the cache folder, where it is
    downloaded to if the request allows that.

    Raises:
        DataError: a damaged file; no copy and no download.
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
        train, test = _fashion_mnist_of_torchvision(request.download)
    return Raw(name="fashion-mnist", train=train, test=test, classes=FASHION_CLASSES)


def _fashion_mnist_of_torchvision(download: bool) -> tuple[Labeled, Labeled]:
    from torchvision.datasets import FashionMNIST

    folder = cache_folder()
    try:
        parts = [FashionMNIST(str(folder), train=train, download=download) for train in (True, False)]
    except (OSError, RuntimeError, ValueError, EOFError, zlib.error) as error:
        raise DataError(
            f"Fashion-MNIST is neither in {DEBIAN_FASHION_MNIST} nor in {folder}"
            + (
                f", and can't be downloaded ({' '.join(str(error).split())})"
                if download
                else " and is downloaded only if --download is given"
            )
            + "; install it with `apt install dataset-fashion-mnist`, or use --data digits"
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


def read_elpv(request: Request) -> Raw:
    """2,624 electroluminescence images of solar cells, grey, 300x300, resized to the shape; 1x64x64 by default.

    A cell is defective where its annotated probability is above 0.5: 821 of them, so the classes are unbalanced. A
    quarter (656 cells) is the test split, stratified by probability and kind of module, as Deitsch et al. 2019 do
    (Solar Energy 185, doi 10.1016/j.solener.2019.02.067, section 4.1); their own draw is not public, ours is fixed.

    Raises:
        DataError: the package elpv-dataset is missing; another number of channels than 1.
    """
    try:
        from elpv_dataset.utils import load_dataset  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError("the solar cells need the package elpv-dataset; pip install 'bitsmith[elpv]'") from error
    C, H, W = request.shape or (1, 64, 64)
    if C != 1:
        raise DataError(f"the solar cells of elpv are grey: give a shape of 1 channel, such as 1x64x64, not {C}")
    pictures, probability, kind = load_dataset()
    images = torch.from_numpy(np.asarray(pictures))[:, None]
    images = torch.cat([F.interpolate(part, (H, W), mode="bilinear", antialias=True) for part in images.split(256)])
    labels = torch.from_numpy((probability > 0.5).astype(np.int64))
    _, strata = np.unique(np.stack([probability, kind == "mono"]), axis=1, return_inverse=True)
    test, train = stratified_draw(torch.from_numpy(strata.reshape(-1)), round(0.25 * len(labels)), 0, "elpv test split")
    whole = Labeled(images=images, labels=labels)
    return Raw(
        name="elpv",
        train=whole.take(train),
        test=whole.take(test),
        classes=("functional", "defective"),
        notes=(
            "elpv: images by Buerhop-Lutz, Deitsch et al., licensed CC BY-NC-SA 4.0 (no commercial use); "
            "cite doi 10.1016/j.solener.2019.02.067",
        ),
    )
