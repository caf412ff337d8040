"""One run of a comparison as a trial: what `bitsmith run` does, in a folder whose recipe is there already."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitsmith import pipeline
from bitsmith.errors import RunError
from bitsmith.executor import PATIENCE
from bitsmith.files import whole_file
from bitsmith.pipeline import Job, RunFolder, Say
from bitsmith.pipeline.lock import locked
from bitsmith.recipe import Recipe, dump_recipe
from bitsmith.train import Watch


def do_run(
    watch: Watch,
    say: Say,
    *,
    folder: str,
    floats: str | None = None,
    twins: Sequence[str] = (),
    only_float: bool = False,
) -> None:
    """All stages of a run that are not done yet.

    Args:
        folder: of the run.
        floats: another run of this model, data and seed, whose float network is taken rather than trained again.
        twins: other runs, whose trained networks are taken where this one's would be the same.
        only_float: stop when the float network is trained.

    Raises:
        BitsmithError: what a stage raises; also where a file does not compute what was trained.
    """
    run = RunFolder(path=Path(folder))
    with locked(run.path, patience=PATIENCE):
        job = pipeline.prepare(run, say)
        if floats is not None:
            adopt_float(job, RunFolder(path=Path(floats)))
        pipeline.train_float(job, watch)
        if only_float:
            return
        pipeline.search(job, watch, say)
        for twin in twins:
            adopt_networks(job, RunFolder(path=Path(twin)), say)
        pipeline.train(job, watch, say)
        say("export")
        pipeline.export(job.run, say=say, data=job.task.data)
        say("verify")
        fine = pipeline.verify(job, say)
        page = pipeline.report(job)
    if not fine:
        raise RunError(f"a file does not compute what was trained; see {page}")


def adopt_float(job: Job, source: RunFolder) -> None:
    """Copy the trained float network of another run of the same model, data, seed and plan.

    Training is deterministic, so the run would have made the same one.

    Raises:
        RunError: it has none, or the recipes differ in what a float network depends on.
    """
    theirs, ours = source.recipe(), job.recipe
    for name in ("model", "data", "task", "float_plan", "seed"):
        if getattr(theirs, name) != getattr(ours, name):
            raise RunError(f"{source.path} trained its float network with another {name} than {job.run.path}")
    if source.history(source.path / "float") is None:
        raise RunError(f"{source.path} has no trained float network yet")
    if job.run.history(job.float_folder) is not None:
        return
    for name in ("network.safetensors", "training.json"):  # training.json comes last: it says that all is there
        with whole_file(job.float_folder / name) as partial:
            shutil.copyfile(source.path / "float" / name, partial)


def adopt_networks(job: Job, source: RunFolder, say: Say) -> None:
    """Copy trained networks of another run that this run would train to the same numbers.

    That is: blueprint, start, plan, seed and data are equal, and neither network goes on from a search of its own.
    """
    if not source.recipe_file.exists() or _learns_alike(source.recipe()) != _learns_alike(job.recipe):
        return
    try:
        theirs = [
            (entry, blueprint, source.folder(entry))
            for entry, blueprint in source.entries()
            if source.history(source.folder(entry)) is not None
        ]
    except RunError:
        return  # it is searching just now
    for entry, blueprint in job.run.entries():
        folder = job.run.folder(entry)
        if job.run.history(folder) is not None or (folder / "train.checkpoint").exists():
            continue
        for twin, same, place in theirs:
            files = [folder / "inherited.safetensors", place / "inherited.safetensors"]
            if same != blueprint or entry.search_epochs or twin.search_epochs or any(file.exists() for file in files):
                continue
            trial = next(
                (line for line in _trials(source) if (line["name"], line["budget"]) == (twin.name, twin.budget)), None
            )
            if trial is None:
                continue
            job.run.add_trial(trial | {"name": entry.name, "budget": entry.budget})
            for name in ("network.safetensors", "training.json"):
                with whole_file(folder / name) as partial:
                    shutil.copyfile(place / name, partial)
            say(f"{entry.title}: the same network as {twin.title} in {source.path}, so trained to the same numbers")
            break


def _learns_alike(recipe: Recipe) -> str:
    """The recipe as text, without what the training of a given blueprint doesn't depend on."""
    unlike = {"name": "", "command": "", "method": {}, "budgets": [], "start": "", "checkpoint_seconds": 0}
    start = "scratch" if recipe.start == "scratch" else "float"  # without a search of its own, "search" is "float"
    return dump_recipe(recipe.model_copy(update=unlike)) + start


def _trials(run: RunFolder) -> list[dict[str, Any]]:
    file = run.path / "trials.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
