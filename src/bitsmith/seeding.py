"""One way to derive independent random streams from one seed."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called by `names`, the same on every machine.

    Example:
        >>> derive(0, "split") == derive(0, "split"), derive(0, "split") == derive(0, "train")
        (True, False)
    """
    text = repr((seed, *names)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator for the stream called by `names`."""
    return torch.Generator().manual_seed(derive(seed, *names))


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator for the stream called by `names`."""
    return np.random.default_rng(derive(seed, *names))
