"""Learning the latent space, from networks drawn anew for every step; one of 16 is never drawn (`drawing`).

loss = mean of -log p(network | encode(network)) + 10 MMD^2(codes, N(0, I)) + mean squared error of log costs

(costs in units of their deviation over the space). Half of every batch is drawn uniformly from the space, where most
networks are long and wide, and half evenly over log MACs (`SequenceCosts.stratified`). What a step learns from depends
on the seed and its number alone; the checkpoint holds weights, optimizer and number, so a training that goes on comes
to the same bits as one that was never stopped, on the same machine with as many threads.

Source: weight and kernel of the MMD, Wasserstein auto-encoders, arXiv 1711.01558; that a convex predictor of the
costs shapes the space is from "Hardware-Aware Bayesian Neural Architecture Search of Quantized CNNs" (IEEE ESL 2024).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from bitsmith.errors import RecipeError, RunError, TrainingError
from bitsmith.search.latent.autoencoder import Autoencoder, Widths, predicted_costs
from bitsmith.search.latent.drawing import draw_even, draw_uniform
from bitsmith.search.latent.mmd import mmd
from bitsmith.seeding import derive, numpy_generator, torch_generator
from bitsmith.space import Sequences
from bitsmith.train import Event, History, Watch, load_into, silent
from bitsmith.train.checkpoint import load_checkpoint, save_checkpoint

_POOL = 40  # steps whose networks are drawn at once, a pool
_SCALE = 20_000  # networks that mean and deviation of the costs are taken from


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LatentPlan:
    """How an autoencoder is trained.

    Args:
        steps, batch_size: of the training.
        lr: greatest learning rate of Adam; it rises over the first 2 % of the steps and falls to 1 % as a cosine.
        mmd, costs: weights of the second and the third part of the loss.
        clip: greatest norm of a gradient.
        widths: sizes of the autoencoder.
    """

    steps: int = 4000
    batch_size: int = 128
    lr: float = 0.003
    mmd: float = 10.0
    costs: float = 1.0
    clip: float = 1.0
    widths: Widths = field(default_factory=Widths)

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 4), ("lr", 0), ("mmd", 0), ("costs", 0), ("clip", 0)):
            if getattr(self, name) < least:
                raise RecipeError(f"{name} of the latent plan must be at least {least}, got {getattr(self, name)}")


def train_autoencoder(
    space: Sequences,
    plan: LatentPlan,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    watch: Watch = silent,
) -> tuple[Autoencoder, History]:
    """Train an autoencoder of a space; without a checkpoint from scratch.

    Args:
        seed: of weights, networks and prior.
        checkpoint: file to continue from and to write.
        checkpoint_seconds: how often it is written; also on Ctrl-C between two steps, and at the end.
        watch: told of every step: the parts of the loss.

    Returns:
        The autoencoder, ready for use, and its history: CPU seconds and the parts of the loss, one number per step.

    Raises:
        RunError: the checkpoint is damaged or of another training.
        TrainingError: the loss is not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "autoencoder"))
        model = Autoencoder(space.automaton, plan.widths)
    drawn = space.additive.stratified(_SCALE, numpy_generator(seed, "scale"))
    logs = torch.from_numpy(predicted_costs(space.additive.of(drawn)))
    model.mean.copy_(logs.mean(0))
    model.deviation.copy_(logs.std(0).clamp_min(1e-6))
    optimizer = torch.optim.Adam(model.parameters(), lr=plan.lr, betas=(0.9, 0.99))
    settings = {"plan": asdict(plan), "seed": seed, "space": space.identity()["graph"]}
    done, history = _restore(model, optimizer, settings, checkpoint)
    began = time.process_time() - history.seconds

    def save(step: int) -> None:
        history.seconds = time.process_time() - began
        if checkpoint is not None:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            save_checkpoint(state | {"settings": settings, "history": asdict(history)}, checkpoint)

    saved, step, whole = time.monotonic(), done, True
    try:
        for sequences, logs in _batches(space, plan, seed, done):
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(plan, step)
            whole = False
            history.add(values := _step(model, optimizer, plan, sequences, logs, seed, step))
            step, whole = step + 1, True
            watch(Event(stage="autoencoder", step=step, steps=plan.steps, images=len(sequences), values=values))
            if time.monotonic() - saved > checkpoint_seconds:
                save(step)
                saved = time.monotonic()
    except KeyboardInterrupt:
        if whole:  # within a step, some weights have moved and others not: the last checkpoint stands
            save(step)
        raise
    save(step)
    return model.eval(), history


def _restore(
    model: Autoencoder, optimizer: torch.optim.Optimizer, settings: dict[str, Any], checkpoint: Path | None
) -> tuple[int, History]:
    """Steps done and what they were, their state in model and optimizer."""
    saved = load_checkpoint(checkpoint) if checkpoint else None
    if saved is None:
        return 0, History()
    if saved.get("settings") != settings:
        raise RunError(
            f"the checkpoint {checkpoint} is of an autoencoder of another space, plan or seed; delete it to start anew"
        )
    load_into(model, saved["model"], str(checkpoint))
    optimizer.load_state_dict(saved["optimizer"])
    return saved["step"], History(**saved["history"])


def learned_from(space: Sequences, plan: LatentPlan, seed: int, pool: int) -> np.ndarray:
    """What a pool of steps of a training learns from, int64 [steps, batch, length]; pools count from 0."""
    half, n = plan.batch_size // 2, plan.batch_size
    generator = numpy_generator(seed, "networks", pool)
    even = draw_even(space, half * _POOL, generator).reshape(_POOL, half, -1)
    uniform = draw_uniform(space, (n - half) * _POOL, generator).reshape(_POOL, n - half, -1)
    return np.concatenate([even, uniform], axis=1)[: plan.steps - pool * _POOL]


def pools(plan: LatentPlan) -> int:
    """How many pools a training has."""
    return -(-plan.steps // _POOL)


def _batches(space: Sequences, plan: LatentPlan, seed: int, done: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Networks [batch, length] and their log costs [batch, 2] for every step from `done` on."""
    for pool in range(done // _POOL, pools(plan)):
        drawn = learned_from(space, plan, seed, pool)
        logs = predicted_costs(space.additive.of(drawn.reshape(-1, drawn.shape[2]))).reshape(*drawn.shape[:2], -1)
        for i in range(max(done - pool * _POOL, 0), len(drawn)):
            yield torch.from_numpy(drawn[i]), torch.from_numpy(logs[i])


def _step(
    model: Autoencoder,
    optimizer: torch.optim.Optimizer,
    plan: LatentPlan,
    sequences: Tensor,
    logs: Tensor,
    seed: int,
    step: int,
) -> dict[str, float]:
    codes = model.encode(sequences)
    prior = torch.randn(codes.shape, generator=torch_generator(seed, "prior", step))
    parts = {
        "reconstruction": model.loss(codes, sequences).mean(),
        "mmd": mmd(codes, prior),
        "costs": (model.predictor(codes) - (logs - model.mean) / model.deviation).square().mean(),
    }
    loss = parts["reconstruction"] + plan.mmd * parts["mmd"] + plan.costs * parts["costs"]
    if not torch.isfinite(loss):
        raise TrainingError(f"autoencoder, step {step + 1}: the loss is {float(loss)}; lower lr or clip")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
    optimizer.step()
    model.predictor.clamp()
    return {name: float(part.detach()) for name, part in parts.items()}


def _learning_rate(plan: LatentPlan, step: int) -> float:
    warm = max(1, plan.steps // 50)
    if step < warm:
        return plan.lr * (step + 1) / warm
    return plan.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, plan.steps - warm))))
