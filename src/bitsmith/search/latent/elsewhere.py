"""Evaluations as trials: each has a folder of its own and leaves its result in a file, here or in another process.

A search that was stopped proposes the same networks under the same numbers again; what has a result already is not
evaluated a second time, and what has a checkpoint goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from bitsmith.errors import TrainingError
from bitsmith.executor import LOG, Failed, Work, run_all
from bitsmith.files import read_json, write_json
from bitsmith.search.latent.ladder import ATTEMPTS, CHECKPOINT, WEIGHTS, Evaluator
from bitsmith.search.latent.trials import FOLDER, LEARNED, Together, Trial

_REQUEST, _RESULT = "request.json", "trial.json"


def together(
    evaluator: Evaluator,
    rung: int,
    search: str,
    *,
    most: Callable[[int], int],
    tell: Callable[[int, str], None],
    number: Callable[[np.ndarray, int], int] = lambda row, n: n,
    before: Callable[[Sequence[tuple[np.ndarray, int]]], int] = lambda chosen: chosen[0][1],
) -> Together | None:
    """How networks of a rung are evaluated: elsewhere several at a time, here one; None without a folder.

    Args:
        evaluator: of the search, with its problem.
        search: what trials hang on, as a digest; what another search left is not taken.
        most: see `Together`; elsewhere.
        tell: told how many of the rung are done, and what there is to say.
        number: of the proposal, by its sequence and its place in the rung.
        before: how many of the rung are done when these are begun.
    """
    problem = evaluator.problem
    folder, elsewhere = problem.folder, problem.elsewhere
    if folder is None:
        return None

    def evaluate(chosen: Sequence[tuple[np.ndarray, int]]) -> Iterator[Trial]:
        done = before(chosen)
        works = []
        for row, place in chosen:
            at = number(row, place)
            own = folder / FOLDER / f"{rung}-{at}"
            request = {"search": search, "sequence": row.tolist(), "number": at, "rung": rung}
            request["epochs"] = evaluator.plan_of(rung).epochs
            works.append(
                Work(
                    title=f"network {at + 1}" + (f", rung {rung}" if rung else ""),
                    folder=own,
                    call=elsewhere.call if elsewhere else "",
                    arguments={
                        **(elsewhere.arguments if elsewhere else {}),
                        "folder": str(own.absolute()),
                        "request": request,
                    },
                )
            )

        def fault(problem: Failed) -> None:
            tell(done, str(problem))

        if elsewhere is None:
            for work in works:
                answer(evaluator, work.arguments["request"], work.folder)
        elif faults := run_all(
            elsewhere.executor, works, watch=lambda state: tell(done + state.done, ""), failed=fault
        ):
            raise TrainingError(f"{'; '.join(map(str, faults))}. The same command goes on from there")
        for work in works:
            trial, log = _read(work.folder / _RESULT), work.folder / LOG
            if trial.failed:
                see = f"; see {log}" if log.exists() else ""
                tell(done + len(works), f"network {trial.number + 1} failed: {trial.failed}{see}")
            if not trial.failed and (work.folder / WEIGHTS).exists():
                learned(folder, trial).parent.mkdir(exist_ok=True)
                (work.folder / WEIGHTS).replace(learned(folder, trial))
            yield trial
            _tidy(work.folder, trial)

    return Together(most=most if elsewhere else lambda n: 1, evaluate=evaluate)


def answer(evaluator: Evaluator, request: Mapping[str, Any], folder: Path) -> None:
    """Evaluate one network in a folder of its own, and leave its trial there.

    What lies there of another request (another search under the same name, say) is not taken.
    """
    asked, result = folder / _REQUEST, folder / _RESULT
    if not asked.exists() or read_json(asked, "the request of an evaluation") != request:
        for name in (_RESULT, CHECKPOINT, ATTEMPTS, WEIGHTS):
            (folder / name).unlink(missing_ok=True)
        write_json(asked, request)
    if result.exists():
        return
    own = replace(evaluator, problem=replace(evaluator.problem, folder=folder))
    write_json(result, asdict(own.evaluate(np.array(request["sequence"]), request["number"], request["rung"])))
    (folder / CHECKPOINT).unlink(missing_ok=True)


def learned(folder: Path, trial: Trial) -> Path:
    """The file in a search's folder that keeps the weights of a network of the highest rung."""
    return folder / LEARNED / f"{trial.rung}-{trial.number}.safetensors"


def tidy(folder: Path, trials: Sequence[Trial]) -> None:
    """Delete what is left of trials that are kept, as by a process that was killed just then."""
    for trial in trials:
        own = folder / FOLDER / f"{trial.rung}-{trial.number}"
        if own.exists():
            _tidy(own, trial)


def _tidy(folder: Path, trial: Trial) -> None:
    if trial.failed and (folder / LOG).exists():  # it may tell more
        for name in (_REQUEST, _RESULT, WEIGHTS):
            (folder / name).unlink(missing_ok=True)
    else:
        shutil.rmtree(folder)


def _read(file: Path) -> Trial:
    values = read_json(file, "the result of an evaluation")
    return Trial(**{**values, "sequence": tuple(values["sequence"])})
