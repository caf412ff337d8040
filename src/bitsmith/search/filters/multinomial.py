"""Multinomial: search of how many filters of each layer have which bits, by draws and score functions.

    n ~ Multinomial(N, softmax(alpha)) per layer,    alpha <- alpha - Adam(mean_s (L_s - b_s)(n_s - N p) + d penalty)

Zur, Baskin, Zheltonozhskii et al., Towards Learning of Filter-Level Heterogeneous Compression of CNNs, arXiv
1904.09872, and its released code. A filter takes a pair of its weight bits and the activation bits of the map that it
makes. Epochs of weights, each batch under a partition drawn, alternate with steps of alpha on search data. Where ours
differs:

- Steps of alpha are spread evenly over the epochs, not all at their end.
- The score function estimates the slope of the cross-entropy alone, with a leave-one-out baseline
  (`bitsmith.search.filters.score`). What partitions cost is known: its expectation and slope take no draws, exactly for
  bitops (and weights up to whole bytes), relaxed for other costs (`bitsmith.search.filters.costs`), and it is led to
  budgets that fall (`bitsmith.search.falling`).
- Budgets are hard: what the search ends with is brought inside exactly, pairs kept (`bitsmith.search.filters.settle`).
- All bits of a filter share one weight. BatchNorm is re-estimated before a partition is scored. Alpha never sees test
  data, and its optimizer lives as long as the search.

`as_published` draws the penalty lambda (BOPs / BOPs at 3 bits)^2 with the loss, has no baseline, steps by plain SGD and
ends with floor(N p) filters at each pair and the rest at the last, whatever budgets say. docs/filters.md lists what is
published, what is ours and what nobody knows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
from torch import Tensor

from bitsmith.blueprint import Budget
from bitsmith.errors import RecipeError
from bitsmith.quantize import build
from bitsmith.search.filters.alternating import Alternating
from bitsmith.search.filters.costs import RELAXED
from bitsmith.search.filters.partitions import Counts, Pair, Partitions
from bitsmith.search.filters.sampled import SampledFilters, check_maps
from bitsmith.search.filters.score import Baseline
from bitsmith.search.filters.settle import Settled, Settler
from bitsmith.search.problem import Found, Problem, require_bits
from bitsmith.search.searching import check_lead, check_settings, choices_of_bits, open_loop, refuse_compiling
from bitsmith.seeding import derive
from bitsmith.space import Precision
from bitsmith.train import TrainPlan, calibrate, on_threads, reestimate_norms


@final
@dataclass(frozen=True, kw_only=True)
class Multinomial:
    """Filters per pair of bits, by draws.

    Args:
        plan: epochs, batch size and optimizer of the weights during search; nothing is compiled.
        pairs: (weight bits of a filter, activation bits of the map that it makes), in the order in which filters are
            assigned; (code). Layers whose options are one number keep that number.
        samples: partitions drawn for a step of alpha; by default 10, as published 3 (code).
        baseline: of the score function, "leave-one-out" or "none"; as published none.
        architecture_lr: of Adam on alpha; as published of SGD.
        architecture_steps: steps of alpha in each epoch of weights, on a batch of search data each; as published at its
            end.
        weights_first: epochs in which only weights learn.
        falling: share of the steps of alpha in which the limits fall to the budgets.
        multiplier_step: step of the multipliers on the relative violation.
        square: weight of the squared relative violation.
        norm_batches: that re-estimate BatchNorm before a partition is scored, and in the network found.
        as_published: the paper's search, as far as its code shows it; see the module's text.
        bops_weight: lambda of its penalty, as published alone. Its value is unknown, so it must be given.
    """

    plan: TrainPlan = field(default_factory=lambda: TrainPlan(epochs=8, lr=0.1))
    pairs: tuple[Pair, ...] = ((2, 2), (2, 4), (3, 3), (8, 8))
    samples: int | None = None
    baseline: Baseline = "leave-one-out"
    architecture_lr: float = 0.03
    architecture_steps: int = 20
    weights_first: int = 1
    falling: float = 0.6
    multiplier_step: float = 0.05
    square: float = 2.0
    norm_batches: int = 5
    as_published: bool = False
    bops_weight: float | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        least = 1 if self.taken_baseline == "none" else 2
        for name, fine, wanted in (
            ("pairs", bool(self.pairs) and len(set(self.pairs)) == len(self.pairs), "given once each, at least one"),
            ("pairs", all(1 <= w <= 8 and 1 <= a <= 8 for w, a in self.pairs), "of 1 to 8 bits"),
            ("samples", self.taken_samples >= least, "at least 2 (1 without baseline)"),
            ("architecture_steps", self.architecture_steps >= 1, "at least 1"),
            ("bops_weight", self.bops_weight is None or 0 <= self.bops_weight < float("inf"), "not negative"),
        ):
            if not fine:
                raise RecipeError(f"{name} of method 'multinomial' must be {wanted}, got {getattr(self, name)}")
        if self.as_published and self.bops_weight is None:
            raise RecipeError(
                "neither the paper nor its code tells the bops_weight and the architecture_lr of the multinomial "
                "search, so as published it wants them from you, in a recipe: method: {name: multinomial, "
                "as_published: true, bops_weight: ..., architecture_lr: ...} "
                f"(the latter is {self.architecture_lr:g} unless given)"
            )
        refuse_compiling(self)
        check_lead(self, "bits of filters")

    @property
    def name(self) -> str:
        return "multinomial-as-published" if self.as_published else "multinomial"

    @property
    def epochs(self) -> float:
        return self.plan.epochs

    @property
    def taken_baseline(self) -> Baseline:
        """The baseline that acts: as published there is none."""
        return "none" if self.as_published else self.baseline

    @property
    def taken_samples(self) -> int:
        """Partitions drawn for a step of alpha.

        A pass that scores one more tells more than one that re-estimates BatchNorm once more
        (benchmarks/score_variance.py).
        """
        return self.samples if self.samples is not None else 3 if self.as_published else 10

    def check(self, space: Precision, budgets: Sequence[Budget], *, trained: bool) -> None:
        """Refuse other spaces than one network's bits, costs without a slope in filters, and budgets out of reach.

        As published, budgets are of any cost and as tight as you like: that search doesn't know them.
        """
        require_bits(space, "the multinomial method")
        unknown = [str(budget) for budget in budgets if budget.cost not in (*RELAXED, "ram")]
        if unknown and not self.as_published:
            known = [cost for cost in RELAXED if cost not in ("params", "macs")]  # no bits change these
            raise RecipeError(
                f"the multinomial method can't be led to {', '.join(unknown)}; it knows the slopes of "
                f"{', '.join(known)}: budget one of these"
            )
        partitions = Partitions(space, self.pairs)
        check_maps(partitions)
        if not self.as_published:
            Settler(partitions, budgets).least()

    def search(self, problem: Problem) -> Found:
        """Find how many filters have which bits, inside every budget; as published whatever the budgets say.

        Details: "pairs", how many filters of each layer have which ("w2" where there are no activation bits to choose),
        "probabilities", p of each free layer, and "fell_back", whether these didn't lead inside the budgets, so that
        all filters of a layer became alike.

        Raises:
            BudgetError: no partition that meets the budgets was found (before any training).
            RecipeError: as `check`.
            TrainingError: the loss is not finite.
        """
        self.check(problem.space, problem.budgets, trained=problem.float_state is not None)
        partitions = Partitions(problem.space, self.pairs)
        plain = replace(self, plan=replace(self.plan, compile="none"))
        loop = open_loop(plain, problem, depends_on=choices_of_bits(problem))
        with on_threads(loop.mode.threads):
            searching = Alternating(self, problem, loop, partitions)
            history = loop.run(searching)
            learned = time.monotonic()
            p = {name: q.detach() for name, q in searching.probabilities().items()}
            if self.as_published:
                settled = Settled(counts=rounded_down(partitions, p), fell_back=False)
            else:
                settled = Settler(partitions, problem.budgets).settle(p)
            counts = settled.counts
            best = partitions.blueprint(counts)
            state = self._inherit(searching.sampled, counts, problem)
        return Found(
            best=best,
            method=self.name,
            epochs=self.epochs,
            seconds=history.seconds + time.monotonic() - learned,
            curves=history.curves,
            memory=history.memory,
            details={
                "pairs": _counted(partitions, counts),
                "probabilities": {n: q.tolist() for n, q in p.items()},
                "fell_back": settled.fell_back,
            },
            state=state,
        )

    def _inherit(self, sampled: SampledFilters, counts: Counts, problem: Problem) -> dict[str, Tensor]:
        """The found network with the shared weights, its steps started anew but for those that filters share, its
        BatchNorms re-estimated."""
        best = sampled.partitions.blueprint(counts)
        network, shared = build(best), sampled.network.state_dict()
        network.load_float({name: shared[name] for name in network.float_names})
        network.to(next(sampled.parameters()).device)
        data, batch_size = problem.task.data.train, self.plan.batch_size
        calibrate(network, data, batch_size=batch_size, seed=derive(problem.seed, "calibrate"))
        sampled.hand_on(network)
        seed = derive(problem.seed, "norms")
        reestimate_norms(network, data, batches=self.norm_batches, batch_size=batch_size, seed=seed)
        return network.state_dict()


def rounded_down(partitions: Partitions, p: dict[str, Tensor]) -> Counts:
    """floor(N p) filters at each choice, the rest at the last one, as the released code ends.

    Example:
        7 filters at p = (.5, .3, .2): 3 and 2, and 2 at the last.
    """
    found = partitions.homogeneous(0)
    for name, q in p.items():
        count = partitions.layers[name].out_channels
        found[name] = np.floor(q.double().numpy() * count).astype(np.int64)
        found[name][-1] += count - found[name].sum()
    return found


def _counted(partitions: Partitions, counts: Counts) -> dict[str, dict[str, Any]]:
    """Layer -> pair -> number of filters."""
    return {
        name: {f"w{w}a{a}" if a else f"w{w}": int(n) for (w, a), n in zip(choices, counts[name], strict=True) if n}
        for name, choices in partitions.choices.items()
    }
