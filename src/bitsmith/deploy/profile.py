"""Measuring exported networks: how long a call takes, and how much of it each operator of the program.

Whole networks are timed, not single layers: in a file of its own a convolution brings changes of layout along that
neighbors share in a network. onnxruntime's profile tells the kernels of a network apart, but adds 2 to 4 microseconds
to each, more than a small kernel takes: `pipeline/profile.py` takes that off, so that the parts make up the whole call.
Of every network, calls with and without profile take turns, and so do the networks that are measured together: a slower
minute hits all alike. Times are means over the undisturbed calls, those whose time lies between the 5th and the 25th
percentile: on a machine that does other things too, the rest is the others' work.

Kernels go to the operator that their node was written for; those that onnxruntime adds (changes of layout) go to the
operator that follows.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, inliner

from bitsmith.deploy.functions import OPSET
from bitsmith.deploy.onnx_file import IR_VERSION, to_onnx
from bitsmith.deploy.onnx_writer import tensor_name
from bitsmith.deploy.operators import Conv
from bitsmith.deploy.program import IntegerProgram
from bitsmith.deploy.runtime import session
from bitsmith.deploy.silent import onnxruntime as ort
from bitsmith.errors import RunError

_Run = list[tuple[str, str, float]]  # (node, kernel, microseconds) in order
# Kernels of an operator with sums that bring the result onto fewer than 8 bits.
_CLIPPING = frozenset({"Clip", "BitwiseAnd", "BitShift"})
_WARMING, _COUNTED = 2, 8  # calls of a block
_MOST_EVENTS = 800_000  # onnxruntime keeps a million and drops the rest silently


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one network took.

    Args:
        calls: seconds of each call without profile.
        parts: (operator, "main" or "clip") -> seconds in each undisturbed profiled call, what the profile itself took
            included.
        kernels: (operator, "main" or "clip") -> the kernels it is.
    """

    calls: np.ndarray
    parts: Mapping[tuple[str, str], np.ndarray]
    kernels: Mapping[tuple[str, str], tuple[str, ...]]


def undisturbed(times: np.ndarray) -> np.ndarray:
    """Indices of the times between the 5th and the 25th percentile, or of the one nearest to that."""
    first = int(0.05 * len(times))
    return np.argsort(times, kind="stable")[first : max(int(0.25 * len(times)), first + 1)]


def typical(times: np.ndarray) -> float:
    """The mean of the undisturbed times."""
    return float(times[undisturbed(times)].mean())


def spread(times: np.ndarray) -> float:
    """Half the range that the middle half of the times takes."""
    low, high = np.quantile(times, (0.25, 0.75))
    return float(high - low) / 2


def empty_model() -> bytes:
    """A file of one kernel that computes next to nothing: what is left is the call itself."""
    kind = TensorProto.UINT8
    graph = helper.make_graph(
        [helper.make_node("BitwiseNot", ["x"], ["y"])],
        "empty",
        [helper.make_tensor_value_info("x", kind, [1])],
        [helper.make_tensor_value_info("y", kind, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    return model.SerializeToString()


def time_calls(
    models: Mapping[str, bytes | Path], *, rounds: int, threads: int, tick: Callable[[], None] = lambda: None
) -> dict[str, np.ndarray]:
    """Seconds of each counted call on one random input, (8 rounds,) per model; the models take turns.

    Raises:
        VerifyError: onnxruntime can't load a model.
        RunError: fewer processors than threads.
    """
    with _pinned(threads):
        calls = {name: _Call(session(model, threads=threads)) for name, model in models.items()}
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(rounds):
            for name, call in calls.items():
                seconds[name] += call.block()
            tick()
    return {name: np.array(values) for name, values in seconds.items()}


def measure(
    programs: Sequence[IntegerProgram], *, rounds: int, threads: int, tick: Callable[[], None] = lambda: None
) -> tuple[np.ndarray, list[Measured]]:
    """Time programs, exported as they are for use, operator by operator.

    Args:
        rounds: of 8 counted calls of each program with profile, and as many without.
        threads: within one operator; the process is pinned to as many processors.
        tick: called after every round.

    Returns:
        Seconds of each call of the empty file, and what each program took.

    Raises:
        VerifyError: onnxruntime can't load a program.
        RunError: fewer processors than threads.
    """
    models = [to_onnx(program) for program in programs]
    with _pinned(threads), tempfile.TemporaryDirectory() as folder:
        empty = _Call(session(empty_model(), threads=threads))
        plain = [_Call(session(model.SerializeToString(), threads=threads)) for model in models]
        profiled = [
            _Call(session(_named(model, program), threads=threads, profile=str(Path(folder) / f"{i}")))
            for i, (model, program) in enumerate(zip(models, programs, strict=True))
        ]
        empties: list[float] = []
        calls: list[list[float]] = [[] for _ in programs]
        for _ in range(rounds):
            empties += empty.block()
            for i in range(len(programs)):
                calls[i] += plain[i].block()
                profiled[i].block()
            tick()
        runs = [_counted(_kernel_runs(Path(call.running.end_profiling()))) for call in profiled]
    return np.array(empties), [
        _measured(program, kernels, np.array(taken))
        for program, kernels, taken in zip(programs, runs, calls, strict=True)
    ]


def most_rounds(program: IntegerProgram, rounds: int) -> int:
    """So many rounds at most that onnxruntime's profile of a program is whole: up to 8 kernels an operator."""
    return max(1, min(rounds, _MOST_EVENTS // ((_WARMING + _COUNTED) * (8 * len(program.operators) + 8))))


class _Call:
    """One inference on a fixed random input, timed."""

    def __init__(self, running: ort.InferenceSession) -> None:
        self.running = running
        generator = np.random.default_rng(0)
        self.feed = {read.name: _random(read, generator) for read in running.get_inputs()}

    def block(self) -> list[float]:
        """Seconds of some calls in a row; before them a few that bring the caches back from another model."""
        seconds = []
        for _ in range(_WARMING + _COUNTED):
            started = time.perf_counter()
            self.running.run(None, self.feed)
            seconds.append(time.perf_counter() - started)
        return seconds[_WARMING:]


def _random(read: ort.NodeArg, generator: np.random.Generator) -> np.ndarray:
    shape = [size if isinstance(size, int) else 1 for size in read.shape]
    if read.type == "tensor(uint8)":
        return generator.integers(0, 256, shape, np.uint8)
    return generator.standard_normal(shape, np.float32)


@contextmanager
def _pinned(threads: int) -> Iterator[None]:
    """The process on as many processors as there are threads, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    if threads > len(allowed):
        raise RunError(f"can't measure {threads} threads on {len(allowed)} processors; give --threads {len(allowed)}")
    os.sched_setaffinity(0, set(sorted(allowed)[-threads:]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _named(model: ModelProto, program: IntegerProgram) -> bytes:
    """The same model with functions inlined and every node called "OPERATOR#NODE", by their places."""
    inlined = inliner.inline_local_functions(model)
    owner = {tensor_name(program, operator.name): i for i, operator in enumerate(program.operators)}
    # Backwards: what a tensor is needed for, its node is of.
    for place, node in reversed(list(enumerate(inlined.graph.node))):
        index = next((owner[output] for output in node.output if output in owner), None)
        if index is None:  # a constant that nobody reads
            continue
        node.name = f"{index}#{place}"
        for read in node.input:
            owner.setdefault(read, index)
    return inlined.SerializeToString()


def _kernel_runs(profile: Path) -> list[_Run]:
    """Of each run its kernels in order: (node, kernel, microseconds)."""
    runs: list[_Run] = [[]]
    for event in json.loads(profile.read_text()):
        if event["name"] == "model_run":  # recorded when the run is over
            runs.append([])
        elif event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            runs[-1].append((event["name"].removesuffix("_kernel_time"), event["args"]["op_name"], event["dur"]))
    return [run for run in runs if run]


def _counted(runs: list[_Run]) -> list[_Run]:
    return [run for i, run in enumerate(runs) if i % (_WARMING + _COUNTED) >= _WARMING]


def _measured(program: IntegerProgram, runs: list[_Run], calls: np.ndarray) -> Measured:
    names = [(node, kernel) for node, kernel, _ in runs[0]]
    assert all([(node, kernel) for node, kernel, _ in run] == names for run in runs), "runs differ in their kernels"
    owners = _owners(program, names)
    parts: dict[tuple[str, str], np.ndarray] = {owner: np.zeros(len(runs)) for owner in owners}
    for owner, column in zip(owners, np.array([[taken for _, _, taken in run] for run in runs]).T, strict=True):
        parts[owner] += column * 1e-6
    kept = undisturbed(np.sum(list(parts.values()), axis=0))
    kernels = {
        owner: tuple(kernel for of, (_, kernel) in zip(owners, names, strict=True) if of == owner) for owner in parts
    }
    return Measured(calls=calls, parts={owner: times[kept] for owner, times in parts.items()}, kernels=kernels)


def _owners(program: IntegerProgram, names: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The operator and its part that each kernel is of."""
    found: list[tuple[str, str]] = []
    following = ""
    for node, kernel in reversed(names):
        known = re.match(r"(\d+)#", node)
        if known:
            operator = program.operators[int(known[1])]
            following = operator.name
            if isinstance(operator, Conv) and kernel in _CLIPPING:
                found.append((operator.name, "clip"))
                continue
        assert following, f"{node} follows every operator"
        found.append((following, "main"))
    return found[::-1]
