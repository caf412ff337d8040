"""How long work tells what it is doing: it calls a Watch with an Event after every step, or with a note."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One finished step, or a note.

    Args:
        stage: what is running, for people ("search composite", "train uniform w4a8").
        step, steps: steps done and in all.
        images: inputs in this step.
        epoch_end: whether this step ends an epoch; `values` then hold the epoch's figures.
        values: numbers to show, such as loss and accuracy.
        note: a sentence that people should read; "" = none.
    """

    stage: str
    step: int
    steps: int
    images: int
    epoch_end: bool = False
    values: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


Watch = Callable[[Event], None]


def silent(event: Event) -> None:
    """The Watch that shows nothing."""
