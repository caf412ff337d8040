"""What a second processor gains: for one training, and for many.

    python -m benchmarks.processes            seven minutes, on a machine that does nothing else
    python -m benchmarks.processes --quick    one round

- *One training*: a step of ResNet-20, all layers w4a4 but the ends, batch 128 of 3x32x32, forward, backward and update:
  in one process of one thread, in one of two threads, in two processes of one thread each (torchrun's; gloo). Steps are
  told apart from starting and measuring memory by their events; the median of each training counts.
- *Many*: four such trainings by `Processes(1)` and `Processes(2)`, whose processes are there already.

All in turn, round by round; the least of the rounds counts. `two_threads`, `two_processes` and `two_workers` are how
many times as fast two are as one. Noise of the machine is in it: two workers came out at more than 2.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch

from benchmarks.result import write_result
from benchmarks.sample import CONTRACT, PIXELS, images_of, with_inner
from bitsmith.blueprint import Bits, Blueprint
from bitsmith.capture import capture
from bitsmith.data import DataSet
from bitsmith.executor import Processes, Work, run_all
from bitsmith.models import load_model
from bitsmith.quantize import build
from bitsmith.train import Event, Task, TrainPlan, calibrate, fit, join

NAME, SEED, BATCH, STEPS = "processes", 0, 128, 12
PLAN = TrainPlan(epochs=1, batch_size=BATCH, lr=0.01, compile="none", device="cpu")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def main() -> None:
    """Measure and write the result; `--step` is one training of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--step", action="store_true", help="train in this process or group, and print seconds per step"
    )
    arguments = parser.parse_args()
    if arguments.step:
        if join().rank == 0:
            print(train())
        else:
            train()
        return
    began = time.monotonic()
    rows = [one_round() for _ in range(1 if arguments.quick else 2)]
    least = {name: min(row[name] for row in rows) for name in rows[0]}
    ratios = {
        "two_threads": least["one process, one thread"] / least["one process, two threads"],
        "two_processes": least["one process, one thread"] / least["two processes"],
        "two_workers": least["four trainings, one worker"] / least["four trainings, two workers"],
    }
    path = write_result(
        NAME,
        ratios={name: round(ratio, 3) for name, ratio in ratios.items()},
        rows=[{name: round(seconds, 4) for name, seconds in row.items()} for row in rows],
        settings={"batch": BATCH, "steps": STEPS, "processors": len(os.sched_getaffinity(0))},
        seed=SEED,
        core_hours=2 * (time.monotonic() - began) / 3600,
        quick=arguments.quick,
    )
    print(ratios, path)


def one_round() -> dict[str, float]:
    """Seconds of each way."""
    return {
        "one process, one thread": seconds_per_step(1),
        "one process, two threads": seconds_per_step(2),
        "two processes": seconds_per_step(1, *TORCHRUN),
        "four trainings, one worker": share_out(1),
        "four trainings, two workers": share_out(2),
    }


def seconds_per_step(threads: int, *launcher: str) -> float:
    """In a process of its own, or in those that a launcher starts."""
    variables = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, *launcher, "-m", "benchmarks.processes", "--step"]
    done = subprocess.run(command, env=os.environ | variables, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def share_out(workers: int) -> float:
    """Seconds for four trainings, behind a first one for each worker."""

    def works(names: str) -> list[Work]:
        return [Work(title=name, folder=Path(folder) / name, call="benchmarks.processes:trial") for name in names]

    with tempfile.TemporaryDirectory() as folder, Processes(workers) as executor:
        assert not run_all(executor, works("xy"[:workers]))
        began = time.perf_counter()
        assert not run_all(executor, works("abcd"))
        return time.perf_counter() - began


def trial(watch: object, say: object) -> None:
    """One of the four trainings."""
    train()


def train() -> float:
    """Seconds per step of a training, the median of all steps but the first three."""
    module, _ = load_model("resnet20", classes=10, shape=PIXELS, seed=SEED)
    captured = capture(module, PIXELS)
    bits = with_inner(Bits(weight=4, activation=4))(captured.graph)
    network = build(Blueprint(graph=captured.graph, bits=bits, input=CONTRACT))
    network.load_float(captured.state)
    split, few = images_of(BATCH * STEPS), images_of(10)
    calibrate(network, few, batches=1, batch_size=10, seed=SEED)
    classes = tuple(str(n) for n in range(10))
    data = DataSet(
        name="noise",
        train=split,
        search=few,
        validation=few,
        test=few,
        classes=classes,
        input=CONTRACT,
        shape=PIXELS,
    )
    ends: list[float] = []

    def watch(event: Event) -> None:
        if event.images:
            ends.append(time.perf_counter())

    fit(network, Task(data=data), PLAN, seed=SEED, split=split, watch=watch)
    return median(after - before for before, after in pairwise(ends[2:]))


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    main()
