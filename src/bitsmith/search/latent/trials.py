"""Trials: every evaluation of a search, failed ones too, as a line of trials.jsonl; what a search goes on from.

`bitsmith.search.latent.shared` keeps them in an Optuna study instead, for several processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np

from bitsmith.errors import RunError
from bitsmith.search.latent.proposals import Seen

# Of a search's folder: what is being evaluated, and the weights of all that was trained on the highest rung.
FOLDER, LEARNED = "trials", "learned"


@final
@dataclass(frozen=True, kw_only=True)
class Trial:
    """One evaluation.

    Args:
        number: of the proposal, from 0 on; a network that climbs the ladder keeps it.
        rung: 0 for the search's own evaluations, 1 and up for longer trainings of the best.
        network: its layers in words, see `Sequences.key`.
        sequence: the same as token numbers; with the space it gives the blueprint.
        costs: exact.
        metric, loss: on validation data; None where it failed.
        failed: why it has none; "" where it has.
        epochs, seconds: of its training.
        seed: of the search.
    """

    number: int
    rung: int = 0
    network: str
    sequence: tuple[int, ...]
    costs: Mapping[str, float] = field(default_factory=dict)
    metric: float | None = None
    loss: float | None = None
    failed: str = ""
    epochs: int = 0
    seconds: float = 0.0
    seed: int = 0


def settings_digest(settings: Mapping[str, Any]) -> str:
    """What trials hang on, in one word."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


# From what was evaluated or is being evaluated: whether to go on; with the trial's number, its network or None.
More = Callable[[Sequence[Seen]], bool]
Choose = Callable[[Sequence[Seen], int], np.ndarray | None]
Evaluate = Callable[[np.ndarray, int], Trial]


@final
@dataclass(frozen=True, kw_only=True)
class Together:
    """Evaluations that go on at the same time.

    Args:
        most: of the next ones, how many are chosen before any of them is evaluated, by how many there are.
        evaluate: networks and their numbers -> their trials, one after the other as they are kept.
    """

    most: Callable[[int], int]
    evaluate: Callable[[Sequence[tuple[np.ndarray, int]]], Iterable[Trial]]


@final
class Trials:
    """The trials of a search, in memory and in a file that loses at most the line being written.

    Args:
        path: of the file; None keeps them in memory alone.
        settings: JSON-able, what the trials hang on; the file's first line.
        value: score of a trial, larger is better; NaN of what failed.

    Raises:
        RunError: the file is damaged, or of other settings.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any], value: Callable[[Trial], float]) -> None:
        self._path, self._value = path, value
        self.all: list[Trial] = []
        first = json.dumps({"settings": settings}, sort_keys=True)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_bytes() if path.exists() else b""
        whole = lines[: lines.rfind(b"\n") + 1]  # a power cut may leave half a line
        if len(whole) < len(lines):
            with path.open("r+b") as file:
                file.truncate(len(whole))
        if not whole:
            # Of trials that were deleted to start anew.
            shutil.rmtree(path.parent / FOLDER, ignore_errors=True)
            for file in (path.parent / LEARNED).glob("[0-9]*-[0-9]*.safetensors"):
                file.unlink()
            self._append(first)
            return
        head, *rest = whole.decode("utf-8", "replace").splitlines()
        if head != first:
            raise RunError(
                f"{path} holds trials of another search (other settings, seed, budgets, space or data); delete it to "
                "start anew, or choose another folder"
            )
        try:
            self.all = [Trial(**{**values, "sequence": tuple(values["sequence"])}) for values in map(json.loads, rest)]
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(f"{path} is damaged ({error}); delete it to start the search anew") from error

    def of(self, rung: int) -> list[Trial]:
        """Those of a rung, in the order in which they were evaluated."""
        return [trial for trial in self.all if trial.rung == rung]

    def fill(self, rung: int, more: More, choose: Choose, evaluate: Evaluate, together: Together | None = None) -> None:
        """Choose networks for a rung and evaluate them while `more` says so and one is left.

        Args:
            together: evaluates several at a time, in place of `evaluate`; they are kept in the order of their numbers.
        """
        while True:
            seen = [Seen(sequence=np.array(trial.sequence), score=self._value(trial)) for trial in self.of(rung)]
            n, chosen = len(seen), list[tuple[np.ndarray, int]]()
            while len(chosen) < (together.most(n) if together else 1):
                row = choose(seen, len(seen)) if more(seen) else None
                if row is None:
                    break
                chosen.append((row, len(seen)))
                seen.append(Seen(sequence=row, score=None))
            if not chosen:
                return
            for trial in together.evaluate(chosen) if together else [evaluate(*chosen[0])]:
                self.all.append(trial)
                if self._path is not None:
                    self._append(json.dumps(asdict(trial)))

    def _append(self, line: str) -> None:
        assert self._path is not None
        with self._path.open("ab") as file:
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
