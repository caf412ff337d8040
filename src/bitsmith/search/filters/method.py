"""Filters: gradient search of the bits of every filter and of the filters that stay.

    y_c = z_c norm(conv(sum_i softmax(alpha)_i Q_i(x), W~)),    W~_f = sum_k softmax(logits_f)_k Q_k(W_f)

After Zur, Baskin, Zheltonozhskii et al., Towards Learning of Filter-Level Heterogeneous Compression of CNNs, arXiv
1904.09872, whose question it is (do filters of one layer want different bits, and how many filters?) but not whose
algorithm: theirs samples, by multinomial draws and score functions. Here the choices are mixed, as in the composite
convolution (arXiv 2004.05795), with probabilities for each filter; each set of channels that can only go together is
there or not, drawn for every step with a probability that is learned (`bitsmith.search.filters.soft`); one shared
weight per layer, and hard budgets: expected costs are led to them (`bitsmith.search.falling`), and what the search ends
with is brought inside exactly (`bitsmith.search.filters.discretize`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from bitsmith.blueprint import FLOAT, Budget, Pruned, format_cost
from bitsmith.cost import exact, fits
from bitsmith.errors import RecipeError
from bitsmith.quantize import build
from bitsmith.search.filters.costs import RELAXED, RelaxedCosts, led, rising_layers
from bitsmith.search.filters.discretize import FilterDiscretizer
from bitsmith.search.filters.fewest import fewest_filters
from bitsmith.search.filters.soft import SoftFilters, removable_units
from bitsmith.search.problem import Found, Problem, require_bits
from bitsmith.search.searching import (
    JointLearner,
    check_lead,
    check_settings,
    choices_of_bits,
    let_fall,
    open_loop,
    refuse_compiling,
)
from bitsmith.seeding import derive
from bitsmith.space import Precision, cut_state
from bitsmith.train import (
    Loop,
    Piece,
    TrainPlan,
    autocast,
    calibrate,
    make_optimizer,
    make_schedule,
    on_threads,
    reestimate_norms,
)


@final
@dataclass(frozen=True, kw_only=True)
class Filters:
    """Bits per filter, and filters per layer, by gradients.

    A filter takes one of the weight bits of its layer in the space, or is removed with all that is coupled with it;
    what a layer reads takes one of its activation bits. Pins and ends fix bits; their filters may be removed all the
    same, unless they make the network's outputs.

    Args:
        plan: epochs, batch size and optimizer of the weights during search; nothing is compiled.
        remove: whether filters may be removed.
        architecture_lr: of Adam (beta1 0.5) on logits and gates.
        weights_first: epochs in which only weights learn.
        falling: share of the remaining search in which the limits fall to the budgets.
        multiplier_step: step of the multipliers on the relative violation.
        square: weight of the squared relative violation.
        temperature: of softmaxes and gates, from first to last, geometrically while they learn.
        norm_batches: that re-estimate BatchNorm in the network found.
    """

    plan: TrainPlan = field(default_factory=lambda: TrainPlan(epochs=8, lr=0.1))
    remove: bool = True
    architecture_lr: float = 0.01
    weights_first: int = 1
    falling: float = 0.6
    multiplier_step: float = 0.002
    square: float = 2.0
    temperature: tuple[float, float] = (1.0, 0.3)
    norm_batches: int = 20

    def __post_init__(self) -> None:
        check_settings(self)
        refuse_compiling(self)
        check_lead(self, "bits of filters")

    @property
    def name(self) -> str:
        return "filters"

    @property
    def epochs(self) -> float:
        return self.plan.epochs

    def check(self, space: Precision, budgets: Sequence[Budget], *, trained: bool) -> None:
        """Refuse other spaces than one network's bits, costs without a slope in filters, and budgets out of reach."""
        require_bits(space, "the filters method")
        unknown = [str(budget) for budget in budgets if budget.cost not in (*RELAXED, "ram")]
        if unknown:
            raise RecipeError(
                f"the filters method can't be led to {', '.join(unknown)}; it knows the slopes of "
                f"{', '.join(RELAXED)}: budget one of these"
            )
        floats = [name for name, o in space.options.items() if FLOAT in (*o.weight, *o.activation)]
        if floats:
            raise RecipeError(f"layer {floats[0]!r} may stay float, and filters have 1 to 8 bits: pin it to 8 instead")
        _refuse_little_ram(space, budgets)
        coupling, removable = removable_units(space, remove=self.remove)
        if not removable.any() and (space.sizes == 1).all():
            raise RecipeError(
                "there is nothing to search: every layer has one choice of bits and no filter can be removed; allow "
                "more bit-widths, free the ends or unpin layers"
            )
        FilterDiscretizer(space, coupling, removable, budgets).least()

    def narrowest(self, space: Precision) -> Precision:
        """The space of bits of the network with as few filters as there can be: where costs are least."""
        return replace(space, template=fewest_filters(space, *removable_units(space, remove=self.remove)).blueprint)

    def search(self, problem: Problem) -> Found:
        """Find filters inside every budget.

        Details: how many filters of each layer have which bits (0: removed), the probabilities of what layers read, and
        whether what all of them say didn't lead inside, so that the least network was filled (`fell_back`).

        Raises:
            BudgetError: not even the least network meets the budgets (found before any training).
            RecipeError: as `check`.
            TrainingError: the loss is not finite.
        """
        self.check(problem.space, problem.budgets, trained=problem.float_state is not None)
        plain = replace(self, plan=replace(self.plan, compile="none"))
        split = problem.task.data.training  # nothing is decided on a split of its own
        loop = open_loop(plain, problem, depends_on=choices_of_bits(problem), split=split)
        with on_threads(loop.mode.threads):
            searching = _Searching(self, problem, loop)
            history = loop.run(searching)
            learned = time.monotonic()
            soft = searching.soft
            discretizer = FilterDiscretizer(problem.space, soft.coupling, soft.removable, problem.budgets)
            shares = soft.shares()
            discretized = discretizer.discretize(shares)
            pruned = discretized.pruned
            state = self._inherit(soft, pruned, problem)
        return Found(
            best=pruned.blueprint,
            method=self.name,
            epochs=self.epochs,
            seconds=history.seconds + time.monotonic() - learned,
            curves=history.curves,
            memory=history.memory,
            details={
                "filters": _counted(pruned),
                "activations": {name: q.tolist() for name, q in shares.activation.items() if len(q) > 1},
                "fell_back": discretized.fell_back,
            },
            state=state,
        )

    def _inherit(self, soft: SoftFilters, pruned: Pruned, problem: Problem) -> dict[str, Tensor]:
        """The found network with the shared weights of its filters, calibrated, its BatchNorms re-estimated."""
        network, state = build(pruned.blueprint).to(soft.gates.device), soft.network.state_dict()
        shared = {name: state[name] for name in network.float_names}
        network.load_float(cut_state(pruned.coupling.graph, pruned.left, shared))
        data, batch_size = problem.task.data.training, self.plan.batch_size
        calibrate(network, data, batch_size=batch_size, seed=derive(problem.seed, "calibrate"))
        seed = derive(problem.seed, "norms")
        reestimate_norms(network, data, batches=self.norm_batches, batch_size=batch_size, seed=seed)
        return network.state_dict()


def _refuse_little_ram(space: Precision, budgets: Sequence[Budget]) -> None:
    """Fewer filters need no more RAM, but the search isn't led to less: all of them have to fit from the beginning."""
    whole = space.uniform(8, 8)
    for budget in budgets:
        if budget.cost == "ram" and not fits(whole.graph, whole.bits, [budget], space.costs):
            needed = format_cost("ram", exact("ram", whole.graph, whole.bits, space.costs))
            raise RecipeError(
                f"the filters method can't be led to {budget} (a budget, or the memory of the target), and the network "
                f"takes {needed} before filters are removed; make it narrower first, by --width or width: in the "
                "recipe, take a smaller input, or a target with more ram"
            )


def _counted(pruned: Pruned) -> dict[str, dict[str, int]]:
    """Layer -> bits -> number of filters."""
    found = {}
    for old, new in zip(pruned.coupling.graph.layers, pruned.blueprint.graph.layers, strict=True):
        counts = Counter(pruned.blueprint.bits[new.name].filters(new))
        counts[0] = old.out_channels - new.out_channels
        found[old.name] = {str(bits): count for bits, count in sorted(counts.items()) if count}
    return found


@final
class _Searching(JointLearner):
    """The state of one running search."""

    def __init__(self, method: Filters, problem: Problem, loop: Loop) -> None:
        self.method, self.problem = method, problem
        torch.manual_seed(derive(problem.seed, "filters"))
        self.soft = SoftFilters(problem.space, remove=method.remove)
        if problem.float_state is not None:
            self.soft.network.load_float(problem.float_state)
        self.soft.to(loop.device).train()
        decided = self.soft.architecture()
        optimizer = make_optimizer(self.soft, method.plan, leave_out=decided)
        budgets = led(problem.budgets)
        names, coupling = [budget.cost for budget in budgets], self.soft.coupling
        rising = rising_layers(problem.space, coupling)
        self.costs = RelaxedCosts(problem.space, coupling, names, rising=rising)
        with torch.no_grad():
            first = [value.item() for value in self.costs(self.soft.shares())]
        lead = method.weights_first * loop.steps_per_epoch
        super().__init__(
            loop,
            self.soft,
            optimizer=optimizer,
            architecture=torch.optim.Adam(decided, lr=method.architecture_lr, betas=(0.5, 0.999)),
            schedule=make_schedule(optimizer, method.plan, steps=max(2, loop.steps)),
            falling=let_fall(method, budgets, first, lead=lead, steps=loop.steps),
            lead=lead,
        )
        if loop.saved is None:
            seed = derive(problem.seed, "calibrate")
            calibrate(self.soft, problem.task.data.training, batch_size=method.plan.batch_size, seed=seed)

    def begin(self, step: int) -> None:
        super().begin(step)
        first, last = self.method.temperature
        share = max(0.0, step - self._lead) / max(1.0, self.loop.steps - 1 - self._lead)
        self.soft.cool(first * (last / first) ** share)
        if step >= self._lead:
            self.soft.draw()

    def loss(self, piece: Piece, step: int) -> Tensor:
        with autocast(self.loop.mode.precision, self.loop.device):
            outputs = self.soft(piece.x)
        return piece.loss(self.problem.task, piece.gathered(outputs))

    def penalty(self, step: int) -> Tensor:
        return self.falling.penalty(self.costs(self.soft.shares()), step, self.loop.device)

    @torch.no_grad()
    def end_epoch(self, step: int, loss: float) -> Mapping[str, float]:
        expected = [value.item() for value in self.costs(self.soft.shares())]
        return {"step": float(step), "loss": loss} | self.falling.figures(expected, step)
