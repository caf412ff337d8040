"""Composite: gradient search of weight and activation bits with one convolution per layer (EdMIPS).

    y = conv(sum_i softmax(alpha)_i Q_i(x), sum_j softmax(beta)_j Q_j(W))

Cai, Vasconcelos: Rethinking Differentiable Search for Mixed-Precision Neural Networks, CVPR 2020, arXiv 2004.05795.
`as_published` repeats it: fixed weight cd on a complexity penalty, one joint backward, SGD for both, argmax.
Where ours differs: budgets are hard. The search minimizes loss subject to expected cost <= limit, with limits that fall
from the mixture's first cost to the budget (a dual ascent from the full cost overshoots and collapses all layers to
one bit), and the bits are then allocated exactly by measured sensitivity (the size of alpha is not a contribution).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, StepLR

from bitsmith.blueprint import FLOAT, Blueprint, Budget, LayerSpec
from bitsmith.cost import ExpectedCost, exact, tabulate
from bitsmith.errors import BudgetError, RecipeError
from bitsmith.quantize import Network
from bitsmith.search.allocate import allocate
from bitsmith.search.feasible import some_inside
from bitsmith.search.mixed import build_mixed, decisions, inherit, most_likely, probabilities
from bitsmith.search.problem import Found, Problem, require_bits
from bitsmith.search.searching import JointLearner, at, check_lead, check_settings, choices_of_bits, let_fall, open_loop
from bitsmith.search.sensitivity import measure, to_penalties
from bitsmith.seeding import derive
from bitsmith.space import Precision, Space
from bitsmith.train import (
    Loop,
    Piece,
    TrainPlan,
    autocast,
    calibrate,
    compiled,
    make_optimizer,
    make_schedule,
    on_threads,
)


@final
@dataclass(frozen=True, kw_only=True)
class Composite:
    """Composite mixed-precision search.

    Args:
        plan: epochs, batch size and optimizer of the weights during search.
        architecture_lr: of Adam (beta1 0.5) on the logits; as published: of SGD 0.9, with 0.01.
        weights_first: epochs in which only weights learn.
        falling: share of the remaining search in which the limits fall to the budgets.
        multiplier_step: step of the multipliers on the relative violation.
        square: weight of the squared relative violation.
        temperature: of the softmax, from first to last, geometrically over the search.
        allocation: "sensitivity" (measured, exact inside the budgets) or "argmax".
        norm_batches, loss_batches: batches for re-estimating BatchNorm and for the loss, per option measured.
        as_published: the paper's search: penalty cd * sum c_l E[bw] E[ba] / c_first in place of budgets, argmax.
        cd: the paper's penalty weight (ResNet-18: .00335).
    """

    plan: TrainPlan = field(default_factory=lambda: TrainPlan(epochs=8, lr=0.1))
    architecture_lr: float = 0.003
    weights_first: int = 1
    falling: float = 0.6
    multiplier_step: float = 0.002
    square: float = 2.0
    temperature: tuple[float, float] = (1.0, 0.3)
    allocation: Literal["sensitivity", "argmax"] = "sensitivity"
    norm_batches: int = 20
    loss_batches: int = 32
    as_published: bool = False
    cd: float = 0.00335

    def __post_init__(self) -> None:
        check_settings(self)
        if self.loss_batches < 1 or not self.cd >= 0:
            raise RecipeError(
                f"loss_batches must be at least 1 and cd not negative, got {self.loss_batches}, {self.cd}"
            )
        if not self.as_published:
            check_lead(self, "bits")

    @property
    def name(self) -> str:
        return "composite-as-published" if self.as_published else "composite"

    @property
    def epochs(self) -> float:
        return self.plan.epochs

    def check(self, space: Space, budgets: Sequence[Budget], *, trained: bool) -> None:
        """Refuse budgets that can't be met (as published, none is enforced) and spaces without a choice."""
        require_bits(space, self.name)
        if not self.as_published:
            some_inside(space, budgets)
        if all(n == 1 for sizes in space.sizes for n in sizes):
            raise RecipeError(
                "there is nothing to search: ends, pins and bit-widths leave every layer one choice; allow more "
                "bit-widths, free the ends or unpin layers, or take method: uniform"
            )

    def search(self, problem: Problem) -> Found:
        """Find bits inside every budget; as published, argmax whatever the budgets say.

        Raises:
            BudgetError: no blueprint of the space meets the budgets (found before any training).
            RecipeError: every layer has one choice of bits.
            TrainingError: the loss is not finite.
        """
        space = problem.space
        self.check(space, problem.budgets, trained=problem.float_state is not None)
        loop = open_loop(self, problem, depends_on=choices_of_bits(problem))
        with on_threads(loop.mode.threads):
            searching = _Searching(self, problem, loop)
            history = loop.run(searching)
            learned = time.monotonic()
            best, details = self._decide(searching.network, problem)
        return Found(
            best=best,
            method=self.name,
            epochs=self.epochs,
            seconds=history.seconds + time.monotonic() - learned,
            curves=history.curves,
            memory=history.memory,
            details=details,
            state=inherit(space, searching.network, best),
        )

    def _decide(self, network: Network, problem: Problem) -> tuple[Blueprint, dict[str, Any]]:
        """The blueprint that a searched network stands for, and what it was decided by."""
        weight, activation = probabilities(network)
        details: dict[str, Any] = {
            "probabilities": {n: {"weight": weight[n].tolist(), "activation": activation[n].tolist()} for n in weight}
        }
        if self.as_published or self.allocation == "argmax":
            best = most_likely(problem.space, network)
            over = [b for b in problem.budgets if exact(b.cost, best.graph, best.bits, problem.space.costs) > b.limit]
            if over and not self.as_published:
                raise BudgetError(
                    f"argmax of the search misses {', '.join(map(str, over))}; use allocation: sensitivity, "
                    "which meets every budget"
                )
            return best, details
        measured = measure(
            network,
            problem.task,
            norm_batches=self.norm_batches,
            loss_batches=self.loss_batches,
            batch_size=self.plan.batch_size,
            seed=derive(problem.seed, "sensitivities"),
            stage=f"sensitivities {at(problem)}",
            folder=problem.folder,
            watch=problem.watch,
        )
        losses = measured.means()
        details |= {"sensitivities": losses, "noise": measured.noise()}
        return allocate(problem.space, to_penalties(problem.space, losses), problem.budgets), details


def complexity(layer: LayerSpec) -> float:
    """c_l = Cin Cout k^2 Hin Win / (s^2 g), EdMIPS' cost of a layer (its code leaves out the groups g)."""
    height, width = layer.input_shape[1:] if len(layer.input_shape) == 3 else (1, 1)
    return layer.weights * height * width / (layer.stride[0] * layer.stride[1])


def published_penalty(space: Precision, weight: Mapping[str, Tensor], activation: Mapping[str, Tensor]) -> Tensor:
    """sum over quantized layers of c_l E[bw] E[ba] / c_first, as float64; EdMIPS eq. 15 and code.

    Example:
        Its ResNet-18 at 224 pixels: sum c_l / c_first = 14.667; times .00335 it is .3685 at equal probabilities of
        weights {1,2,3,4} and activations {2,3,4}, and .1965 at 2 bits everywhere.
    """
    priced = [
        layer
        for layer in space.template.graph.layers
        if FLOAT not in (*space.options[layer.name].weight, *space.options[layer.name].activation)
    ]
    first = complexity(priced[0])
    device = weight[priced[0].name].device
    total = torch.tensor(0.0, dtype=torch.float64, device=device)
    for layer in priced:
        options = space.options[layer.name]
        weight_bits = torch.tensor(options.weight, dtype=torch.float64, device=device)
        activation_bits = torch.tensor(options.activation, dtype=torch.float64, device=device)
        expected_weight = weight[layer.name].double() @ weight_bits
        expected_activation = activation[layer.name].double() @ activation_bits
        total = total + complexity(layer) / first * expected_weight * expected_activation
    return total


@final
class _Searching(JointLearner):
    """The state of one running search."""

    def __init__(self, method: Composite, problem: Problem, loop: Loop) -> None:
        self.method, self.problem = method, problem
        torch.manual_seed(derive(problem.seed, "composite"))
        self.network = build_mixed(problem.space)
        if problem.float_state is not None:
            self.network.load_float(problem.float_state)
        self.network.to(loop.device).train()
        self.mixtures = [d.mixture for d in decisions(self.network) if len(d.mixture.candidates) > 1]
        logits = [mixture.logits for mixture in self.mixtures]
        plan = method.plan
        every = [d.mixture.logits for d in decisions(self.network)]
        architecture_schedule: LRScheduler | None = None
        if method.as_published:
            chosen = {id(p) for p in every}
            weights = [p for p in self.network.parameters() if id(p) not in chosen]
            sgd = partial(torch.optim.SGD, momentum=plan.momentum, weight_decay=plan.weight_decay)
            optimizer: torch.optim.Optimizer = sgd(weights, lr=plan.lr)
            architecture: torch.optim.Optimizer = sgd(logits, lr=method.architecture_lr)
            # A tenth after every 10 epochs, for both.
            length = 10 * loop.steps_per_epoch
            schedule: LRScheduler = StepLR(optimizer, step_size=length, gamma=0.1)
            architecture_schedule = StepLR(architecture, step_size=length, gamma=0.1)
        else:
            optimizer = make_optimizer(self.network, plan, leave_out=every)
            schedule = make_schedule(optimizer, plan, steps=max(2, loop.steps))
            architecture = torch.optim.Adam(logits, lr=method.architecture_lr, betas=(0.5, 0.999))
        graph, options, costs = problem.space.template.graph, problem.space.options, problem.space.costs
        # A cost that no bits change can't be searched for; `allocate` has checked it.
        decided = [b for b in problem.budgets if tabulate(b.cost, graph, options, costs).decided]
        budgets: Sequence[Budget] = [] if method.as_published else decided
        self.costs = [ExpectedCost(b.cost, graph, options, costs) for b in budgets]
        with torch.no_grad():
            first = [float(cost(*probabilities(self.network))) for cost in self.costs]
        lead = 0 if method.as_published else method.weights_first * loop.steps_per_epoch
        super().__init__(
            loop,
            self.network,
            optimizer=optimizer,
            architecture=architecture,
            schedule=schedule,
            architecture_schedule=architecture_schedule,
            falling=let_fall(method, budgets, first, lead=lead, steps=loop.steps),
            lead=lead,
        )
        if loop.saved is None:
            seed = derive(problem.seed, "calibrate")
            calibrate(self.network, problem.task.data.train, batch_size=plan.batch_size, seed=seed)
        self.forward = compiled(self.network, loop.mode.compile)

    def begin(self, step: int) -> None:
        super().begin(step)
        if not self.method.as_published:
            self._set_temperature(step / max(1, self.loop.steps - 1))

    def loss(self, piece: Piece, step: int) -> Tensor:
        # Compiled for full batches; a last smaller one runs as it is.
        forward = self.forward if piece.usual else self.network
        with autocast(self.loop.mode.precision, self.loop.device):
            logits = forward(piece.x)
        return piece.loss(self.problem.task, piece.gathered(logits))

    def penalty(self, step: int) -> Tensor:
        weight, activation = probabilities(self.network)
        if self.method.as_published:
            return self.method.cd * published_penalty(self.problem.space, weight, activation)
        return self.falling.penalty([cost(weight, activation) for cost in self.costs], step, self.loop.device)

    @torch.no_grad()
    def end_epoch(self, step: int, loss: float) -> Mapping[str, float]:
        weight, activation = probabilities(self.network)
        expected = [float(cost(weight, activation)) for cost in self.costs]
        return {"step": float(step), "loss": loss} | self.falling.figures(expected, step)

    def _set_temperature(self, progress: float) -> None:
        first, last = self.method.temperature
        for mixture in self.mixtures:
            mixture.temperature.fill_(first * (last / first) ** progress)
