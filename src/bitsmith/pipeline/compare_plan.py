"""From a comparison to its runs: which networks can be made at all, with how many epochs each."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bitsmith.blueprint import Budget
from bitsmith.cost import find_target
from bitsmith.errors import BitsmithError, BudgetError
from bitsmith.files import write_text
from bitsmith.pipeline import verbs
from bitsmith.pipeline.compare_narrowed import narrowed_runs
from bitsmith.pipeline.comparison import Comparison, folder_name
from bitsmith.pipeline.contestants import Entrant
from bitsmith.pipeline.folder import RunFolder
from bitsmith.pipeline.job import Job, Say, make_space, prepare, quiet
from bitsmith.pipeline.planned import LeftOut, PlannedRun, finished
from bitsmith.recipe import Recipe, absolute, dump_recipe
from bitsmith.search import Method, Uniform, largest_uniform, no_uniform
from bitsmith.space import Space


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All runs of a comparison.

    Args:
        floats: run folder of a float network -> its recipe; the runs of that seed and model start from it.
        epochs: of each low-precision network, its search included, beside a head start.
        float_epochs: of each float network.
        head_start: of these, what networks that start from one have behind them, so that those without one get as many
            more; 0 where nobody starts from float weights.
    """

    runs: tuple[PlannedRun, ...]
    floats: dict[Path, Recipe]
    left_out: tuple[LeftOut, ...]
    epochs: float
    float_epochs: int
    head_start: int

    @property
    def networks(self) -> int:
        """How many low-precision networks there will be."""
        return sum(len(run.recipe.budgets) for run in self.runs)

    @property
    def all_epochs(self) -> float:
        """Of all trainings and searches, float networks included."""
        own = sum(run.recipe.float_plan is not None and run.floats is None for run in self.runs)
        return sum(len(run.recipe.budgets) * run.epochs for run in self.runs) + (
            (len(self.floats) + own) * self.float_epochs
        )

    @property
    def from_scratch(self) -> tuple[str, ...]:
        """The spaces whose networks start from no float network while others do."""
        if not self.head_start:
            return ()
        return tuple(dict.fromkeys(run.space for run in self.runs if run.recipe.float_plan is None))


def plan(comparison: Comparison, say: Say = quiet) -> Plan:
    """Lay out all runs; opens the data and captures every network, once.

    Raises:
        BudgetError: no method can meet any of the budgets.
        BitsmithError: what `prepare` raises.
    """
    jobs = _jobs(comparison, say)
    runs: list[PlannedRun] = []
    floats: dict[Path, Recipe] = {}
    left_out: list[LeftOut] = []
    able = {space: _able(jobs[space], comparison, space, left_out) for space in comparison.spaces}
    total = comparison.total_epochs(entrant for some in able.values() for entrant, _ in some)
    head_start = comparison.head_start()
    for space in comparison.spaces:
        for entrant, lines in able[space]:
            method = entrant.method()
            for seed in comparison.seeds:
                recipe = comparison.recipe(entrant, space, seed)
                start = _floats(comparison, space, seed) if recipe.float_plan is not None else None
                if start is not None:
                    uniform = Entrant(label="uniform", settings={"name": "uniform"})
                    floats.setdefault(start, comparison.recipe(uniform, space, seed))
                rest = total - method.epochs + (head_start if start is None else 0)
                runs.append(
                    PlannedRun(
                        method=entrant.label,
                        space=space,
                        seed=seed,
                        kind="baseline" if entrant.is_baseline else "found",
                        recipe=finished(recipe, lines, rest),
                        path=Path("runs") / folder_name(space) / folder_name(entrant.label) / f"seed{seed}",
                        floats=start,
                        search_epochs=method.epochs,
                    )
                )
    narrow = comparison.narrowed_space()
    if narrow is not None:
        runs += narrowed_runs(jobs[narrow], comparison, narrow, total, _without_uniform(runs), left_out)
    if not runs:
        reasons = "; ".join(dict.fromkeys(f"{line.budget}: {line.reason}" for line in left_out))
        raise BudgetError(f"there is nothing to compare: {reasons}")
    return Plan(
        runs=tuple(sorted(runs, key=lambda run: comparison.seeds.index(run.seed))),  # whole comparisons first
        floats={
            path: floats[path] for path in sorted(floats, key=lambda path: comparison.seeds.index(floats[path].seed))
        },
        left_out=tuple(left_out),
        epochs=total,
        float_epochs=comparison.float_epochs(),
        head_start=head_start,
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


def _jobs(comparison: Comparison, say: Say) -> dict[str, Job]:
    """For every space a prepared job; spaces of one network share one."""
    found: dict[str, Job] = {}
    made: dict[str, Job] = {}
    for space in comparison.spaces:
        entrants = comparison.entrants_of(space)
        sample = comparison.recipe(entrants[0], space, comparison.seeds[0])
        key = space if comparison.is_mobile(space) else sample.model.model_dump_json()
        if key not in made:
            with tempfile.TemporaryDirectory() as folder:
                made[key] = prepare(RunFolder.create(Path(folder), sample), say)
        found[space] = made[key]
    return found


def _floats(comparison: Comparison, space: str, seed: int) -> Path:
    """Where the float network of a seed and a space's model lies: float/seed0; of further models float/SPACE/seed0."""
    models = {name: arena.model or comparison.base.get("model") for name, arena in comparison.spaces.items()}
    first = next(name for name, model in models.items() if model == models[space] and not comparison.is_mobile(name))
    alone = first == comparison.narrowed_space()
    return Path("float") / ("" if alone else folder_name(first)) / f"seed{seed}"


def _able(
    job: Job, comparison: Comparison, space: str, left_out: list[LeftOut]
) -> list[tuple[Entrant, list[tuple[str, ...]]]]:
    """Who can meet which budgets in a space; the others are left out, each with its reason."""
    found = []
    for entrant in comparison.entrants_of(space):
        recipe, method = comparison.recipe(entrant, space, comparison.seeds[0]), entrant.method()
        target, able = find_target(recipe.target), []
        mobile = comparison.is_mobile(space)
        for budgets in recipe.budget_sets():
            line = tuple(map(str, budgets))
            try:
                choices = job.space if mobile else make_space(recipe, job.graph, job.task.data, method, target)
                verbs.check_target(choices, target, method)
                _check(method, choices, budgets, trained=comparison.trained(space))
            except BitsmithError as error:
                left_out.append(LeftOut(method=entrant.label, space=space, budget=", ".join(line), reason=str(error)))
            else:
                able.append(line)
        if able:
            found.append((entrant, able))
    return found


def _check(method: Method, space: Space, budgets: Sequence[Budget], *, trained: bool) -> None:
    method.check(space, budgets, trained=trained)
    if isinstance(method, Uniform) and not method.fill and largest_uniform(space, budgets) is None:
        raise BudgetError(no_uniform(budgets))


def _without_uniform(runs: Sequence[PlannedRun]) -> set[tuple[str, ...]]:
    """Budgets that something meets, but no uniform network in any space."""
    lines = {tuple(line) for run in runs for line in run.recipe.budgets}
    return lines - {tuple(line) for run in runs if run.method == "uniform" for line in run.recipe.budgets}
