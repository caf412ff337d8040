"""Evaluations in other processes: each is a trial of an executor, with a folder of its own and its result in a file.

A search that was stopped proposes the same networks under the same numbers again; what has a result already is not
evaluated a second time, and what has a checkpoint goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bitsmith.errors import TrainingError
from bitsmith.executor import Work, run_all
from bitsmith.files import read_json, write_json
from bitsmith.search.latent.ladder import Evaluator
from bitsmith.search.latent.trials import Together, Trial
from bitsmith.search.problem import Elsewhere, Problem

FOLDER = "trials"  # of a search's folder
_RESULT = "trial.json"


def together(
    problem: Problem,
    rung: int,
    most: Callable[[int], int],
    tell: Callable[[int, str], None],
    number: Callable[[np.ndarray, int], int] = lambda row, n: n,
) -> Together | None:
    """How networks of a rung are evaluated in other processes; None where the problem knows none.

    Args:
        most: see `Together`.
        tell: told how many of the rung are done, and what there is to say.
        number: of the proposal, by its sequence and its place in the rung.
    """
    elsewhere, folder = problem.elsewhere, problem.folder
    if elsewhere is None:
        return None
    assert folder is not None

    def evaluate(chosen: Sequence[tuple[np.ndarray, int]]) -> Iterator[Trial]:
        before = chosen[0][1]
        named = [(row, number(row, n)) for row, n in chosen]
        for trial in _evaluate(elsewhere, folder, named, rung, lambda done: tell(before + done, "")):
            if trial.failed:
                tell(before + len(chosen), f"network {trial.number + 1} failed: {trial.failed}")
            yield trial

    return Together(most=most, evaluate=evaluate)


def _evaluate(
    elsewhere: Elsewhere,
    folder: Path,
    chosen: Sequence[tuple[np.ndarray, int]],
    rung: int,
    tell: Callable[[int], None],
) -> Iterator[Trial]:
    """The trials of networks, in their order, as many at a time as the executor has places.

    What a trial leaves in its folder goes when the next one is asked for; it must be kept by then. The folder of a
    failed one stays, for its log.

    Raises:
        TrainingError: an evaluation stopped for a reason that is not the network's; the others are finished, and are
            not done again by the same search.
    """
    works = [
        Work(
            title=f"network {number + 1}" + (f", rung {rung}" if rung else ""),
            folder=folder / FOLDER / f"{rung}-{number}",
            call=elsewhere.call,
            arguments={
                **elsewhere.arguments,
                "folder": str((folder / FOLDER / f"{rung}-{number}").absolute()),
                "request": {"sequence": row.tolist(), "number": number, "rung": rung},
            },
        )
        for row, number in chosen
    ]
    faults = run_all(elsewhere.executor, works, watch=lambda state: tell(state.done))
    if faults:
        raise TrainingError(f"{'; '.join(map(str, faults))}. The same command goes on from there")
    for work in works:
        trial = _read(work.folder / _RESULT)
        yield trial
        if not trial.failed:
            shutil.rmtree(work.folder)


def answer(evaluator: Evaluator, request: Mapping[str, Any], folder: Path) -> None:
    """Evaluate one network in the process that was asked to, and leave its trial in the folder."""
    file = folder / _RESULT
    if file.exists() and _read(file).sequence == tuple(request["sequence"]):
        return
    trial = evaluator.evaluate(np.array(request["sequence"]), request["number"], request["rung"])
    write_json(file, asdict(trial))


def _read(file: Path) -> Trial:
    values = read_json(file, "the result of an evaluation")
    return Trial(**{**values, "sequence": tuple(values["sequence"])})
