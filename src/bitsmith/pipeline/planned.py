"""One run of a comparison, before it is done."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bitsmith.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run folder of a comparison.

    Args:
        method, space, seed: labels of the comparison.
        kind: "baseline" where others are measured by it.
        recipe: of the run, whose budgets are those that the method can meet.
        path: of the run folder, relative to the comparison's.
        floats: path of the run whose float network it starts from; None where it makes its own or none.
        search_epochs: of its method, per network.
    """

    method: str
    space: str
    seed: int
    kind: Literal["found", "baseline"]
    recipe: Recipe
    path: Path
    floats: Path | None
    search_epochs: float

    @property
    def epochs(self) -> float:
        """Of each of its networks at low precision, search included."""
        return self.search_epochs + self.recipe.train.epochs

    @property
    def title(self) -> str:
        """For people."""
        where = "" if self.space == "all" else f" in {self.space}"
        return f"{self.method}{where}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A network that can't be made, and why."""

    method: str
    space: str
    budget: str
    reason: str


def finished(recipe: Recipe, lines: Sequence[Sequence[str]], epochs: float) -> Recipe:
    """A run's recipe with the budgets that its method is able to meet, and its part of the equal total."""
    train = dataclasses.replace(recipe.train, epochs=round(epochs))
    return recipe.model_copy(update={"budgets": [list(line) for line in lines], "train": train})
