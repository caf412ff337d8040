"""Windows of images in numpy, and weighted sums over them in float64."""

from __future__ import annotations

import numpy as np

Pair = tuple[int, int]


def windows(
    x: np.ndarray, kernel: Pair, stride: Pair, padding: tuple[int, int, int, int], dilation: Pair, fill: float
) -> np.ndarray:
    """The windows of padded images: a view of shape (N, C, out height, out width, kernel height, kernel width)."""
    up, left, down, right = padding
    if any(padding):
        x = np.pad(x, ((0, 0), (0, 0), (up, down), (left, right)), constant_values=fill)
    span = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(x, span, axis=(2, 3))
    return view[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


def weighted_sums(
    weight: np.ndarray,
    x: np.ndarray,
    *,
    stride: Pair = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> np.ndarray:
    """A convolution in float64 as (N, filters, positions): exact to 2^53 for integers.

    Args:
        weight: (filters, channels / groups, height, width).
        x: (N, channels, height, width), padded with zeros.
    """
    n = len(x)
    filters, channels, height, width = weight.shape
    view = windows(x, (height, width), stride, padding, dilation, 0)
    positions = view.shape[2] * view.shape[3]
    # One product per group for the whole batch: (C, height, width, N, H, W).
    columns = view.transpose(1, 4, 5, 0, 2, 3).astype(np.float64)
    columns = columns.reshape(groups, channels * height * width, n * positions)
    rows = weight.astype(np.float64).reshape(groups, filters // groups, -1)
    return np.matmul(rows, columns).reshape(filters, n, positions).swapaxes(0, 1)
