"""A prepared run: recipe in; data, captured network and space in hand.

Then: float -> search -> train (stages.py) -> export -> verify (artefacts.py) -> report (summary.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitsmith.blueprint import FLOAT, NetworkGraph
from bitsmith.capture import capture
from bitsmith.cost import COSTS, Target, find_target
from bitsmith.data import DataSet, choose_augment, open_data
from bitsmith.errors import BitsmithError, BudgetError, DataError, RecipeError, RunError
from bitsmith.models import load_model
from bitsmith.pipeline import verbs
from bitsmith.pipeline.folder import RunFolder
from bitsmith.quantize import Network, build, float_blueprint
from bitsmith.recipe import Recipe, make_method
from bitsmith.search import Composite, Method
from bitsmith.seeding import derive
from bitsmith.space import Mobile, MobileSpace, Precision, Sequences, blame, narrowed, precision
from bitsmith.train import (
    Task,
    check_noise,
    load_into,
    load_state,
    read_json,
    save_state,
    write_json,
)

Say = Callable[[str], None]


def quiet(message: str) -> None:
    """The Say that says nothing."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A prepared run: data, captured network and space in hand.

    Args:
        graph: captured; of a space of whole networks, its largest.
        state: the captured float weights, as given or as initialized; of a space of whole networks none.
        space: a Precision, a Mobile or Sequences; Any, since most of what is done with it is of one kind.
    """

    run: RunFolder
    recipe: Recipe
    task: Task
    graph: NetworkGraph
    state: dict[str, Tensor]
    space: Any
    target: Target
    method: Method
    notes: tuple[str, ...]

    @property
    def float_folder(self) -> Path:
        return self.run.path / "float"


def open_task(recipe: Recipe, say: Say = quiet) -> Task:
    """The data and the way of scoring of a recipe, with its fallback data where the first can't be had."""
    section = recipe.data

    def opened(source: str) -> DataSet:
        return open_data(
            source,
            shape=section.shape if source == section.source else None,
            seed=recipe.seed,
            limit=section.limit,
            validation=section.validation,
            search=section.search,
            download=section.download,
            skip_bad=section.skip_bad,
        )

    try:
        data = opened(section.source)
    except DataError as error:
        if section.fallback is None:
            raise
        say(f"{error}\nUsing {section.fallback!r} instead.")
        data = opened(section.fallback)
    return Task(
        data=data,
        metric=recipe.task.metric,
        positive=recipe.task.positive,
        label_smoothing=recipe.task.label_smoothing,
        class_weights=recipe.task.class_weights,
        augment=choose_augment(data, section.augment),
    )


def prepare(run: RunFolder, say: Say = quiet) -> Job:
    """Open the data, capture the network (once; later from the folder) and lay out the space."""
    recipe = run.recipe()
    task = open_task(recipe, say)
    if recipe.space.kind != "precision":
        return _prepare_networks(run, recipe, task, say)
    graph_file, weights_file = run.path / "graph.json", run.path / "captured.safetensors"
    if graph_file.exists() and weights_file.exists():
        values = read_json(graph_file, "the captured network")
        try:
            graph, notes = NetworkGraph.from_dict(values["graph"]), tuple(values["notes"])
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
            raise RunError(f"{graph_file} is damaged ({error}); delete it to capture the network again") from error
        state = load_state(weights_file)
        if graph.input_shape != task.data.shape:
            raise RunError(
                f"{graph_file} was captured for inputs of {graph.input_shape}, the data now has {task.data.shape}; "
                "delete it to capture the network again"
            )
    else:
        module, messages = load_model(
            recipe.model.spec,
            classes=len(task.data.classes),
            shape=task.data.shape,
            weights=recipe.model.weights,
            output=recipe.model.output,
            seed=derive(recipe.seed, "model"),
        )
        captured = capture(module, task.data.shape, output=recipe.model.output)
        graph, state, notes = captured.graph, captured.state, (*messages, *captured.notes)
        if recipe.model.width != 1:
            graph, state, note = narrowed_to(recipe, graph, state)
            notes = (*notes, note)
        save_state(state, weights_file)
        write_json(graph_file, {"graph": graph.to_dict(), "notes": list(notes)})
    notes = (*notes, *task.data.notes)
    for note in notes:
        say(note)
    if graph.output_shape != (len(task.data.classes),):
        raise RunError(
            f"the captured network gives outputs of shape {graph.output_shape}, the data has {len(task.data.classes)} "
            "classes; it takes one number per class"
        )
    method, target = make_method(recipe.method), find_target(recipe.target)
    return Job(
        run=run,
        recipe=recipe,
        task=task,
        graph=graph,
        state=state,
        space=make_space(recipe, graph, task.data, method, target),
        target=target,
        method=method,
        notes=notes,
    )


def _prepare_networks(run: RunFolder, recipe: Recipe, task: Task, say: Say) -> Job:
    method, target = make_method(recipe.method), find_target(recipe.target)
    space = make_networks(recipe, task.data, target)
    for note in task.data.notes:
        say(note)
    return Job(
        run=run,
        recipe=recipe,
        task=task,
        graph=space.uniform(8, 8).graph,
        state={},
        space=space,
        target=target,
        method=method,
        notes=tuple(task.data.notes),
    )


def make_networks(recipe: Recipe, data: DataSet, target: Target) -> Mobile | Sequences:
    """The recipe's space of whole networks."""
    description = recipe.space.networks()
    common: dict[str, Any] = {
        "input_shape": data.shape,
        "outputs": len(data.classes),
        "quantizer": recipe.space.quantizer,
        "input": data.input,
        "classes": data.classes,
        "costs": target.costs,
    }
    if isinstance(description, MobileSpace):
        return Mobile(description=description, **common)
    return Sequences(description=description, **common)


def narrowed_to(
    recipe: Recipe, graph: NetworkGraph, state: dict[str, Tensor]
) -> tuple[NetworkGraph, dict[str, Tensor], str]:
    """Graph and weights at the recipe's width, and what to say of it.

    Weights that were given lose the channels that are left out. Others are newly initialized, since the module's own
    were drawn for layers that read more.
    """
    narrow = narrowed(graph, recipe.model.width)
    if recipe.model.weights is not None:
        return narrow.graph, narrow.state(state), f"{narrow.note()}; their given values, to be trained further"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(recipe.seed, "model"))
        return narrow.graph, build(float_blueprint(narrow.graph)).state_dict(), f"{narrow.note()}, newly initialized"


def make_space(recipe: Recipe, graph: NetworkGraph, data: DataSet, method: Method, target: Target) -> Precision:
    """The recipe's space; as published, EdMIPS' own: HWGQ, float ends and float sums."""
    section = recipe.space
    published = isinstance(method, Composite) and method.as_published
    template = verbs.template(
        graph, data, quantizer="hwgq" if published else section.quantizer, stream_bits=FLOAT if published else 8
    )
    return precision(
        template,
        section.weight_bits,
        section.activation_bits,
        ends=FLOAT if published else section.ends,
        pins=section.pins,
        costs=COSTS if published else target.costs,
    )


def check_budgets(job: Job) -> None:
    """Refuse bits that the target can't hold and what the method can't do, before anything is trained.

    Raises:
        RecipeError: naming the layer and the bits, or the method's reason; and the pins, where it is them.
        BudgetError: naming what is reachable and what binds.
    """
    pins = job.recipe.space.pins
    try:
        _check(job, job.space)
    except (RecipeError, BudgetError) as error:
        # ZigZag would take minutes to price the bits that the pins keep out.
        blamed = blame(pins, lambda kept: _fine(job, kept)) if pins and job.target.zigzag is None else ""
        if not blamed:
            raise
        raise type(error)(f"{blamed}: {error}") from error


def _check(job: Job, space: Any) -> None:
    recipe = job.recipe
    verbs.check_target(space, job.target, job.method)
    trained = recipe.start != "scratch" and (recipe.float_plan is not None or recipe.model.trained)
    for budgets in recipe.budget_sets():
        job.method.check(space, budgets, trained=trained)
    if recipe.train.noise:
        check_training_noise(job, space)


def check_training_noise(job: Job, space: Any) -> None:
    """Refuse noise that a final training can't have; for spaces of whole networks, whose depths differ, by quantizer.

    Raises:
        RecipeError: as `check_noise`.
    """
    plan, layers = job.recipe.train, 0
    quantizer = job.recipe.space.quantizer
    if isinstance(space, Precision):
        quantizer = space.template.quantizer
        layers = sum(FLOAT not in options.weight for options in space.options.values())
    check_noise(quantizer, layers=layers, steps=plan.epochs * job.task.data.training.steps(batch_size=plan.batch_size))


def _fine(job: Job, pins: dict[str, Any]) -> bool:
    """Whether the run could be done with these pins in place of its own."""
    section = job.recipe.space.model_copy(update={"pins": pins})
    recipe = job.recipe.model_copy(update={"space": section})
    try:
        _check(job, make_space(recipe, job.graph, job.task.data, job.method, job.target))
    except BitsmithError:
        return False
    return True


def float_state(job: Job) -> dict[str, Tensor] | None:
    """Weights to start from: the trained float network's, else those given in a file, else None."""
    if job.recipe.float_plan is not None:
        return load_state(job.float_folder / "network.safetensors")
    return job.state if job.recipe.model.weights is not None else None


def float_network(job: Job, state: dict[str, Tensor]) -> Network:
    """The float network with given weights, in eval mode."""
    network = build(float_blueprint(job.graph))
    load_into(network, state, "the float network's file")
    return network.eval()
