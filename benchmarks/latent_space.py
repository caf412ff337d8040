"""How good the latent space of whole networks is: trains its autoencoder, then measures it on what it never saw.

    python -m benchmarks.latent_space                       some minutes on one core
    python -m benchmarks.latent_space --quick               a small space, 300 steps
    python -m benchmarks.latent_space --folder FOLDER       keeps checkpoint, autoencoder and page there and goes on
    python -m benchmarks.latent_space --steps 1000          a shorter training
    python -m benchmarks.latent_space --space sequence-32   another preset; the result is latent_space-sequence-32

One of 16 networks, by a hash, is never trained on; reconstruction, costs and distances are measured on such ones, half
even over log MACs, half uniform over the space. Codes are drawn from the prior, N(0, I). `--folder` also gets
latent.html: the measures, and networks on the plane of the codes' two principal components, colored by cost.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.result import write_result
from bitsmith.pipeline import environment
from bitsmith.report.latent_space import LatentSpace, write_latent_space
from bitsmith.search.latent import (
    PREDICTED,
    Autoencoder,
    LatentMeasures,
    LatentPlan,
    draw_even,
    measure_latent,
    plane,
    save_autoencoder,
    train_autoencoder,
)
from bitsmith.seeding import numpy_generator
from bitsmith.space import ADDITIVE, SEQUENCE_SPACES, Sequences
from bitsmith.train import Event

SEED, OUTPUTS = 0, 10
SHAPES = {"sequence-28": (1, 28, 28), "sequence-32": (3, 32, 32), "sequence-96": (3, 96, 96)}
SHOWN = 1500  # networks on the page
WANTED = {
    "reconstructed_even": "at least 0.99",
    "reconstructed_uniform": "at least 0.99",
    "valid": "1",
    "valid_far": "1",
    "convex": "1",
}


def make_space(name: str, *, quick: bool) -> Sequences:
    """The preset; quick: its shallow networks of few widths."""
    description = SEQUENCE_SPACES[name]
    if quick:
        fewest = description.layers[0]
        description = replace(description, layers=(fewest, fewest + 1), channels=description.channels[:2])
    return Sequences(description=description, input_shape=SHAPES[name], outputs=OUTPUTS)


def tell(event: Event) -> None:
    """A line now and then."""
    if event.step % max(1, event.steps // 40) == 0:
        parts = ", ".join(f"{name} {value:.3f}" for name, value in event.values.items())
        print(f"step {event.step} of {event.steps}: {parts}", flush=True)


def make_page(space: Sequences, model: Autoencoder, found: LatentMeasures, command: str, title: str) -> LatentSpace:
    """The networks on a plane, and what was measured."""
    shown = draw_even(space, SHOWN, numpy_generator(SEED, "shown"), held_out=True)
    with torch.no_grad():
        points, share = plane(model.encode(torch.from_numpy(shown)).double().numpy())
    costs = space.additive.of(shown)
    return LatentSpace(
        title=title,
        points=[(float(x), float(y)) for x, y in points],
        share=share,
        names=[" | ".join(map(str, space.automaton.layers(row))) for row in shown],
        costs={name: costs[:, ADDITIVE.index(name)].tolist() for name in PREDICTED},
        measures=flat(found),
        command=command,
        environment=environment(SEED),
    )


def flat(found: LatentMeasures) -> dict[str, float]:
    """Every measure as one number under one name; what wasn't measured is left out."""
    rows: dict[str, float] = {}
    for name, value in found.to_dict().items():
        if isinstance(value, dict):
            rows |= {f"{name} {key}": inner for key, inner in value.items()}
        elif isinstance(value, tuple | list):
            rows |= {f"{name} {end}": inner for end, inner in zip(("least", "most"), value, strict=True)}
        elif value is not None:
            rows[name] = value
    return {name: round(value, 5) + 0.0 for name, value in rows.items()}


def main() -> None:
    """Train (or go on), measure, write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--space", choices=list(SHAPES), default="sequence-28")
    given = parser.parse_args()
    torch.set_num_threads(1)
    space = make_space(given.space, quick=given.quick)
    plan = replace(LatentPlan(), steps=given.steps or (300 if given.quick else LatentPlan().steps))
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        checkpoint = folder / "autoencoder.checkpoint"
        model, history = train_autoencoder(space, plan, seed=SEED, checkpoint=checkpoint, watch=tell)
        save_autoencoder(model, space, folder)
        began = time.process_time()
        found = measure_latent(model, space, n=300 if given.quick else 2000, seed=SEED, trained=(plan, SEED))
        command = " ".join(["python -m benchmarks.latent_space", *sys.argv[1:]])
        title = f"The latent space of {given.space}"
        write_latent_space(make_page(space, model, found, command, title), folder)
    for name, value in flat(found).items():
        print(f"{name:28} {value:<10g} {WANTED.get(name, '')}")
    path = write_result(
        "latent_space" if given.space == "sequence-28" else f"latent_space-{given.space}",
        ratios=flat(found),
        settings={
            "space": given.space,
            "input_shape": space.input_shape,
            "networks": str(space.count()),
            "plan": asdict(plan),
            "training_seconds": round(history.seconds, 1),
            "last_losses": {name: round(float(np.mean(values[-40:])), 4) for name, values in history.curves.items()},
            "threads": 1,
            "wanted": WANTED,
        },
        seed=SEED,
        core_hours=(history.seconds + time.process_time() - began) / 3600,
        quick=given.quick,
    )
    print(path)


if __name__ == "__main__":
    main()
