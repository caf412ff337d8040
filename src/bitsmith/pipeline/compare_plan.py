"""From a comparison to its runs: which networks can be made at all, with how many epochs each."""

from __future__ import annotations

import dataclasses
import math
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bitsmith.blueprint import Budget
from bitsmith.cost import find_target
from bitsmith.errors import BitsmithError, BudgetError
from bitsmith.files import write_text
from bitsmith.pipeline import verbs
from bitsmith.pipeline.comparison import NARROWED, NARROWED_BITS, Comparison, Entrant, folder_name
from bitsmith.pipeline.folder import RunFolder
from bitsmith.pipeline.job import Job, Say, make_space, prepare, quiet
from bitsmith.recipe import Recipe, absolute, dump_recipe
from bitsmith.search import Method, Uniform, largest_uniform
from bitsmith.space import Precision, largest_width


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run folder of a comparison.

    Args:
        method, space, seed: labels of the comparison.
        kind: "baseline" where others are measured by it.
        recipe: of the run, whose budgets are those that the method can meet.
        path: of the run folder, relative to the comparison's.
        floats: path of the run whose float network it starts from; None where it makes its own or none.
        search_epochs: of its method, per network.
    """

    method: str
    space: str
    seed: int
    kind: Literal["found", "baseline"]
    recipe: Recipe
    path: Path
    floats: Path | None
    search_epochs: float

    @property
    def title(self) -> str:
        """For people."""
        where = "" if self.space == "all" else f" in {self.space}"
        return f"{self.method}{where}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A network that can't be made, and why."""

    method: str
    space: str
    budget: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All runs of a comparison.

    Args:
        floats: run folder of a float network -> its recipe; the runs of that seed start from it.
        epochs: of each low-precision network, its search included.
        float_epochs: before that.
    """

    runs: tuple[PlannedRun, ...]
    floats: dict[Path, Recipe]
    left_out: tuple[LeftOut, ...]
    epochs: float
    float_epochs: int

    @property
    def networks(self) -> int:
        """How many low-precision networks there will be."""
        return sum(len(run.recipe.budgets) for run in self.runs)

    @property
    def all_epochs(self) -> float:
        """Of all trainings and searches, float networks included."""
        own = sum(run.recipe.float_plan is not None and run.floats is None for run in self.runs)
        return self.networks * self.epochs + (len(self.floats) + own) * self.float_epochs


def plan(comparison: Comparison, say: Say = quiet) -> Plan:
    """Lay out all runs; opens the data and captures the network, once.

    Raises:
        BudgetError: no method can meet any of the budgets.
        BitsmithError: what `prepare` raises.
    """
    total = comparison.total_epochs()
    entrants, first_space = comparison.entrants(), next(iter(comparison.spaces))
    with tempfile.TemporaryDirectory() as folder:
        sample = comparison.recipe(entrants[0], first_space, comparison.seeds[0])
        job = prepare(RunFolder.create(Path(folder), sample), say)
    runs: list[PlannedRun] = []
    left_out: list[LeftOut] = []
    shared_floats = sample.float_plan is not None
    for space in comparison.spaces:
        for entrant in entrants:
            able = _able(job, comparison, entrant, space, left_out)
            if not able:
                continue
            method = entrant.method()
            for seed in comparison.seeds:
                path = Path("runs") / folder_name(space) / folder_name(entrant.label) / f"seed{seed}"
                recipe = _finished(comparison.recipe(entrant, space, seed), able, total - method.epochs)
                runs.append(
                    PlannedRun(
                        method=entrant.label,
                        space=space,
                        seed=seed,
                        kind="baseline" if entrant.is_baseline else "found",
                        recipe=recipe,
                        path=path,
                        floats=_floats(seed) if shared_floats else None,
                        search_epochs=method.epochs,
                    )
                )
    runs += _narrowed(job, comparison, total, _without_uniform(runs), left_out)
    if not runs:
        reasons = "; ".join(dict.fromkeys(f"{line.budget}: {line.reason}" for line in left_out))
        raise BudgetError(f"there is nothing to compare: {reasons}")
    uniform = Entrant(label="uniform", settings={"name": "uniform"})
    return Plan(
        runs=tuple(sorted(runs, key=lambda run: comparison.seeds.index(run.seed))),  # whole comparisons first
        floats={
            _floats(seed): comparison.recipe(uniform, first_space, seed)
            for seed in (comparison.seeds if shared_floats else ())
        },
        left_out=tuple(left_out),
        epochs=total,
        float_epochs=sample.float_plan.epochs if sample.float_plan else 0,
    )


def create(run: PlannedRun, out: Path) -> RunFolder:
    """Make the folder of a run, or go on in it.

    Raises:
        RunError: it holds work of another recipe.
    """
    folder = RunFolder.create(out / run.path, run.recipe)
    where = shlex.quote(str(folder.path))
    typed = run.recipe.model_copy(update={"command": f"bitsmith run {where}/recipe.yaml --out {where}"})
    write_text(folder.recipe_file, dump_recipe(absolute(typed)))
    return folder


def _floats(seed: int) -> Path:
    return Path("float") / f"seed{seed}"


def _finished(recipe: Recipe, lines: Sequence[Sequence[str]], epochs: float) -> Recipe:
    """A run's recipe with the budgets that are able, and its part of the equal total."""
    train = dataclasses.replace(recipe.train, epochs=round(epochs))
    return recipe.model_copy(update={"budgets": [list(line) for line in lines], "train": train})


def _able(
    job: Job, comparison: Comparison, entrant: Entrant, space: str, left_out: list[LeftOut]
) -> list[tuple[str, ...]]:
    """The budgets that a method can meet in a space; the others are left out, each with its reason."""
    recipe, method = comparison.recipe(entrant, space, comparison.seeds[0]), entrant.method()
    able = []
    for budgets in recipe.budget_sets():
        line = tuple(map(str, budgets))
        try:
            target = find_target(recipe.target)
            choices = make_space(recipe, job.graph, job.task.data, method, target)
            verbs.check_target(choices, target)
            _check(method, choices, budgets, trained=comparison.trained)
        except BitsmithError as error:
            left_out.append(LeftOut(method=entrant.label, space=space, budget=", ".join(line), reason=str(error)))
        else:
            able.append(line)
    return able


def _check(method: Method, space: Precision, budgets: Sequence[Budget], *, trained: bool) -> None:
    method.check(space, budgets, trained=trained)
    if isinstance(method, Uniform) and not method.fill and largest_uniform(space, budgets) is None:
        raise BudgetError(f"no uniform bits meet {' and '.join(map(str, budgets))}; mixed bits do")


def _without_uniform(runs: Sequence[PlannedRun]) -> set[tuple[str, ...]]:
    """Budgets that something meets, but no uniform network in any space."""
    lines = {tuple(line) for run in runs for line in run.recipe.budgets}
    return lines - {tuple(line) for run in runs if run.method == "uniform" for line in run.recipe.budgets}


def _narrowed(
    job: Job, comparison: Comparison, total: float, needed: set[tuple[str, ...]], left_out: list[LeftOut]
) -> list[PlannedRun]:
    """Uniform networks of some bits, as wide as each budget allows; ends and pins are those of the first space.

    Args:
        needed: budgets that have them, asked for or not.
    """
    space = next(iter(comparison.spaces))
    runs = []
    for weight in comparison.narrowed.weight_bits if comparison.narrowed else NARROWED_BITS:
        label = f"{NARROWED}{weight}"
        entrant = Entrant(label=label, settings={"name": "uniform"})
        recipe = comparison.recipe(entrant, space, comparison.seeds[0])
        section, target = recipe.space, find_target(recipe.target)
        activation = max(section.activation_bits)
        for budgets in recipe.budget_sets():
            line = tuple(map(str, budgets))
            if line not in needed and not comparison.narrows(list(line)):
                continue
            uniform = {"weight_bits": (weight,), "activation_bits": (activation,)}
            alone = recipe.model_copy(update={"space": section.model_copy(update=uniform)})
            try:
                verbs.check_target(make_space(alone, job.graph, job.task.data, entrant.method(), target), target)
                width = largest_width(
                    job.graph,
                    budgets,
                    weight=weight,
                    activation=activation,
                    ends=section.ends,
                    pins=section.pins,
                    costs=target.costs,
                )
                reason = "" if width < 1 else f"all {weight}-bit weights fit without narrowing"
            except BitsmithError as error:
                width, reason = math.nan, str(error)
            if reason:
                left_out.append(LeftOut(method=label, space=space, budget=", ".join(line), reason=reason))
                continue
            narrow = {
                "model": recipe.model.model_copy(update={"width": width}),
                "space": alone.space,
            }
            for seed in comparison.seeds:
                path = Path("runs") / folder_name(space) / folder_name(label) / folder_name("-".join(line))
                own = comparison.recipe(entrant, space, seed).model_copy(update=narrow)
                runs.append(
                    PlannedRun(
                        method=label,
                        space=space,
                        seed=seed,
                        kind="baseline",
                        recipe=_finished(own, [line], total),
                        path=path / f"seed{seed}",
                        floats=None,
                        search_epochs=0.0,
                    )
                )
    return runs
