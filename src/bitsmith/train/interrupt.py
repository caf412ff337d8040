"""Ctrl-C between two steps, not within one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Interruption:
    """A Ctrl-C that waits for the end of the step."""

    def __init__(self) -> None:
        self.pressed = False
        self._handler: Callable | None = None

    def wait_with(self, handler: Callable) -> None:
        """Take the signal; `handler` gets it between steps. A second Ctrl-C goes to it at once."""
        self._handler = handler
        signal.signal(signal.SIGINT, self._note)

    def answer(self) -> None:
        """Let the handler have a signal that came; it raises as a rule."""
        if self.pressed and self._handler is not None:
            self.pressed = False
            self._handler(signal.SIGINT, None)

    def _note(self, *_: object) -> None:
        self.pressed = True
        signal.signal(signal.SIGINT, self._handler)


@contextmanager
def between_steps(wanted: bool) -> Iterator[Interruption]:
    """Inside, Ctrl-C waits for the next `answer`; only the main thread may do that, so others leave it as it is."""
    interruption = Interruption()
    handler = signal.getsignal(signal.SIGINT)
    if not wanted or not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    interruption.wait_with(handler)
    try:
        yield interruption
    finally:
        signal.signal(signal.SIGINT, handler)
    interruption.answer()
