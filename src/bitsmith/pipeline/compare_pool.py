"""The processes of a comparison: a few workers at a time, each with one thread on a processor of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from bitsmith.errors import RecipeError

LOG = "log.txt"
COMMAND = (sys.executable, "-m", "bitsmith.pipeline.worker")
_POLL = 0.2  # seconds
_PATIENCE = 120.0  # seconds that an interrupted worker may take to write its checkpoint


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one process does.

    Args:
        title: for people.
        folder: run folder; its log.txt gets what the process says.
        arguments: of bitsmith.pipeline.worker.
        after: folder of other work that must have succeeded before.
    """

    title: str
    folder: Path
    arguments: tuple[str, ...] = ()
    after: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Work that did not end well; `reason` is its log's last line."""

    title: str
    folder: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class State:
    """What goes on: work done (well or not) and in all, and per worker its title and its last line."""

    done: int
    total: int
    at_work: tuple[tuple[str, str] | None, ...]


@dataclass
class _Worker:
    work: Work
    process: subprocess.Popen[bytes]
    log: IO[bytes] = field(repr=False)


def run_all(
    works: Sequence[Work], workers: int, watch: Callable[[State], None], failed: Callable[[Failed], None]
) -> list[Failed]:
    """Do all work, `workers` at a time, in order as far as `after` lets; a failure stops nothing else.

    On Ctrl-C, or whatever `watch` raises, the workers are told to stop, and write their checkpoints first.

    Args:
        failed: told of every failure when it happens.

    Raises:
        RecipeError: fewer than one worker.
    """
    if workers < 1:
        raise RecipeError(f"--workers must be at least 1, got {workers}")
    places = _processors(workers)
    waiting, problems = list(works), []
    running: list[_Worker | None] = [None] * workers
    lost: set[Path] = set()
    ended: set[Path] = set()

    def fail(work: Work, reason: str) -> None:
        problem = Failed(title=work.title, folder=work.folder, reason=reason)
        lost.add(work.folder)
        problems.append(problem)
        failed(problem)

    named = {work.folder for work in works}
    with _stopped_at_last(running):
        while waiting or any(running):
            for slot, worker in enumerate(running):
                if worker is not None and (code := worker.process.poll()) is not None:
                    _close(worker)
                    running[slot] = None
                    ended.add(worker.work.folder)
                    if code:
                        fail(worker.work, _last_line(worker.work.folder) or f"exit code {code}")
                if running[slot] is not None:
                    continue
                for work in list(waiting):
                    if work.after in lost:
                        waiting.remove(work)
                        ended.add(work.folder)
                        fail(work, f"the float network that it starts from failed; see {work.after}")
                    elif work.after is None or work.after in ended or work.after not in named:
                        waiting.remove(work)
                        running[slot] = _start(work, places[slot])
                        break
            watch(
                State(
                    done=len(ended),
                    total=len(works),
                    at_work=tuple(w and (w.work.title, _last_line(w.work.folder)) for w in running),
                )
            )
            if any(running):
                time.sleep(_POLL)
    return problems


def _processors(workers: int) -> list[int | None]:
    """A processor for each worker; none where there are fewer processors, one worker or no such system call."""
    if workers == 1 or not hasattr(os, "sched_getaffinity"):
        return [None] * workers
    there = sorted(os.sched_getaffinity(0))
    return [*there[:workers]] if len(there) >= workers else [None] * workers


def _start(work: Work, processor: int | None) -> _Worker:
    work.folder.mkdir(parents=True, exist_ok=True)
    log = (work.folder / LOG).open("ab")
    log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}\nstarting\n".encode())
    log.flush()
    process = subprocess.Popen(
        [*COMMAND, str(work.folder), *work.arguments],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C reaches the workers through us alone
    )
    if processor is not None:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(process.pid, {processor})
    return _Worker(work=work, process=process, log=log)


@contextlib.contextmanager
def _stopped_at_last(running: Sequence[_Worker | None]) -> Iterator[None]:
    try:
        yield
    finally:
        left = [worker for worker in running if worker is not None]
        for worker in left:
            worker.process.send_signal(signal.SIGINT)
        for worker in left:
            try:
                worker.process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                worker.process.kill()
            _close(worker)


def _close(worker: _Worker) -> None:
    worker.process.wait()
    if worker.process.stdin is not None:
        worker.process.stdin.close()
    worker.log.close()


def _last_line(folder: Path) -> str:
    """The last line of a log, from its end."""
    try:
        with (folder / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
