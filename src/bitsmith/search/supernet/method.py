"""Supernet: low-precision architecture search with shared convolutions, from scratch.

Kernels, expansions, widths, numbers of blocks, squeeze-and-excitation, activation functions and bits are searched
together by gradients, in one network of which every choice is a part (`SharedNetwork`). The whole of it is trained in
every step; budgets are hard. Sources: "Neural Architecture Search for Low-Precision Neural Networks" (ICANN 2022; its
abstract: bits join the space of FBNet-V2, shared convolutions, scaling) and FBNet-V2 (arXiv 2004.05565: masks of
channels, Gumbel-softmax, weights first, an 80/20 split). How they share, scale and meet budgets is ours.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal, final

import numpy as np
import torch
from torch import Tensor

from bitsmith.blueprint import Blueprint, Budget
from bitsmith.errors import RecipeError
from bitsmith.search.problem import Found, Problem
from bitsmith.search.supernet.discretize import Discretizer
from bitsmith.search.supernet.learner import SupernetLearner
from bitsmith.search.supernet.network import check_shareable
from bitsmith.search.supernet.parts import Scaling
from bitsmith.search.supernet.scoring import Scoring, inherited, measure_options, to_penalties
from bitsmith.seeding import derive
from bitsmith.space import Mobile, dump_mobile_space
from bitsmith.train import Loop, TrainPlan, on_threads


@final
@dataclass(frozen=True, kw_only=True)
class Supernet:
    """Search of whole networks of a `Mobile` space.

    Args:
        plan: epochs, batch size and optimizer of the weights during search.
        architecture_lr: of Adam (beta1 0.5) on the logits.
        architecture_every: steps of the weights per step of the choices, which learn on the search split.
        weights_first: share of the search in which only weights learn.
        falling: share of the rest in which the limits fall to the budgets.
        multiplier_step, square: see `FallingBudgets`.
        temperature: of the Gumbel-softmax, from first to last, geometrically over the search.
        scaling: "none", "mask" (soft masks over their weighted mean) or "branch" (mixtures of unshared branches over
            their norm); see `bitsmith.search.supernet.parts`.
        path: "mixture" trains all choices in every step, "single" one drawn network.
        score: what a network is chosen by: "sensitivity" (each option's measured loss) or "probability" (their log).
        norm_batches, loss_batches: for re-estimating BatchNorm and for the loss, per option measured.
    """

    plan: TrainPlan = field(default_factory=lambda: TrainPlan(epochs=20, lr=0.1, schedule="cosine", warmup=0.05))
    architecture_lr: float = 0.01
    architecture_every: int = 2
    weights_first: float = 0.1
    falling: float = 0.6
    multiplier_step: float = 0.01
    square: float = 2.0
    temperature: tuple[float, float] = (5.0, 0.5)
    scaling: Scaling = "mask"
    path: Literal["mixture", "single"] = "mixture"
    score: Literal["sensitivity", "probability"] = "sensitivity"
    norm_batches: int = 20
    loss_batches: int = 32

    def __post_init__(self) -> None:
        if self.plan.distill or self.plan.ema:
            raise RecipeError("distill and ema belong to the final training; the search's plan takes neither")
        if not 0 <= self.weights_first < 1:
            raise RecipeError(f"weights_first is a share of the search, 0..1, got {self.weights_first}")
        for name in ("architecture_every", "norm_batches", "loss_batches"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} of the supernet must be at least 1, got {getattr(self, name)}")
        if min(self.temperature) <= 0:
            raise RecipeError(f"temperature of the supernet must be positive, got {list(self.temperature)}")

    @property
    def name(self) -> str:
        return "supernet"

    @property
    def epochs(self) -> float:
        return self.plan.epochs

    def check(self, space: Any, budgets: Sequence[Budget], *, trained: bool) -> None:
        """Refuse other spaces, what can't share weights, and budgets that no network meets."""
        if not isinstance(space, Mobile):
            raise RecipeError(
                "the supernet searches whole networks of a mobile space, not the bits of a given network; "
                "give space: {kind: mobile, ...}, or search with method: composite"
            )
        check_shareable(space)
        if space.count() == 1:
            raise RecipeError("there is nothing to search: the space has one network; allow more options")
        Discretizer(space, budgets).check()

    def search(self, problem: Problem) -> Found:
        """Find a network inside every budget; `state` is its part of the supernet.

        Raises:
            BudgetError: no network of the space meets the budgets (found before any training).
            RecipeError: a space that can't be searched.
            TrainingError: the loss is not finite.
        """
        self.check(problem.space, problem.budgets, trained=problem.float_state is not None)
        loop = Loop(
            stage=f"search {self.name} at {', '.join(map(str, problem.budgets))}",
            task=problem.task,
            split=problem.task.data.train,
            plan=self.plan,
            epoch_seed=partial(derive, problem.seed, "search batches"),
            settings=self._settings(problem),
            checkpoint=problem.folder / "search.checkpoint" if problem.folder else None,
            checkpoint_seconds=problem.checkpoint_seconds,
            watch=problem.watch,
        )
        with on_threads(loop.mode.threads):
            learner = SupernetLearner(self, problem, loop)
            history = loop.run(learner)
            learned = time.monotonic()
            best, details = self._decide(learner, problem)
            state = inherited(learner.network, best, problem.task, self._scoring(problem)).state_dict()
        return Found(
            best=best,
            method=self.name,
            epochs=self.epochs,
            seconds=history.seconds + time.monotonic() - learned,
            curves=history.curves,
            details=details,
            state=state,
        )

    def _settings(self, problem: Problem) -> dict[str, Any]:
        """What a checkpoint must agree in to be gone on from."""
        space: Mobile = problem.space
        text = f"{dump_mobile_space(space.description)} {space.input_shape} {space.outputs} {space.quantizer}"
        values = asdict(self) | {"seed": problem.seed, "budgets": [str(b) for b in problem.budgets]}
        values |= {"temperature": list(self.temperature), "graph": hashlib.sha256(text.encode()).hexdigest()}
        return values

    def _scoring(self, problem: Problem) -> Scoring:
        return Scoring(
            norm_batches=self.norm_batches,
            loss_batches=self.loss_batches,
            batch_size=self.plan.batch_size,
            seed=derive(problem.seed, "sensitivities"),
        )

    @torch.no_grad()
    def _decide(self, learner: SupernetLearner, problem: Problem) -> tuple[Blueprint, dict[str, Any]]:
        """The network that a trained supernet stands for, and what it was decided by."""
        space: Mobile = problem.space
        p: Mapping[str, Tensor] = learner.probabilities()
        learner.network.present = dict(p)
        details: dict[str, Any] = {"probabilities": {name: values.tolist() for name, values in p.items()}}
        if self.score == "probability":
            penalties: dict[str, np.ndarray] = {
                name: -values.double().clamp_min(1e-12).log().cpu().numpy() for name, values in p.items()
            }
        else:
            losses = measure_options(
                learner.network,
                p,
                problem.task,
                self._scoring(problem),
                stage=f"sensitivities at {', '.join(map(str, problem.budgets))}",
                folder=problem.folder,
                watch=problem.watch,
            )
            details["option_losses"] = losses
            penalties = to_penalties(space, losses)
        return Discretizer(space, problem.budgets).best(penalties), details
