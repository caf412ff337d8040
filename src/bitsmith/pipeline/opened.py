"""The job that this process has at hand: who does many trials of one run opens its data once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bitsmith.pipeline.folder import RunFolder
from bitsmith.pipeline.job import Job, Say, prepare

_kept: dict[tuple[Path, bytes], Job] = {}  # at most one, by folder and recipe


def opened(path: Path, say: Say) -> Job:
    """The prepared run of a folder: that at hand, or prepared now and kept until another is asked for.

    Raises:
        BitsmithError: as `prepare`.
    """
    run = RunFolder(path=path)
    run.recipe()  # is it a run at all?
    key = _key(run)
    if key not in _kept:
        _kept.clear()
        _kept[key] = prepare(run, say)
    return _kept[key]


@contextmanager
def at_hand(job: Job) -> Iterator[None]:
    """Inside, trials of that run that are done in this process take this very job."""
    before = dict(_kept)
    _kept.clear()
    _kept[_key(job.run)] = job
    try:
        yield
    finally:
        _kept.clear()
        _kept.update(before)


def _key(run: RunFolder) -> tuple[Path, bytes]:
    return run.path.resolve(), run.recipe_file.read_bytes()
