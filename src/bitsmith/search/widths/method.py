"""Binomial and block-binomial: how many filters every layer has, by drawing widths.

    w = 1 + Binomial(C - 1, sigmoid(alpha)),    d alpha ~ mean_s (L_s - b_s) (w_s - E w)

Zur, Baskin, Zheltonozhskii et al., Towards Learning of Filter-Level Heterogeneous Compression of CNNs, arXiv
1904.09872: slimmable weights, a replicator that trains each drawn network with the homogeneous ones, and a score that
compares it with homogeneous networks of its own cost, L = .1 + LeakyReLU_.1(d). Where ours differs: budgets are hard
(expected costs are led to limits that fall, and what the search ends with is brought inside exactly), the score
function has a leave-one-out baseline, and log-odds learn on the search split, by Adam. `as_published` takes L alone, by
the released code's SGD, and the likeliest widths, whatever they cost.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch

from bitsmith.blueprint import FLOAT, Blueprint, Budget, Options
from bitsmith.errors import RecipeError
from bitsmith.search.filters.costs import RELAXED
from bitsmith.search.problem import Found, Problem, require_bits
from bitsmith.search.searching import check_lead, check_settings, choices_of_bits, open_loop, refuse_compiling
from bitsmith.search.widths.discretize import WidthDiscretizer, as_details
from bitsmith.search.widths.groups import WidthGroups, Widths, width_groups
from bitsmith.search.widths.learner import WidthLearner
from bitsmith.search.widths.score import Baseline, expected_widths
from bitsmith.space import Precision
from bitsmith.train import Loop, TrainPlan, on_threads


@dataclass(frozen=True, kw_only=True)
class WidthSearch(ABC):
    """Search of the widths of one network at one pair of bits per layer.

    Args:
        plan: epochs, batch size and optimizer of the shared weights during search; nothing is compiled.
        weight_bits, activation_bits: of every layer that the space gives a choice; None takes the highest it may have.
        samples: networks drawn in a round, after which the log-odds take one step.
        sample_steps: steps that each of them trains for, before all are scored.
        baseline: of the score function: "leave-one-out", or "none".
        start: every log-odds' first value; 2 keeps 88 % of the channels.
        architecture_lr: of Adam (beta1 0.5) on the log-odds; as published, of SGD. None is .05, and as published 1e-4,
            as the released code's command has it.
        weights_first: epochs in which only weights learn, of networks drawn from the first log-odds.
        falling: share of the remaining search in which the limits fall to the budgets.
        multiplier_step, square: see `FallingBudgets`.
        norm_batches: that re-estimate BatchNorm before a network is scored, and in the one found.
        loss_batches: search batches that a round's networks are scored on.
        as_published: no budgets, no baseline; the likeliest widths, which may be outside.
    """

    plan: TrainPlan = field(default_factory=lambda: TrainPlan(epochs=8, lr=0.1))
    weight_bits: int | None = None
    activation_bits: int | None = None
    samples: int = 3
    sample_steps: int = 4
    baseline: Baseline = "leave-one-out"
    start: float = 2.0
    architecture_lr: float | None = None
    weights_first: int = 1
    falling: float = 0.6
    multiplier_step: float = 0.02
    square: float = 2.0
    norm_batches: int = 20
    loss_batches: int = 2
    as_published: bool = False

    def __post_init__(self) -> None:
        check_settings(self)
        for name, least in (("samples", 2), ("sample_steps", 1), ("loss_batches", 1)):
            if getattr(self, name) < least:
                raise RecipeError(f"{name} of method {self.name!r} must be at least {least}, got {getattr(self, name)}")
        if not -20 <= self.start <= 20:
            raise RecipeError(f"start of method {self.name!r} is a log-odds within -20..20, got {self.start}")
        refuse_compiling(self)
        check_lead(self, "widths")

    @property
    @abstractmethod
    def blocks(self) -> bool:
        """Whether layers of equal channel count share one width."""

    @property
    def name(self) -> str:
        name = "block-binomial" if self.blocks else "binomial"
        return f"{name}-as-published" if self.as_published else name

    @property
    def epochs(self) -> float:
        return self.plan.epochs

    @property
    def taken_lr(self) -> float:
        """The learning rate of the log-odds that acts."""
        return self.architecture_lr if self.architecture_lr is not None else 1e-4 if self.as_published else 0.05

    def check(self, space: Precision, budgets: Sequence[Budget], *, trained: bool) -> None:
        """Refuse other spaces than one network's bits, costs without a slope in widths, and budgets out of reach."""
        fixed, groups = self._decisions(space)
        unknown = [str(budget) for budget in budgets if budget.cost not in (*RELAXED, "ram")]
        if unknown and not self.as_published:
            raise RecipeError(
                f"the {self.name} method can't be led to {', '.join(unknown)}; it knows "
                f"{', '.join((*RELAXED, 'ram'))}: budget one of these"
            )
        if not self.as_published:
            WidthDiscretizer(fixed, groups, budgets).check()

    def narrowest(self, space: Precision) -> Precision:
        """The space of bits of the network with one channel in every group: where costs are least."""
        fixed, groups = self._decisions(space)
        return replace(fixed, template=groups.blueprint(fixed.template, [1] * len(groups.groups)))

    def search(self, problem: Problem) -> Found:
        """Find widths inside every budget; as published, the likeliest whatever the budgets say.

        Details: the width of each group, how many filters of each layer have which bits (0: removed), and the number of
        rounds, in each of which the log-odds took a step.

        Raises:
            BudgetError: not even the narrowest network meets the budgets (found before any training).
            RecipeError: as `check`; data and epochs of too few steps for one round.
            TrainingError: the loss is not finite.
        """
        self.check(problem.space, problem.budgets, trained=problem.float_state is not None)
        space, groups = self._decisions(problem.space)
        plain = replace(self, plan=replace(self.plan, compile="none"))
        loop = open_loop(plain, problem, depends_on=choices_of_bits(problem))
        rounds = self._rounds(loop)
        with on_threads(loop.mode.threads):
            learner = WidthLearner(self, problem, loop, space, groups)
            history = loop.run(learner)
            learned = time.monotonic()
            logits = learner.slim.logits.detach().double().cpu()
            decided = WidthDiscretizer(space, groups, problem.budgets)
            widths = decided.likeliest(logits.numpy()) if self.as_published else decided.discretize(logits.numpy())
            state = self._inherit(learner, widths)
        best = groups.blueprint(space.uniform(8, 8), widths)
        expected = expected_widths(logits, torch.tensor(groups.channels))
        return Found(
            best=best,
            method=self.name,
            epochs=self.epochs,
            seconds=history.seconds + time.monotonic() - learned,
            curves=history.curves,
            memory=history.memory,
            details={
                "widths": as_details(groups, widths, expected.tolist()),
                "filters": _counted(groups, best),
                "rounds": rounds,
            },
            state=state,
        )

    def _rounds(self, loop: Loop) -> int:
        """How often the log-odds take a step: rounds that end behind the steps of weights alone.

        Raises:
            RecipeError: there is none.
        """
        each = self.samples * self.sample_steps
        found = loop.steps // each - self.weights_first * loop.steps_per_epoch // each
        if not found:
            raise RecipeError(
                f"the {self.name} search has {loop.steps} steps, of which weights alone learn for the first "
                f"{self.weights_first * loop.steps_per_epoch}, and no round of samples x sample_steps = {each} steps "
                "ends behind them, so no widths would be learned; give it more epochs, smaller batches, or fewer "
                "samples or sample_steps"
            )
        return found

    def _decisions(self, space: Precision) -> tuple[Precision, WidthGroups]:
        """The space at one pair of bits per layer, and its groups of channels."""
        require_bits(space, f"the {self.name} method")
        fixed = at_bits(space, self.weight_bits, self.activation_bits, self.name)
        groups = width_groups(space.template.graph, blocks=self.blocks)
        if not groups.groups:
            raise RecipeError(
                "there is nothing to search: every filter makes one of the network's outputs, is coupled with its "
                "input or is shuffled; give a network with layers of a width of their own"
            )
        return fixed, groups

    def _inherit(self, learner: WidthLearner, widths: Widths) -> Mapping[str, Any]:
        """The state of the found network: its slice of all that is shared, BatchNorm re-estimated."""
        network = learner.slim.extract(widths)
        learner.reestimate(network)
        return network.state_dict()


@final
@dataclass(frozen=True, kw_only=True)
class Binomial(WidthSearch):
    """One width for every set of channels that can only be narrowed together (a residual stream, say)."""

    @property
    def blocks(self) -> bool:
        return False


@final
@dataclass(frozen=True, kw_only=True)
class BlockBinomial(WidthSearch):
    """One width for all layers of equally many channels, as published."""

    @property
    def blocks(self) -> bool:
        return True


def at_bits(
    space: Precision,
    weight: int | None,
    activation: int | None,
    method: str,
    *,
    hint: str = "pin it to 8 instead, or give the method's weight_bits and activation_bits",
) -> Precision:
    """The space with one option per layer: the given bits where it has a choice, else the highest.

    Args:
        hint: what to do about a layer that would stay float.

    Raises:
        RecipeError: bits that a layer with a choice may not have, or that no layer has a choice of; a layer that may
            stay float.
    """
    for what, bits in (("weight", weight), ("activation", activation)):
        if bits is not None and all(len(getattr(options, what)) == 1 for options in space.options.values()):
            raise RecipeError(
                f"{what}_bits of method {method!r} is {bits}, but no layer of the space has a choice of {what} bits; "
                "leave it out, or give the space more options"
            )
    chosen = {}
    for name, options in space.options.items():
        pair = []
        for what, bits, allowed in (("weight", weight, options.weight), ("activation", activation, options.activation)):
            if len(allowed) > 1 and bits is not None and bits not in allowed:
                raise RecipeError(
                    f"{what}_bits of method {method!r} is {bits}, and layer {name!r} may have {list(allowed)}; take "
                    "one of these, or allow it in the space"
                )
            pair.append((max(allowed) if bits is None or len(allowed) == 1 else bits,))
        if (FLOAT,) in pair:
            raise RecipeError(f"layer {name!r} would stay float, and for {method} every layer has 1 to 8 bits: {hint}")
        chosen[name] = Options(weight=pair[0], activation=pair[1])
    return replace(space, options=chosen)


def _counted(groups: WidthGroups, best: Blueprint) -> dict[str, dict[str, int]]:
    """Layer -> bits -> number of filters; 0: removed."""
    found = {}
    for old, new in zip(groups.coupling.graph.layers, best.graph.layers, strict=True):
        counts = {best.bits[new.name].weight: new.out_channels, 0: old.out_channels - new.out_channels}
        found[old.name] = {str(bits): count for bits, count in sorted(counts.items()) if count}
    return found
