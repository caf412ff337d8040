"""Every network of a small sequence space, trained on digits: the table that `benchmarks.latent_evaluations` replays.

    python -m benchmarks.latent_table --folder FOLDER           about an hour of one core; goes on where it was
    python -m benchmarks.latent_table --folder FOLDER --most 3  trains three more topologies and stops

SPACE has 2,472 networks: one to three layers, convolutions or separable ones, 4 or 8 channels, adds, weights of 2 or 8
bits, one layer of stride 2, behind a stem of stride 2; its automaton admits these and no others. Each is trained on
scikit-learn's digits (8x8 pixels; validation is 30 % of what isn't test) from 3 seeds for 8 epochs, those of one
topology at once (`benchmarks.replicas`). FOLDER/topologies.jsonl gets a line per topology; when all are there, TABLE is
written: validation cross-entropy of each seed, and accuracy, by the network's number (`Sequences.at`).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from benchmarks.replicas import train_replicas
from bitsmith.blueprint import Blueprint
from bitsmith.data import open_data
from bitsmith.errors import RunError
from bitsmith.files import read_json, write_text
from bitsmith.pipeline import environment
from bitsmith.space import Sequences, SequenceSpace, Stem, dump_sequence_space
from bitsmith.train import Task, TrainPlan

TABLE = Path(__file__).parent / "tables" / "digits_sequences.json"
SEEDS = (0, 1, 2)
PLAN = TrainPlan(epochs=8, batch_size=64, lr=0.2, compile="none", device="cpu")
VALIDATION = 0.3
SPACE = SequenceSpace(
    stem=Stem(channels=4, stride=2),
    channels=(4, 8),
    layers=(1, 3),
    strided=(1, 1),
    operators=("conv", "separable"),
    kernels=(3,),
    skips=(0, 1),
    weight_bits=(2, 8),
    activation_bits=(8,),
)


def make_task() -> Task:
    """Digits without a test split."""
    return Task(data=open_data("digits", validation=VALIDATION).without_test())


def make_space(task: Task) -> Sequences:
    """The tabulated space."""
    data = task.data
    return Sequences(
        description=SPACE, input_shape=data.shape, outputs=len(data.classes), input=data.input, classes=data.classes
    )


def settings() -> dict[str, Any]:
    """What the numbers of the table hang on."""
    return {
        "space": dump_sequence_space(SPACE),
        "data": "digits",
        "validation": VALIDATION,
        "plan": asdict(PLAN),
        "seeds": list(SEEDS),
    }


@final
@dataclass(frozen=True)
class Table:
    """What every network came to, by its number.

    Args:
        losses: validation cross-entropy, [networks, seeds].
        metrics: accuracy there, [networks, seeds].
    """

    losses: np.ndarray
    metrics: np.ndarray

    @property
    def loss(self) -> np.ndarray:
        """The mean over seeds, [networks]."""
        return self.losses.mean(1)


def read_table(path: Path = TABLE) -> Table:
    """Read the table.

    Raises:
        RunError: it is missing or damaged, or of other settings.
    """
    values = read_json(path, "the table; build it with python -m benchmarks.latent_table")
    if values.get("settings") != json.loads(json.dumps(settings())):
        raise RunError(f"{path} was built with other settings; build it again with python -m benchmarks.latent_table")
    return Table(losses=np.array(values["losses"]), metrics=np.array(values["metrics"]))


def topologies(space: Sequences) -> list[dict[int, Blueprint]]:
    """All networks, by number, those of one topology together."""
    found: dict[str, dict[int, Blueprint]] = {}
    for number in range(space.count()):
        blueprint = space.at(number)
        found.setdefault(json.dumps(blueprint.graph.to_dict()), {})[number] = blueprint
    return list(found.values())


def build(folder: Path, most: int | None = None) -> Mapping[int, list[list[float]]] | None:
    """Train what isn't yet; number -> [loss, metric] of each seed, or None while some are missing."""
    task = make_task()
    groups = topologies(make_space(task))
    file = folder / "topologies.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    lines = file.read_bytes() if file.exists() else b""
    whole = lines[: lines.rfind(b"\n") + 1]  # a killed process may leave half a line
    done = [json.loads(line) for line in whole.splitlines()]
    if done and done[0] != json.loads(json.dumps(settings())):
        raise RunError(f"{file} was begun with other settings; delete it or choose another folder")
    with file.open("r+b" if file.exists() else "w+b") as out:
        out.truncate(len(whole))
        out.seek(len(whole))

        def keep(values: Any) -> None:
            out.write(json.dumps(values).encode() + b"\n")
            out.flush()
            os.fsync(out.fileno())

        if not done:
            keep(settings())
        known = {int(number): rows for line in done[1:] for number, rows in line["networks"].items()}
        missing = [group for group in groups if not group.keys() <= known.keys()]
        for at, group in enumerate(missing[:most], start=1):
            began = time.process_time()
            outcomes = train_replicas(task, list(group.values()), SEEDS, PLAN)
            rows = {
                number: [[round(o.loss, 5), round(o.metric, 5)] for o in each]
                for number, each in zip(group, outcomes, strict=True)
            }
            seconds = round(time.process_time() - began, 2)
            keep({"networks": rows, "seconds": seconds})
            known |= rows
            if at % 10 == 1:
                print(f"{len(known)} networks; topology {at} of {len(missing)} left took {seconds} s", flush=True)
    return known if len(missing[:most]) == len(missing) else None


def main() -> None:
    """Build, or go on; write the table when it is whole."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--most", type=int, help="topologies to train now")
    given = parser.parse_args()
    torch.set_num_threads(1)
    known = build(given.folder, given.most)
    if known is None:
        print("some topologies are left; run this again")
        return
    lines = (given.folder / "topologies.jsonl").read_text().splitlines()[1:]
    rows = np.array([known[number] for number in range(len(known))])  # [networks, seeds, 2]
    head = {
        "command": "python -m benchmarks.latent_table --folder FOLDER",
        "settings": settings(),
        "core_hours": round(sum(json.loads(line)["seconds"] for line in lines) / 3600, 3),
        "environment": environment(SEEDS[0]),
    }
    parts = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    for name, values in (("losses", rows[..., 0]), ("metrics", rows[..., 1])):
        parts.append(f'"{name}": [\n' + ",\n".join(json.dumps(row) for row in values.tolist()) + "\n]")
    write_text(TABLE, "{\n" + ",\n".join(parts) + "\n}\n")
    print(f"{TABLE}: {len(rows)} networks; mean loss {rows[..., 0].mean():.3f}, least {rows[..., 0].mean(1).min():.3f}")


if __name__ == "__main__":
    main()
