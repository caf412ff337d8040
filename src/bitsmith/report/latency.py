"""Predicted against measured latency: a part of a record, and a file of its own beside each network (latency.json)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bitsmith.errors import RunError
from bitsmith.report.parts import STRICT, Amount


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """The latency of one exported network, in seconds.

    Args:
        network: folder of its row.
        predicted: from the latency table.
        measured: of the whole file; None where the table is of another machine.
        spread: half the range that the middle half of the measured calls takes.
        known: whether a network of the same kernels was measured for the table, so that the prediction is no test.
        setting: under what was measured, in words.

    Raises:
        RunError: a measured latency without a spread, or the reverse, or one of zero.
    """

    network: str
    predicted: Amount
    measured: Amount | None
    spread: Amount | None
    known: bool
    setting: str

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        if (self.measured is None) != (self.spread is None) or self.measured == 0:
            raise RunError(f"network {self.network!r}: measured {self.measured} with a spread of {self.spread}")

    @property
    def error(self) -> float | None:
        """(predicted - measured) / measured; None where not measured."""
        return None if self.measured is None else self.predicted / self.measured - 1


def median_error(latencies: Sequence[Latency]) -> float | None:
    """The median of |error| over what was measured and wasn't measured for the table; None where there is none.

    Example:
        Errors of 2 %, -4 % and 9 %: 0.04.
    """
    errors = [abs(latency.error) for latency in latencies if latency.error is not None and not latency.known]
    return median(errors) if errors else None
