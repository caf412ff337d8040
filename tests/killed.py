"""Commands in processes that are forked from one that has imported everything, so that killing them costs little.

A moment of such a process is a moment of the command's own work, not of Python's start.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from bitsmith.cli import main

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["killed"])


def command(arguments: Sequence[str], cwd: Path) -> None:
    """What the process does."""
    import torch

    os.chdir(cwd)
    torch.set_num_threads(1)
    sys.argv = ["bitsmith", *arguments]
    main()


def start(arguments: Sequence[str], cwd: Path) -> ForkServerProcess:
    process = _CONTEXT.Process(target=command, args=(list(arguments), cwd))
    process.start()
    return process


def run(arguments: Sequence[str], cwd: Path) -> float:
    """To its end; the seconds that it took."""
    began = time.monotonic()
    process = start(arguments, cwd)
    process.join()
    assert process.exitcode == 0, arguments
    process.close()
    return time.monotonic() - began


def killed(arguments: Sequence[str], cwd: Path, seconds: float) -> bool:
    """Killed after so many seconds; whether it was still at work."""
    process = start(arguments, cwd)
    process.join(seconds)
    at_work = process.exitcode is None
    process.kill()
    process.join()
    assert process.exitcode in (0, -9), arguments
    process.close()
    return at_work
