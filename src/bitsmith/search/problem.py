"""What every search method gets and gives: Problem in, Found out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from bitsmith.blueprint import Blueprint, Budget
from bitsmith.cost import COSTS, Cost, price
from bitsmith.errors import RecipeError
from bitsmith.executor import Executor
from bitsmith.space import Precision, Space
from bitsmith.train import Task, Watch, digest, silent


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """Where a search may have networks evaluated, and how other processes come to its problem.

    Args:
        executor: whose places.
        call: "package.module:function" that evaluates one, called there as function(watch, say, *, folder, request,
            **arguments): the trial's own folder, and what the method asks (JSON-able).
        arguments: JSON-able; paths are absolute.
    """

    executor: Executor
    call: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One search: find a blueprint of `space` for `task` inside every budget.

    Args:
        task: its data has no test split to look at.
        space: the blueprints to choose from; which kinds a method takes, its `check` says.
        budgets: hard limits; at least one.
        seed: of everything random in the search.
        float_state: weights of the trained float network to start from, or None.
        folder: where the search keeps its checkpoint, or None.
        shared: where searches of one run that differ in budgets alone keep what doesn't depend on them, or None.
        checkpoint_seconds: how often it is written; also at the end of every epoch and on Ctrl-C.
        watch: told of every step.
        elsewhere: where networks may be evaluated in other processes, or None; it needs a `folder`.
    """

    task: Task
    space: Any  # a Space; Any, as most methods take one kind of it and refuse the others at run time
    budgets: Sequence[Budget]
    seed: int = 0
    float_state: Mapping[str, Tensor] | None = None
    folder: Path | None = None
    shared: Path | None = None
    checkpoint_seconds: float = 60.0
    watch: Watch = silent
    elsewhere: Elsewhere | None = None


def starting_point(problem: Problem) -> dict[str, Any]:
    """What kept values and checkpoints of a search must agree in, beside its settings, data and options: JSON-able.

    What the space's networks have in common, and the float weights.
    """
    space: Space = problem.space
    floats = problem.float_state
    return space.identity() | {"float_state": digest(floats) if floats is not None else None}


def require_bits(space: Space, method: str) -> None:
    """Refuse spaces that choose more than the bits of one network.

    Raises:
        RecipeError: with the way out.
    """
    if not isinstance(space, Precision):
        raise RecipeError(
            f"{method} chooses the bits of one given network, and a {space.kind} space holds many networks; search it "
            f"with method: {'supernet' if space.kind == 'mobile' else 'latent'} (baselines: uniform, uniform+fill, "
            "random), or give a model in place of the space"
        )


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search hands on.

    Args:
        best: the blueprint; inside every budget (as published, EdMIPS enforces none).
        method: the method's name.
        epochs: passes over the training split that the search took.
        seconds: that it took.
        curves: lists of equal length, "step" among them; for the report.
        memory: as of `History`, where it learned in a loop.
        details: JSON-able facts, such as measured sensitivities.
        state: weights for `best` to go on from, or None.
        priced: what `costs` tells; `bitsmith.search` sets those of the target.
    """

    best: Blueprint
    method: str
    epochs: float = 0.0
    seconds: float = 0.0
    curves: Mapping[str, list[float]] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Tensor] | None = None
    priced: Mapping[str, Cost] = field(default_factory=lambda: COSTS)

    @property
    def costs(self) -> dict[str, float]:
        """All costs of `best`, exact."""
        return price(self.best.graph, self.best.bits, self.priced)


@runtime_checkable
class Method(Protocol):
    """A search method: a frozen dataclass of its settings with one verb. It proposes; it trains no final network."""

    @property
    def name(self) -> str:
        """As in tables and recipes."""
        ...

    @property
    def epochs(self) -> float:
        """Passes over the training split that a search takes, so that others can be given as many."""
        ...

    def check(self, space: Any, budgets: Sequence[Budget], *, trained: bool) -> None:
        """Refuse what `search` can't do, before anything is trained.

        Args:
            trained: whether the search will have trained float weights to start from.

        Raises:
            BudgetError: no blueprint of the space meets the budgets.
            RecipeError: another reason.
        """
        ...

    def search(self, problem: Problem) -> Found:
        """Find a blueprint inside every budget; it refuses what `check` does.

        Raises:
            BudgetError: there is none.
        """
        ...
