"""What a network predicts of every test image: what comparisons of networks on the same images need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bitsmith.errors import RunError
from bitsmith.train import load_state, save_state

FILE = "outcomes.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcomes:
    """Classes of the test images in the data's order.

    Args:
        predictions: (N,) as the exported file (a float network: torch) predicts.
        labels: (N,)
    """

    predictions: np.ndarray
    labels: np.ndarray


def save_outcomes(outcomes: Outcomes, folder: Path) -> None:
    """Write the outcomes of a network into its folder."""
    values = {"predictions": outcomes.predictions, "labels": outcomes.labels}
    save_state({name: torch.from_numpy(np.asarray(value, np.int32)) for name, value in values.items()}, folder / FILE)


def load_outcomes(folder: Path) -> Outcomes:
    """Read them.

    Raises:
        RunError: the file is missing or damaged, as in runs that an older version verified.
    """
    if not (folder / FILE).exists():
        raise RunError(f"{folder / FILE} is missing; run bitsmith verify {folder.parent} to write it")
    state = load_state(folder / FILE)
    if set(state) != {"predictions", "labels"} or len({tensor.shape for tensor in state.values()}) > 1:
        raise RunError(f"{folder / FILE} is damaged; delete it and run bitsmith verify {folder.parent}")
    return Outcomes(predictions=state["predictions"].numpy(), labels=state["labels"].numpy())
