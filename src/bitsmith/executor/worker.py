"""A process that does trials for `Processes`: python -m bitsmith.executor.worker.

It reads a line of JSON per trial ({"folder", "call", "arguments"}) and answers each with one (why it failed, or "").
It ends with its standard input; where that ends in the middle of a trial, the process that started it is gone, and it
stops as on Ctrl-C: with its checkpoint written.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from typing import TextIO

from bitsmith.executor.logged import perform_logged


def main() -> int:
    """Work; returns the exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have set to be ignored
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what is printed between trials is no answer
    # Not sys.stdin: processes that a trial forks, as to read images, close it first, and would wait for ever for its
    # lock, which the listening thread holds.
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    at_work = threading.Event()
    threading.Thread(target=_listen, args=(requests, lines, at_work), daemon=True).start()
    try:
        while (line := lines.get()) is not None:
            reason = perform_logged(**json.loads(line))
            at_work.clear()
            answers.write(json.dumps(reason) + "\n")
            answers.flush()
    except KeyboardInterrupt:
        return 130
    return 0


def _listen(requests: TextIO, lines: queue.SimpleQueue[str | None], at_work: threading.Event) -> None:
    for line in requests:
        at_work.set()
        lines.put(line)
    lines.put(None)
    if at_work.is_set():
        os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
