"""CIFAR-10, CIFAR-100 and STL-10, as torchvision downloads and reads them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bitsmith.data.raw import Labeled, Raw, Request
from bitsmith.errors import DataError
from bitsmith.files import cache_folder

# Name -> torchvision's subfolder, and the page that offers its archive.
_HOMES = {
    "cifar10": ("cifar-10-batches-py", "https://www.cs.toronto.edu/~kriz/cifar.html"),
    "cifar100": ("cifar-100-python", "https://www.cs.toronto.edu/~kriz/cifar.html"),
    "stl10": ("stl10_binary", "https://cs.stanford.edu/~acoates/stl10/"),
}


def read_downloaded(request: Request) -> Raw:
    """Read cifar10 (50,000 + 10,000 images of 32x32), cifar100 (as many, 100 classes) or stl10 (5,000 + 8,000, 96x96).

    Sources: Krizhevsky 2009; Coates, Ng, Lee 2011. Of STL-10 the labeled images are read, all ten folds of the
    training images together; the unlabeled ones are not used.

    The path is the folder that holds torchvision's subfolder (cifar-10-batches-py, cifar-100-python, stl10_binary) or
    that subfolder itself; without one, the cache folder. Downloaded only on request. torchvision checks the MD5 sum of
    every file, so that what it unpickles is what the authors published.

    Raises:
        DataError: the files are missing or damaged and aren't to be, or can't be, downloaded.
    """
    kind = request.text.partition(":")[0]
    subfolder, page = _HOMES[kind]
    root = request.path or cache_folder()
    if root.name == subfolder:
        root = root.parent
    try:
        train, test, classes = _read(kind, root, request.download)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, zlib.error) as error:
        reason = " ".join(str(error).split())
        tried = f"can't be downloaded ({reason})" if request.download else "is downloaded only on request (--download)"
        raise DataError(
            f"{kind} is not in {root / subfolder}, or its files are damaged, and it {tried}; unpack the archive of "
            f"{page} there, or say where it is: {kind}:PATH"
        ) from error
    return Raw(name=kind, train=train, test=test, classes=classes)


def _read(kind: str, root: Path, download: bool) -> tuple[Labeled, Labeled, tuple[str, ...]]:
    from torchvision import datasets  # slow to import

    if download:
        root.mkdir(parents=True, exist_ok=True)
    if kind == "stl10":
        parts = [datasets.STL10(str(root), split=split, download=download) for split in ("train", "test")]
        train, test = (Labeled(images=torch.tensor(p.data), labels=_labels(p.labels)) for p in parts)
    else:
        make = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[kind]
        parts = [make(str(root), train=train, download=download) for train in (True, False)]
        train, test = (
            Labeled(images=torch.from_numpy(p.data).permute(0, 3, 1, 2).contiguous(), labels=_labels(p.targets))
            for p in parts
        )
    return train, test, tuple(parts[0].classes)


def _labels(values: Sequence[int] | np.ndarray | None) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.int64)
