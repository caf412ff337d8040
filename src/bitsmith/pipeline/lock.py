"""One process per folder: who works in it holds its `.lock`, and others are told who that is.

The lock is the operating system's (flock), not the file's presence: a process that is killed holds nothing any more.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bitsmith.errors import RunError

# lock -> whether it is shared, of this process: its stages lock what the whole run has locked already.
_held: dict[Path, bool] = {}


@contextmanager
def locked(folder: Path, *, shared: bool = False, patience: float = 0.0) -> Iterator[None]:
    """Hold a folder's lock inside. What this process holds already is not taken twice.

    Args:
        shared: let others in that say so too, but none that wants the folder for itself.
        patience: seconds to wait for another process to let go.

    Raises:
        RunError: another process holds it (process, machine and time are named), or the disk knows no locks.
    """
    path = folder.resolve() / ".lock"
    if path in _held:
        assert shared or not _held[path], f"{path} is held together with others"
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            _take(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, patience)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise RunError(
                f"{folder} is in use by {holder}; wait until that ends or stop it, then the same command goes on from "
                "there"
            ) from error
        except OSError as error:
            raise RunError(
                f"{folder} can't be locked ({error.strerror}); choose a folder on another disk, since two processes "
                "in one folder would spoil it"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        file.flush()
        _held[path] = shared
        try:
            yield
        finally:
            del _held[path]  # closing the file gives the lock back


def _take(file: IO[str], kind: int, patience: float) -> None:
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
