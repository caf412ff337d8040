"""The whole comparison: plan, run folders, trials, statistics, page."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from bitsmith.blueprint import Blueprint
from bitsmith.errors import RunError
from bitsmith.executor import Executor, Failed, State, Work, run_all
from bitsmith.files import write_text
from bitsmith.pipeline.compare_plan import Plan, create, plan
from bitsmith.pipeline.comparison import Comparison, dump_comparison
from bitsmith.pipeline.folder import RunFolder
from bitsmith.pipeline.job import Say, quiet
from bitsmith.pipeline.lock import locked
from bitsmith.pipeline.outcomes import FILE, load_outcomes
from bitsmith.pipeline.planned import PlannedRun
from bitsmith.pipeline.summary import environment
from bitsmith.pipeline.verifications import is_fine
from bitsmith.report import Row, read_record
from bitsmith.report.bootstrap import DRAWS
from bitsmith.report.compare_page import write_compared
from bitsmith.report.compare_verdicts import make_verdicts, name_of, summarize_verdicts
from bitsmith.report.compared import Compared, CompareVerdict, Contest, Member, Missing
from bitsmith.report.contests import group, make_cells, make_scores, make_volumes
from bitsmith.report.savings import make_savings

_SAME_EPOCHS = 0.5  # totals further apart are not equal


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What a comparison left: its page, None where no run succeeded; and the runs that failed."""

    page: Path | None
    failed: tuple[Failed, ...]


def compare(
    comparison: Comparison,
    out: Path,
    *,
    executor: Executor,
    command: str = "",
    say: Say = quiet,
    watch: Callable[[State], None] = lambda state: None,
) -> Ended:
    """Do all runs that are not done yet, then write compare.html and compare.json.

    Args:
        out: the comparison's folder; every run has a folder of its own in it.
        executor: where runs are done.
        command: what was typed, for the page.

    Raises:
        RunError: a folder holds work of another recipe, or another process works there.
        BitsmithError: what planning raises.
    """
    with locked(out):
        laid_out = plan(comparison, say)
        for run in laid_out.runs:
            create(run, out)
        for path, recipe in laid_out.floats.items():
            RunFolder.create(out / path, recipe)
        write_text(out / "compare.yaml", dump_comparison(comparison))
        works = _works(laid_out, out)
        failed = run_all(executor, works, watch=watch, failed=lambda problem: say(str(problem)))
        done = [run for run in laid_out.runs if is_finished(out / run.path)]
        if not done:
            return Ended(page=None, failed=tuple(failed))
        compared = summarize_comparison(comparison, laid_out, done, failed, out, command)
        return Ended(page=write_compared(compared, out), failed=tuple(failed))


def is_finished(path: Path) -> bool:
    """Whether a run is through all its stages, and every file computes what was trained."""
    run = RunFolder(path=path)
    if not (path / "report.json").exists():
        return False
    try:
        folders = [run.folder(entry) for entry, _ in run.entries()]
        fine = all(is_fine(folder) for folder in folders)
    except RunError:
        return False
    return fine and all((folder / FILE).exists() for folder in folders)


def _works(laid_out: Plan, out: Path) -> list[Work]:
    """What is to be done: float networks first, each before the runs of its seed."""
    todo = [run for run in laid_out.runs if not is_finished(out / run.path)]
    needed = {run.floats for run in todo}
    call = "bitsmith.pipeline.compare_run:do_run"
    floats = [
        Work(
            title=f"float network, {' '.join(path.parts[1:])}",
            folder=out / path,
            call=call,
            arguments={"folder": _text(out / path), "only_float": True},
        )
        for path in laid_out.floats
        if path in needed and RunFolder(path=out / path).history(out / path / "float") is None
    ]
    return floats + [
        Work(
            title=run.title,
            folder=out / run.path,
            call=call,
            arguments={
                "folder": _text(out / run.path),
                "floats": _text(out / run.floats) if run.floats else None,
                "twins": [_text(out / twin.path) for twin in laid_out.runs if _alike(twin, run)],
            },
            after=out / run.floats if run.floats else None,
        )
        for run in todo
    ]


def _text(path: Path) -> str:
    return str(path.absolute())


def _alike(one: PlannedRun, other: PlannedRun) -> bool:
    """Whether equal blueprints of two runs would be trained alike."""
    return one is not other and (one.seed, one.space, one.floats) == (other.seed, other.space, other.floats)


def summarize_comparison(
    comparison: Comparison,
    laid_out: Plan,
    done: Sequence[PlannedRun],
    failed: Sequence[Failed],
    out: Path,
    command: str,
) -> Compared:
    """The record of what the finished runs hold.

    Raises:
        RunError: runs that can't be compared: other test images, another metric, damaged files.
    """
    members: list[Member] = []
    predictions: dict[tuple[Contest, int], np.ndarray] = {}
    labels: np.ndarray | None = None
    blueprint: Blueprint | None = None
    floats: dict[str, Row] = {}
    seconds = 0.0
    for run in done:
        folder = RunFolder(path=out / run.path)
        rows = {row.folder: row for row in read_record(folder.path).rows}
        if "float" in rows:
            if run.floats is None:
                seconds += rows["float"].seconds
            else:
                floats[run.floats.relative_to("float").as_posix()] = rows["float"]
        for entry, blueprint in folder.entries():
            contest = Contest(method=run.method, space=run.space, budget=entry.budget)
            outcomes = load_outcomes(folder.folder(entry))
            if labels is None:
                labels = outcomes.labels
            elif not np.array_equal(labels, outcomes.labels):
                raise RunError(f"{folder.path} was tested on other images than the runs before it; delete it")
            predictions[contest, run.seed] = outcomes.predictions
            members.append(_member(run, contest, rows[entry.slug], entry.search_epochs, blueprint))
    seconds += sum(row.seconds for row in floats.values())
    assert labels is not None
    assert blueprint is not None
    recipe = done[0].recipe
    classes = blueprint.classes
    positive = classes.index(recipe.task.positive) if recipe.task.positive else len(classes) - 1
    metric = recipe.task.metric
    scores = make_scores(members, predictions, labels, metric=metric, classes=len(classes), positive=positive)
    verdicts = make_verdicts(members, scores)
    titles = {out / run.path: run for run in laid_out.runs}
    return Compared(
        title=str(comparison.base.get("name", "comparison")),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        summary=summarize_verdicts(verdicts),
        metric=metric,
        classes=len(classes),
        test_images=len(labels),
        draws=DRAWS if scores.has_intervals else 0,
        epochs=laid_out.epochs,
        float_epochs=laid_out.head_start,
        float_test={network: row.test for network, row in floats.items() if row.test is not None},
        hours=(seconds + sum(member.seconds for member in members)) / 3600,
        members=members,
        cells=make_cells(members, scores),
        verdicts=verdicts,
        volumes=make_volumes(members, scores),
        savings=make_savings(members, scores),
        left_out=[
            Missing(method=line.method, space=line.space, budget=line.budget, reason=line.reason)
            for line in laid_out.left_out
        ],
        failed=[
            Missing(
                method=titles[problem.folder].method if problem.folder in titles else problem.title,
                space=titles[problem.folder].space if problem.folder in titles else "",
                budget="",
                reason=f"failed: {problem.reason}",
                folder=problem.folder.relative_to(out).as_posix(),
            )
            for problem in failed
        ],
        notes=_notes(members, laid_out, verdicts),
        facts={
            "model": ", ".join(dict.fromkeys(run.recipe.model.spec for run in done)),
            "data": recipe.data.source,
            "test images": len(labels),
            "classes": len(classes),
            "seeds": ", ".join(map(str, comparison.seeds)),
            "networks": len(members),
            "epochs, search included": laid_out.epochs,
            "epochs of the float network": laid_out.float_epochs,
            "final training starts from": ", ".join(dict.fromkeys(run.recipe.start for run in done)),
        },
        environment=environment(comparison.seeds[0]) | {"seed": ", ".join(map(str, comparison.seeds))},
        command=command,
    )


def _member(run: PlannedRun, contest: Contest, row: Row, search_epochs: float, blueprint: Blueprint) -> Member:
    if row.validation is None or row.test is None:
        raise RunError(f"{row.folder} of {run.path} has no test result; delete that folder and compare again")
    return Member(
        contest=contest,
        seed=run.seed,
        kind=run.kind,
        bits=row.bits,
        network=hashlib.sha256(blueprint.to_json().encode()).hexdigest(),
        costs=row.costs,
        validation=row.validation,
        test=row.test,
        source=row.source,
        epochs=row.epochs,
        search_epochs=search_epochs,
        seconds=row.seconds,
        folder=run.path.as_posix(),
    )


def _notes(members: Sequence[Member], laid_out: Plan, verdicts: Sequence[CompareVerdict]) -> list[str]:
    """What the numbers alone don't say."""
    notes, several = [], len({member.contest.space for member in members}) > 1
    if laid_out.from_scratch:
        notes.append(
            f"Networks in {', '.join(laid_out.from_scratch)} start from no float network; they train for its "
            f"{laid_out.head_start} epochs too, {laid_out.epochs + laid_out.head_start:g} in all at low precision"
        )
    equal = {run.path.as_posix(): run.epochs for run in laid_out.runs}
    unequal = {m.contest.method: m.epochs for m in members if abs(m.epochs - equal[m.folder]) > _SAME_EPOCHS}
    notes += [
        f"{method} had {epochs:g} epochs, the others {laid_out.epochs:g}: its search takes a number of epochs that is "
        "known only afterwards, so this is no comparison at equal training"
        for method, epochs in unequal.items()
    ]
    outside = {contest: seeds for contest, mine in group(members).items() if (seeds := [m for m in mine if m.outside])}
    notes += [
        f"At {contest.budget} {name_of(contest, several)} is outside the budget by {_excess(seeds)} (seed "
        f"{', '.join(str(member.seed) for member in seeds)}), so no verdict"
        for contest, seeds in outside.items()
    ]
    judged = {verdict.ours for verdict in verdicts}
    notes += [
        f"At {contest.budget} {name_of(contest, several)} has no verdict: no baseline inside was trained with its seeds"
        for contest in dict.fromkeys(member.contest for member in members if member.kind == "found")
        if contest not in judged and contest not in outside
    ]
    same: dict[tuple[str, str], list[int]] = {}
    for budget, seed in dict.fromkeys((member.contest.budget, member.seed) for member in members):
        groups: dict[str, list[str]] = {}
        for member in members:
            if (member.contest.budget, member.seed) == (budget, seed):
                groups.setdefault(member.network, []).append(name_of(member.contest, several))
        for names in groups.values():
            if len(names) > 1:
                same.setdefault((budget, f"{', '.join(names[:-1])} and {names[-1]}"), []).append(seed)
    notes += [
        f"At {budget} {names} have the same bits in every layer (seed {', '.join(map(str, seeds))})"
        for (budget, names), seeds in same.items()
    ]
    torch = sorted({member.contest.method for member in members if member.source == "torch"})
    if torch:
        notes.append(
            f"{', '.join(torch)}: networks with float layers, tested in PyTorch; verified before files of float layers "
            "could be written: run bitsmith export and verify in their run folders"
        )
    return notes


def _excess(members: Sequence[Member]) -> str:
    """The most that any of these is beyond each limit, as "12 % of size"."""
    costs = dict.fromkeys(cost for member in members for cost in member.outside)
    return " and ".join(f"{100 * max(m.outside.get(cost, 0.0) for m in members):.2g} % of {cost}" for cost in costs)
