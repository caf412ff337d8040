"""Sensitivity: an integer program on measured sensitivities of the trained float network; nothing is trained.

    min sum_l D_l(w_l) + D_l(a_l)  subject to  every budget,

where D_l is how much the loss grows when one layer's weights, or the activations it reads, take fewer bits while all
others keep the most they may. The idea is that of HAWQ-V3 (Yao et al., arXiv 2011.10680, eq. 10) and LIMPQ (Tang et
al., arXiv 2203.08368). Where we differ: D is the measured loss of the quantized network (HAWQ takes Hessian traces,
LIMPQ learned steps), on search data, made monotone; weights and activations count apart, their costs together.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn

from bitsmith.blueprint import Budget
from bitsmith.errors import RecipeError
from bitsmith.quantize import ActivationQuantizer, Mixture, Network
from bitsmith.search.allocate import allocate
from bitsmith.search.feasible import some_inside
from bitsmith.search.mixed import build_mixed, decisions
from bitsmith.search.problem import Found, Problem, require_bits
from bitsmith.search.sensitivity import measure, to_penalties
from bitsmith.seeding import derive
from bitsmith.space import Space
from bitsmith.train import TrainPlan, calibrate, pick_device


@final
@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Bits by measured sensitivity; needs trained float weights, trains nothing.

    Args:
        calibration_batches: for the steps of activations.
        norm_batches: for re-estimating BatchNorm, per option measured.
        loss_batches: that an option is scored on, the same for all; 32 of 128 are 4,096 images.
        batch_size: of all of them.
        device: "auto", "cpu" or "cuda".
    """

    calibration_batches: int = 4
    norm_batches: int = 20
    loss_batches: int = 32
    batch_size: int = 128
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        for name in ("calibration_batches", "norm_batches", "loss_batches", "batch_size"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} of the sensitivity method must be at least 1, got {getattr(self, name)}")

    @property
    def name(self) -> str:
        return "sensitivity"

    @property
    def epochs(self) -> float:
        return 0

    def check(self, space: Space, budgets: Sequence[Budget], *, trained: bool) -> None:
        """Refuse budgets that can't be met, and to measure a network that was never trained."""
        require_bits(space, self.name)
        some_inside(space, budgets)
        if not trained:
            raise RecipeError(
                "the sensitivity method measures a trained float network: train one first (--float-epochs, "
                "float_plan), give its weights, or search with another method"
            )

    def search(self, problem: Problem) -> Found:
        """Measure every option, then allocate.

        Details: the sensitivities, how far they can be believed (`noise`), and `forward_images`: how many images went
        through the network for them, forward alone.

        Raises:
            BudgetError: no blueprint of the space meets the budgets.
            RecipeError: there are no float weights to measure on.
        """
        started = time.monotonic()
        self.check(problem.space, problem.budgets, trained=problem.float_state is not None)
        assert problem.float_state is not None
        train = problem.task.data.train
        torch.manual_seed(derive(problem.seed, "sensitivity"))
        network = build_mixed(problem.space)
        network.load_float(problem.float_state)
        network.to(pick_device(TrainPlan(device=self.device)))
        fix_highest(network)
        with calibrating_all(network):
            calibrate(
                network,
                train,
                batches=self.calibration_batches,
                batch_size=self.batch_size,
                seed=derive(problem.seed, "calibrate"),
            )
        prepared = time.monotonic() - started
        measured = measure(
            network,
            problem.task,
            norm_batches=self.norm_batches,
            loss_batches=self.loss_batches,
            batch_size=self.batch_size,
            seed=derive(problem.seed, "sensitivities"),
            folder=problem.shared or problem.folder,
            watch=problem.watch,
        )
        losses = measured.means()
        return Found(
            best=allocate(problem.space, to_penalties(problem.space, losses), problem.budgets),
            method=self.name,
            seconds=prepared + measured.seconds,
            details={
                "sensitivities": losses,
                "noise": measured.noise(),
                "forward_images": measured.passes + min(self.calibration_batches * self.batch_size, len(train)),
            },
        )


def fix_highest(network: Network) -> None:
    """Every decision of a mixed network at its most bits."""
    for decision in decisions(network):
        decision.mixture.fixed = len(decision.mixture.candidates) - 1


def calibrating_all(network: Network) -> ExitStack:
    """Inside, what passes a fixed mixture calibrates its other candidates too, though only the fixed one is used."""
    stack = ExitStack()
    for decision in decisions(network):
        if decision.kind == "activation":
            handle = decision.mixture.register_forward_pre_hook(_calibrate_others)
            stack.callback(handle.remove)
    return stack


def _calibrate_others(mixture: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    assert isinstance(mixture, Mixture)
    for index, candidate in enumerate(mixture.candidates):
        if index != mixture.fixed and isinstance(candidate, ActivationQuantizer) and candidate.calibrating:
            candidate.calibrate(inputs[0])
