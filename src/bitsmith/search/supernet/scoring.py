"""Scoring by inherited weights: networks of a space without training them, each with BatchNorm of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from bitsmith.blueprint import Blueprint
from bitsmith.quantize import Network, build
from bitsmith.search.kept import Kept
from bitsmith.search.shrink import Shrunk, shrink
from bitsmith.search.supernet.network import SharedNetwork
from bitsmith.search.supernet.slices import slices
from bitsmith.space import Mobile
from bitsmith.space.decisions import Decision, Decisions
from bitsmith.train import Event, Task, Watch, calibrate, digest, reestimate_norms, silent

# Decisions whose later options can do all that earlier ones can: they never count as worse.
_GROWING = ("channels", "blocks", "expansion", "kernel", "weight_bits", "activation_bits")


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How networks are scored.

    Args:
        norm_batches: of training data, that re-estimate BatchNorm.
        loss_batches: of search data, the same for all.
        loss_start: batches of search data to leave out before them.
        loss_size: images per batch of the loss; 0 is batch_size.
    """

    norm_batches: int = 20
    loss_batches: int = 32
    batch_size: int = 128
    seed: int = 0
    loss_start: int = 0
    loss_size: int = 0


@dataclass(frozen=True, kw_only=True)
class OptionLosses:
    """Losses of every decision and option on the same batches of search data.

    Args:
        losses: decision -> [options, batches]; none of an only option.
        images: in each batch.
    """

    losses: Mapping[str, np.ndarray]
    images: tuple[int, ...]

    def means(self) -> dict[str, list[float]]:
        """Decision -> the mean loss of each option."""
        return {name: np.average(losses, axis=1, weights=self.images).tolist() for name, losses in self.losses.items()}

    def believed(self) -> Shrunk:
        """As far as they differ by more than their noise among decisions of the same kind: `bitsmith.search.shrink`."""
        kinds = {name: f"{name.rpartition('.')[2]} of {len(losses)}" for name, losses in self.losses.items()}
        return shrink(self.losses, kinds, self.images)


@torch.no_grad()
def settle(network: torch.nn.Module, task: Task, scoring: Scoring) -> None:
    """Re-estimate BatchNorm on training data."""
    reestimate_norms(
        network,
        task.data.train,
        batches=scoring.norm_batches,
        batch_size=scoring.batch_size,
        seed=scoring.seed,
    )


@torch.no_grad()
def inherited(network: SharedNetwork, blueprint: Blueprint, task: Task, scoring: Scoring) -> Network:
    """The blueprint's network with the shared network's weights and BatchNorm of its own, in eval mode.

    Raises:
        RunError: the blueprint is not of the space.
    """
    built = build(blueprint).to(network.stem.weight.device)
    built.load_state_dict(slices(network, blueprint))
    settle(built, task, scoring)
    return built.eval()


@torch.no_grad()
def handed_on(network: SharedNetwork, blueprint: Blueprint, task: Task, scoring: Scoring) -> Network:
    """What a final training starts from: as `inherited`, but with steps calibrated to the one option that is left.

    Those of the shared network were learned for mixed activations, and learn slowly.

    Raises:
        RunError: the blueprint is not of the space.
    """
    built = build(blueprint).to(network.stem.weight.device)
    shared = slices(network, blueprint)
    built.load_float({name: shared[name] for name in built.float_names})
    calibrate(built, task.data.train, batch_size=scoring.batch_size, seed=scoring.seed)
    settle(built, task, scoring)
    return built.eval()


@torch.no_grad()
def score_inherited(network: SharedNetwork, blueprint: Blueprint, task: Task, scoring: Scoring) -> float:
    """The loss of a blueprint on search data with the shared network's weights.

    Raises:
        RunError: the blueprint is not of the space.
    """
    return _loss(inherited(network, blueprint, task, scoring), task, scoring)


@torch.no_grad()
def measure_options(
    network: SharedNetwork,
    p: Mapping[str, Tensor],
    task: Task,
    scoring: Scoring,
    *,
    stage: str,
    folder: Path | None = None,
    watch: Watch = silent,
) -> OptionLosses:
    """The losses with each decision at each of its options and all others mixed by `p`.

    What a decision hangs on (the number of blocks, for all that a block chooses) is mixed of those options alone at
    which it is made: an option of a block that is seldom there counts as if it were there.

    Args:
        folder: where every measured option is kept as soon as it is done (sensitivities.json).
    """
    trial = copy.deepcopy(network)
    device = trial.stem.weight.device
    free = [d for d in trial.space.decisions.decisions if len(d.options) > 1]
    made = {d.name: _where_made(trial.space.decisions, d, p) for d in free}
    settings: dict[str, Any] = {
        "norm_batches": scoring.norm_batches,
        "loss_batches": scoring.loss_batches,
        "batch_size": scoring.batch_size,
        "seed": scoring.seed,
        "network": digest(trial.state_dict()),
        "probabilities": {name: values.tolist() for name, values in p.items()},
        "where made": {name: {of: q.tolist() for of, q in given.items()} for name, given in made.items()},
    }
    settings |= {"data": [task.data.train.fingerprint(), task.data.search.fingerprint()]} if folder else {}
    kept = Kept(folder / "sensitivities.json" if folder else None, settings)
    steps, done = sum(len(d.options) for d in free), 0
    found: dict[str, np.ndarray] = {}
    sizes: list[int] = []
    for decision in free:
        losses = []
        for index, option in enumerate(decision.options):
            name = f"{decision.name} {option}"
            if name not in kept.values:
                one = torch.zeros(len(decision.options), device=device)
                one[index] = 1
                trial.present = {**p, **made[decision.name], decision.name: one}
                settle(trial, task, scoring)
                kept.keep(name, _losses(trial.eval(), task, scoring))
            sizes = [size for size, _ in kept.values[name]]
            losses.append([loss for _, loss in kept.values[name]])
            done += 1
            images = (scoring.norm_batches + scoring.loss_batches) * scoring.batch_size
            watch(Event(stage=stage, step=done, steps=steps, images=images))
        found[decision.name] = np.array(losses)
    return OptionLosses(losses=found, images=tuple(sizes))


def _where_made(decisions: Decisions, decision: Decision, p: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of all that a decision hangs on, the probabilities given that it is made."""
    found: dict[str, Tensor] = {}
    while decision.parent:
        parent = decisions.decisions[decisions.index[decision.parent]]
        mixed = p[parent.name]
        there = torch.tensor([i in decision.when for i in range(len(parent.options))], device=mixed.device)
        share = torch.where(there, mixed, 0)
        share = share if share.sum() > 0 else there.to(mixed)  # so unlikely that it is 0 in this precision
        found[parent.name] = share / share.sum()
        decision = parent
    return found


def to_penalties(space: Mobile, losses: Mapping[str, np.ndarray], p: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Penalties for `Discretizer`: per decision the loss l of each option above that of their mixture,

        penalty_o = l_o - sum_i p_i l_i

    since all other losses were measured with this decision mixed: with one block more, its choices come on top as they
    are, not as the mixture was. Where losses add up, a network's penalties do so to its loss but for a constant.
    Where later options can do all that earlier ones can (more bits, channels, blocks, a larger kernel), they never
    count as worse, by isotonic regression; what that leaves equal is decided by a hundredth of the largest difference,
    so that no budget is left unused.

    Args:
        losses: decision -> [options], as `measure_options` finds them; none of an only option.
        p: decision -> [options], by which they were mixed.
    """
    values = {d.name: np.array(losses.get(d.name, np.zeros(len(d.options)))) for d in space.decisions.decisions}
    growing = [name for name, value in values.items() if name.rpartition(".")[2] in _GROWING and len(value) > 1]
    for name in growing:
        values[name] = np.array(isotonic_regression(values[name], increasing=False).x)
    little = 0.01 * max(1e-3, max(float(np.ptp(value)) for value in values.values()))
    for name in growing:
        level = np.isclose(np.diff(values[name]), 0, rtol=0, atol=1e-9 * little)
        values[name][:-1] += little * level[::-1].cumsum()[::-1] / len(level)
    return {name: value - np.dot(p[name] / np.sum(p[name]), value) for name, value in values.items()}


def _loss(network: torch.nn.Module, task: Task, scoring: Scoring) -> float:
    scored = _losses(network, task, scoring)
    return sum(size * loss for size, loss in scored) / sum(size for size, _ in scored)


def _losses(network: torch.nn.Module, task: Task, scoring: Scoring) -> list[tuple[int, float]]:
    """Images and mean loss of each batch."""
    device = next(network.parameters()).device
    scored = []
    size = scoring.loss_size or scoring.batch_size
    batches = task.data.search.batches(batch_size=size, seed=scoring.seed, start=scoring.loss_start)
    for x, y in islice(batches, scoring.loss_batches):
        loss = task.compute_loss(network(x.to(device)).float(), y.to(device), smooth=False)
        scored.append((len(y), float(loss)))
    return scored
