"""Finding the images of a large set that can't be read; what was found is remembered."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import numpy as np

from bitsmith.data.files import chunked, decode
from bitsmith.data.image import Decoder
from bitsmith.errors import BitsmithError
from bitsmith.files import cache_folder, read_json, write_json


def find_bad(root: Path, names: np.ndarray, decoder: Decoder) -> dict[int, str]:
    """Index -> reason of every file that can't be read, by decoding each once.

    That takes as long as a pass over the data, so the answer is kept in the cache folder, for as long as no file's
    name, size or time changes.
    """
    file = cache_folder() / "bad-images" / f"{_fingerprint(root, names)}.json"
    with contextlib.suppress(BitsmithError, OSError, ValueError, AttributeError):  # not there, or damaged: look again
        known = read_json(file, "nothing was looked for yet")
        return {int(index): str(reason) for index, reason in known.items()}
    bad = {}
    for chunk, part in zip(chunked(names), decode(root, chunked(names), decoder), strict=True):
        bad |= {chunk.place + i: reason for i, reason in part.bad.items()}
    with contextlib.suppress(OSError):  # a cache that can't be written costs the next run a pass over the data
        write_json(file, bad)
    return bad


def _fingerprint(root: Path, names: np.ndarray) -> str:
    digest = hashlib.sha256(os.fsencode(root.resolve()))
    for name in names:
        try:
            found = (root / os.fsdecode(name)).stat()
        except OSError:
            digest.update(name + b"\0?\n")
            continue
        digest.update(name + f"\0{found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]
