"""Trials as plain values: what is to be done, and what became of it.

A trial is a function's name and JSON-able arguments, so that any process of any machine can do it. It keeps what it
finds, and its checkpoint, in files of a folder that all of them see; nothing but a sentence of failure comes back. So
whoever does a trial again goes on from where it was, and does nothing where it is done.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitsmith.train import Watch

LOG = "log.txt"
PATIENCE = 120.0  # seconds that interrupted work may take to write its checkpoint


@dataclass(frozen=True, kw_only=True)
class Work:
    """One trial.

    Args:
        title: for people.
        folder: of this trial alone; its log.txt gets what a process of its own says.
        call: "package.module:function", called as function(watch, say, **arguments); a BitsmithError is its failure.
        arguments: JSON-able; paths are absolute.
        after: folder of other work that must have succeeded before.
    """

    title: str
    folder: Path
    call: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    after: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Work that did not end well, and why."""

    title: str
    folder: Path
    reason: str

    def __str__(self) -> str:
        log = self.folder / LOG
        return f"{self.title} failed: {self.reason}" + (f"; see {log}" if log.exists() else "")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What became of the work at a place.

    Args:
        reason: why it failed; "" where it went well.
        died: the process that did it is gone, which may be no fault of the work; it can be begun again.
    """

    place: int
    reason: str = ""
    died: bool = False


@dataclass(frozen=True, kw_only=True)
class State:
    """What goes on: work done (well or not) and in all, and per place its title and its last line."""

    done: int
    total: int
    at_work: tuple[tuple[str, str] | None, ...]


def perform(call: str, arguments: Mapping[str, Any], watch: Watch, say: Callable[[str], None]) -> None:
    """Do a work in this process; it raises what its function raises."""
    module, _, name = call.partition(":")
    getattr(importlib.import_module(module), name)(watch, say, **arguments)
