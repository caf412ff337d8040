"""Trials in processes of this machine: a few at a time, each with one thread on a processor of its own."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from typing import final

from bitsmith.errors import RecipeError
from bitsmith.executor.executor import Executor
from bitsmith.executor.work import PATIENCE, Ended, Work
from bitsmith.train import WORKER_MEMORY, worker_memory

COMMAND = (sys.executable, "-m", "bitsmith.executor.worker")


@final
class Processes(Executor):
    """Processes that live until they are closed, or die, and do one trial after another.

    Ctrl-C reaches them through us alone; where we are killed, their standard input ends, and they stop by themselves.

    Raises:
        RecipeError: fewer than one worker.
    """

    def __init__(self, workers: int = 1) -> None:
        if workers < 1:
            raise RecipeError(f"--workers must be at least 1, got {workers}")
        self._processors = _processors(workers)
        self._memory = {WORKER_MEMORY: str(worker_memory(workers))} if workers > 1 else {}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._at_work: set[int] = set()
        self._answers = selectors.DefaultSelector()

    @property
    def places(self) -> int:
        return len(self._processors)

    def begin(self, place: int, work: Work) -> None:
        line = json.dumps({"folder": str(work.folder.absolute()), "call": work.call, "arguments": dict(work.arguments)})
        process = self._processes.get(place) or self._start(place)
        assert process.stdin is not None
        self._at_work.add(place)
        with contextlib.suppress(BrokenPipeError):  # it died meanwhile, which `ended` will see
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()

    def ended(self, seconds: float) -> list[Ended]:
        found = []
        for key, _ in self._answers.select(seconds):
            place, process = key.data, self._processes[key.data]
            assert process.stdout is not None
            answer = process.stdout.readline()
            if answer.endswith(b"\n"):
                found.append(Ended(place=place, reason=json.loads(answer)))
            else:
                self._forget(place)
                if place in self._at_work:
                    found.append(Ended(place=place, reason=f"its process {_how(process.returncode)}", died=True))
            self._at_work.discard(place)
        return found

    def interrupt(self) -> None:
        for place in self._at_work:
            self._processes[place].send_signal(signal.SIGINT)
        for place in list(self._at_work):
            try:
                self._processes[place].wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._processes[place].kill()
            self._forget(place)
        self._at_work.clear()

    def close(self) -> None:
        for place in list(self._processes):
            self._forget(place)
        self._answers.close()

    def _start(self, place: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **self._memory},
            start_new_session=True,
        )
        assert process.stdout is not None
        if (processor := self._processors[place]) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(process.pid, {processor})
        self._processes[place] = process
        self._answers.register(process.stdout, selectors.EVENT_READ, place)
        return process

    def _forget(self, place: int) -> None:
        """End an idle process, or bury a dead one."""
        process = self._processes.pop(place)
        assert process.stdin is not None
        assert process.stdout is not None
        self._answers.unregister(process.stdout)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()
        process.stdout.close()


def _processors(workers: int) -> list[int | None]:
    """A processor for each worker; none where there are fewer processors, one worker or no such system call."""
    if workers == 1 or not hasattr(os, "sched_getaffinity"):
        return [None] * workers
    there = sorted(os.sched_getaffinity(0))
    return [*there[:workers]] if len(there) >= workers else [None] * workers


def _how(code: int) -> str:
    """-9 -> "was killed by SIGKILL"."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
