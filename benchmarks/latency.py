"""Predicted against measured latency of exported networks, on this machine.

    python -m benchmarks.latency             ResNet-8 and ResNet-20 at 32 pixels, torchvision's MobileNetV2 at 96
    python -m benchmarks.latency --quick     few networks and rounds

A table is measured from one network per class of activation bits (8, fewer, signs) of each space, W {1,2,3,4,8} and
A {1,2,4,8}. Then:

- `random`: random blueprints of the space, other random weights; none of these networks was measured for the table.
- `other`: random blueprints of networks of another topology, two blocks, one block and unequal numbers of blocks in
  ResNet-20's stages, predicted from the table of ResNet-20 alone.
- `alone`: instead of a table, each operator in a file of its own, the time of an empty file taken off, summed; for
  some of the random networks. It shows why whole networks are measured.

Blueprints of one space differ by some percent in latency, as the bits of weights don't matter: beside the errors stand
the rank correlation, and the error that the median of what was measured would have made as a guess for all.

One thread, pinned, batch 1, random weights; networks take turns. Errors are (predicted - measured) / measured, times
are means between the 5th and the 25th percentile of all calls: what an idle machine would take.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto
from scipy.stats import rankdata
from torch import nn

from benchmarks.result import write_result
from bitsmith.blueprint import Bits, Blueprint, InputContract
from bitsmith.capture import capture
from bitsmith.cost.latency import LatencyTable
from bitsmith.deploy import IntegerProgram
from bitsmith.deploy.onnx_file import to_onnx
from bitsmith.deploy.onnx_writer import tensor_name
from bitsmith.deploy.profile import empty_model, time_calls, typical
from bitsmith.models import load_model
from bitsmith.models.resnet import resnet20
from bitsmith.pipeline.profile import ROUNDS, check, covering, profile, sample_program
from bitsmith.report import Latency
from bitsmith.seeding import derive
from bitsmith.space import Precision, precision

SEED = 0
WEIGHT_BITS, ACTIVATION_BITS = (1, 2, 3, 4, 8), (1, 2, 4, 8)
CASES = (("resnet8", 32), ("resnet20", 32), ("torchvision:mobilenet_v2", 96))
# Blocks per stage of networks made of ResNet-20's layers.
DEPTHS = ((2, 2, 2), (1, 1, 1), (1, 3, 2))


def main() -> None:
    """Measure tables, hold them against whole networks, write the result."""
    quick = "--quick" in sys.argv[1:]
    torch.set_num_threads(1)
    started = time.process_time()
    rounds, count = (5, 3) if quick else (ROUNDS, 12)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, pixels in CASES:
            space = space_of(load(name, pixels), pixels)
            table = profile(covering(space), Path(folder) / f"{len(rows)}.json", rounds=rounds, seed=SEED)
            samples = draw(space, count, name)
            rows += measured_rows(name, "random", table, samples, rounds)
            rows += alone_rows(name, samples[: 1 if quick else 4], rounds)
            if name == "resnet20":
                for depths in DEPTHS:
                    other = "resnet20 with {} {} {} blocks".format(*depths)
                    samples = draw(space_of(shallower(depths), pixels), max(1, count // 2), other)
                    rows += measured_rows(other, "other", table, samples, rounds)
    ratios = ratios_of(rows)
    for key, value in ratios.items():
        print(f"{key}: {value}")
    path = write_result(
        "latency",
        ratios=ratios,
        rows=rows,
        settings={
            "threads": 1,
            "batch": 1,
            "rounds": rounds,
            "weight_bits": WEIGHT_BITS,
            "activation_bits": ACTIVATION_BITS,
        },
        seed=SEED,
        core_hours=(time.process_time() - started) / 3600,
        quick=quick,
    )
    print(path)


def load(name: str, pixels: int) -> nn.Module:
    return load_model(name, classes=10, shape=(3, pixels, pixels), seed=SEED)[0]


def shallower(depths: tuple[int, int, int]) -> nn.Module:
    """ResNet-20 with fewer blocks in its stages: every layer is one of ResNet-20's, the network is not."""
    net = resnet20()
    for stage, depth in zip(("layer1", "layer2", "layer3"), depths, strict=True):
        setattr(net, stage, getattr(net, stage)[:depth])
    return net


def space_of(module: nn.Module, pixels: int) -> Precision:
    graph = capture(module, (3, pixels, pixels)).graph
    contract = InputContract(kind="uint8", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    bits = {layer.name: Bits(weight=8, activation=8) for layer in graph.layers}
    return precision(Blueprint(graph=graph, bits=bits, input=contract), WEIGHT_BITS, ACTIVATION_BITS)


Sample = tuple[Blueprint, IntegerProgram]


def draw(space: Precision, count: int, name: str) -> list[Sample]:
    """Random blueprints and their programs."""
    generator = np.random.default_rng(derive(SEED, name))
    return [(b, sample_program(b, SEED + 1 + i)) for i, b in enumerate(space.sample(generator) for _ in range(count))]


def measured_rows(
    name: str, kind: str, table: LatencyTable, samples: Sequence[Sample], rounds: int
) -> list[dict[str, Any]]:
    files = {f"{i}": (b, to_onnx(program).SerializeToString()) for i, (b, program) in enumerate(samples)}
    found = [row for row in check(table, files, rounds=rounds) if not row.known]
    return [_row(name, kind, latency, samples[int(latency.network)][0]) for latency in found]


def _row(name: str, kind: str, latency: Latency, blueprint: Blueprint) -> dict[str, Any]:
    assert latency.measured is not None
    assert latency.spread is not None
    assert latency.error is not None
    row = {
        "network": name,
        "kind": kind,
        "predicted_us": round(1e6 * latency.predicted, 2),
        "measured_us": round(1e6 * latency.measured, 2),
        "spread_us": round(1e6 * latency.spread, 2),
        "error": round(latency.error, 4),
        "bits": [[bits.weight, bits.activation] for bits in blueprint.bits.values()],
    }
    print({key: value for key, value in row.items() if key != "bits"}, flush=True)
    return row


def alone_rows(name: str, samples: Sequence[Sample], rounds: int) -> list[dict[str, Any]]:
    """Each operator in a file of its own, summed."""
    rows = []
    for blueprint, program in samples:
        whole = to_onnx(program)
        parts = {operator.name: _alone(whole, program, i) for i, operator in enumerate(program.operators)}
        seconds = time_calls({"": empty_model(), "whole": whole.SerializeToString(), **parts}, rounds=rounds, threads=1)
        call, measured = typical(seconds.pop("")), seconds.pop("whole")
        predicted = call + sum(max(0.0, typical(times) - call) for times in seconds.values())
        latency = Latency(
            network="alone",
            predicted=predicted,
            measured=typical(measured),
            spread=float(np.subtract(*np.quantile(measured, (0.75, 0.25))) / 2),
            known=False,
            setting="",
        )
        rows.append(_row(name, "alone", latency, blueprint))
    return rows


def _alone(whole: onnx.ModelProto, program: IntegerProgram, index: int) -> bytes:
    """The operator's nodes, and those that make its constants, as a file that takes the operator's inputs."""
    operator = program.operators[index]
    output = tensor_name(program, operator.name)
    inputs = {tensor_name(program, read): program.shapes[read] for read in operator.inputs} or {
        whole.graph.input[0].name: program.input_shape
    }
    wanted, nodes = {output}, []
    for node in reversed(whole.graph.node):
        if wanted & set(node.output):
            nodes.insert(0, node)
            wanted |= set(node.input) - set(inputs)
    constants = [constant for constant in whole.graph.initializer if constant.name in wanted]
    kind = TensorProto.UINT8 if operator.name in program.grids else TensorProto.FLOAT
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "alone",
        [info(read, TensorProto.UINT8, [1, *shape]) for read, shape in inputs.items()],
        [info(output, kind, [1, *program.shapes[operator.name]])],
        constants,
    )
    model = onnx.helper.make_model(graph, functions=list(whole.functions), opset_imports=list(whole.opset_import))
    model.ir_version = whole.ir_version
    return model.SerializeToString()


def ratios_of(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of each network and kind: median and worst error, rank correlation, and the error of one guess for all."""
    found: dict[str, float] = {}
    for network, kind in dict.fromkeys((row["network"], row["kind"]) for row in rows):
        of = [row for row in rows if (row["network"], row["kind"]) == (network, kind)]
        errors = np.abs([row["error"] for row in of])
        predicted, measured = (np.array([row[key] for row in of]) for key in ("predicted_us", "measured_us"))
        values = {"median error": np.median(errors), "worst error": errors.max()}
        if len(of) > 1:
            values["rank correlation"] = np.corrcoef(rankdata(predicted), rankdata(measured))[0, 1]
            values["median error of their median"] = np.median(np.abs(np.median(measured) / measured - 1))
        found |= {f"{network} {kind}: {word}": round(float(value), 4) for word, value in values.items()}
    return found


if __name__ == "__main__":
    main()
