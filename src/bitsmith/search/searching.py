"""What searches by gradients share: loops, budgets that fall, and steps in which weights and choices learn together."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bitsmith.blueprint import Budget
from bitsmith.data import Split
from bitsmith.errors import RecipeError
from bitsmith.search.falling import FallingBudgets
from bitsmith.search.problem import Problem, starting_point
from bitsmith.seeding import derive
from bitsmith.train import Learner, Loop, load_into

if TYPE_CHECKING:
    from bitsmith.search.composite import Composite
    from bitsmith.search.filters.method import Filters
    from bitsmith.search.filters.multinomial import Multinomial
    from bitsmith.search.supernet.method import Supernet
    from bitsmith.search.widths.method import WidthSearch

    Searching = Composite | Filters | Multinomial | Supernet | WidthSearch


def check_settings(method: Searching) -> None:
    """Refuse settings that no search by gradients can work with.

    Raises:
        RecipeError: naming the setting.
    """
    if method.plan.distill or method.plan.ema or method.plan.noise:
        raise RecipeError("distill, ema and noise belong to the final training; the search's plan takes none of them")
    for name, fine, wanted in (
        ("architecture_lr", method.architecture_lr is None or 0 < method.architecture_lr < math.inf, "positive"),
        ("multiplier_step", 0 <= method.multiplier_step < math.inf, "not negative"),
        ("square", 0 <= method.square < math.inf, "not negative"),
        ("falling", 0 < method.falling <= 1, "a share of the search, above 0 and up to 1"),
        (
            "temperature",
            all(0 < t < math.inf for t in getattr(method, "temperature", ())),
            "positive, from first to last",
        ),
        ("norm_batches", method.norm_batches >= 1, "at least 1"),
    ):
        if not fine:
            raise RecipeError(f"{name} of method {method.name!r} must be {wanted}, got {getattr(method, name)}")


def check_lead(method: Composite | Filters | Multinomial | WidthSearch, learned: str) -> None:
    """Refuse as many epochs of weights alone as the search has.

    Args:
        learned: what nothing would be learned of then.

    Raises:
        RecipeError: with both numbers.
    """
    if not 0 <= method.weights_first < method.plan.epochs:
        count = f"{method.plan.epochs} epoch{'s' * (method.plan.epochs != 1)}"
        raise RecipeError(
            f"the search has {count} and learns weights alone for {method.weights_first}, "
            f"so no {learned} would be learned; give it more epochs or a smaller weights_first"
        )


def refuse_compiling(method: Filters | Multinomial | WidthSearch) -> None:
    """Refuse a plan that compiles, of a method whose steps are too different for it.

    Raises:
        RecipeError: with the way out.
    """
    if method.plan.compile not in ("auto", "none"):
        raise RecipeError(
            f"the {method.name} method compiles nothing, so it can't take compile: {method.plan.compile}; take none "
            "(auto means none here)"
        )


def open_loop(
    method: Searching, problem: Problem, *, depends_on: Mapping[str, Any], split: Split | None = None
) -> Loop:
    """A loop over the method's plan, from its checkpoint on where there is one.

    Args:
        depends_on: what a checkpoint must agree in to be gone on from, beside the method's settings, seed, budgets and
            data: the space. JSON-able.
        split: whose batches it takes; the training data without the search split by default.

    Raises:
        RunError: as `Loop`.
    """
    settings = json.loads(json.dumps(asdict(method)))  # tuples become lists, as in a checkpoint
    del settings["plan"]["noise"]  # none in a search
    return Loop(
        stage=f"search {method.name} {at(problem)}",
        task=problem.task,
        split=split or problem.task.data.train,
        plan=method.plan,
        epoch_seed=partial(derive, problem.seed, "search batches"),
        settings=settings | {"seed": problem.seed, "budgets": [str(b) for b in problem.budgets]} | dict(depends_on),
        checkpoint=problem.folder / "search.checkpoint" if problem.folder else None,
        checkpoint_seconds=problem.checkpoint_seconds,
        watch=problem.watch,
    )


def at(problem: Problem) -> str:
    """Which of several searches this is, for progress."""
    return "at " + ", ".join(map(str, problem.budgets))


def choices_of_bits(problem: Problem) -> dict[str, Any]:
    """What of a space of bits a checkpoint must agree in to be gone on from."""
    options = {name: [list(o.weight), list(o.activation)] for name, o in problem.space.options.items()}
    return {"options": options} | starting_point(problem)


def let_fall(
    method: Searching,
    budgets: Sequence[Budget],
    first: Sequence[float],
    *,
    lead: float,
    steps: int,
) -> FallingBudgets:
    """The budgets of a search of `steps` steps, which begin to fall after `lead` of them."""
    return FallingBudgets(
        budgets,
        first,
        lead=lead,
        span=method.falling * (steps - lead),
        multiplier_step=method.multiplier_step,
        square=method.square,
    )


class JointLearner(Learner):
    """Weights and choices learn in one step, from one loss; the choices only once `lead` steps are done.

    Args:
        network: all that learns, choices included.
        optimizer: of the weights.
        architecture: of the choices.
        schedule, architecture_schedule: of their learning rates.
    """

    def __init__(
        self,
        loop: Loop,
        network: nn.Module,
        *,
        optimizer: Optimizer,
        architecture: Optimizer,
        schedule: LRScheduler,
        falling: FallingBudgets,
        lead: float,
        architecture_schedule: LRScheduler | None = None,
    ) -> None:
        self.loop, self._network, self.falling, self._lead = loop, network, falling, lead
        self._optimizer, self._architecture = optimizer, architecture
        self._schedule, self._architecture_schedule = schedule, architecture_schedule

    @abstractmethod
    def penalty(self, step: int) -> Tensor:
        """What is added to the loss where choices learn."""

    @property
    def lr(self) -> float:
        return self._optimizer.param_groups[0]["lr"]

    def parameters(self) -> Iterable[Tensor]:
        return self._network.parameters()

    def begin(self, step: int) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        self._architecture.zero_grad(set_to_none=True)

    def update(self, step: int) -> None:
        learning = step >= self._lead
        if learning and (penalty := self.penalty(step)).requires_grad:
            penalty.backward()
        self._optimizer.step()
        if learning:
            self._architecture.step()
        if step + 1 < self.loop.steps:
            self._schedule.step()
            if self._architecture_schedule is not None:
                self._architecture_schedule.step()

    def state(self) -> dict[str, Any]:
        schedule = self._architecture_schedule
        return {
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "architecture": self._architecture.state_dict(),
            "schedule": self._schedule.state_dict(),
            "architecture_schedule": None if schedule is None else schedule.state_dict(),
        } | self.falling.state()

    def restore(self, state: Mapping[str, Any], where: str) -> None:
        load_into(self._network, state["network"], where)
        self._optimizer.load_state_dict(state["optimizer"])
        self._architecture.load_state_dict(state["architecture"])
        self._schedule.load_state_dict(state["schedule"])
        if self._architecture_schedule is not None:
            self._architecture_schedule.load_state_dict(state["architecture_schedule"])
        self.falling.restore(state)
