"""Code of the user's: imported because a recipe or an option names it, with the current directory on the path."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

# What code of the user's may raise; a module that calls sys.exit is an error too, and must not end us without a word.
FAILURES = (Exception, SystemExit)


def import_users(module: str) -> ModuleType:
    """A module of the user's; it raises whatever its code raises (`FAILURES`)."""
    with _current_directory_importable():
        return importlib.import_module(module)


@contextlib.contextmanager
def _current_directory_importable() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the user's module may have taken it out
            sys.path.remove(here)
