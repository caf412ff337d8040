"""One run of a comparison in a process of its own: python -m bitsmith.pipeline.worker FOLDER [--floats FOLDER].

It does what `bitsmith run` does in a folder whose recipe is there already, and tells in plain lines what it is at. It
stops as on Ctrl-C when the process that started it is gone, however that ended: then its standard input ends.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitsmith import pipeline
from bitsmith.errors import BitsmithError, RunError
from bitsmith.files import whole_file
from bitsmith.pipeline import Job, RunFolder
from bitsmith.pipeline.width_grid import lay_out, train_point
from bitsmith.recipe import Recipe, dump_recipe
from bitsmith.train import Event

_SILENCE = 5.0  # seconds between lines, except at the end of an epoch


def main() -> int:
    """Work; returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--floats", type=Path, help="run folder to take the float network from")
    parser.add_argument("--twin", type=Path, action="append", default=[], help="run to take equal networks from")
    parser.add_argument("--only-float", action="store_true", help="train the float network and stop")
    parser.add_argument("--run", type=Path, help="run folder of a grid of widths, of which FOLDER is a point's")
    parser.add_argument("--groups", type=int, help="of that grid")
    parser.add_argument("--shares", type=_numbers, help="of that grid")
    parser.add_argument("--point", type=_numbers, help="the shares of that point")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("torch").setLevel(logging.ERROR)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have set to be ignored
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        if arguments.run is not None:
            job = pipeline.prepare(RunFolder(path=arguments.run))
            grid = lay_out(job, shares=arguments.shares, groups=arguments.groups)
            train_point(grid, arguments.point, Teller())
            return 0
        run = RunFolder(path=arguments.folder)
        work(run, floats=arguments.floats, twins=arguments.twin, only_float=arguments.only_float)
    except BitsmithError as error:
        say(f"error: {' '.join(str(error).split())}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return 0


def work(run: RunFolder, *, floats: Path | None = None, twins: Sequence[Path] = (), only_float: bool = False) -> None:
    """All stages of a run that are not done yet.

    Args:
        floats: another run of this model, data and seed, whose float network is taken rather than trained again.
        twins: other runs, whose trained networks are taken where this one's would be the same.
        only_float: stop when the float network is trained.

    Raises:
        BitsmithError: what a stage raises; also where a file does not compute what was trained.
    """
    with pipeline.locked(run.path):
        job = pipeline.prepare(run, say)
        if floats is not None:
            adopt_float(job, RunFolder(path=floats))
        watch = Teller()
        pipeline.train_float(job, watch)
        if only_float:
            return
        pipeline.search(job, watch, say)
        for twin in twins:
            adopt_networks(job, RunFolder(path=twin))
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


def adopt_networks(job: Job, source: RunFolder) -> None:
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


class Teller:
    """A Watch that prints a line per epoch, and now and then between."""

    def __init__(self) -> None:
        self.told, self.stage, self.epochs = 0.0, "", 0

    def __call__(self, event: Event) -> None:
        if event.stage != self.stage:
            self.stage, self.epochs = event.stage, 0
        if event.note:
            say(f"{event.stage}: {event.note}")
            return
        now = time.monotonic()
        if event.epoch_end:
            self.epochs += 1
            values = ", ".join(f"{name} {value:.4g}" for name, value in event.values.items() if name != "lr")
            say(f"{event.stage}: step {event.step:,} of {event.steps:,}, epoch {self.epochs} done: {values}")
        elif now - self.told > _SILENCE:
            say(f"{event.stage}: step {event.step:,} of {event.steps:,}")
        else:
            return
        self.told = now


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


def say(message: str) -> None:
    """One line of the log."""
    print(message, flush=True)


def _stop_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
