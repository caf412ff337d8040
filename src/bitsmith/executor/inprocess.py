"""Trials in this process, one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from bitsmith.errors import BitsmithError
from bitsmith.executor.executor import Executor
from bitsmith.executor.work import Ended, Work, perform
from bitsmith.train import Watch, silent


@final
class InProcess(Executor):
    """One place, here. What is no BitsmithError (a fault of the machine or the program) ends everything, as ever.

    Args:
        watch: told of every step of every trial.
        say: what trials say.
    """

    def __init__(self, watch: Watch = silent, say: Callable[[str], None] = lambda message: None) -> None:
        self._watch, self._say = watch, say
        self._work: Work | None = None

    @property
    def places(self) -> int:
        return 1

    def begin(self, place: int, work: Work) -> None:
        self._work = work

    def ended(self, seconds: float) -> list[Ended]:
        assert self._work is not None
        work, self._work = self._work, None
        try:
            perform(work.call, work.arguments, self._watch, self._say)
        except BitsmithError as error:
            return [Ended(place=0, reason=" ".join(str(error).split()))]
        return [Ended(place=0)]

    def interrupt(self) -> None:
        self._work = None  # whatever was raised has stopped it already

    def close(self) -> None:
        pass
