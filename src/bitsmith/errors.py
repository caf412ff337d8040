"""Every exception a user can meet. All are ValueErrors: the input, not bitsmith, has to change.

BitsmithError
├── BudgetError      a budget that can't be read, or that no blueprint of the space meets
├── CaptureError     a module that can't be turned into a NetworkGraph
├── DataError        a data set that is missing, malformed or too small
├── ExportError      a network that an exporter can't write
├── RecipeError      a recipe or command-line option that contradicts itself
├── RunError         a run folder that lacks what a stage needs, or whose files are damaged
├── TrainingError    training that can't go on (NaN loss, wrong shapes)
└── VerifyError      files that don't compute what was trained
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggestion(name: str, known: Iterable[str]) -> str:
    """For messages, after what is unknown: " (did you mean 'refine'?)", "" where nothing known is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


class BitsmithError(ValueError):
    """Base of all errors that bitsmith raises at its users."""


class BudgetError(BitsmithError):
    """A budget can't be read, or can't be met; the message says what is reachable and what binds."""


class CaptureError(BitsmithError):
    """A module can't be captured; the message names operator, file and line."""


class DataError(BitsmithError):
    """A data set is missing, malformed or too small."""


class ExportError(BitsmithError):
    """A network can't be written by an exporter."""


class RecipeError(BitsmithError):
    """A recipe or a command-line option is wrong."""


class RunError(BitsmithError):
    """A run folder lacks a file that a stage needs, or a file in it is damaged."""


class TrainingError(BitsmithError):
    """Training can't go on; the message says at which step and where the last good checkpoint is."""


class VerifyError(BitsmithError):
    """An artefact does not compute what was trained."""
