"""fit: the one training loop, for float, low-precision and warm-started networks alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR, SequentialLR

from bitsmith.data import Split
from bitsmith.errors import RecipeError, RunError, TrainingError
from bitsmith.quantize import Priced
from bitsmith.seeding import derive
from bitsmith.train.checkpoint import load_checkpoint, load_into, save_checkpoint
from bitsmith.train.statistics import evaluate
from bitsmith.train.task import Task
from bitsmith.train.watch import Event, Watch, silent


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """Settings of one training.

    Args:
        epochs: passes over the training split.
        batch_size: inputs per step.
        optimizer: "sgd" (Nesterov momentum) or "adamw".
        lr: peak learning rate.
        momentum: of sgd.
        weight_decay: on weights of conv and linear layers only; steps, BatchNorm and biases have none.
        schedule: "one-cycle" or "cosine"; both start with a rise over `warmup` of all steps.
        warmup: share of the steps, 0..0.5.
        precision: "float32" or "bf16" (autocast).
        compile: compile the whole network (pays from some thousand steps on).
        device: "auto" (cuda where there is one), "cpu" or "cuda".

    Raises:
        RecipeError: a number out of its range.
    """

    epochs: int = 30
    batch_size: int = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    warmup: float = 0.25
    precision: Literal["float32", "bf16"] = "float32"
    compile: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        for name, fine, wanted in (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 2, "at least 2"),
            ("lr", 0 < self.lr < math.inf, "positive"),
            ("momentum", 0 <= self.momentum < 1, "in 0..1"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "not negative"),
            ("warmup", 0 <= self.warmup <= 0.5, "in 0..0.5"),
        ):
            if not fine:
                raise RecipeError(f"{name} of a training must be {wanted}, got {getattr(self, name)}")


@dataclass(kw_only=True)
class History:
    """What a training did: one number per epoch in each list, and the seconds it took."""

    seconds: float = 0.0
    curves: dict[str, list[float]] = field(default_factory=dict)

    def add(self, **values: float) -> None:
        """Append one epoch."""
        for name, value in values.items():
            self.curves.setdefault(name, []).append(value)


def fit(
    network: nn.Module,
    task: Task,
    plan: TrainPlan,
    *,
    seed: int = 0,
    split: Split | None = None,
    stage: str = "train",
    checkpoint: Path | None = None,
    watch: Watch = silent,
) -> History:
    """Train a network in place.

    The batches of an epoch depend on (seed, epoch) alone, so that a killed training goes on from its checkpoint as if
    nothing had happened.

    Args:
        split: what to train on; default is the data's whole training part (train and search).
        stage: what to call it in events.
        checkpoint: file to continue from and to write after every epoch.

    Returns:
        Curves with one number per epoch: loss, validation metric, learning rate.

    Raises:
        TrainingError: the loss is not finite.
    """
    split = task.data.training if split is None else split
    steps_per_epoch = split.steps(batch_size=plan.batch_size)
    device = pick_device(plan)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    network.to(device)
    optimizer = make_optimizer(network, plan)
    prepared = accelerator.prepare(optimizer)
    settings = {**asdict(plan), "seed": seed}
    schedule = make_schedule(optimizer, plan, steps=max(2, plan.epochs * steps_per_epoch))
    history, first = History(), 0
    saved = load_checkpoint(checkpoint) if checkpoint else None
    if saved is not None:
        assert checkpoint is not None
        check_same(saved, settings, checkpoint)
        load_into(network, saved["network"], str(checkpoint))
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        torch.set_rng_state(saved["rng"])
        history, first = History(seconds=saved["seconds"], curves=saved["curves"]), saved["epoch"]
    else:
        torch.manual_seed(derive(seed, "fit"))
    # Compiled for full batches; a last smaller one runs as it is rather than be compiled again.
    forward: Callable = torch.compile(network, dynamic=False) if plan.compile else network
    for epoch in range(first, plan.epochs):
        network.train()
        started, total, seen = time.monotonic(), 0.0, 0
        batches = split.batches(batch_size=plan.batch_size, seed=derive(seed, "batches", epoch), augment=task.augment)
        done = epoch * steps_per_epoch
        for x, y in batches:
            done += 1
            x, y = x.to(device), y.to(device)
            full = len(x) == plan.batch_size
            with autocast(plan, device):
                logits = (forward if full else network)(x)
            loss = task.compute_loss(logits.float(), y)
            value = loss.item()
            if not math.isfinite(value):
                raise TrainingError(_nan_message(stage, epoch, done, value, optimizer, checkpoint))
            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(loss)
            prepared.step()
            if done < plan.epochs * steps_per_epoch:
                schedule.step()
            total, seen = total + value * len(x), seen + len(x)
            watch(Event(stage=stage, step=done, steps=plan.epochs * steps_per_epoch, images=len(x)))
        metric, validation_loss = evaluate(network, task.data.validation, task)
        history.seconds += time.monotonic() - started
        figures = {
            "loss": total / max(1, seen),
            "validation_loss": validation_loss,
            f"validation_{task.metric_name}": metric,
            "lr": optimizer.param_groups[0]["lr"],
        }
        history.add(**figures)
        watch(
            Event(
                stage=stage,
                step=(epoch + 1) * steps_per_epoch,
                steps=plan.epochs * steps_per_epoch,
                images=0,
                epoch_end=True,
                values=figures,
            )
        )
        if checkpoint:
            save_checkpoint(
                {
                    "epoch": epoch + 1,
                    "settings": settings,
                    "network": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "rng": torch.get_rng_state(),
                    "seconds": history.seconds,
                    "curves": history.curves,
                },
                checkpoint,
            )
    return history


def pick_device(plan: TrainPlan) -> torch.device:
    """The device of a plan.

    Raises:
        RecipeError: it asks for cuda where there is none.
    """
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise RecipeError("there is no CUDA device that torch can use; take --device auto or cpu")
    return torch.device("cuda" if torch.cuda.is_available() and plan.device != "cpu" else "cpu")


def autocast(plan: TrainPlan, device: torch.device) -> torch.autocast:
    """The precision of a plan, as a context; Accelerate would fix one precision per process."""
    return torch.autocast(device.type, torch.bfloat16, enabled=plan.precision == "bf16")


def check_same(saved: Mapping[str, Any], settings: Mapping[str, Any], checkpoint: Path) -> None:
    """Refuse a checkpoint that was made with other settings.

    Raises:
        RunError: naming the first setting that differs.
    """
    old = saved.get("settings", {})
    for name, value in settings.items():
        if old.get(name) != value:
            raise RunError(
                f"{checkpoint} was made with {name} = {old.get(name)!r}, now it is {value!r}; "
                "delete it to start this stage again, or go back to the old setting"
            )


def make_optimizer(
    network: nn.Module, plan: TrainPlan, *, leave_out: Sequence[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """SGD or AdamW with decay on the weights of conv and linear layers alone; `leave_out` is optimized elsewhere."""
    decayed = [m.weight for m in network.modules() if isinstance(m, Priced | nn.Conv2d | nn.Linear)]
    chosen = {id(p) for p in [*decayed, *leave_out]}
    rest = [p for p in network.parameters() if id(p) not in chosen and p.requires_grad]
    groups = [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    if plan.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=plan.lr)
    return torch.optim.SGD(groups, lr=plan.lr, momentum=plan.momentum, nesterov=plan.momentum > 0)


def make_schedule(optimizer: torch.optim.Optimizer, plan: TrainPlan, *, steps: int) -> LRScheduler:
    """The learning rate over all steps, both with a rise over the first `warmup` of them.

    "one-cycle" rises from lr / 25 by half a cosine, "cosine" linearly; both then fall to about zero by half a cosine.
    """
    if plan.schedule == "one-cycle":
        # OneCycleLR divides by the length of the rise less one, so the rise takes two steps at least.
        rising = max(plan.warmup, 2 / steps)
        return OneCycleLR(optimizer, plan.lr, total_steps=steps, pct_start=rising, cycle_momentum=False)
    rise = max(1, round(plan.warmup * steps))
    fall = CosineAnnealingLR(optimizer, T_max=max(1, steps - rise))
    return SequentialLR(optimizer, [LinearLR(optimizer, 1 / (rise + 1), total_iters=rise), fall], milestones=[rise])


def _nan_message(
    stage: str, epoch: int, step: int, value: float, optimizer: torch.optim.Optimizer, checkpoint: Path | None
) -> str:
    kept = f"the last good state is in {checkpoint}" if checkpoint and checkpoint.exists() else "nothing was saved yet"
    lr = optimizer.param_groups[0]["lr"]
    return (
        f"{stage}: the loss became {value} in epoch {epoch + 1}, step {step}, at learning rate {lr:.3g}; {kept}. "
        "Lower the learning rate, lengthen the warm-up, or look for NaN in the data."
    )
