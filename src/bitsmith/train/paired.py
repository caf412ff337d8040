"""How much a changed network differs from the one it was made of, on the same images, and how far that can be believed.

On the same images most of what makes a score vary is common to both networks and falls out of the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bitsmith.errors import DataError, RunError
from bitsmith.seeding import torch_generator
from bitsmith.train.metrics import Metric, accuracy

_GROUPS = 100  # of the jackknife: a standard error within 7 %


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Changed minus as it was, and the standard error of that over images."""

    value: float
    error: float


def paired(measure: Metric, before: Tensor, after: Tensor, labels: Tensor, *, seed: int = 0) -> Difference:
    """The difference of a measure between two networks on the same images.

    Accuracy: with b images that only the first has right, c that only the second has right, of n,

        value = (c - b) / n,    error^2 = (b + c + 1 - (c - b)^2 / (n + 2)) / (n + 2)^2.

    That is the paired standard error with half an image added to each of the four cells (Agresti and Min, Statistics in
    Medicine 24, 2005, 729-740): without it, two networks that differ on no image would differ by 0 +- 0. Anything else
    has the delete-a-group jackknife over g <= 100 random groups of images, d_i the difference without group i:

        error^2 = (g - 1) / g sum_i (d_i - mean d)^2.

    Args:
        measure: (logits, labels) -> a number, such as `Task.score`; losses too.
        before, after: logits (n, classes).
        labels: (n,)
        seed: of the groups.

    Raises:
        RunError: the measure can't be had without some of the images.

    Example:
        Of 100 images 3 become right and 1 wrong: 0.02 +- 0.0218.
    """
    if measure is accuracy:
        right = [(logits.argmax(1) == labels) for logits in (before, after)]
        n, lost, won = len(labels), int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
        square = (lost + won + 1 - (won - lost) ** 2 / (n + 2)) / (n + 2) ** 2
        return Difference(value=(won - lost) / n, error=float(np.sqrt(square)))
    value = float(measure(after, labels)) - float(measure(before, labels))
    if len(labels) < 2:
        raise RunError("a single validation image does not tell how far a difference can be believed; give more")
    groups = torch.randperm(len(labels), generator=torch_generator(seed, "groups")) % _GROUPS
    try:
        without = [_difference(measure, before, after, labels, groups != i) for i in groups.unique().tolist()]
    except DataError as error:
        raise RunError(
            f"how far differences on {len(labels)} validation images can be believed can't be told: without a "
            f"hundredth of them, {error}; give more validation images"
        ) from error
    g = len(without)
    spread = float(np.square(np.array(without) - np.mean(without)).sum())
    return Difference(value=value, error=float(np.sqrt((g - 1) / g * spread)))


def _difference(
    measure: Callable[[Tensor, Tensor], float], before: Tensor, after: Tensor, labels: Tensor, kept: Tensor
) -> float:
    return float(measure(after[kept], labels[kept])) - float(measure(before[kept], labels[kept]))
