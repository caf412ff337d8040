"""What FBNet and FBNet-V2 do in a search where ours differs; `Supernet(as_published=True)`.

Public of "Neural Architecture Search for Low-Precision Neural Networks" (ICANN 2022) is the abstract: bits join
FBNet-V2's space; training at low precision from scratch; shared convolutions; the whole supernet in every step;
forward-and-backward scaling; constraints such as power. How any of it is done is unknown. So "as published" is that
much, with everything else as in the papers that it builds on:

- from FBNet-V2 (arXiv 2004.05565): soft prefix masks of channels by Gumbel-softmax weights; expected channel counts in
  the cost; in each epoch first the weights on 80 % of the data by SGD, then the choices on the other 20 % by Adam;
- from FBNet (arXiv 1812.03443), whose settings FBNet-V2 says it takes: a soft cost in the loss, CE alpha log(cost)^beta
  (eq. 2), in place of budgets; a temperature of 5 e^(-.045 epoch); choices that wait for 10 of 90 epochs; Adam at .01.

Ours in both modes, since nothing is public: which bits, what is shared and how (`parts`), the rule of scaling, one
width per stage, quantizers. Left out: input resolutions, a tenth of ImageNet's classes during search, several
networks drawn from the final probabilities (the most likely one is taken). alpha .2, beta .6 and the decay 5e-4 of
Adam are those of public reimplementations of FBNet; for low precision they are unknown.
"""

from __future__ import annotations

import math

from torch import Tensor

TEMPERATURE, ANNEAL = 5.0, 0.045
ARCHITECTURE_DECAY = 5e-4
_MICRO = {"energy": 1e6, "latency": 1e6}  # joules and seconds are far below 1, where the logarithm is negative
_LEAST = 1e-3  # of the logarithm


def temperature(epoch: int) -> float:
    """5 e^(-.045 epoch); .09 in the last of 90 epochs."""
    return TEMPERATURE * math.exp(-ANNEAL * epoch)


def soft_cost(loss: Tensor, expected: Tensor, cost: str, alpha: float, beta: float) -> Tensor:
    """loss alpha log(cost)^beta, float64; FBNet eq. 2.

    Args:
        loss: cross entropy, a scalar.
        expected: cost, in its base unit; energies count in microjoules, latencies in microseconds (the paper gives no
            unit).

    Example:
        Loss 2 at 1,000,000 bytes, alpha .2, beta .6: 2 x .2 x 13.816^.6 = 1.933.
    """
    logarithm = (expected * _MICRO.get(cost, 1.0)).log().clamp_min(_LEAST)
    return loss.double() * alpha * logarithm**beta
