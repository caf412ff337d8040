"""What a supernet search does in a step: weights on one batch, choices on another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitsmith.cost import exact
from bitsmith.search.problem import Problem
from bitsmith.search.searching import let_fall
from bitsmith.search.supernet import published
from bitsmith.search.supernet.depth import DepthRms
from bitsmith.search.supernet.network import SharedNetwork
from bitsmith.search.supernet.pricing import expected_costs
from bitsmith.seeding import derive
from bitsmith.space import Mobile
from bitsmith.train import Learner, Loop, Piece, autocast, calibrate, compiled, load_into, make_optimizer, make_schedule

if TYPE_CHECKING:
    from bitsmith.search.supernet.method import Supernet


@final
class SupernetLearner(Learner):
    """The state of one running search."""

    def __init__(self, method: Supernet, problem: Problem, loop: Loop) -> None:
        self.method, self.problem, self.loop = method, problem, loop
        space: Mobile = problem.space
        torch.manual_seed(derive(problem.seed, "supernet"))
        self.network = SharedNetwork(space, scaling=method.scaling).to(loop.device).train()
        self.decisions = {d.name: d for d in space.decisions.decisions}
        self.logits = {
            name: nn.Parameter(torch.zeros(len(d.options), device=loop.device)) for name, d in self.decisions.items()
        }
        plan = method.plan
        self.optimizer = make_optimizer(self.network, plan)
        self.schedule = make_schedule(self.optimizer, plan, steps=max(2, loop.steps))
        if method.as_published:
            decay = published.ARCHITECTURE_DECAY
            self.architecture = torch.optim.Adam(self.logits.values(), lr=method.architecture_lr, weight_decay=decay)
        else:
            self.architecture = torch.optim.Adam(self.logits.values(), lr=method.architecture_lr, betas=(0.5, 0.999))
        self.lead = round(method.weights_first * loop.steps)
        budgets = [b for b in problem.budgets if is_decided(space, b.cost)]
        costs = expected_costs(space, [b.cost for b in budgets])
        self.costs = [costs[b.cost] for b in budgets]
        with torch.no_grad():
            first = [float(cost(self.probabilities())) for cost in self.costs]
        self.budgets = budgets
        limited = ([], []) if method.as_published else (budgets, first)
        self.falling = let_fall(method, *limited, lead=self.lead, steps=loop.steps)
        self.depth = DepthRms(self.network, loop.steps_per_epoch)
        self.search_batches: Iterator[tuple[Tensor, Tensor]] | None = None
        if loop.saved is None:
            self.network.present = {name: p.detach() for name, p in self.probabilities().items()}
            calibrate(
                self.network,
                problem.task.data.train,
                batch_size=plan.batch_size,
                seed=derive(problem.seed, "calibrate"),
            )
        # What is mixed changes in every step, so the network is never compiled as a whole.
        self.forward = compiled(self.network, "none" if loop.mode.compile == "none" else "quantizers")

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def probabilities(self) -> dict[str, Tensor]:
        """softmax(logits): how often each option wins among Gumbel-perturbed logits, whatever the temperature."""
        return {name: torch.softmax(logits, 0) for name, logits in self.logits.items()}

    def parameters(self) -> Iterable[Tensor]:
        return self.network.parameters()

    def begin(self, step: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.network.present = self._draw(step, self._noise())

    def loss(self, piece: Piece, step: int) -> Tensor:
        with self.depth.reading(step):
            return self._loss_of(piece)

    def update(self, step: int) -> None:
        self.depth.gradients(step)
        self.optimizer.step()
        for number in self._choices(step):
            self._choose(step, number)
        if step + 1 < self.loop.steps:
            self.schedule.step()

    @torch.no_grad()
    def end_epoch(self, step: int, loss: float) -> Mapping[str, float]:
        p = self.probabilities()
        expected = [float(cost(p)) for cost in self.costs]
        spread = [float(-(q * q.clamp_min(1e-12).log()).sum()) / len(p) for q in p.values()]
        figures = {"step": float(step), "loss": loss, "entropy": sum(spread)}
        if self.method.as_published:
            figures |= {f"soft {b.cost}": cost for b, cost in zip(self.budgets, expected, strict=True)}
        else:
            figures |= self.falling.figures(expected, step)
        return figures | self.depth.end_epoch()

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "logits": {name: logits.detach() for name, logits in self.logits.items()},
            "optimizer": self.optimizer.state_dict(),
            "architecture": self.architecture.state_dict(),
            "schedule": self.schedule.state_dict(),
            "squares": self.depth.squares,
        } | self.falling.state()

    def restore(self, state: Mapping[str, Any], where: str) -> None:
        load_into(self.network, state["network"], where)
        with torch.no_grad():
            for name, logits in self.logits.items():
                logits.copy_(state["logits"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.architecture.load_state_dict(state["architecture"])
        self.schedule.load_state_dict(state["schedule"])
        self.falling.restore(state)
        self.depth.restore(state["squares"])

    def _noise(self) -> dict[str, Tensor]:
        """Of Gumbel's distribution, for each logit."""
        return {name: -torch.empty_like(logits).exponential_().log() for name, logits in self.logits.items()}

    def _draw(self, step: int, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gumbel-softmax of every decision; on a single path the greatest alone, with the gradient of the mixture."""
        if self.method.as_published:
            temperature = published.temperature(step // self.loop.steps_per_epoch)
        else:
            first, last = self.method.temperature
            temperature = first * (last / first) ** (step / max(1, self.loop.steps - 1))
        found = {}
        for name, logits in self.logits.items():
            p = torch.softmax((logits + noise[name]) / temperature, 0)
            if self.method.path == "single":
                p = F.one_hot(p.argmax(), len(p)).to(p) + (p - p.detach())
            found[name] = p
        return found

    def _choices(self, step: int) -> range:
        """Which steps of the choices follow a step of the weights; as published, a pass at the end of every epoch."""
        if step < self.lead:
            return range(0)
        if not self.method.as_published:
            number, rest = divmod(step - self.lead, self.method.architecture_every)
            return range(number, number + (rest == 0))
        epoch, rest = divmod(step + 1, self.loop.steps_per_epoch)
        a_pass = self.problem.task.data.search.steps(batch_size=self.method.plan.batch_size)
        return range(a_pass * (epoch - 1), a_pass * epoch) if rest == 0 else range(0)

    def _choose(self, step: int, number: int) -> None:
        """A step of the choices on a batch of search data, weights as they are."""
        x, y = self._next_batch(number)
        weights = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        for parameter in weights:
            parameter.requires_grad_(False)
        self.architecture.zero_grad(set_to_none=True)
        noise, chosen = self._noise(), list(self.logits.values())

        def loss_of(piece: Piece) -> Tensor:  # every piece by the same draw, with a gradient graph of its own
            self.network.present = self._draw(step, noise)
            return self._loss_of(piece)

        expected = [cost(self.probabilities()) for cost in self.costs]
        if self.method.as_published:  # a product, so the slopes of its factors are taken one after the other
            name, (alpha, beta) = self.budgets[0].cost, self.method.soft_cost
            soft = partial(published.soft_cost, cost=name, alpha=alpha, beta=beta)
            weight = soft(torch.ones(()), expected[0].detach()).item()
            loss = self.loop.gradients(x, y, lambda piece: weight * loss_of(piece), chosen) / weight
            penalty = soft(torch.tensor(loss), expected[0])
        else:
            loss = self.loop.gradients(x, y, loss_of, chosen)
            penalty = self.falling.penalty(expected, step, self.loop.device)
        self.loop.refuse_nan(loss, step, self.lr, "the choices' loss")
        if penalty.requires_grad:
            penalty.backward()
        self.architecture.step()
        for parameter in weights:
            parameter.requires_grad_(True)

    def _next_batch(self, number: int) -> tuple[Tensor, Tensor]:
        """The batch of search data of a step of the choices; they depend on its number alone."""
        split, size = self.problem.task.data.search, self.method.plan.batch_size
        epoch, start = divmod(number, split.steps(batch_size=size))
        if self.search_batches is None or start == 0:
            seed = derive(self.problem.seed, f"choices {epoch}")
            augment = self.problem.task.augment
            self.search_batches = split.batches(batch_size=size, seed=seed, augment=augment, start=start)
        return next(self.search_batches)

    def _loss_of(self, piece: Piece) -> Tensor:
        with autocast(self.loop.mode.precision, self.loop.device):
            logits = self.forward(piece.x)
        return piece.loss(self.problem.task, piece.gathered(logits))


def is_decided(space: Mobile, cost: str) -> bool:
    """Whether networks of the space differ in a cost at all."""
    least, most = (space.decode(at) for at in (space.sizes * 0, space.sizes - 1))
    values = {exact(cost, b.graph, b.bits, space.costs) for b in (least, most)}
    return len(values) > 1
