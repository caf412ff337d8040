"""Files that are whole or not there: the one way in which bitsmith writes.

A file is written under a temporary name, flushed to the disk, and renamed. A process killed at any moment leaves the
old file or the new one; so does a power cut, as the content is on the disk before the name points to it (without that
flush, file systems may put the rename first and leave an empty file). What a killed process leaves under the temporary
name is deleted when the same file is written again.
"""

from __future__ import annotations

import glob
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from bitsmith.errors import BitsmithError, RecipeError, RunError

# Far above what anything writes: beyond it, reading alone would take minutes and gigabytes.
MOST_JSON = 2**27
MOST_YAML = 2**21
MOST_VALUES = 100_000  # of a YAML file, where what an alias repeats is counted each time
FEW_BYTES = 2**28  # that an archive may always unpack to


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; flushed and renamed to it on success, deleted on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        if not _is_alive(stale.name.split(".")[-2]):
            stale.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
        _flush(path.parent)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # a full disk shows while a file is written
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(values, indent=1))


def read_text(path: Path, most: int) -> str:
    """A text file of at most so many bytes; it raises OSError, or ValueError where it is longer or not UTF-8."""
    if (size := path.stat().st_size) > most:
        raise ValueError(f"it has {size:,} bytes, and more than {most:,} are not read")
    return path.read_text(encoding="utf-8")


def read_json(path: Path, what: str) -> Any:
    """Read JSON.

    Raises:
        RunError: the file is missing, unreadable, damaged or huge; `what` says what it would have held.
    """
    try:
        return json.loads(read_text(path, MOST_JSON))
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing: {what}") from error
    except OSError as error:
        raise RunError(f"{path} can't be read: {error.strerror}; {what}") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error}); delete it and run the stage again") from error


@contextmanager
def values_of(path: Path, way_out: str) -> Iterator[None]:
    """What values read from a file turn out to lack, or to be instead of what was written, is one message.

    Raises:
        RunError: in place of the LookupError, TypeError and the like that the block raises; names the file.
    """
    try:
        yield
    except BitsmithError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise RunError(f"{path} is damaged ({what}); {way_out}") from error


def read_yaml(path: Path, what: str, fields: str) -> dict[str, Any]:
    """Read the mapping that a YAML file of the user's holds.

    Args:
        what: it is ("recipe"), and some `fields` of it ("model, data and budgets"): for messages.

    Raises:
        RecipeError: the file can't be read, is not YAML, or holds no mapping.
    """
    try:
        values = yaml.safe_load(read_text(path, MOST_YAML))
        _count(values, {})
    except OSError as error:
        raise RecipeError(f"can't read the {what} {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path} is not YAML that can be read: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path} is not a {what}: it must be a mapping with {fields}")
    return values


def check_unpacked(path: Path, *, times: float) -> None:
    """Refuse a zip archive that would unpack to more than `times` its own size; one that isn't a zip is let pass.

    Raises:
        ValueError: naming both sizes.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > max(times * path.stat().st_size, FEW_BYTES):
        raise ValueError(f"{path.stat().st_size:,} bytes unpack to {unpacked:,}, more than such a file can need")


def cache_folder() -> Path:
    """Where what can be had again lies: $XDG_CACHE_HOME/bitsmith, by default ~/.cache/bitsmith."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bitsmith"


def _count(value: Any, known: dict[int, int]) -> int:
    """How many values it is, written out; aliases of aliases make few bytes of YAML as many as one likes."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = MOST_VALUES  # so that what holds itself is refused
        parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(part, known) for part in parts)
        if known[id(value)] > MOST_VALUES:
            raise ValueError(f"with its aliases written out it holds more than {MOST_VALUES:,} values")
    return known[id(value)]


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_alive(pid: str) -> bool:
    """Whether a process of this machine has that number."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
