"""A run folder: what every stage reads and writes there.

recipe.yaml                the run
graph.json, captured.safetensors    the captured network; its author's code is not needed any more
float/                     the trained float network: network.safetensors, training.json
NAME/                      one folder per low-precision network ("entry"):
    entry.json             what it is, how it was searched
    blueprint.json         its bits
    inherited.safetensors  weights that the search hands on, where it does
    network.safetensors, training.json
    post_training.json     in place of training.json, or beside it, where the network was quantized without training
    model.onnx
    model.tflite           where it was asked for
    c/                     model.h, model.c, selftest.c, example.c, Makefile, where C code was asked for
    model.qonnx.onnx       likewise
    verification.json, outcomes.safetensors    what the file predicts of every test image, for comparisons
    speed.json             what each layer really runs in, where it was measured
    explain.json, explain.measured.json    what each layer gains and costs, and the measured steps behind it
    trials.jsonl           one line per network that a latent search evaluated
    search.checkpoint, sensitivities.json, train.checkpoint    while that stage runs
    trials/                likewise: networks that a latent search is evaluating, and the logs of those that failed
    learned/               weights of the networks that a latent search trained on its highest rung
    left_out.json          in place of all, where a baseline has no network inside the budget: why
shared/METHOD/             what the searches of a front share, where they do
trials.jsonl               one line per trained network
.lock, */.lock             who works in a folder now
report.json, report.html
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bitsmith.blueprint import Blueprint, Budget, read_blueprint
from bitsmith.errors import BitsmithError, RunError
from bitsmith.files import values_of
from bitsmith.pipeline.copies import copied
from bitsmith.pipeline.lock import locked
from bitsmith.recipe import Recipe, absolute, dump_recipe, read_recipe
from bitsmith.train import History, processes, read_json, write_json, write_text

_CAPTURED = ("graph.json", "captured.safetensors")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One low-precision network of a run.

    Args:
        name: as in tables: "composite", "uniform+fill", "w4a8".
        kind: "found" by the recipe's method, or "baseline".
        budgets: what it had to meet, as text; empty for fixed bits.
        search_epochs, search_seconds: what its search took.
        curves, memory, details: of its search.
    """

    name: str
    kind: Literal["found", "baseline"]
    budgets: tuple[str, ...]
    search_epochs: float = 0.0
    search_seconds: float = 0.0
    curves: Mapping[str, list[float]] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def budget(self) -> str:
        """The budgets in one text; "" for none."""
        return ", ".join(self.budgets)

    @property
    def title(self) -> str:
        """For progress and messages."""
        return f"{self.name} at {self.budget}" if self.budgets else self.name

    @property
    def slug(self) -> str:
        """The name of its folder."""
        return re.sub(r"[^A-Za-z0-9.+-]+", "_", "-".join([self.name, *self.budgets]))


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """The paths of a run, and reading and writing of what is plain data."""

    path: Path

    @classmethod
    def create(cls, path: Path, recipe: Recipe) -> RunFolder:
        """Make the folder, or go on in one that holds the same recipe, or any where nothing was learned yet.

        Raises:
            RunError: it holds work of another recipe, or can't be written, or another process works in it.
        """
        run, recipe = cls(path=path), absolute(recipe)
        try:
            learned = run.learned
            if run.recipe_file.exists() and run._is_of_another(recipe, learned=learned):
                if learned:
                    raise RunError(
                        f"{path} holds a run of another recipe; choose another --out, or delete that folder first"
                    )
                with locked(path):
                    for name in _CAPTURED:
                        (path / name).unlink(missing_ok=True)
            write_text(run.recipe_file, dump_recipe(recipe))
        except OSError as error:
            raise RunError(f"can't write to {path}: {error.strerror}") from error
        return run

    def _is_of_another(self, recipe: Recipe, *, learned: bool) -> bool:
        """Whether its recipe is another one, such as one that can't be read any more where nothing was learned."""
        try:
            return _compared(absolute(self.recipe())) != _compared(recipe)
        except BitsmithError:
            if learned:
                raise
            return True

    @property
    def learned(self) -> bool:
        """Whether any stage has begun to write what it found."""
        return any(file.name != ".lock" for file in self.path.glob("*/*"))

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    def recipe(self) -> Recipe:
        """The recipe of the run.

        Raises:
            RunError: the folder is not a run.
        """
        if not self.recipe_file.exists():
            raise RunError(f"{self.path} is not a run folder (no recipe.yaml); make one with bitsmith search or run")
        return read_recipe(self.recipe_file)

    def folder(self, entry: Entry) -> Path:
        return self.path / entry.slug

    def write_entry(self, entry: Entry, blueprint: Blueprint) -> None:
        """Write an entry; entry.json comes last and says that the search of it is done."""
        write_text(self.folder(entry) / "blueprint.json", blueprint.to_json())
        write_json(self.folder(entry) / "entry.json", asdict(entry))

    def read_entry(self, folder: Path) -> tuple[Entry, Blueprint]:
        """The inverse of `write_entry`.

        Raises:
            RunError: a file is missing or damaged.
        """
        file = folder / "entry.json"
        values = read_json(file, "run the search first")
        with values_of(file, "delete it and search again"):
            entry = Entry(**values | {"budgets": tuple(values["budgets"]), "memory": _memory(values.get("memory", {}))})
        for text in entry.budgets:
            try:
                Budget.parse(text)
            except ValueError as error:
                raise RunError(f"{file} is damaged ({error}); delete it and search again") from error
        return entry, read_blueprint(folder / "blueprint.json", "search again")

    def entries(self) -> list[tuple[Entry, Blueprint]]:
        """All entries, in the order of the recipe, in which they are searched; no clock is asked.

        Raises:
            RunError: there is none.
        """
        files = sorted(self.path.glob("*/entry.json"))
        if not files:
            raise RunError(f"{self.path} has no searched network yet; run bitsmith search first")
        recipe = self.recipe()
        lines = [tuple(map(str, budgets)) for budgets in recipe.budget_sets()]
        names = [*recipe.baselines, *recipe.fixed]

        def place(searched: tuple[Entry, Blueprint]) -> tuple[int, bool, int]:
            entry, _ = searched
            line = lines.index(entry.budgets) if entry.budgets in lines else len(lines)
            return line, entry.kind != "found", names.index(entry.name) if entry.name in names else len(names)

        return sorted((self.read_entry(file.parent) for file in files), key=place)

    def history(self, folder: Path) -> History | None:
        """How the network in a folder was trained, or None where it wasn't yet."""
        return self._history(folder / "training.json")

    def post_training(self, folder: Path) -> History | None:
        """What quantizing the network in a folder without training gave: curves of one point each; or None."""
        return self._history(folder / "post_training.json")

    def _history(self, file: Path) -> History | None:
        if not file.exists():
            return None
        values = read_json(file, "train first")
        with values_of(file, "delete it and run the stage again"):
            curves = {str(name): list(curve) for name, curve in values["curves"].items()}
            memory = _memory(values.get("memory", {}))
            return History(seconds=float(values["seconds"]), curves=curves, memory=memory)

    def add_trial(self, values: Mapping[str, Any]) -> None:
        """Append one line to trials.jsonl, unless a process killed right after it did; seconds may differ."""
        with (self.path / "trials.jsonl").open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # for a moment: trainings of several networks may share a run
            file.seek(0)
            lines = file.read()
            whole = lines.rfind(b"\n") + 1  # a power cut may leave half a line
            try:
                known = [json.loads(line) | {"seconds": 0} for line in lines[:whole].splitlines()]
            except (ValueError, TypeError, RecursionError) as error:
                raise RunError(f"{file.name} is damaged ({error}); move it away, a new one is begun") from error
            if json.loads(json.dumps(values)) | {"seconds": 0} not in known:
                file.truncate(whole)
                file.write(json.dumps(values).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())


@contextmanager
def begun(path: Path, recipe: Recipe) -> Iterator[RunFolder]:
    """A run folder, made or gone on with, and held inside.

    Of several processes the first has the folder, the others copies.

    Where the run is refused before anything is learned (a budget out of reach, data that can't be read), what was made
    of the folder here is taken away again.

    Raises:
        RunError: as of `RunFolder.create` and `locked`.
    """
    if processes().rank > 0:
        with copied(path) as copy:
            yield RunFolder(path=copy)
        return
    new, known = not path.exists(), (path / "recipe.yaml").exists()
    made = [folder for folder in path.parents if not folder.exists()]
    run = RunFolder.create(path, recipe)
    with locked(path):
        try:
            with copied(path):
                yield run
        except BitsmithError:
            if new and not run.learned:
                shutil.rmtree(path)
                for folder in made:
                    with suppress(OSError):  # somebody else has put something there
                        folder.rmdir()
            elif not known and not run.learned:
                for name in (*_CAPTURED, run.recipe_file.name):
                    (path / name).unlink(missing_ok=True)
            raise


def _memory(values: Mapping[str, Any]) -> dict[str, int]:
    """What `History.memory` may be: nothing, or the batch and its parts at least."""
    found = {str(name): int(value) for name, value in values.items()}
    return found | ({name: found[name] for name in ("batch", "part")} if found else {})


def _compared(recipe: Recipe) -> str:
    """The recipe as text, without what a run may be gone on with in another way."""
    return dump_recipe(recipe.model_copy(update={"command": "", "checkpoint_seconds": 0}))
