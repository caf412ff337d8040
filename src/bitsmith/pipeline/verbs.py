"""The Python face: capture, search, train, export, verify, each one call on plain values.

captured = bs.capture(net, data.shape)
space = bs.precision_space(captured, data, weight_bits=(2, 3, 4, 8))
found = bs.search(task, space, bs.Composite(), budgets=["size=20kB"], float_state=captured.state)
net = bs.train(task, found.best, state=found.state)
files = bs.export(net, "run/")
print(bs.verify(files, data.test))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bitsmith.blueprint import FLOAT, Bits, Blueprint, Budget, NetworkGraph
from bitsmith.capture import Captured, capture
from bitsmith.cost import TARGETS
from bitsmith.data import DataSet, Split, TensorSplit
from bitsmith.deploy import Verification, lower, verify_onnx, write_onnx
from bitsmith.errors import BudgetError, ExportError, RecipeError, RunError
from bitsmith.quantize import Network, build, freeze
from bitsmith.search import Found, Method, Problem
from bitsmith.seeding import derive
from bitsmith.space import Precision, precision
from bitsmith.train import (
    History,
    Task,
    TrainPlan,
    Watch,
    calibrate,
    fit,
    load_into,
    load_state,
    save_state,
    silent,
    write_text,
)

EXPORTERS = ("onnx",)


@dataclass(frozen=True, kw_only=True)
class Files:
    """What `export` wrote.

    Args:
        folder: holds all of it.
        blueprint: blueprint.json.
        weights: network.safetensors, the trained network.
        artefacts: format -> file.
    """

    folder: Path
    blueprint: Path
    weights: Path
    artefacts: Mapping[str, Path]


def template(
    graph: NetworkGraph | Captured, data: DataSet, *, quantizer: str = "lsq", stream_bits: int = 8
) -> Blueprint:
    """The blueprint that a space varies: a graph with the data's input contract and classes, 8 bits as placeholders."""
    graph = graph.graph if isinstance(graph, Captured) else graph
    bits = {layer.name: Bits(weight=8, activation=8) for layer in graph.layers}
    return Blueprint(
        graph=graph,
        bits=bits,
        quantizer=quantizer,
        stream_bits=stream_bits,
        input=data.input,
        classes=data.classes,
    )


def precision_space(
    net: nn.Module | Captured,
    data: DataSet,
    weight_bits: Sequence[int] = (2, 3, 4, 8),
    activation_bits: Sequence[int] = (8,),
    *,
    ends: int | None = 8,
    pins: Mapping[str, int | Bits] | None = None,
) -> Precision:
    """The space of all bit-widths of a network of yours on your data.

    Args:
        net: any torch module that captures, or what `capture` made of it.
        weight_bits, activation_bits: what each layer may take.
        ends: bits of the first and the last layer; None leaves them free.
        pins: layer -> bits.

    Raises:
        CaptureError: the module can't be captured.
        RecipeError: bit-widths out of range, a pin on an unknown layer.
    """
    captured = net if isinstance(net, Captured) else capture(net, data.shape)
    return precision(template(captured, data), weight_bits, activation_bits, ends=ends, pins=pins)


def search(
    task: Task,
    space: Precision,
    method: Method,
    budgets: Sequence[str | Budget],
    *,
    target: str = "onnx",
    float_state: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    watch: Watch = silent,
) -> Found:
    """Find a blueprint of the space that meets every budget.

    The method never sees the test split: reading it raises.

    Args:
        budgets: "size=20kB", or Budget values; all are met at once.
        float_state: weights of a trained float network to start from, as `Captured.state`.
        folder: where the search keeps its checkpoint; a killed search goes on from there.

    Raises:
        BudgetError: no blueprint meets the budgets; says what is reachable and what binds.
        RecipeError: the target can't hold a bit-width of the space.
    """
    limits = [budget if isinstance(budget, Budget) else Budget.parse(budget) for budget in budgets]
    if not limits:
        raise BudgetError("give at least one budget, such as size=20kB")
    if target not in TARGETS:
        raise RecipeError(f"unknown target {target!r}; known are {', '.join(TARGETS)}")
    if space.template.stream_bits != FLOAT:  # networks with float sums, as published, claim no target
        TARGETS[target].check(space.options)
    blind = Task(
        data=task.data.without_test(),
        loss=task.loss,
        metric=task.metric,
        augment=task.augment,
        label_smoothing=task.label_smoothing,
    )
    return method.search(
        Problem(
            task=blind,
            space=space,
            budgets=limits,
            seed=seed,
            float_state=float_state,
            folder=Path(folder) if folder else None,
            watch=watch,
        )
    )


def train(
    task: Task,
    blueprint: Blueprint,
    plan: TrainPlan = TrainPlan(),  # noqa: B008 - frozen
    *,
    float_state: Mapping[str, Tensor] | None = None,
    state: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    stage: str = "train",
    checkpoint: Path | None = None,
    watch: Watch = silent,
    history: History | None = None,
) -> Network:
    """Train the network of a blueprint at its low precision.

    Activation steps are calibrated first, except where `state` brings trained ones.

    Args:
        float_state: start from the weights of a trained float network; its steps are calibrated.
        state: start from a whole trained state, such as `Found.state`.
        history: filled with the curves, if given.

    Raises:
        TrainingError: the loss is not finite.
        RunError: a state of another network.
    """
    torch.manual_seed(derive(seed, "weights"))
    network = build(blueprint)
    if state is not None:
        load_into(network, state, "the search")
    else:
        if float_state is not None:
            network.load_float(float_state)
        calibrate(network, task.data.training, batch_size=plan.batch_size, seed=derive(seed, "calibrate"))
    done = fit(network, task, plan, seed=seed, stage=stage, checkpoint=checkpoint, watch=watch)
    if history is not None:
        history.seconds, history.curves = done.seconds, done.curves
    return network.eval()


def export(network: Network, folder: str | Path, formats: Sequence[str] = ("onnx",)) -> Files:
    """Write a trained network to files that run as integers.

    Writes blueprint.json, network.safetensors and one artefact per format, each under a temporary name first.

    Raises:
        ExportError: an unknown format, or a network with float layers.
    """
    folder = Path(folder)
    unknown = [name for name in formats if name not in EXPORTERS]
    if unknown:
        raise ExportError(f"unknown format {', '.join(unknown)}; known are {', '.join(EXPORTERS)}")
    blueprint = network.blueprint
    if blueprint is None:
        raise ExportError("this network was not made by build(blueprint), so there is nothing to export it by")
    program = lower(freeze(network, blueprint), blueprint)
    files = files_of(folder)
    write_text(files.blueprint, blueprint.to_json())
    save_state(network.state_dict(), files.weights)
    return Files(
        folder=folder,
        blueprint=files.blueprint,
        weights=files.weights,
        artefacts={"onnx": write_onnx(program, folder / "model.onnx")},
    )


def files_of(folder: str | Path) -> Files:
    """The files of an exported network in a folder, whether they are there yet or not."""
    folder = Path(folder)
    return Files(
        folder=folder,
        blueprint=folder / "blueprint.json",
        weights=folder / "network.safetensors",
        artefacts={"onnx": folder / "model.onnx"},
    )


def load(folder: str | Path) -> Network:
    """The trained network that a folder holds, rebuilt from its blueprint without its author's code.

    Raises:
        RunError: files missing or damaged.
    """
    files = files_of(folder)
    try:
        blueprint = Blueprint.from_json(files.blueprint.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{files.blueprint} is missing; search or export first") from error
    network = build(blueprint)
    load_into(network, load_state(files.weights), str(files.weights))
    return network.eval()


def verify(files: Files | str | Path, split: Split, *, limit: int | None = None) -> Verification:
    """Compare PyTorch, the integer reference and the ONNX file, layer by layer, on real inputs.

    Args:
        split: labeled inputs that nothing was chosen by, usually the test split.
        limit: check at most so many of them.

    Raises:
        RunError, VerifyError: files missing or damaged. A file that computes something else is not an error here:
            the result's `ok` is False and its `problems` say what.
    """
    files = files if isinstance(files, Files) else files_of(files)
    network = load(files.folder)
    assert network.blueprint is not None
    if FLOAT in (*(bits.weight for bits in network.blueprint.bits.values()), network.blueprint.stream_bits):
        raise RunError(f"{files.folder} holds a network with float layers; there is no integer file to verify")
    frozen = freeze(network, network.blueprint)
    program = lower(frozen, network.blueprint)
    images, labels = raw_inputs(split, limit)
    return verify_onnx(files.artefacts["onnx"], frozen, program, images, labels)


def raw_inputs(split: Split, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """What artefacts take: uint8 pixels of a TensorSplit, float inputs of the user's loaders; and the labels."""
    if isinstance(split, TensorSplit):
        return split.images[:limit].numpy(), split.labels[:limit].numpy()
    parts = list(split.batches(batch_size=500))
    return torch.cat([x for x, _ in parts])[:limit].numpy(), torch.cat([y for _, y in parts])[:limit].numpy()
