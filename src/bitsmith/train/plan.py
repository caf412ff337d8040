"""TrainPlan: the settings of one training, and the optimizer and schedule that they mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR, SequentialLR

from bitsmith.errors import RecipeError
from bitsmith.quantize import Priced, Quantizer

# Layers whose weights decay.
WEIGHTED = (Priced, nn.Conv2d, nn.Linear)


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """Settings of one training.

    Args:
        epochs: passes over the training split.
        batch_size: inputs per step.
        optimizer: "sgd" (Nesterov momentum) or "adamw".
        lr: peak learning rate.
        momentum: of sgd.
        weight_decay: on weights of conv and linear layers and on PACT's bounds; steps, BatchNorm and biases have none.
        schedule: "one-cycle" or "cosine"; both start with a rise over `warmup` of all steps.
        warmup: share of the steps, 0..0.5.
        precision: "float32", "bf16" (autocast), or "auto": bf16 where the machine computes fast in it.
        compile: what torch.compile makes: "none", the element-wise "quantizers", the whole "network" (a minute or two,
            so for long runs), or "auto": what pays for so many steps, nothing where there is no compiler.
        device: "auto" (cuda where there is one), "cpu" or "cuda".
        distill: share of the loss that is learned from a teacher instead of the labels, 0..1; 0 = none. See `distill`.
        distill_temperature: of the softmax of both; 2 is what Hinton et al. 2015 chose for their largest experiment
            (section 4).
        ema: decay per step of the averaged weights, such as 0.999; 0 = none. See `average`.
        noise: share of a layer's weights that get noise while it is being quantized, layer after layer; 0.05 is what
            UNIQ and NICE take, 0 = all layers quantized from the beginning. See `bitsmith.train.staged`.

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
    precision: Literal["float32", "bf16", "auto"] = "float32"
    compile: Literal["auto", "none", "quantizers", "network"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    distill: float = 0.0
    distill_temperature: float = 2.0
    ema: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name, fine, wanted in (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 2, "at least 2"),
            ("lr", 0 < self.lr < math.inf, "positive"),
            ("momentum", 0 <= self.momentum < 1, "in 0..1"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "not negative"),
            ("warmup", 0 <= self.warmup <= 0.5, "in 0..0.5"),
            ("distill", 0 <= self.distill <= 1, "in 0..1"),
            ("distill_temperature", 0 < self.distill_temperature < math.inf, "positive"),
            ("ema", 0 <= self.ema < 1, "in 0..1, 1 excluded"),
            ("noise", 0 <= self.noise <= 1, "in 0..1"),
        ):
            if not fine:
                raise RecipeError(f"{name} of a training must be {wanted}, got {getattr(self, name)}")
        if self.noise and self.ema:
            raise RecipeError("noise starts steps anew in every stage, which ema would average; take one of them")
        if self.noise and self.compile == "network":
            raise RecipeError("noise makes another network in every stage, so it can't take compile: network")


def make_optimizer(
    network: nn.Module, plan: TrainPlan, *, leave_out: Sequence[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """SGD or AdamW with decay on the weights of conv and linear layers, and on what quantizers ask to be decayed.

    Args:
        leave_out: parameters that are optimized elsewhere.
    """
    modules = list(network.modules())
    decayed = [m.weight for m in modules if isinstance(m, WEIGHTED)]
    decayed += [parameter for m in modules if isinstance(m, Quantizer) for parameter in m.decayed()]
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
