"""The score-function gradient of a loss that depends on a draw.

For n ~ Multinomial(N, p), p = softmax(alpha), the slope of log P(n) in alpha is n - N p, so

    d E[L(n)] / d alpha = E[(L(n) - b) (n - N p)]    ~    mean_s (L_s - b_s) (n_s - N p)

for any b that doesn't depend on n. Zur et al. (arXiv 1904.09872) take b = 0: then the mean loss, which says nothing of
the choices, multiplies the noise. Ours is the leave-one-out baseline (Kool, van Hoof, Welling 2019, "Buy 4 REINFORCE
samples, get a baseline for free"), b_s = the mean loss of the other samples: independent of n_s, so still unbiased.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Baseline = Literal["leave-one-out", "none"]


def score_gradient(
    losses: Sequence[float],
    counts: Sequence[Mapping[str, np.ndarray]],
    expected: Mapping[str, np.ndarray],
    *,
    baseline: Baseline,
) -> dict[str, Tensor]:
    """mean_s (L_s - b_s) (n_s - N p) for each layer of `expected`.

    Args:
        losses: L_s, one number per sample.
        counts: n_s, of each sample; layers that `expected` lacks are left out.
        expected: layer -> N p, [choices].
        baseline: "leave-one-out" needs two samples.

    Returns:
        layer -> [choices], float64.

    Example:
        Losses 1 and 3 of n = (2, 0) and (1, 1), N p = (1, 1): the baselines are 3 and 1, the gradient
        (-2 (1, -1) + 2 (0, 0)) / 2 = (-1, 1): more of the first choice, which lost less.
    """
    loss = np.asarray(losses, dtype=np.float64)
    if baseline == "leave-one-out":
        assert len(loss) > 1, "one sample has no others"
        loss = loss - (loss.sum() - loss) / (len(loss) - 1)
    return {
        name: torch.from_numpy(np.mean([w * (n[name] - mean) for w, n in zip(loss, counts, strict=True)], axis=0))
        for name, mean in expected.items()
    }
