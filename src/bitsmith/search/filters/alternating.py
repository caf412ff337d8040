"""What the multinomial search does: steps of weights under drawn partitions, and steps of their probabilities between.

Those of the probabilities are spread evenly over an epoch's of the weights, so that a stopped search loses little; as
published they come together at its end.

A step of the probabilities scores a few drawn partitions on one batch of search data, the same for all of them, with
weights as they are. BatchNorm is re-estimated on training data before each is scored: the statistics that weight steps
leave behind are a mixture of all partitions drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from bitsmith.blueprint import Bits
from bitsmith.cost import exact
from bitsmith.search.filters.costs import RelaxedCosts, led
from bitsmith.search.filters.partitions import Counts, Partitions
from bitsmith.search.filters.sampled import SampledFilters
from bitsmith.search.filters.score import score_gradient
from bitsmith.search.problem import Problem
from bitsmith.search.searching import let_fall
from bitsmith.seeding import derive
from bitsmith.space import Precision
from bitsmith.train import (
    Learner,
    Loop,
    Piece,
    autocast,
    calibrate,
    load_into,
    make_optimizer,
    make_schedule,
    reestimate_norms,
)

if TYPE_CHECKING:
    from bitsmith.search.filters.multinomial import Multinomial

BASE = 3  # bits of the network that as-published penalties are relative to


@final
class Alternating(Learner):
    """The state of one running search.

    Attributes:
        alphas: the logits of each free layer's choices, [choices].
    """

    def __init__(self, method: Multinomial, problem: Problem, loop: Loop, partitions: Partitions) -> None:
        self.method, self.problem, self.loop, self.partitions = method, problem, loop, partitions
        torch.manual_seed(derive(problem.seed, "multinomial"))
        self.sampled = SampledFilters(partitions)
        if problem.float_state is not None:
            self.sampled.network.load_float(problem.float_state)
        self.sampled.to(loop.device).train()
        self.alphas = {name: nn.Parameter(torch.zeros(len(partitions.choices[name]))) for name in partitions.free}
        self.optimizer = make_optimizer(self.sampled, method.plan)
        self.schedule = make_schedule(self.optimizer, method.plan, steps=max(2, loop.steps))
        if method.as_published:  # momentum of an optimizer that is made anew at every step never acts
            self.architecture = torch.optim.SGD(self.alphas.values(), lr=method.architecture_lr)
        else:
            self.architecture = torch.optim.Adam(self.alphas.values(), lr=method.architecture_lr)
        budgets = [] if method.as_published else led(problem.budgets)
        names, rising = [budget.cost for budget in budgets], partitions.rising
        self.costs = RelaxedCosts(problem.space, partitions.coupling, names, rising=rising)
        with torch.no_grad():
            first = [value.item() for value in self.costs(partitions.shares(self.probabilities()))]
        steps = (method.plan.epochs - method.weights_first) * method.architecture_steps
        self.falling = let_fall(method, budgets, first, lead=0, steps=steps)
        self.base = base_bops(problem.space)
        self.search_batches: Iterator[tuple[Tensor, Tensor]] | None = None
        if loop.saved is None:
            seed = derive(problem.seed, "calibrate")
            calibrate(self.sampled, problem.task.data.train, batch_size=method.plan.batch_size, seed=seed)

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def probabilities(self) -> dict[str, Tensor]:
        """p = softmax(alpha) of each free layer."""
        return {name: torch.softmax(alpha, 0) for name, alpha in self.alphas.items()}

    def parameters(self) -> Iterable[Tensor]:
        return self.sampled.parameters()

    def begin(self, step: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.sampled.hold(self.partitions.draw(self.probabilities()))

    def loss(self, piece: Piece, step: int) -> Tensor:
        with autocast(self.loop.mode.precision, self.loop.device):
            outputs = self.sampled(piece.x)
        return piece.loss(self.problem.task, piece.gathered(outputs))

    def update(self, step: int) -> None:
        self.optimizer.step()
        if step + 1 < self.loop.steps:
            self.schedule.step()
        for number in range(self._steps(step), self._steps(step + 1)):
            self._choose(number)

    def _steps(self, step: int) -> int:
        """How many steps of the probabilities there are after so many of the weights."""
        epoch, rest = divmod(step, self.loop.steps_per_epoch)
        epoch -= self.method.weights_first
        if epoch < 0:
            return 0
        each = self.method.architecture_steps
        return epoch * each + (0 if self.method.as_published else rest * each // self.loop.steps_per_epoch)

    def _choose(self, number: int) -> None:
        """One step of the probabilities."""
        x, y = self._next_batch(number)
        p = self.probabilities()
        drawn = [self.partitions.draw(p) for _ in range(self.method.taken_samples)]
        losses = [self.score(counts, x, y) for counts in drawn]
        if self.method.as_published:
            for s, counts in enumerate(drawn):
                assert self.method.bops_weight is not None  # refused
                losses[s] += self.method.bops_weight * (_bops(self.partitions, counts) / self.base) ** 2
        expected = {n: self.partitions.layers[n].out_channels * q.detach().double().numpy() for n, q in p.items()}
        gradient = score_gradient(losses, drawn, expected, baseline=self.method.taken_baseline)
        self.architecture.zero_grad(set_to_none=True)
        penalty = self.falling.penalty(self.costs(self.partitions.shares(p)), number, torch.device("cpu"))
        if penalty.requires_grad:
            penalty.backward()
        for name, alpha in self.alphas.items():
            slope = gradient[name].to(alpha)
            alpha.grad = slope if alpha.grad is None else alpha.grad + slope
        self.architecture.step()

    @torch.no_grad()
    def score(self, counts: Counts, x: Tensor, y: Tensor) -> float:
        """The loss of a partition on a batch, its BatchNorm re-estimated."""
        self.sampled.hold(counts)
        data, size = self.problem.task.data.train, self.method.plan.batch_size
        seed = derive(self.problem.seed, "norms")
        reestimate_norms(self.sampled, data, batches=self.method.norm_batches, batch_size=size, seed=seed)
        self.sampled.eval()
        with autocast(self.loop.mode.precision, self.loop.device):
            outputs = self.sampled(x.to(self.loop.device))
        self.sampled.train()
        return self.problem.task.compute_loss(outputs.float(), y.to(self.loop.device), smooth=False).item()

    def _next_batch(self, number: int) -> tuple[Tensor, Tensor]:
        """The batch of search data of a step of the probabilities; they depend on its number alone."""
        split, size = self.problem.task.data.search, self.method.plan.batch_size
        epoch, start = divmod(number, split.steps(batch_size=size))
        if self.search_batches is None or start == 0:
            seed = derive(self.problem.seed, f"choices {epoch}")
            self.search_batches = split.batches(batch_size=size, seed=seed, start=start)
        return next(self.search_batches)

    @torch.no_grad()
    def end_epoch(self, step: int, loss: float) -> Mapping[str, float]:
        p = self.probabilities()
        expected = [value.item() for value in self.costs(self.partitions.shares(p))]
        spread = sum(float(torch.special.entr(q).sum()) for q in p.values()) / len(p)
        figures = {"step": float(step), "loss": loss, "entropy": spread}
        return figures | self.falling.figures(expected, self._steps(step))

    def state(self) -> dict[str, Any]:
        return {
            "network": self.sampled.state_dict(),
            "alphas": {name: alpha.detach() for name, alpha in self.alphas.items()},
            "optimizer": self.optimizer.state_dict(),
            "architecture": self.architecture.state_dict(),
            "schedule": self.schedule.state_dict(),
        } | self.falling.state()

    def restore(self, state: Mapping[str, Any], where: str) -> None:
        load_into(self.sampled, state["network"], where)
        with torch.no_grad():
            for name, alpha in self.alphas.items():
                alpha.copy_(state["alphas"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.architecture.load_state_dict(state["architecture"])
        self.schedule.load_state_dict(state["schedule"])
        self.falling.restore(state)


def base_bops(space: Precision) -> float:
    """The bops of a space's network at 3 bits wherever it has a choice."""
    bits = {
        name: Bits(
            weight=BASE if len(options.weight) > 1 else min(options.weight),
            activation=BASE if len(options.activation) > 1 else min(options.activation),
        )
        for name, options in space.options.items()
    }
    return exact("bops", space.template.graph, bits, space.costs)


def _bops(partitions: Partitions, counts: Counts) -> float:
    found = partitions.blueprint(counts)
    return exact("bops", found.graph, found.bits, partitions.space.costs)
