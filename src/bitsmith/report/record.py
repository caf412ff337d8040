"""The record of a run: everything the page shows, as plain values that go to JSON and back unchanged.

The dataclasses check what one field can't know of another; kinds and ranges of single fields are checked by pydantic
whenever a record is written or read, so that a damaged file and a careless caller get the same message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from bitsmith.errors import RunError
from bitsmith.report.explained import Explained
from bitsmith.report.latency import Latency
from bitsmith.report.parts import (
    STRICT,
    Curve,
    IsoTime,
    LayerRow,
    Plain,
    Requested,
    Row,
    Sensitivities,
    Verification,
)
from bitsmith.report.speed import Speed

SCHEMA = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A run: what was asked, what came out, how it was checked, and what it takes to do it again.

    Args:
        created: ISO 8601.
        verdict: the answer in a sentence, see `bitsmith.report.verdict`.
        network, data: what went in, name -> value. data["test_images"], where given, is the size of the test set:
            the page then draws the sampling error.
        rows: every network that was trained; the page keeps their order.
        chosen: folders of the rows that the run hands over, one per budget and seed.
        layers: folder of a row -> the layers of that network, in execution order.
        sensitivities: folder of a row -> what its search measured, where it did.
        explained: folder of a row -> what each of its layers gains and costs, where that was measured.
        latencies: of exported networks, where the target has a measured table.
        speeds: of exported networks, where these were measured.
        environment: versions, machine, seeds.
        command: what was typed.

    Raises:
        RunError: something speaks of a network that has no row, two rows share a folder, or the rows don't share one
            metric.
    """

    schema: int = SCHEMA
    title: str
    created: IsoTime
    verdict: str
    network: dict[str, Plain]
    data: dict[str, Plain]
    rows: list[Row]
    chosen: list[str]
    layers: dict[str, list[LayerRow]]
    sensitivities: dict[str, Sensitivities]
    explained: dict[str, Explained]
    curves: list[Curve]
    requested: list[Requested]
    verification: list[Verification]
    environment: dict[str, str]
    notes: list[str]
    command: str
    latencies: list[Latency]
    speeds: list[Speed]

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        folders = [row.folder for row in self.rows]
        if len(set(folders)) < len(folders):
            raise RunError(f"two rows can't share a folder: {sorted(folders)}")
        spoken_of = (*self.chosen, *self.layers, *self.sensitivities, *self.explained)
        for folder in (*spoken_of, *(line.network for line in (*self.requested, *self.latencies, *self.speeds))):
            if folder not in folders:
                raise RunError(f"network {folder!r} is none of the rows {sorted(folders)}")
        metrics = {row.metric for row in self.rows}
        if len(metrics) > 1:
            raise RunError(f"rows can't be compared by different metrics: {sorted(metrics)}")

    @property
    def metric(self) -> str:
        """What the rows were tested by."""
        return self.rows[0].metric if self.rows else "accuracy"

    @property
    def test_images(self) -> int | None:
        """Size of the test set, where `data` has it."""
        count = self.data.get("test_images")
        return count if isinstance(count, int) and count > 0 else None

    def to_json(self) -> str:
        """As JSON text.

        Raises:
            RunError: a field is of the wrong kind or out of range (NaN included); the message names it.
        """
        # What JSON can't hold (a numpy scalar, say) becomes {}, which fits no field, so that the check names its place.
        text = json.dumps(asdict(self), indent=1, default=lambda _: {})
        _checked(text, "the record")
        return text


_ADAPTER = TypeAdapter(Record)


def read_record(path: Path) -> Record:
    """Read report.json, or the folder it lies in.

    Raises:
        RunError: there is no such file, it isn't JSON, its schema is another one, or a field is wrong.
    """
    path = Path(path)
    path = path / "report.json" if path.is_dir() else path
    try:
        text = path.read_bytes()
        values = json.loads(text)
    except OSError as error:
        raise RunError(f"can't read {path}: {error.strerror}; a finished run writes it at its end") from error
    except (ValueError, RecursionError) as error:  # covers JSONDecodeError and UnicodeDecodeError
        raise RunError(f"{path} is not JSON: {error}; write the report again") from error
    schema = values.get("schema") if isinstance(values, Mapping) else None
    if schema != SCHEMA:
        raise RunError(f"{path} has report schema {schema!r}; this version of bitsmith reads {SCHEMA}")
    return _checked(text, str(path))


def _checked(text: str | bytes, what: str) -> Record:
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the record as a whole"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise RunError(f"{what} is not a report: {place}: {first['msg']}{more}") from error
