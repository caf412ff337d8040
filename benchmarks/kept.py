"""A comparison's finished runs without their weights, small enough to commit, so that it goes on on another machine.

    python -m benchmarks.kept pack runs/NAME        writes benchmarks/results/NAME.tar.xz
    python -m benchmarks.kept unpack runs/NAME      puts back what isn't there; then type the comparison's command again

Kept of a finished run: recipe, blueprints, curves, verification, record, predictions of the test images; not its
weights, files and page. An unfinished run begins anew, and so does the float network that it starts from, so end with
whole seeds: on another processor a float network is not the same to the bit.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tarfile
from pathlib import Path

from benchmarks.result import RESULTS
from bitsmith.errors import BitsmithError, RunError
from bitsmith.files import whole_file
from bitsmith.pipeline.compare import is_finished
from bitsmith.pipeline.outcomes import FILE

_KEPT = {".json", ".jsonl", ".yaml"}


def main() -> None:
    """Pack or unpack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("verb", choices=("pack", "unpack"))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    archive = RESULTS / f"{folder.name}.tar.xz"
    try:
        if arguments.verb == "pack":
            print(f"{archive}: {pack(folder, archive)} finished runs")
        else:
            print(f"{folder}: {unpack(archive, folder)} files put back")
    except BitsmithError as error:
        sys.exit(f"error: {error}")


def pack(folder: Path, archive: Path) -> int:
    """Write the finished runs under a folder into an archive, the same bytes for the same runs; how many there are.

    Raises:
        RunError: there is none.
    """
    runs = [file.parent for file in sorted(folder.rglob("recipe.yaml")) if is_finished(file.parent)]
    if not runs:
        raise RunError(f"no run in {folder} is finished")
    with whole_file(archive) as partial, tarfile.open(partial, "w:xz") as out:
        for file in (file for run in runs for file in sorted(run.rglob("*"))):
            if file.suffix in _KEPT or file.name == FILE:
                out.add(file, arcname=file.relative_to(folder), filter=_anonymous)
    return len(runs)


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without time and owner."""
    info.mtime = info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mode = 0o644
    return info


def unpack(archive: Path, folder: Path) -> int:
    """Put back the files of an archive that a folder hasn't got, each whole or not at all; how many.

    Raises:
        RunError: the archive is missing or damaged, or has names that lead out of the folder.
    """
    count = 0
    try:
        with tarfile.open(archive, "r:xz") as source:
            for member in source:
                tarfile.data_filter(member, str(folder))  # raises for names that lead out
                content = source.extractfile(member)
                if content is not None and not (folder / member.name).exists():
                    with whole_file(folder / member.name) as partial, partial.open("wb") as out:
                        shutil.copyfileobj(content, out)
                    count += 1
    except (OSError, EOFError, tarfile.TarError) as error:
        raise RunError(f"{archive} can't be read: {error}; pack it again, or begin without it") from error
    return count


if __name__ == "__main__":
    main()
