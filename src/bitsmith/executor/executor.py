"""What an executor is, and the one loop that shares trials out to its places.

Three of them: `InProcess`, `Processes`, `RayCluster`. Order, retries and failures are the loop's, so they are the same
everywhere; an executor only begins work, and tells what ended.
"""

from __future__ import annotations

import heapq
import os
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from bitsmith.executor.work import LOG, Ended, Failed, State, Work

RETRIES = 3  # of work whose process died
_WAIT = 0.2  # seconds between two looks at what goes on


class Executor(ABC):
    """Places at which work is done, one at a time each. A context: leaving it ends its processes."""

    @property
    @abstractmethod
    def places(self) -> int:
        """How many works are done at a time."""

    @abstractmethod
    def begin(self, place: int, work: Work) -> None:
        """Begin work at a place that is free; its folder is there."""

    @abstractmethod
    def ended(self, seconds: float) -> list[Ended]:
        """What ended since, waiting at most so long for the first where nothing did; those places are free again."""

    @abstractmethod
    def interrupt(self) -> None:
        """Tell all that are at work to write their checkpoints and stop, and wait until they have."""

    @abstractmethod
    def close(self) -> None:
        """End what was started; nothing is at work any more."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def run_all(
    executor: Executor,
    works: Sequence[Work],
    *,
    watch: Callable[[State], None] = lambda state: None,
    failed: Callable[[Failed], None] = lambda failed: None,
) -> list[Failed]:
    """Do all work, in order as far as `after` lets; a failure stops only what comes after it.

    Work whose process died is begun again, at most three times: it goes on from its checkpoint. On Ctrl-C, or whatever
    `watch` raises, those at work are told to stop, and write their checkpoints first.

    Args:
        failed: told of every failure once, when it happens.

    Returns:
        The failures.
    """
    named = {work.folder for work in works}
    assert len(named) == len(works), "two works share a folder"
    ready = [(n, work) for n, work in enumerate(works) if work.after not in named]
    behind: dict[Path, list[tuple[int, Work]]] = {}
    for n, work in enumerate(works):
        if work.after is not None and work.after in named:
            behind.setdefault(work.after, []).append((n, work))
    at_work: dict[int, tuple[int, Work]] = {}
    free = list(range(executor.places))
    deaths: Counter[Path] = Counter()
    problems: list[Failed] = []
    done, shown = 0, -_WAIT

    def end(work: Work, reason: str) -> None:
        nonlocal done
        done += 1
        if reason:
            problems.append(Failed(title=work.title, folder=work.folder, reason=reason))
            failed(problems[-1])
        for n, next_ in behind.pop(work.folder, []):
            if reason:
                end(next_, f"what it starts from failed; see {work.folder}")
            else:
                heapq.heappush(ready, (n, next_))

    def show() -> None:
        places = [at_work.get(place) for place in range(executor.places)]
        lines = tuple(each and (each[1].title, last_line(each[1].folder)) for each in places)
        watch(State(done=done, total=len(works), at_work=lines))

    try:
        while ready or at_work:
            while ready and free:
                place = heapq.heappop(free)
                at_work[place] = heapq.heappop(ready)
                at_work[place][1].folder.mkdir(parents=True, exist_ok=True)
                executor.begin(place, at_work[place][1])
            if time.monotonic() - shown >= _WAIT:
                show()
                shown = time.monotonic()
            for ending in executor.ended(_WAIT):
                n, work = at_work.pop(ending.place)
                heapq.heappush(free, ending.place)
                deaths[work.folder] += ending.died
                if ending.died and deaths[work.folder] <= RETRIES:
                    heapq.heappush(ready, (n, work))
                else:
                    again = f" ({deaths[work.folder]} times)" if ending.died else ""
                    end(work, ending.reason + again)
        show()
    except BaseException:
        executor.interrupt()
        raise
    return problems


def last_line(folder: Path) -> str:
    """The last line of a log, from its end; "" where there is none."""
    try:
        with (folder / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
