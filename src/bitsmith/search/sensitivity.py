"""How much each decision matters: the loss when one decision is set and all others stay as they are."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from bitsmith.quantize import Network
from bitsmith.search.kept import Kept
from bitsmith.search.mixed import decisions
from bitsmith.space import Precision
from bitsmith.train import Event, Task, Watch, digest, reestimate_norms, silent


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Losses of every decision and option on the same batches of search data.

    Args:
        losses: layer -> "weight" or "activation" -> [options][batches]; an only option has none.
        images: in each batch.
        passes: images that went through the network in all, BatchNorm's re-estimation included.
        seconds: that it took, in processes before this one too.
    """

    losses: Mapping[str, Mapping[str, list[list[float]]]]
    images: tuple[int, ...]
    passes: int
    seconds: float = field(default=0.0, compare=False)

    def means(self) -> dict[str, dict[str, list[float]]]:
        """The mean loss of each option, as `to_penalties` takes them; 0 for an only option."""
        return {
            layer: {kind: [self._mean(batches) for batches in options] for kind, options in kinds.items()}
            for layer, kinds in self.losses.items()
        }

    def _mean(self, batches: list[float]) -> float:
        return float(np.average(batches, weights=self.images)) if batches else 0.0

    def noise(self) -> dict[str, Any]:
        """How far the order of the options can be believed.

        A step is from one option of a decision to the next; its loss difference has a standard error over the batches,
        which both options saw. Within two standard errors, the step may be chance.

        Returns:
            JSON-able: images, steps, how many of them are `within` noise, median standard error; of the last two None
            where a single batch doesn't tell.
        """
        errors, within = [], 0
        for kinds in self.losses.values():
            for options in kinds.values():
                for lower, higher in pairwise(options):
                    difference = np.array(lower) - np.array(higher)
                    error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else np.nan
                    errors.append(float(error))
                    within += abs(difference.mean()) <= 2 * error
        known = bool(errors) and len(self.images) > 1
        return {
            "images": sum(self.images),
            "steps": len(errors),
            "within": int(within) if known else None,
            "standard_error": float(np.median(errors)) if known else None,
        }


@torch.no_grad()
def measure(
    network: Network,
    task: Task,
    *,
    norm_batches: int = 20,
    loss_batches: int = 32,
    batch_size: int = 128,
    seed: int = 0,
    stage: str = "sensitivities",
    folder: Path | None = None,
    watch: Watch = silent,
) -> Measured:
    """Measured sensitivities of a mixed network.

    For every decision and option: the option alone, all other decisions as they are, mixed or fixed; BatchNorm
    statistics re-estimated on train data for just this network (with the mixture's own statistics the measure is
    noise); then the loss on the same batches of search data.

    Args:
        norm_batches, loss_batches: how many batches re-estimate and are scored, as far as the data has them.
        folder: where every measured option is kept as soon as it is done (sensitivities.json), so that a measurement
            that was stopped goes on there; of another network or with other settings, it starts anew.
    """
    trial = copy.deepcopy(network)
    data = task.data
    device = next(trial.parameters()).device
    settings = {"norm_batches": norm_batches, "loss_batches": loss_batches, "batch_size": batch_size, "seed": seed}
    settings |= {"network": digest(network.state_dict()), "fixed": [d.mixture.fixed for d in decisions(trial)]}
    settings |= {"data": [data.train.fingerprint(), data.search.fingerprint()]} if folder else {}
    kept = Kept(folder / "sensitivities.json" if folder else None, settings)
    todo = sum(len(d.mixture.candidates) for d in decisions(trial) if len(d.mixture.candidates) > 1)
    done = 0
    images: tuple[int, ...] = ()
    found: dict[str, dict[str, list[list[float]]]] = {}
    for decision in decisions(trial):
        losses: list[list[float]] = [[] for _ in decision.mixture.candidates]
        fixed = decision.mixture.fixed
        for option in range(len(losses) if len(losses) > 1 else 0):
            # A decision fixed to this option already is the network as it is, which is measured once.
            name = (
                f"{decision.layer} {decision.kind} {decision.mixture.bits[option]}" if option != fixed else "as it is"
            )
            if name not in kept.values:
                started = time.monotonic()
                decision.mixture.fixed = option
                reestimate_norms(trial, data.train, batches=norm_batches, batch_size=batch_size, seed=seed)
                trial.eval()
                batches = islice(data.search.batches(batch_size=batch_size, seed=seed), loss_batches)
                scored = [(len(y), _loss(trial, task, x.to(device), y.to(device))) for x, y in batches]
                kept.keep(name, {"batches": scored, "seconds": time.monotonic() - started})
            losses[option] = [loss for _, loss in kept.values[name]["batches"]]
            images = tuple(size for size, _ in kept.values[name]["batches"])
            done += 1
            watch(Event(stage=stage, step=done, steps=todo, images=(norm_batches + loss_batches) * batch_size))
        decision.mixture.fixed = fixed
        found.setdefault(decision.layer, {})[decision.kind] = losses
    each = sum(images) + min(norm_batches * batch_size, len(data.train))
    seconds = sum(value["seconds"] for value in kept.values.values())
    return Measured(losses=found, images=images, passes=len(kept.values) * each, seconds=seconds)


def _loss(network: Network, task: Task, x: Tensor, y: Tensor) -> float:
    return float(task.compute_loss(network(x), y, smooth=False))


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
