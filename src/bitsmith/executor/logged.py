"""A trial in a process that is not the user's own: with one thread, and all that it says in its folder's log.txt."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from bitsmith.errors import BitsmithError
from bitsmith.executor.work import LOG, perform
from bitsmith.train import Event, on_threads


def perform_logged(folder: str, call: str, arguments: Mapping[str, Any]) -> str:
    """Do a work; why it failed, or "". A KeyboardInterrupt is let through, once the checkpoint is written.

    Args:
        folder, call, arguments: of a `Work`; the folder is there.
    """
    with (Path(folder) / LOG).open("a", encoding="utf-8", errors="backslashreplace", buffering=1) as log:
        log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}\nstarting\n")
        with _said_in(log), warnings.catch_warnings(), on_threads(1):
            warnings.simplefilter("ignore")
            logging.getLogger("torch").setLevel(logging.ERROR)

            def say(message: str) -> None:
                log.write(f"{message}\n")

            try:
                perform(call, arguments, Teller(say), say)
            except KeyboardInterrupt:
                say("interrupted")
                raise
            except BitsmithError as error:
                reason = " ".join(str(error).split())
            except Exception as error:
                traceback.print_exc(file=log)
                reason = " ".join(f"{type(error).__name__}: {error}".split())
            else:
                return ""
            say(f"error: {reason}")
            return reason


class Teller:
    """A Watch that says a line per epoch, and now and then between.

    Args:
        silence: seconds between lines within an epoch.
    """

    def __init__(self, say: Callable[[str], None], *, silence: float = 5.0) -> None:
        self.say, self.silence, self.told, self.stage, self.epochs = say, silence, 0.0, "", 0

    def __call__(self, event: Event) -> None:
        if event.stage != self.stage:
            self.stage, self.epochs = event.stage, 0
        if event.note:
            self.say(f"{event.stage}: {event.note}")
            return
        now = time.monotonic()
        if event.epoch_end:
            self.epochs += 1
            shown = [name for name in event.values if name not in ("lr", "step") and "rms" not in name.split()]
            values = ", ".join(f"{name} {event.values[name]:.4g}" for name in shown)
            self.say(f"{event.stage}: step {event.step:,} of {event.steps:,}, epoch {self.epochs} done: {values}")
        elif now - self.told > self.silence:
            self.say(f"{event.stage}: step {event.step:,} of {event.steps:,}")
        else:
            return
        self.told = now


@contextlib.contextmanager
def _said_in(log: TextIO) -> Iterator[None]:
    """What Python and native code write to stdout and stderr goes to a file inside."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
        os.dup2(log.fileno(), number)
    try:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            yield
    finally:
        for number, before in zip((1, 2), kept, strict=True):
            os.dup2(before, number)
            os.close(before)
