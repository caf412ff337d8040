"""Noisy measurements of many alike decisions, each believed as far as they differ by more than their noise."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """Losses of options as they can be believed.

    Args:
        losses: name -> [options], each above the mean of its decision's options.
        trust: kind -> how far a single decision's measurement is believed, 0..1; where noise is unknown, 1.
    """

    losses: dict[str, np.ndarray]
    trust: dict[Hashable, float]


def shrink(losses: Mapping[str, np.ndarray], kinds: Mapping[str, Hashable], images: Sequence[int]) -> Shrunk:
    """Losses of options, drawn towards the mean of decisions of their kind.

    With losses l of decision i, option o, batch b, and means over batches weighted by their images,

        d_io = mean_b(l_iob - mean_o l_iob),    m_o = mean_i d_io,    d_io <- m_o + t (d_io - m_o)
        t = max(0, 1 - noise / spread),    spread = sum_io (d_io - m_o)^2 / (O (n - 1))

    over the n decisions of a kind with O options each. The noise is the variance of d_io, from its variance over
    batches. The least of many noisy numbers is too good to be true; what is chosen by these isn't. An empirical Bayes
    estimate: Efron and Morris, Data Analysis Using Stein's Estimator and its Generalizations, JASA 70 (1975).

    Args:
        losses: [options, batches], the same batches for all.
        kinds: of each name; decisions of a kind have equally many options.
        images: in each batch.

    Example:
        Two decisions whose difference is far above the noise stay as they are, less their mean:

        >>> shrink({"a": np.array([[1.0, 1.1], [2.0, 2.1]]), "b": np.array([[1.0, 1.1], [3.0, 3.1]])},
        ...        {"a": 0, "b": 0}, [64, 64]).losses["b"]
        array([-1.,  1.])
    """
    found: dict[str, np.ndarray] = {}
    trust: dict[Hashable, float] = {}
    weights = np.array(images, np.float64) / sum(images)
    for kind in dict.fromkeys(kinds[name] for name in losses):
        names = [name for name in losses if kinds[name] == kind]
        each = np.stack([losses[name] - losses[name].mean(0) for name in names])  # [decisions, options, batches]
        differences = each @ weights
        middle = differences.mean(0)
        trust[kind] = 1.0
        if len(names) > 1 and len(weights) > 1:
            noise = each.var(2, ddof=1).mean() * (weights**2).sum()
            spread = ((differences - middle) ** 2).sum() / (differences.shape[1] * (len(names) - 1))
            trust[kind] = max(0.0, float(1 - noise / spread)) if spread > 0 else 0.0
        believed = middle + trust[kind] * (differences - middle)
        found |= dict(zip(names, believed, strict=True))
    return Shrunk(losses=found, trust=trust)
