"""Refine: an evolution of the network found and of others around it, scored by inherited weights (NSGA-II, optuna).

    minimize (loss of the slice with BatchNorm re-estimated, cost_1, cost_2, ...)  subject to  cost_k <= budget_k

The integer program adds up penalties that were measured one decision at a time; here whole networks are measured. The
first generation is inside the budgets: the network found, those found at lower limits, their mutations. Children
outside are priced, never scored: constrained domination (Deb et al. 2002) puts them behind all that are inside. A
network is scored once.

The least of many noisy losses is too low. So networks are scored on one half of the search data, and the best takes the
place of the one found only if its loss is lower on the other half too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from bitsmith.blueprint import Blueprint, Budget
from bitsmith.cost import exact
from bitsmith.errors import BudgetError, RecipeError
from bitsmith.search.kept import Kept
from bitsmith.search.supernet.discretize import Discretizer
from bitsmith.search.supernet.network import SharedNetwork
from bitsmith.search.supernet.scoring import Scoring, score_inherited
from bitsmith.space import Mobile
from bitsmith.train import Event, Task, Watch, digest, silent

if TYPE_CHECKING:
    import optuna

_LOWER = (0.9, 0.75)  # shares of the budgets at which the first generation's other networks are found
_PROPOSALS = 50  # per evaluation, before an evolution ends that proposes nothing new
_MUTATIONS = 3

Indices = tuple[int, ...]


@final
@dataclass(frozen=True, kw_only=True)
class Refined:
    """What an evolution came to.

    Args:
        best: the network found, or the one that took its place.
        details: JSON-able: "losses" (of every evaluation in turn), "proposals", "outside" (how many of them missed a
            budget), "chosen" and "confirmed" (losses of the start and of the best on either half), "accepted", "front"
            (loss, costs and encoding of every network that no other beats in all).
    """

    best: Blueprint
    details: dict[str, Any]


def refine(
    network: SharedNetwork,
    start: Blueprint,
    budgets: Sequence[Budget],
    penalties: Mapping[str, np.ndarray],
    task: Task,
    scoring: Scoring,
    *,
    evaluations: int,
    population: int,
    stage: str = "refinement",
    folder: Path | None = None,
    watch: Watch = silent,
) -> Refined:
    """Evolve networks around `start` and take the best where the search data confirm it.

    Args:
        start: inside every budget.
        penalties: as `Discretizer.best` takes them, for the first generation.
        scoring: its seed is that of the evolution too.
        evaluations: networks to score, the start among them.
        population: of a generation.
        folder: where every score is kept as soon as it is there (refinement.json).

    Raises:
        RecipeError: less than four search images, which can't be halved.
    """
    space, evolving = network.space, _Evolving(network, budgets, task, scoring, folder)
    first = _first_generation(space, start, budgets, penalties, population, scoring.seed)
    losses: dict[Indices, float] = {}
    costs: dict[Indices, list[float]] = {}
    proposals = outside = 0
    with _silence():
        study, free = _make_study(space, len(budgets), population, scoring.seed)
        for indices in first:
            study.enqueue_trial({name: indices[space.decisions.index[name]] for name in free})
        while len(losses) < evaluations and proposals < _PROPOSALS * evaluations:
            trial = study.ask(free)
            # Asks the sampler for a generation: of a trial whose values are all enqueued nothing else does, and without
            # one it belongs to no population, so the evolution would start from uniform draws instead.
            _ = trial.relative_params
            proposals += 1
            drawn = [trial.params.get(d.name, 0) for d in space.decisions.decisions]
            indices = _key(space.decisions.canonical(np.array(drawn)))
            if indices in costs:
                _fail(study, trial)
                continue
            blueprint = space.decode(np.array(indices))
            costs[indices] = evolving.costs(blueprint)
            over = [cost / budget.limit - 1 for cost, budget in zip(costs[indices], budgets, strict=True)]
            for budget, violation in zip(budgets, over, strict=True):
                trial.set_constraint(str(budget), violation)
            if max(over, default=0.0) > 0:
                outside += 1
                study.tell(trial, [float("inf"), *costs[indices]])
                continue
            losses[indices] = evolving.choose(blueprint, indices)
            study.tell(trial, [losses[indices], *costs[indices]])
            watch(Event(stage=stage, step=len(losses), steps=evaluations, images=evolving.images))
    at = _key(space.encode(start))
    best = min(losses, key=lambda indices: losses[indices])
    confirmed = [evolving.confirm(space.decode(np.array(i)), i) for i in dict.fromkeys((at, best))]
    accepted = best != at and confirmed[1] < confirmed[0]
    names = [budget.cost for budget in budgets]
    return Refined(
        best=space.decode(np.array(best)) if accepted else start,
        details={
            "losses": list(losses.values()),
            "proposals": proposals,
            "outside": outside,
            "chosen": [losses[at], losses[best]],
            "confirmed": confirmed,
            "accepted": accepted,
            "front": [
                {"loss": losses[i], **dict(zip(names, costs[i], strict=True)), "choice": list(i)}
                for i in _front({i: [loss, *costs[i]] for i, loss in losses.items()})
            ],
        },
    )


class _Evolving:
    """Prices, and scores that are kept."""

    def __init__(
        self, network: SharedNetwork, budgets: Sequence[Budget], task: Task, scoring: Scoring, folder: Path | None
    ) -> None:
        self._network, self._budgets, self._task = network, budgets, task
        self._halves = halves(len(task.data.search), scoring)
        settings: dict[str, Any] = {"scoring": [vars(half) for half in self._halves]}
        if folder is not None:
            settings |= {"network": digest(network.state_dict())}
            settings |= {"data": [task.data.train.fingerprint(), task.data.search.fingerprint()]}
        self._kept = Kept(folder / "refinement.json" if folder else None, settings)
        half = self._halves[0]
        self.images = half.norm_batches * half.batch_size + half.loss_batches * half.loss_size

    def costs(self, blueprint: Blueprint) -> list[float]:
        known = self._network.space.costs
        return [exact(budget.cost, blueprint.graph, blueprint.bits, known) for budget in self._budgets]

    def choose(self, blueprint: Blueprint, indices: Indices) -> float:
        return self._score(0, blueprint, indices)

    def confirm(self, blueprint: Blueprint, indices: Indices) -> float:
        return self._score(1, blueprint, indices)

    def _score(self, half: int, blueprint: Blueprint, indices: Indices) -> float:
        name = f"half {half + 1}: {' '.join(map(str, indices))}"
        if name not in self._kept.values:
            self._kept.keep(name, score_inherited(self._network, blueprint, self._task, self._halves[half]))
        return self._kept.values[name]


def halves(images: int, scoring: Scoring) -> tuple[Scoring, Scoring]:
    """Two scorings on different search images, as many for both and at most `loss_batches` batches each.

    Raises:
        RecipeError: less than four search images.
    """
    if images < 4:
        raise RecipeError(
            f"refine chooses on one half of the search data and confirms on the other; of {images} it can't"
        )
    batches = -(-(images // 2) // scoring.batch_size)
    each = min(scoring.loss_batches, batches)
    first = replace(scoring, loss_size=images // 2 // batches, loss_batches=each)
    return first, replace(first, loss_start=each)


def _first_generation(
    space: Mobile,
    start: Blueprint,
    budgets: Sequence[Budget],
    penalties: Mapping[str, np.ndarray],
    population: int,
    seed: int,
) -> list[Indices]:
    """The start, the best at lower limits, and mutations of these that are inside."""
    known = [_key(space.encode(start))]
    for share in _LOWER:
        lower = [Budget(cost=budget.cost, limit=share * budget.limit) for budget in budgets]
        try:
            known.append(_key(space.encode(Discretizer(space, lower).best(penalties))))
        except BudgetError:
            break  # nothing is that small
    known = list(dict.fromkeys(known))[:population]
    generator = np.random.default_rng(seed)
    for _ in range(_PROPOSALS * population):
        if len(known) == population:
            break
        moved = np.array(known[generator.integers(len(known))])
        for _ in range(generator.integers(1, _MUTATIONS + 1)):
            moved = space.decisions.mutate(moved, generator)
        blueprint = space.decode(moved)
        inside = all(exact(b.cost, blueprint.graph, blueprint.bits, space.costs) <= b.limit for b in budgets)
        if inside and _key(moved) not in known:
            known.append(_key(moved))
    return known


def _make_study(
    space: Mobile, costs: int, population: int, seed: int
) -> tuple[optuna.Study, dict[str, optuna.distributions.BaseDistribution]]:
    import optuna  # half a second, which nothing else needs

    free: dict[str, optuna.distributions.BaseDistribution] = {
        d.name: optuna.distributions.IntDistribution(0, len(d.options) - 1)
        for d in space.decisions.decisions
        if len(d.options) > 1
    }
    sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=seed % 2**32)
    directions = [optuna.study.StudyDirection.MINIMIZE] * (1 + costs)
    return optuna.create_study(directions=directions, sampler=sampler), free


def _fail(study: optuna.Study, trial: optuna.Trial) -> None:
    """A network that is known already joins no generation."""
    import optuna

    study.tell(trial, state=optuna.trial.TrialState.FAIL)


@contextmanager
def _silence() -> Iterator[None]:
    """Without optuna's lines about every study and trial."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _front(values: Mapping[Indices, Sequence[float]]) -> list[Indices]:
    """Those that no other beats in something and equals in the rest, in order of their values."""
    kept = [
        at
        for at, mine in values.items()
        if not any(
            all(a <= b for a, b in zip(other, mine, strict=True)) and list(other) != list(mine)
            for other in values.values()
        )
    ]
    return sorted(kept, key=lambda at: list(values[at]))


def _key(indices: np.ndarray) -> Indices:
    return tuple(map(int, indices))
