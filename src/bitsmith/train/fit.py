"""fit: the one training, for float, low-precision and warm-started networks alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from bitsmith.blueprint import Widths
from bitsmith.data import Split
from bitsmith.errors import RecipeError
from bitsmith.quantize import Network
from bitsmith.seeding import derive
from bitsmith.train.averaged import average, take_average
from bitsmith.train.checkpoint import digest, load_into
from bitsmith.train.compiling import compiled
from bitsmith.train.distill import distill
from bitsmith.train.learner import History, Learner, Piece
from bitsmith.train.loop import Loop
from bitsmith.train.mode import autocast, on_threads
from bitsmith.train.parallel import refuse_processes
from bitsmith.train.plan import WEIGHTED, TrainPlan, make_optimizer, make_schedule
from bitsmith.train.staged import Stages
from bitsmith.train.statistics import evaluate, reestimate_norms
from bitsmith.train.task import Task
from bitsmith.train.watch import Watch, silent


def fit(
    network: nn.Module,
    task: Task,
    plan: TrainPlan,
    *,
    seed: int = 0,
    split: Split | None = None,
    stage: str = "train",
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    watch: Watch = silent,
) -> History:
    """Train a network in place.

    A training that was stopped goes on from its checkpoint as if nothing had happened, to the bit; see `Loop`.

    Args:
        split: what to train on; default is the data's whole training part (train and search).
        stage: what to call it in events.
        teacher: the network that `plan.distill` learns from, with the same classes; put in eval mode.
        checkpoint: file to continue from and to write.
        checkpoint_seconds: time after which it is written; also at the end of every epoch and on Ctrl-C.

    Returns:
        Curves with one number per epoch: loss, validation loss and metric (of the averaged weights, where
        `plan.ema`), learning rate.

    Raises:
        TrainingError: the loss is not finite.
        RecipeError: `plan.distill` without a teacher; `plan.noise` where it can't be, see `Stages`.
        RunError: a checkpoint that is damaged or of another training.
    """
    if plan.distill and teacher is None:
        raise RecipeError(f"{stage}: distill = {plan.distill:g} needs a trained network to learn from; give a teacher")
    if not plan.distill:
        teacher = None
    if plan.noise:
        refuse_processes(
            f"{stage} with noise", "it starts the steps of a layer by the samples that one process computes"
        )
    loop = Loop(
        stage=stage,
        task=task,
        split=task.data.training if split is None else split,
        plan=plan,
        epoch_seed=partial(derive, seed, "batches"),
        settings={
            **asdict(plan),
            "noise": plan.noise or None,  # as in checkpoints from before there was any
            "seed": seed,
            "teacher": digest(teacher.state_dict()) if teacher else None,
            "bits": _bits(network),
            "start": digest({name: m.weight for name, m in network.named_modules() if isinstance(m, WEIGHTED)}),
        },
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
        watch=watch,
    )
    torch.manual_seed(derive(seed, "fit"))
    with on_threads(loop.mode.threads):
        learner = _Fitting(network, task, plan, loop, teacher, seed)
        try:
            history = loop.run(learner)
        finally:
            if learner.stages is not None:
                learner.stages.finish()
        if learner.averaged is not None:
            take_average(network, learner.averaged)
    return history


def _bits(network: nn.Module) -> dict[str, list[Widths]] | None:
    """Layer -> weight and activation bits: networks of different bits have states of equal names and shapes."""
    if not isinstance(network, Network) or network.blueprint is None:
        return None
    return {name: [bits.weight, bits.activation] for name, bits in network.blueprint.bits.items()}


@final
class _Fitting(Learner):
    """The state of one training."""

    def __init__(
        self, network: nn.Module, task: Task, plan: TrainPlan, loop: Loop, teacher: nn.Module | None, seed: int
    ) -> None:
        self.network, self.task, self.plan, self.loop = network.to(loop.device), task, plan, loop
        network.train()
        self.averaged = average(network, plan.ema) if plan.ema else None
        self.norm_seed = derive(seed, "averaged norms")
        self.optimizer = make_optimizer(network, plan)
        self.schedule = make_schedule(self.optimizer, plan, steps=max(2, loop.steps))
        self.stages = Stages(network, plan.noise, loop.steps) if plan.noise else None
        # Compiled for full batches; a last smaller one runs as it is rather than be compiled again.
        mode = loop.mode.compile
        self.forward = compiled(network, "quantizers" if self.stages and mode == "network" else mode)
        self.teacher = self.teach = None
        if teacher is not None:
            self.teacher = teacher.to(loop.device).eval()
            self.teach = compiled(self.teacher, loop.mode.compile)

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def parameters(self) -> Iterable[Tensor]:
        return self.network.parameters()

    def begin(self, step: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.stages is not None:
            self.stages.begin(step)

    def loss(self, piece: Piece, step: int) -> Tensor:
        with autocast(self.loop.mode.precision, self.loop.device):
            outputs = (self.forward if piece.usual else self.network)(piece.x)
        if self.stages is not None:
            self.stages.passed()
        logits = piece.gathered(outputs)
        loss = piece.loss(self.task, logits)
        if self.teach is None or self.teacher is None:
            return loss
        with torch.no_grad(), autocast(self.loop.mode.precision, self.loop.device):
            outputs = (self.teach if piece.usual else self.teacher)(piece.x)
        taught = piece.gathered(outputs)
        share, temperature = self.plan.distill, self.plan.distill_temperature
        return distill(loss, logits, taught, share=share, temperature=temperature, part=piece.share)

    def update(self, step: int) -> None:
        self.optimizer.step()
        if step + 1 < self.loop.steps:
            self.schedule.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)

    def end_epoch(self, step: int, loss: float) -> Mapping[str, float]:
        network = self.network
        if self.stages is not None:
            self.stages.hold(step - 1)  # of the last batch, also where the run went on from here
        if self.averaged is not None:
            network = self.averaged.module
            batch_size = self.plan.batch_size
            reestimate_norms(network, self.loop.split, batch_size=batch_size, seed=self.norm_seed)
        metric, validation_loss = evaluate(network, self.task.data.validation, self.task, batch_size=self.loop.scored)
        return {
            "loss": loss,
            "validation_loss": validation_loss,
            f"validation_{self.task.metric_name}": metric,
            "lr": self.lr,
        }

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
        }

    def restore(self, state: Mapping[str, Any], where: str) -> None:
        load_into(self.network, state["network"], where)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.averaged is not None:
            load_into(self.averaged, state["averaged"], where)
