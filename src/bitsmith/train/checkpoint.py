"""States and checkpoints on disk: whole or not there, and never executed when read."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from bitsmith.errors import RunError
from bitsmith.files import check_unpacked, whole_file

_DIGEST = "sha256"  # of a file's tensors, in its header: a flipped bit makes other weights, not a damaged file


def save_state(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, whole or not at all."""
    with whole_file(path) as partial:
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        partial.write_bytes(save(plain, metadata={_DIGEST: digest(plain)}))  # its own writer wants UTF-8 paths


def load_state(path: Path) -> dict[str, Tensor]:
    """Read tensors from safetensors.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        data = path.read_bytes()
        state = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        wanted = header.get("__metadata__", {}).get(_DIGEST)  # files of before it was written have none
        if wanted is not None and wanted != digest(state):
            raise ValueError("its numbers are not those that were written")
        return state
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing; train the network first") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}); delete it and train again") from error


def load_into(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load a state whose names and shapes must all fit.

    Raises:
        RunError: they don't.
    """
    try:
        module.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        raise RunError(f"the weights in {where} don't fit the network: {str(error).splitlines()[1].strip()}") from error


def digest(state: Mapping[str, Tensor]) -> str:
    """A SHA-256 of names, types, shapes and bytes of a state, in whatever order: equal digests, equal states."""
    found = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _check_whole(path: Path) -> None:
    """Refuse an archive that isn't as torch wrote it: torch's reader compares no checksums, zipfile does.

    Raises:
        ValueError: it is not whole, changed, or unpacks to more than was ever written.
    """
    check_unpacked(path, times=1)
    with zipfile.ZipFile(path) as archive:
        if (changed := archive.testzip()) is not None:
            raise ValueError(f"{changed} is not what was written")


def save_checkpoint(values: Mapping[str, Any], path: Path) -> None:
    """Write a training checkpoint (tensors and plain values), whole or not at all."""
    written = io.BytesIO()  # where a disk is full, torch's own writer ends in an error that doesn't say so
    torch.save(dict(values), written)
    with whole_file(path) as partial:
        partial.write_bytes(written.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint, or None where there is none.

    Raises:
        RunError: it is damaged.
    """
    if not path.exists():
        return None
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not a checkpoint of this version, or not whole")
        _check_whole(path)
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file makes torch's reader raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"the checkpoint {path} is damaged ({reason}); delete it to start this stage again") from error


# Settings whose values say nothing to people.
_OTHER = {
    "bits": "other bits",
    "data": "other data",
    "float_state": "other float weights",
    "graph": "another network",
    "options": "other bits to choose from",
    "start": "other starting weights",
    "teacher": "another teacher",
}


def check_same(saved: Mapping[str, Any], settings: Mapping[str, Any], checkpoint: Path) -> None:
    """Refuse a checkpoint that was made with other settings.

    Raises:
        RunError: naming the first setting that differs.
    """
    old = saved.get("settings", {})
    for name, value in settings.items():
        if old.get(name) != value:
            other = _OTHER.get(name, f"{name} = {old.get(name)!r}, now it is {value!r}")
            raise RunError(
                f"{checkpoint} was made with {other}; delete it to start this stage again, or go back to what it was"
            )
