"""Grid: measure every blueprint inside the budgets and take the best; for small spaces, and to check other methods."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Literal, final

import numpy as np

from bitsmith.blueprint import Blueprint, Budget
from bitsmith.cost import fits, tabulate
from bitsmith.errors import BudgetError, RecipeError
from bitsmith.search.evaluate import Score, evaluate_blueprint, require_start
from bitsmith.search.feasible import inside, limits_of, some_inside
from bitsmith.search.kept import Kept
from bitsmith.search.problem import Found, Problem, starting_point
from bitsmith.search.uniform import no_uniform
from bitsmith.space import Mobile, Precision, Sequences, Space
from bitsmith.train import Event, TrainPlan

_COUNTED = 10_000  # blueprints inside the budgets, before counting them stops
_LOOKED_AT = 100_000  # networks of a mobile space, each priced by itself


@final
@dataclass(frozen=True, kw_only=True)
class GridSearch:
    """Every blueprint inside the budgets, each scored by `evaluate_blueprint`; the best metric, then the least loss.

    Every score is kept (grid.json) as soon as it is there, and each training has a checkpoint until then. Scores do not
    depend on budgets: searches that differ in budgets alone share them.

    Args:
        plan: training of each blueprint; None scores the rounded float weights.
        points: "all" blueprints of the space, or those with "uniform" (weight, activation) bits.
        most: refuse to measure more blueprints than this.

    Example:
        Two free layers at 2, 4 or 8 bits of weights are 9 blueprints; with plan epochs=2 that is 18 epochs.
    """

    plan: TrainPlan | None = None
    points: Literal["all", "uniform"] = "all"
    most: int = 64

    def __post_init__(self) -> None:
        if self.most < 1:
            raise RecipeError(f"most blueprints to measure must be at least 1, got {self.most}")

    @property
    def name(self) -> str:
        return "grid"

    @property
    def epochs(self) -> float:
        """Of one blueprint: how many there are depends on the budgets; `Found.epochs` counts them all."""
        return self.plan.epochs if self.plan else 0

    def check(self, space: Space, budgets: Sequence[Budget], *, trained: bool) -> None:
        """Refuse budgets that can't be met, more blueprints than `most`, and to round a network never trained."""
        self._candidates(space, budgets)
        require_start(space, trained=trained, plan=self.plan)

    def search(self, problem: Problem) -> Found:
        """Measure all, take the best.

        Raises:
            BudgetError: no blueprint meets the budgets, or only mixed ones where points are uniform.
            RecipeError: more than `most` blueprints do, or there is nothing to start from.
            RunError: the kept scores are damaged.
        """
        self.check(problem.space, problem.budgets, trained=problem.float_state is not None)
        candidates = self._candidates(problem.space, problem.budgets)
        folder = problem.shared or problem.folder
        kept = Kept(folder / "grid.json" if folder else None, self._settings(problem))
        scores: list[Score] = []
        for done, blueprint in enumerate(candidates, start=1):
            name = problem.space.key(blueprint)
            stage = f"grid, {done} of {len(candidates)}"
            if name not in kept.values:
                # One for each blueprint: searches at other budgets share the folder and come to it in another order.
                short = hashlib.sha256(name.encode()).hexdigest()[:16]
                checkpoint = folder / f"grid-{short}.checkpoint" if folder else None
                score = evaluate_blueprint(problem, blueprint, self.plan, stage=stage, checkpoint=checkpoint)
                kept.keep(name, asdict(score))
                if checkpoint is not None:
                    checkpoint.unlink(missing_ok=True)
            scores.append(Score(**kept.values[name]))
            problem.watch(Event(stage="grid", step=done, steps=len(candidates), images=0))
        best = max(range(len(scores)), key=lambda i: (scores[i].metric, -scores[i].loss))
        return Found(
            best=candidates[best],
            method=self.name,
            epochs=sum(score.epochs for score in scores),
            seconds=sum(score.seconds for score in scores),
            curves={
                "step": [float(i + 1) for i in range(len(scores))],
                f"validation_{problem.task.metric_name}": [score.metric for score in scores],
                "validation_loss": [score.loss for score in scores],
            },
            details={"points": self.points, "measured": len(scores), "space": problem.space.count()},
        )

    def _candidates(self, space: Space, budgets: Sequence[Budget]) -> list[Blueprint]:
        some_inside(space, budgets)
        if isinstance(space, Mobile | Sequences) and self.points == "all" and space.count() > _LOOKED_AT:
            raise RecipeError(
                f"grid looks at every network, and the space has {space.count():,}: allow fewer options, take points: "
                f"uniform, or search with method: {'supernet' if isinstance(space, Mobile) else 'latent'}"
            )
        if self.points == "uniform":
            found = [b for b in space.uniforms() if fits(b.graph, b.bits, budgets, space.costs)]
            if not found:
                raise BudgetError(no_uniform(budgets))
        else:
            found = list(islice(blueprints_inside(space, budgets), self.most + 1))
        if len(found) > self.most:
            raise RecipeError(self._too_many(space, budgets, len(found)))
        return found

    def _too_many(self, space: Space, budgets: Sequence[Budget], found: int) -> str:
        count = str(found)
        if self.points == "all":
            counted = sum(1 for _ in islice(_inside(space, budgets), _COUNTED + 1))
            count = f"{counted:,}" if counted <= _COUNTED else f"more than {_COUNTED:,}"
        narrow = (
            "allow fewer options, tighten the budgets"
            if isinstance(space, Mobile | Sequences)
            else "allow fewer bit-widths, pin layers, tighten the budgets"
        )
        other = ", take points: uniform" if self.points == "all" else ""
        return (
            f"grid would measure {count} blueprints inside {' and '.join(map(str, budgets))} "
            f"(of {space.count():,} in the space); its most is {self.most}: {narrow}{other}, or raise most"
        )

    def _settings(self, problem: Problem) -> dict[str, Any]:
        """What a score depends on, beside the bits."""
        data = problem.task.data
        return {
            "plan": asdict(self.plan) if self.plan else None,
            "seed": problem.seed,
            "metric": problem.task.metric_name,
            "data": [data.training.fingerprint(), data.validation.fingerprint()],
        } | starting_point(problem)


def blueprints_inside(space: Space, budgets: Sequence[Budget]) -> Iterator[Blueprint]:
    """All blueprints inside every budget, the first decisions changing slowest, from few bits to many.

    Of a mobile space by looking at every network, so only where there are few.
    """
    return (space.decode(indices) for indices in _inside(space, budgets))


def _inside(space: Space, budgets: Sequence[Budget]) -> Iterator[np.ndarray]:
    """Encodings of all blueprints inside every budget."""
    if isinstance(space, Mobile | Sequences):
        limits = limits_of(space, budgets)
        at = space.decisions.at if isinstance(space, Mobile) else space.automaton.at
        every = (at(number) for number in range(space.count()))
        return (indices for indices in every if inside(limits, indices))
    assert isinstance(space, Precision), space
    return _bits_inside(space, budgets)


def _bits_inside(space: Precision, budgets: Sequence[Budget]) -> Iterator[np.ndarray]:
    """Option indices [layers, 2].

    Depth first over the layers; a beginning is left as soon as some cost passes its limit with the least that the
    layers behind it can take.
    """
    tables = [tabulate(budget.cost, space.template.graph, space.options, space.costs) for budget in budgets]
    limits = np.array([t.whole_limit(b.limit) - t.fixed for t, b in zip(tables, budgets, strict=True)])
    pairs = [list(np.ndindex(len(o.weight), len(o.activation))) for o in space.options.values()]
    costs = [
        np.array([[t.entries[name][pair] for t in tables] for pair in at])
        for name, at in zip(space.options, pairs, strict=True)
    ]
    behind = np.zeros((len(pairs) + 1, len(tables)))
    for layer in reversed(range(len(pairs))):
        behind[layer] = behind[layer + 1] + costs[layer].min(0)

    def extend(chosen: list[tuple[int, ...]], spent: np.ndarray) -> Iterator[np.ndarray]:
        layer = len(chosen)
        if layer == len(pairs):
            yield np.array(chosen, dtype=np.int64)
            return
        for pair, cost in zip(pairs[layer], costs[layer], strict=True):
            if np.all(spent + cost + behind[layer + 1] <= limits):
                yield from extend([*chosen, pair], spent + cost)

    for indices in extend([], np.zeros(len(tables))):
        blueprint = space.decode(indices)
        if fits(blueprint.graph, blueprint.bits, budgets, space.costs):
            yield indices
