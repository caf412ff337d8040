"""The run folder of several processes that learn together: the first one's is the real one, the others have copies.

Every process runs the same stages, which read and write a folder; the copies are sent over the processes' group, lie in
the machine's folder for temporary files and are thrown away in the end. So only one process writes to the run, nobody
reads what is being written, and machines need no common disk for it.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bitsmith.train import broadcast, processes


@contextmanager
def copied(folder: Path) -> Iterator[Path]:
    """The folder itself in the first process, a copy of it as it is now in every other; all of them come here."""
    group = processes()
    packed = broadcast(_pack(folder) if group.count > 1 and group.rank == 0 else b"")
    if group.rank == 0:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="bitsmith-") as place:
        copy = Path(place) / "run"
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(copy, filter="data")
        yield copy


def _pack(folder: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        if folder.exists():
            archive.add(folder, arcname=".", filter=lambda member: None if member.name.endswith(".lock") else member)
    return packed.getvalue()
