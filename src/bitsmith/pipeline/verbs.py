"""The Python face: capture, search, train (exported.py: export, verify), each one call on plain values.

captured = bs.capture(net, data.shape)
space = bs.precision_space(captured, data, weight_bits=(2, 3, 4, 8))
found = bs.search(task, space, bs.Composite(), budgets=["size=20kB"], float_state=captured.state)
net = bs.train(task, found.best, state=found.state)  # or, without: bs.quantize(task, found.best, captured.state)
files = bs.export(net, "run/")
print(bs.verify(files, data.test))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from bitsmith.blueprint import FLOAT, Bits, Blueprint, Budget, NetworkGraph
from bitsmith.capture import Captured, capture
from bitsmith.cost import Target, check_budgets, find_target
from bitsmith.data import DataSet
from bitsmith.errors import BudgetError, RecipeError
from bitsmith.quantize import Network, build, find_quantizers
from bitsmith.recipe import suited_space
from bitsmith.search import (
    Composite,
    Elsewhere,
    Filters,
    Found,
    Latent,
    Method,
    Multinomial,
    Problem,
    Supernet,
    WidthSearch,
)
from bitsmith.seeding import derive
from bitsmith.space import Mobile, Pin, Precision, Sequences, Space, precision
from bitsmith.train import (
    History,
    Task,
    TrainPlan,
    Watch,
    calibrate,
    fit,
    load_into,
    reestimate_norms,
    silent,
)


def template(
    graph: NetworkGraph | Captured, data: DataSet, *, quantizer: str = "lsq", stream_bits: int = 8
) -> Blueprint:
    """The blueprint that a space varies: a graph with the data's input contract and classes, 8 bits as placeholders."""
    graph = graph.graph if isinstance(graph, Captured) else graph
    bare = bare_template(graph, quantizer)
    return replace(bare, stream_bits=stream_bits, input=data.input, classes=data.classes)


def bare_template(graph: NetworkGraph, quantizer: str = "lsq") -> Blueprint:
    """The template of a network that no data is known for, which can be priced and not trained."""
    bits = {layer.name: Bits(weight=8, activation=8) for layer in graph.layers}
    return Blueprint(graph=graph, bits=bits, quantizer=quantizer)


def precision_space(
    net: nn.Module | Captured,
    data: DataSet,
    weight_bits: Sequence[int] | None = None,
    activation_bits: Sequence[int] | None = None,
    *,
    ends: int | Literal["auto"] | None = "auto",
    pins: Mapping[str, Pin] | None = None,
    quantizer: str | None = None,
    target: str | Target = "onnx",
) -> Precision:
    """The space of all bit-widths of a network of yours on your data.

    Args:
        net: any torch module that captures, or what `capture` made of it.
        weight_bits, activation_bits: what each layer may take; (2, 3, 4, 8) and (8,) unless the target holds less.
        ends: bits of the first and the last layer; None leaves them free; "auto" is 8, or free where the target
            doesn't hold 8.
        pins: layer or pattern -> 8, "w4a8", "w4", "a8" or "float"; see `bitsmith.space.resolve_pins`.
        quantizer: a name of `bitsmith.quantize.QUANTIZERS`, or "package.module:Name" of a module that is imported;
            lsq, or lsq-pow2 where the target wants steps that are powers of two.
        target: the device, whose costs the space then knows; as of `search`.

    Raises:
        CaptureError: the module can't be captured.
        RecipeError: bit-widths out of range, a pin on an unknown layer.
        BitsmithError: an unknown quantizer.
    """
    captured = net if isinstance(net, Captured) else capture(net, data.shape)
    device = find_target(target)
    suited = suited_space(device)
    chosen: str = suited["quantizer"] if quantizer is None else quantizer
    find_quantizers(chosen)
    return precision(
        template(captured, data, quantizer=chosen),
        suited["weight_bits"] if weight_bits is None else weight_bits,
        suited["activation_bits"] if activation_bits is None else activation_bits,
        ends=suited["ends"] if ends == "auto" else ends,
        pins=pins,
        costs=device.costs,
    )


def search(
    task: Task,
    space: Precision | Mobile | Sequences,
    method: Method,
    budgets: Sequence[str | Budget],
    *,
    target: str | Target = "onnx",
    float_state: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    shared: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    watch: Watch = silent,
    elsewhere: Elsewhere | None = None,
) -> Found:
    """Find a blueprint of the space that meets every budget.

    The method never sees the test split: reading it raises.

    Args:
        budgets: "size=20kB", or Budget values; all are met at once.
        target: the device: its name, "my-board.yaml" or a Target. Its costs are added to the space's, its memories
            to the budgets.
        float_state: weights of a trained float network to start from, as `Captured.state`.
        folder: where the search keeps its checkpoint; a killed search goes on from there.
        shared: where searches that differ in budgets alone keep what doesn't depend on them, such as measured
            sensitivities, so that the networks of a front are measured once.
        checkpoint_seconds: how often it is written; also at the end of every epoch and on Ctrl-C.
        elsewhere: where `Latent` has its networks evaluated; None is here.

    Raises:
        BudgetError: no blueprint meets the budgets; says what is reachable and what binds.
        RecipeError: the target can't hold the space, or its networks don't read such data.
    """
    if elsewhere is not None and not isinstance(method, Latent):
        raise RecipeError(f"elsewhere is where Latent has networks evaluated; a search by {method.name!r} has none")
    problem = pose(task, space, method, budgets, target=target, float_state=float_state, seed=seed)
    found = method.search(
        replace(
            problem,
            folder=Path(folder) if folder else None,
            shared=Path(shared) if shared else None,
            checkpoint_seconds=checkpoint_seconds,
            watch=watch,
            elsewhere=elsewhere,
        )
    )
    if not isinstance(found, Found):
        raise RecipeError(
            f"method {method.name!r} returned a {type(found).__name__}; it must return a bitsmith.search Found"
        )
    found = replace(found, priced=problem.space.costs)
    over = [budget for budget in problem.budgets if found.costs[budget.cost] > budget.limit]
    published = isinstance(method, Composite | Multinomial | Supernet | WidthSearch) and method.as_published
    if over and not published:  # which enforces none
        raise BudgetError(f"method {method.name!r} returned a network outside {' and '.join(map(str, over))}")
    return found


def pose(
    task: Task,
    space: Precision | Mobile | Sequences,
    method: Method,
    budgets: Sequence[str | Budget],
    *,
    target: str | Target,
    float_state: Mapping[str, Tensor] | None,
    seed: int,
) -> Problem:
    """The problem of a `search`, as its method gets it, without folders; it raises what that does."""
    limits = [budget if isinstance(budget, Budget) else Budget.parse(budget) for budget in budgets]
    if not limits:
        raise BudgetError("give at least one budget, such as size=20kB")
    _check_data(space.graphs[0], task.data)
    device = find_target(target)
    check_target(space, device, method)
    if not _claims_none(space):
        space = replace(space, costs={**space.costs, **device.costs})
    limits = device.within(limits)
    check_budgets(device, limits, space.costs)
    return Problem(
        task=replace(task, data=task.data.without_test()),
        space=space,
        budgets=limits,
        seed=seed,
        float_state=float_state,
    )


def _check_data(graph: NetworkGraph, data: DataSet) -> None:
    wanted, given = (graph.input_shape, graph.output_shape), (data.shape, (len(data.classes),))
    if wanted != given:
        raise RecipeError(
            f"the network maps inputs of {wanted[0]} to outputs of {wanted[1]}, and the data has images of {given[0]} "
            f"and {given[1][0]} classes; make the network or the space for this data"
        )


def check_target(space: Space, target: Target, method: Method | None = None) -> None:
    """Refuse a space that a target can't hold, and a method whose networks it can't hold or price.

    Raises:
        RecipeError: a bit-width that it doesn't run, such as a layer pinned to float; an operator; a quantizer; bits
            per filter.
    """
    if isinstance(method, Filters):
        target.check_filters(bits=True, maps=False, remove=method.remove)
    if isinstance(method, Multinomial):
        target.check_filters(bits=True, maps=len({maps for _, maps in method.pairs}) > 1, remove=False)
    if isinstance(method, WidthSearch):
        target.check_filters(bits=False, maps=False, remove=True)
    if not _claims_none(space):
        steps = find_quantizers(space.quantizer)
        odd = steps.odd_bits()
        for graph in space.graphs:
            target.check(space.options, graph, power_of_two=steps.power_of_two, odd_bits=odd)


def _claims_none(space: Space) -> bool:
    """Networks with float sums, as published, claim no target."""
    return isinstance(space, Precision) and space.template.stream_bits == FLOAT


def train(
    task: Task,
    blueprint: Blueprint,
    plan: TrainPlan = TrainPlan(),  # noqa: B008 - frozen
    *,
    float_state: Mapping[str, Tensor] | None = None,
    state: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    stage: str = "train",
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    watch: Watch = silent,
    history: History | None = None,
) -> Network:
    """Train the network of a blueprint at its low precision.

    Activation steps are calibrated first, except where `state` brings trained ones.

    Args:
        float_state: start from the weights of a trained float network; its steps are calibrated.
        state: start from a whole trained state, such as `Found.state`.
        teacher: the trained network that `plan.distill` learns from.
        checkpoint: file to continue from and to write, every `checkpoint_seconds` and at the end of every epoch.
        history: filled with the curves and what memory it took, if given.

    Raises:
        RecipeError: the network doesn't read such data.
        TrainingError: the loss is not finite.
        RunError: a state of another network.
    """
    _check_data(blueprint.graph, task.data)
    torch.manual_seed(derive(seed, "weights"))
    network = build(blueprint)
    if state is not None:
        load_into(network, state, "the search")
    else:
        if float_state is not None:
            network.load_float(float_state)
        calibrate(network, task.data.training, batch_size=plan.batch_size, seed=derive(seed, "calibrate"))
    done = fit(
        network,
        task,
        plan,
        seed=seed,
        stage=stage,
        teacher=teacher,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
        watch=watch,
    )
    if history is not None:
        history.seconds, history.curves, history.memory = done.seconds, done.curves, done.memory
    return network.eval()


def quantize(
    task: Task,
    blueprint: Blueprint,
    float_state: Mapping[str, Tensor],
    *,
    batches: int = 20,
    batch_size: int = 128,
    seed: int = 0,
) -> Network:
    """The network of a blueprint after training alone: float weights rounded, nothing trained at these bits.

    Steps are calibrated and BatchNorm's statistics re-estimated on training images. What it loses against the float
    network, `train` of the same blueprint usually has to win back: compare both before you rely on either.

    Args:
        float_state: weights of a trained float network, as `Captured.state`.
        batches: for re-estimating BatchNorm.

    Raises:
        RecipeError: the network doesn't read such data.
        RunError: a state of another network.
    """
    _check_data(blueprint.graph, task.data)
    torch.manual_seed(derive(seed, "weights"))
    network = build(blueprint)
    network.load_float(float_state)
    data, seed = task.data.training, derive(seed, "calibrate")
    calibrate(network, data, batch_size=batch_size, seed=seed)
    reestimate_norms(network, data, batches=batches, batch_size=batch_size, seed=seed)
    return network.eval()
