"""How many evaluations until one of the best 1 % of a tabulated space is met: latent, random, evolution, TPE.

    python -m benchmarks.latent_evaluations                    20 seeds, an autoencoder for each; half an hour at most
    python -m benchmarks.latent_evaluations --folder FOLDER    keeps the autoencoders and every count, and goes on
    python -m benchmarks.latent_evaluations --quick --seeds 5  fewer seeds, one autoencoder for all

The table (`benchmarks.latent_table`) has the validation cross-entropy of each of 2,472 networks on digits, mean of 3
seeds, so an evaluation is a look. Every method sees -log of it, and stops at its first one of the best 1 %. A network
that diverged with a seed is an evaluation that failed: it counts, and each method is told so in its own way.

- latent: 10 drawn networks, evenly over log MACs, then the method's proposals, one after the other; the autoencoder has
  seen networks and costs, no scores;
- drawn: only such draws, to tell what the start alone gains;
- random: uniform draws, none twice;
- evolution: regularized evolution (arXiv 1802.01548): 10 first ones, drawn uniformly, samples of 5 of the last 20, one
  edit (`Edits.edit`); what it meets again costs nothing;
- evolution_latent_start: the same, its first 10 being latent's;
- TPE: Optuna's default sampler over the number of layers and each layer's fields. What is no network of the space, or
  was met before, costs it nothing either, and it is told the network's score, or that it failed or is pruned.

The ratios are medians over seeds, latent's over the others'; below 1 latent needs fewer. Wanted: at most a half of
random's, and less than evolution's and TPE's.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import optuna
import torch

from benchmarks.latent_table import SPACE, make_space, make_task, read_table
from benchmarks.result import write_result
from bitsmith.blueprint import Budget
from bitsmith.errors import RunError
from bitsmith.files import write_json
from bitsmith.search.latent import LatentPlan, Proposer, Seen, Widths, train_autoencoder
from bitsmith.seeding import derive, numpy_generator
from bitsmith.space import Sequences
from bitsmith.space.sequence_space import LayerOperator, Token

PLAN = LatentPlan(
    steps=1500, batch_size=64, lr=0.005, widths=Widths(code=16, encoder=48, decoder=96, token=24, predictor=32)
)
INITIAL, BEST, SEEDS = 10, 0.01, 20
POPULATION, SAMPLE = 20, 5
MOST = 400  # evaluations, before a method is given up on
STUCK = 300  # networks that it met before, one after the other, before the same
ANY = Budget.parse("macs=1G")  # the whole table is inside

# Sequences to evaluate one after the other; `send` tells each one's score.
Search = Iterator[np.ndarray]


def drawn(proposer: Proposer, seed: int) -> Search:
    """Draws evenly over log MACs, none twice."""
    known: list[np.ndarray] = []
    while (row := proposer.draw(known, derive(seed, "initial", len(known)))) is not None:
        known.append(row)
        yield row


def latent(proposer: Proposer, look: Callable[[np.ndarray], float], seed: int) -> Search:
    """The method's proposals."""
    seen: list[Seen] = []
    for row in islice(drawn(proposer, seed), INITIAL):
        seen.append(Seen(sequence=row, score=look(row)))
        yield row
    while found := proposer.propose(seen, 1, derive(seed, "proposal", len(seen))):
        seen.append(Seen(sequence=found[0], score=look(found[0])))
        yield found[0]


def random(space: Sequences, seed: int) -> Search:
    """Every network once, in random order."""
    for number in numpy_generator(seed, "random").permutation(space.count()):
        yield space.automaton.at(int(number))


def evolution(
    space: Sequences, look: Callable[[np.ndarray], float], seed: int, *, start: Search | None = None
) -> Search:
    """Regularized evolution: the oldest leaves. Its first INITIAL are of `start`, or uniform draws."""
    generator = numpy_generator(seed, "evolution")
    alive: deque[np.ndarray] = deque(maxlen=POPULATION)
    numbers = generator.choice(space.count(), INITIAL, replace=False)
    for row in islice(start or (space.automaton.at(int(number)) for number in numbers), INITIAL):
        alive.append(row)
        yield row
    while True:
        sampled = generator.choice(len(alive), min(SAMPLE, len(alive)), replace=False)
        parent = max((alive[int(i)] for i in sampled), key=lambda row: np.nan_to_num(look(row), nan=-np.inf))
        alive.append(space.edits.edit(parent, generator))
        yield alive[-1]


def tpe(space: Sequences, look: Callable[[np.ndarray], float], seed: int) -> Search:
    """Optuna's TPE over fields."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=derive(seed, "tpe") % 2**31, n_startup_trials=INITIAL)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    while True:
        trial = study.ask()
        layers = []
        for at in range(trial.suggest_int("layers", *SPACE.layers)):
            stride = trial.suggest_categorical(f"{at} stride", [1, 2])
            layers.append(
                Token(
                    operator=cast(LayerOperator, trial.suggest_categorical(f"{at} operator", list(SPACE.operators))),
                    kernel=SPACE.kernels[0],
                    channels=trial.suggest_categorical(f"{at} channels", list(SPACE.channels)),
                    stride=stride,
                    skip=trial.suggest_categorical(f"{at} skip", list(SPACE.skips)) if stride == 1 else 0,
                    weight_bits=trial.suggest_categorical(f"{at} weight bits", list(SPACE.weight_bits)),
                    activation_bits=SPACE.activation_bits[0],
                )
            )
        try:
            row = space.automaton.read(tuple(layers))
        except RunError:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            continue
        score = look(row)
        if np.isnan(score):
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, score)
        yield row


def evaluations(search: Search, good: set[bytes]) -> int:
    """Different networks met up to the first good one; MOST where there is none among so many, or nothing new comes."""
    met: set[bytes] = set()
    again = 0
    for row in search:
        again = again + 1 if row.tobytes() in met else 0
        met.add(row.tobytes())
        if row.tobytes() in good:
            return len(met)
        if len(met) == MOST or again == STUCK:
            break
    return MOST


def main() -> None:
    """Run all methods, write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one autoencoder for all seeds, not one for each")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    space, table = make_space(make_task()), read_table()
    rows = np.array([space.automaton.at(number) for number in range(space.count())])
    scores = {row.tobytes(): -float(np.log(loss)) for row, loss in zip(rows, table.loss, strict=True)}
    good = {rows[i].tobytes() for i in np.argsort(table.loss)[: max(1, int(BEST * len(rows)))]}

    def look(row: np.ndarray) -> float:
        return scores[row.tobytes()]

    @lru_cache
    def trained(seed: int) -> Proposer:
        checkpoint = given.folder / f"autoencoder-{seed}.checkpoint" if given.folder else None
        return Proposer(space, train_autoencoder(space, PLAN, seed=seed, checkpoint=checkpoint)[0], (ANY,))

    def proposer(seed: int) -> Proposer:
        return trained(0 if given.quick else seed)

    searches: dict[str, Callable[[int], Search]] = {
        "random": lambda seed: random(space, seed),
        "drawn": lambda seed: drawn(proposer(seed), seed),
        "evolution": lambda seed: evolution(space, look, seed),
        "evolution_latent_start": lambda seed: evolution(space, look, seed, start=drawn(proposer(seed), seed)),
        "tpe": lambda seed: tpe(space, look, seed),
        "latent": lambda seed: latent(proposer(seed), look, seed),
    }
    kept = given.folder / ("quick.json" if given.quick else "evaluations.json") if given.folder else None
    found: dict[str, dict[str, int]] = json.loads(kept.read_text()) if kept and kept.exists() else {}
    for name, search in searches.items():
        counts = found.setdefault(name, {})
        for seed in range(given.seeds):
            if str(seed) not in counts:
                counts[str(seed)] = evaluations(search(seed), good)
                if kept:
                    write_json(kept, found)
        values = sorted(counts[str(seed)] for seed in range(given.seeds))
        print(f"{name:29} median {np.median(values):g}, of {values}", flush=True)
    medians = {name: float(np.median([counts[str(s)] for s in range(given.seeds)])) for name, counts in found.items()}
    path = write_result(
        "latent_evaluations",
        ratios={f"evaluations_vs_{name}": medians["latent"] / value
                for name, value in medians.items() if name != "latent"},
        settings={
            "networks": len(rows),
            "good": len(good),
            "seeds": given.seeds,
            "autoencoders": 1 if given.quick else given.seeds,
            "initial": INITIAL,
            "most": MOST,
            "stuck": STUCK,
            "evolution": {"population": POPULATION, "sample": SAMPLE},
            "wanted": {"evaluations_vs_random": "at most 0.5", "evaluations_vs_evolution": "below 1",
                       "evaluations_vs_tpe": "below 1"},
        },
        seed=0,
        core_hours=(time.process_time() - began) / 3600,
        rows=[{"name": name, "median": medians[name], "evaluations": list(counts.values())}
              for name, counts in found.items()],
    )  # fmt: skip
    print(path)


if __name__ == "__main__":
    main()
