"""What a search of widths does in a step: shared weights on train batches; in rounds, log-odds on search batches.

A round draws some networks. Each of them trains for a few steps, in every step together with all homogeneous networks
(a replicator, as the released code calls it); then all of them are scored on the same search batches, and the log-odds
take one step. So every network is scored by weights that have just been trained for it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor

from bitsmith.quantize import Network
from bitsmith.search.filters.costs import RelaxedCosts, led
from bitsmith.search.filters.soft import Shares
from bitsmith.search.problem import Problem
from bitsmith.search.searching import let_fall
from bitsmith.search.widths.discretize import WidthDiscretizer
from bitsmith.search.widths.groups import WidthGroups, Widths
from bitsmith.search.widths.score import (
    draw_widths,
    expected_widths,
    published_score,
    relative_loss,
    score_gradient,
    survival,
)
from bitsmith.search.widths.slim import SHARES, SlimNetwork
from bitsmith.seeding import derive, numpy_generator
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
    from bitsmith.search.widths.method import WidthSearch


@final
class WidthLearner(Learner):
    """The state of one running search.

    Args:
        space: of one pair of bits per layer.
    """

    def __init__(
        self, method: WidthSearch, problem: Problem, loop: Loop, space: Precision, groups: WidthGroups
    ) -> None:
        self.method, self.problem, self.loop, self.groups = method, problem, loop, groups
        torch.manual_seed(derive(problem.seed, "widths"))
        blueprint = space.uniform(8, 8)
        self.slim = SlimNetwork(blueprint, groups, start=method.start)
        if problem.float_state is not None:
            self.slim.load_float(problem.float_state)
        self.slim.to(loop.device).train()
        self.channels = torch.tensor(groups.channels, device=loop.device)
        self.optimizer = make_optimizer(self.slim, method.plan, leave_out=[self.slim.logits])
        self.schedule = make_schedule(self.optimizer, method.plan, steps=max(2, loop.steps))
        if method.as_published:
            self.architecture = torch.optim.SGD([self.slim.logits], lr=method.taken_lr, momentum=0.9, weight_decay=4e-5)
        else:
            self.architecture = torch.optim.Adam([self.slim.logits], lr=method.taken_lr, betas=(0.5, 0.999))
        self.budgets = led(problem.budgets)
        self.relaxed = RelaxedCosts(space, groups.coupling, [budget.cost for budget in self.budgets])
        self._ones = {layer.name: torch.ones(layer.out_channels, 1) for layer in blueprint.graph.layers}
        self.priced = WidthDiscretizer(space, groups, problem.budgets)
        # What networks are compared at: RAM doesn't rise with every width.
        self.cost = self.budgets[0].cost if self.budgets else "macs"
        self.costs = [self.priced.cost(self.cost, widths) for widths in self.slim.homogeneous]
        self.lead = method.weights_first * loop.steps_per_epoch
        with torch.no_grad():
            first = [value.item() for value in self.expected()]
        limited = ([], []) if method.as_published else (self.budgets, first)
        self.falling = let_fall(method, *limited, lead=self.lead, steps=loop.steps)
        self.relative = 0.0  # mean d of the last round
        self._drawn: tuple[int, list[Widths]] | None = None
        self._batches: Iterator[tuple[Tensor, Tensor]] | None = None
        if loop.saved is None:
            seed = derive(problem.seed, "calibrate")
            calibrate(self.slim, problem.task.data.train, batch_size=method.plan.batch_size, seed=seed)

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    @property
    def round_steps(self) -> int:
        """Steps of the weights in a round."""
        return self.method.samples * self.method.sample_steps

    def expected(self) -> list[Tensor]:
        """The expected costs that are led, by how likely each channel stays; float64."""
        kept = torch.ones(len(self.groups.coupling.pinned), dtype=torch.float64)
        logits = self.slim.logits.cpu()
        for logit, group in zip(logits, self.groups.groups, strict=True):
            stays = survival(logit, group.channels)
            for units in group.sets:
                kept = kept.index_put((torch.from_numpy(units),), stays)
        return self.relaxed(Shares(weight=self._ones, activation={n: torch.ones(1) for n in self._ones}, kept=kept))

    def draw(self, number: int) -> list[Widths]:
        """The networks of a round; they depend on its number and on the log-odds before it."""
        if self._drawn is None or self._drawn[0] != number:
            generator = numpy_generator(self.problem.seed, "widths", number)
            drawn = draw_widths(self.slim.logits, self.channels, self.method.samples, generator)
            self._drawn = number, [tuple(widths) for widths in drawn.tolist()]
        return self._drawn[1]

    def parameters(self) -> Iterable[Tensor]:
        return self.slim.parameters()

    def begin(self, step: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def loss(self, piece: Piece, step: int) -> Tensor:
        number, place = divmod(step, self.round_steps)
        sample, x = self.draw(number)[place // self.method.sample_steps], piece.x
        with autocast(self.loop.mode.precision, self.loop.device):
            outputs = [self.slim.at_share(x, k) for k in range(len(SHARES))] + [self.slim.at_widths(x, sample)]
        return torch.stack([piece.loss(self.problem.task, piece.gathered(each)) for each in outputs]).mean()

    def update(self, step: int) -> None:
        self.optimizer.step()
        number, place = divmod(step, self.round_steps)
        if place + 1 == self.round_steps and step >= self.lead:
            self._choose(number, step)
        if step + 1 < self.loop.steps:
            self.schedule.step()

    def _choose(self, number: int, step: int) -> None:
        """A step of the log-odds."""
        drawn = self.draw(number)
        batches = [self._search_batch(number * self.method.loss_batches + i) for i in range(self.method.loss_batches)]
        relative = self.measure(drawn, batches)
        self.relative = float(np.mean(relative))
        gradient = score_gradient(
            torch.tensor([published_score(d) for d in relative]),
            torch.tensor(drawn),
            expected_widths(self.slim.logits.detach(), self.channels).cpu(),
            "none" if self.method.as_published else self.method.baseline,
        )
        self.architecture.zero_grad(set_to_none=True)
        penalty = self.falling.penalty(self.expected() if self.falling.first else [], step, self.loop.device)
        if penalty.requires_grad:
            penalty.backward()
        logits = self.slim.logits
        own = torch.zeros_like(logits) if logits.grad is None else logits.grad
        logits.grad = own + gradient.to(own)
        self.architecture.step()

    def measure(self, drawn: list[Widths], batches: list[tuple[Tensor, Tensor]]) -> list[float]:
        """d of some networks.

        BatchNorm is re-estimated on the same train batches before each is scored, homogeneous ones too: their running
        statistics lag behind weights that move, which alone raised their loss by up to 45 % (digits, measured).
        """
        usual = [self._scored(self.slim.extract_share(k), batches) for k in range(len(SHARES))]
        losses = [self._scored(self.slim.extract(widths), batches) for widths in drawn]
        costs = [self.priced.cost(self.cost, widths) for widths in drawn]
        return [relative_loss(loss, cost, self.costs, usual) for loss, cost in zip(losses, costs, strict=True)]

    def reestimate(self, network: Network) -> None:
        """Set BatchNorm's statistics by train batches, always the same ones."""
        train, size = self.problem.task.data.train, self.method.plan.batch_size
        seed = derive(self.problem.seed, "norms")
        reestimate_norms(network, train, batches=self.method.norm_batches, batch_size=size, seed=seed)

    @torch.no_grad()
    def _scored(self, network: Network, batches: list[tuple[Tensor, Tensor]]) -> float:
        self.reestimate(network)
        network.eval()
        losses, count = 0.0, 0
        for x, y in batches:
            with autocast(self.loop.mode.precision, self.loop.device):
                outputs = network(x.to(self.loop.device))
            loss = self.problem.task.compute_loss(outputs.float(), y.to(self.loop.device), smooth=False)
            losses, count = losses + loss.item() * len(x), count + len(x)
        return losses / count

    def _search_batch(self, number: int) -> tuple[Tensor, Tensor]:
        """A batch of search data; it depends on its number alone."""
        split, size = self.problem.task.data.search, self.method.plan.batch_size
        epoch, start = divmod(number, split.steps(batch_size=size))
        if self._batches is None or start == 0:
            seed = derive(self.problem.seed, "choices", epoch)
            self._batches = split.batches(batch_size=size, seed=seed, start=start)
        return next(self._batches)

    @torch.no_grad()
    def end_epoch(self, step: int, loss: float) -> Mapping[str, float]:
        expected = [value.item() for value in self.expected()]
        mean = float((expected_widths(self.slim.logits, self.channels) / self.channels).mean())
        figures = {"step": float(step), "loss": loss, "relative loss": self.relative, "mean width": mean}
        if self.method.as_published:
            return figures | {f"soft {b.cost}": value for b, value in zip(self.budgets, expected, strict=True)}
        return figures | self.falling.figures(expected, step)

    def state(self) -> dict[str, Any]:
        return {
            "network": self.slim.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "architecture": self.architecture.state_dict(),
            "schedule": self.schedule.state_dict(),
            "relative": self.relative,
        } | self.falling.state()

    def restore(self, state: Mapping[str, Any], where: str) -> None:
        load_into(self.slim, state["network"], where)
        self.optimizer.load_state_dict(state["optimizer"])
        self.architecture.load_state_dict(state["architecture"])
        self.schedule.load_state_dict(state["schedule"])
        self.relative = state["relative"]
        self.falling.restore(state)
        self._drawn = None
