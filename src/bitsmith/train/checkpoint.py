"""Files that are never half written and never executed when read."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bitsmith.errors import RunError


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it on success and deleted on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file under a temporary name, then rename it."""
    with _partial(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
    """Write JSON under a temporary name, then rename it."""
    write_text(path, json.dumps(values, indent=1))


def read_json(path: Path, what: str) -> Any:
    """Read JSON.

    Raises:
        RunError: the file is missing or damaged; `what` says what it would have held.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing: {what}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error}); delete it and run the stage again") from error


def save_state(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors under a temporary name, then rename."""
    with _partial(path) as partial:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, partial)


def load_state(path: Path) -> dict[str, Tensor]:
    """Read tensors from safetensors.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        return load_file(path)
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


def save_checkpoint(values: Mapping[str, Any], path: Path) -> None:
    """Write a training checkpoint (tensors and plain values) under a temporary name, then rename."""
    with _partial(path) as partial:
        torch.save(dict(values), partial)


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
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file makes torch's reader raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"the checkpoint {path} is damaged ({reason}); delete it to start this stage again") from error
