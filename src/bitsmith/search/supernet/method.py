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
from dataclasses import dataclass, field
from typing import Any, Literal, final

import numpy as np
import torch
from torch import Tensor

from bitsmith.blueprint import Blueprint, Budget
from bitsmith.errors import RecipeError
from bitsmith.search.problem import Found, Problem
from bitsmith.search.searching import at, check_settings, open_loop
from bitsmith.search.supernet.discretize import Discretizer
from bitsmith.search.supernet.evolution import refine
from bitsmith.search.supernet.learner import SupernetLearner, is_decided
from bitsmith.search.supernet.network import SharedNetwork, check_shareable
from bitsmith.search.supernet.parts import Scaling
from bitsmith.search.supernet.pricing import expected_costs
from bitsmith.search.supernet.scoring import Scoring, handed_on, measure_options, to_penalties
from bitsmith.seeding import derive
from bitsmith.space import Mobile, dump_mobile_space
from bitsmith.train import History, TrainPlan, on_threads


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
        score: what a network is chosen by: "sensitivity" (each option's measured loss, as far as it is more than noise,
            see `bitsmith.search.shrink`) or "probability" (their log).
        norm_batches, loss_batches: for re-estimating BatchNorm and for the loss, per option or network measured.
        refine: networks to score in an evolution around the one found; 0 is none. See `refine`.
        population: of a generation of it.
        as_published: the papers' search as far as it is public, see `bitsmith.search.supernet.published`: a soft cost
            in the loss in place of budgets, the temperature by epoch, choices after the weights of every epoch, the
            most likely options in the end. One budget, which names the cost; it isn't enforced.
        soft_cost: alpha and beta of it.
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
    refine: int = 0
    population: int = 20
    as_published: bool = False
    soft_cost: tuple[float, float] = (0.2, 0.6)

    def __post_init__(self) -> None:
        check_settings(self)
        if not 0 <= self.weights_first < 1:
            raise RecipeError(f"weights_first is a share of the search, 0..1, got {self.weights_first}")
        for name in ("architecture_every", "loss_batches"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} of the supernet must be at least 1, got {getattr(self, name)}")
        if self.refine < 0 or self.population < 2:
            raise RecipeError(
                f"refine takes a number of evaluations from 0 on and population at least 2, got {self.refine} and "
                f"{self.population}"
            )
        if self.as_published and (self.refine or self.path != "mixture"):
            raise RecipeError("as published, the whole supernet is trained and nothing is refined")
        if self.plan.compile == "network":
            raise RecipeError(
                "the supernet mixes anew in every step, so it can't be compiled as a whole; take compile: quantizers"
            )

    @property
    def name(self) -> str:
        return "supernet-as-published" if self.as_published else "supernet"

    @property
    def epochs(self) -> float:
        return self.plan.epochs

    def check(self, space: Any, budgets: Sequence[Budget], *, trained: bool) -> None:
        """Refuse other spaces, what can't share weights, and budgets that no network meets (as published: several)."""
        if not isinstance(space, Mobile):
            raise RecipeError(
                "the supernet searches whole networks of a mobile space, not the bits of a given network; "
                "give space: {kind: mobile, ...}, or search with method: composite"
            )
        check_shareable(space)
        if space.count() == 1:
            raise RecipeError("there is nothing to search: the space has one network; allow more options")
        if not self.as_published:
            Discretizer(space, budgets).check()
            return
        expected_costs(space, [budget.cost for budget in budgets])
        if len(budgets) != 1 or not is_decided(space, budgets[0].cost):
            raise RecipeError(
                "as published, the loss has one soft cost, that of the budget: give one budget, on a cost in which "
                "networks of the space differ"
            )

    def search(self, problem: Problem) -> Found:
        """Find a network inside every budget; `state` is its part of the supernet, its steps calibrated anew.

        Raises:
            BudgetError: no network of the space meets the budgets (found before any training).
            RecipeError: a space that can't be searched.
            TrainingError: the loss is not finite.
        """
        learner, history = self._learn(problem)
        learned = time.monotonic()
        with on_threads(learner.loop.mode.threads):
            best, details = self._decide(learner, problem)
            state = handed_on(learner.network, best, problem.task, self._scoring(problem)).state_dict()
        return Found(
            best=best,
            method=self.name,
            epochs=self.epochs,
            seconds=history.seconds + time.monotonic() - learned,
            curves=history.curves,
            memory=history.memory,
            details=details,
            state=state,
        )

    def learn(self, problem: Problem) -> SharedNetwork:
        """The trained supernet, for methods of your own that score blueprints by its weights.

        With the folder of a `search` by the same settings it goes on from that search's checkpoint; `bitsmith search`
        deletes its own once it is finished.

        Raises:
            BudgetError, RecipeError, TrainingError: as `search`.

        Example:
            >>> network = Supernet().learn(problem)
            >>> score_inherited(network, problem.space.sample(generator), problem.task, Scoring())
        """
        return self._learn(problem)[0].network

    def _learn(self, problem: Problem) -> tuple[SupernetLearner, History]:
        self.check(problem.space, problem.budgets, trained=problem.float_state is not None)
        loop = open_loop(self, problem, depends_on=_identity(problem.space))
        with on_threads(loop.mode.threads):
            learner = SupernetLearner(self, problem, loop)
            history = loop.run(learner)
            with torch.no_grad():
                learner.network.present = dict(learner.probabilities())
        return learner, history

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
        details: dict[str, Any] = {"probabilities": {name: values.tolist() for name, values in p.items()}}
        if self.as_published:
            return space.decode(np.array([int(values.argmax()) for values in p.values()])), details
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
                stage=f"sensitivities {at(problem)}",
                folder=problem.folder,
                watch=problem.watch,
            )
            believed = losses.believed()
            details |= {"option_losses": losses.means(), "trust": believed.trust}
            penalties = to_penalties(space, believed.losses, {k: v.double().cpu().numpy() for k, v in p.items()})
        best = Discretizer(space, problem.budgets).best(penalties)
        if self.refine:
            refined = refine(
                learner.network,
                best,
                problem.budgets,
                penalties,
                problem.task,
                self._scoring(problem),
                evaluations=self.refine,
                population=self.population,
                stage=f"refinement {at(problem)}",
                folder=problem.folder,
                watch=problem.watch,
            )
            best, details["refinement"] = refined.best, refined.details
        return best, details


def _identity(space: Mobile) -> dict[str, Any]:
    """What of a space a checkpoint must agree in to be gone on from."""
    text = f"{dump_mobile_space(space.description)} {space.input_shape} {space.outputs} {space.quantizer}"
    return {"graph": hashlib.sha256(text.encode()).hexdigest()}
