"""Measured values that outlive the process: what a search measured is not measured again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from bitsmith.errors import RunError
from bitsmith.files import read_json, write_text


@final
class Kept:
    """JSON values by name, in memory and in a file that is whole after each of them, one line per value.

    Args:
        path: of the file; None keeps them in memory alone.
        settings: JSON-able, what the values depend on beside their names; a file of other settings starts anew.

    Raises:
        RunError: the file is damaged.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
        self.values: dict[str, Any] = {}
        if path is None or not path.exists():
            return
        saved = read_json(path, "measured values")
        if not isinstance(saved, dict) or not isinstance(saved.get("values"), dict):
            raise RunError(f"{path} is damaged (it holds no measured values); delete it and run the stage again")
        if saved.get("settings") == self._settings:
            self.values = saved["values"]

    def keep(self, name: str, value: Any) -> None:
        """Add a value and write the file."""
        self.values[name] = value
        if self._path is not None:
            lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in self.values.items())
            write_text(self._path, f'{{"settings": {json.dumps(self._settings)},\n"values": {{\n{lines}\n}}}}\n')
