"""How much each decision matters: the loss when one decision is set and all others stay as they are."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import islice

import numpy as np
import torch
from scipy.optimize import isotonic_regression

from bitsmith.quantize import Network
from bitsmith.search.mixed import decisions
from bitsmith.space import Precision
from bitsmith.train import Event, Task, Watch, reestimate_norms, silent


@torch.no_grad()
def measure(
    network: Network,
    task: Task,
    *,
    norm_batches: int = 20,
    loss_batches: int = 8,
    batch_size: int = 128,
    seed: int = 0,
    stage: str = "sensitivities",
    watch: Watch = silent,
) -> dict[str, dict[str, list[float]]]:
    """Measured sensitivities of a mixed network.

    For every decision and option: the option alone, all other decisions as mixed as they are; BatchNorm statistics
    re-estimated on train data for just this network (with the mixture's own statistics the measure is noise); then the
    mean loss on the same batches of search data.

    Returns:
        layer -> {"weight": loss per option, "activation": loss per option}; decisions with one option have 0.
    """
    trial = copy.deepcopy(network)
    data = task.data
    device = next(trial.parameters()).device
    held = list(islice(data.search.batches(batch_size=batch_size, seed=seed), loss_batches))
    todo = sum(len(d.mixture.candidates) for d in decisions(trial) if len(d.mixture.candidates) > 1)
    done = 0
    found: dict[str, dict[str, list[float]]] = {}
    for decision in decisions(trial):
        losses = [0.0] * len(decision.mixture.candidates)
        for option in range(len(losses) if len(losses) > 1 else 0):
            decision.mixture.fixed = option
            reestimate_norms(trial, data.train, batches=norm_batches, batch_size=batch_size, seed=seed)
            trial.eval()
            values = [float(task.compute_loss(trial(x.to(device)), y.to(device), smooth=False)) for x, y in held]
            losses[option] = float(np.mean(values))
            done += 1
            watch(Event(stage=stage, step=done, steps=todo, images=(norm_batches + loss_batches) * batch_size))
        decision.mixture.fixed = None
        found.setdefault(decision.layer, {})[decision.kind] = losses
    return found


def to_penalties(space: Precision, losses: Mapping[str, Mapping[str, list[float]]]) -> dict[str, np.ndarray]:
    """Penalties for `allocate`: per decision the loss above its highest bits, made monotone, weights plus activations.

    Monotone by isotonic regression: more bits never count as worse, and noise is averaged rather than believed. What
    that leaves equal is decided by the power of rounding noise, 4^-b, at a hundredth of the largest penalty, so that no
    budget is left unused.

    Returns:
        layer -> float64 [weight options, activation options].
    """
    falling = {
        (name, kind): isotonic_regression(np.array(losses[name][kind]), increasing=False).x
        for name in space.options
        for kind in ("weight", "activation")
    }
    largest = max(float(values[0] - values[-1]) for values in falling.values())
    noise = 0.01 * max(largest, 1e-3)
    penalties = {}
    for name, options in space.options.items():
        parts = []
        for kind, bits in (("weight", options.weight), ("activation", options.activation)):
            values = falling[name, kind]
            power = 4.0 ** -np.array(bits, dtype=np.float64)
            parts.append(values - values[-1] + noise * (power - power[-1]))
        penalties[name] = parts[0][:, None] + parts[1][None, :]
    return penalties
