"""A comparison's finished runs without their weights, small enough to commit, so that it goes on on another machine.

    python -m benchmarks.kept pack runs/NAME                       writes benchmarks/results/NAME.tar.xz
    python -m benchmarks.kept unpack runs/NAME --data npy:FOLDER   puts back what isn't there

Then type the comparison's command again. Kept of a finished run: recipe, blueprints, curves, verification, record,
predictions of the test images; not its weights, files and page, nor where its data was. An unfinished run begins anew,
and so does the float network that it starts from, so end with whole seeds: on another processor a float network is not
the same to the bit.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
from pathlib import Path

from benchmarks.result import RESULTS
from bitsmith.data import absolute
from bitsmith.errors import BitsmithError, RunError
from bitsmith.files import whole_file
from bitsmith.pipeline import RunFolder
from bitsmith.pipeline.compare import is_finished
from bitsmith.pipeline.outcomes import FILE

_TEXTS = {".json", ".jsonl", ".yaml"}
_ELSEWHERE = b"folder:KEPT-DATA"  # in place of data that lies in a folder


def main() -> None:
    """Pack or unpack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("verb", choices=("pack", "unpack"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", help="where the data of the runs is now, as their comparison is given it")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    archive = RESULTS / f"{folder.name}.tar.xz"
    try:
        if arguments.verb == "pack":
            print(f"{archive}: {pack(folder, archive)} finished runs")
        else:
            print(f"{folder}: {unpack(archive, folder, arguments.data)} files put back")
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
        for run in runs:
            source = RunFolder(path=run).recipe().data.source.encode()
            for file in sorted(run.rglob("*")):
                if file.suffix in _TEXTS or file.name == FILE:
                    content = file.read_bytes()
                    if b"/" in source and file.suffix in _TEXTS:
                        content = content.replace(source, _ELSEWHERE)
                    info = tarfile.TarInfo(str(file.relative_to(folder)))
                    info.size, info.mode = len(content), 0o644
                    out.addfile(info, io.BytesIO(content))
    return len(runs)


def unpack(archive: Path, folder: Path, data: str | None = None) -> int:
    """Put back the files of an archive that a folder hasn't got, each whole or not at all; how many.

    Args:
        data: where the data is, for runs whose data lay in a folder.

    Raises:
        RunError: the archive is missing or damaged, or has names that lead out of the folder; `data` is missing.
    """
    count, source = 0, absolute(data).encode() if data else None
    try:
        with tarfile.open(archive, "r:xz") as packed:
            for member in packed:
                tarfile.data_filter(member, str(folder))  # raises for names that lead out
                kept = packed.extractfile(member)
                if kept is not None and not (folder / member.name).exists():
                    content = kept.read()
                    if _ELSEWHERE in content and Path(member.name).suffix in _TEXTS:
                        if source is None:
                            raise RunError("these runs read their data from a folder: say which by --data npy:FOLDER")
                        content = content.replace(_ELSEWHERE, source)
                    with whole_file(folder / member.name) as partial:
                        partial.write_bytes(content)
                    count += 1
    except (OSError, EOFError, tarfile.TarError) as error:
        raise RunError(f"{archive} can't be read: {error}; pack it again, or begin without it") from error
    return count


if __name__ == "__main__":
    main()
