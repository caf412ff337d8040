"""The whole job from top to bottom: prepare -> float -> search -> train -> export -> verify -> report.

Each stage reads and writes the run folder, skips what is done, and can be run again alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from bitsmith.blueprint import FLOAT, Blueprint, Budget, NetworkGraph
from bitsmith.capture import capture
from bitsmith.cost import price
from bitsmith.data import DataSet, default_augment, open_data
from bitsmith.deploy import Verification
from bitsmith.errors import BudgetError, CaptureError, DataError, RunError
from bitsmith.models import load_model
from bitsmith.pipeline import verbs
from bitsmith.pipeline.folder import Entry, RunFolder
from bitsmith.quantize import build, float_blueprint
from bitsmith.recipe import Recipe, make_method
from bitsmith.search import Composite, Method, Random, Uniform, allocate
from bitsmith.seeding import derive
from bitsmith.space import Precision, precision
from bitsmith.train import (
    History,
    Task,
    Watch,
    evaluate,
    fit,
    load_into,
    load_state,
    read_json,
    save_state,
    silent,
    write_json,
)

Say = Callable[[str], None]
BASELINES: dict[str, Method] = {
    "uniform": Uniform(),
    "uniform+fill": Uniform(fill=True),
    "random": Random(),
}


def quiet(message: str) -> None:
    """The Say that says nothing."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A prepared run: data, captured network and space in hand.

    Args:
        state: the captured float weights, as given or as initialized.
        trained: whether these weights came from a file, so that they are worth starting from.
    """

    run: RunFolder
    recipe: Recipe
    task: Task
    graph: NetworkGraph
    state: dict[str, Tensor]
    space: Precision
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
        label_smoothing=recipe.task.label_smoothing,
        augment=default_augment(data) if section.augment == "default" else None,
    )


def prepare(run: RunFolder, say: Say = quiet) -> Job:
    """Open the data, capture the network (once; later from the folder) and lay out the space."""
    recipe = run.recipe()
    task = open_task(recipe, say)
    graph_file, weights_file = run.path / "graph.json", run.path / "captured.safetensors"
    if graph_file.exists() and weights_file.exists():
        values = read_json(graph_file, "the captured network")
        try:
            graph, notes = NetworkGraph.from_dict(values["graph"]), tuple(values["notes"])
        except (KeyError, TypeError, CaptureError) as error:
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
            seed=derive(recipe.seed, "model"),
        )
        captured = capture(module, task.data.shape)
        graph, state, notes = captured.graph, captured.state, (*messages, *captured.notes)
        save_state(state, weights_file)
        write_json(graph_file, {"graph": graph.to_dict(), "notes": list(notes)})
    for note in notes:
        say(note)
    if graph.output_shape != (len(task.data.classes),):
        raise RunError(
            f"the captured network gives outputs of shape {graph.output_shape}, the data has {len(task.data.classes)} "
            "classes; it takes one number per class"
        )
    method = make_method(recipe.method)
    return Job(
        run=run,
        recipe=recipe,
        task=task,
        graph=graph,
        state=state,
        space=make_space(recipe, graph, task.data, method),
        method=method,
        notes=notes,
    )


def make_space(recipe: Recipe, graph: NetworkGraph, data: DataSet, method: Method) -> Precision:
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
    )


def check_budgets(job: Job) -> None:
    """Refuse budgets that can't be met before anything is trained.

    Raises:
        BudgetError: naming what is reachable and what binds.
    """
    if isinstance(job.method, Composite) and job.method.as_published:
        return  # it enforces none
    free = {n: np.zeros((len(o.weight), len(o.activation))) for n, o in job.space.options.items()}
    for budgets in job.recipe.budget_sets():
        allocate(job.space, free, budgets)


def train_float(job: Job, watch: Watch = silent) -> None:
    """Train the float network, where the recipe wants that."""
    plan = job.recipe.float_plan
    if plan is None or job.run.history(job.float_folder) is not None:
        return
    network = build(float_blueprint(job.graph))
    load_into(network, job.state, "captured.safetensors")
    history = fit(
        network,
        job.task,
        plan,
        seed=derive(job.recipe.seed, "float"),
        stage="train float",
        checkpoint=job.float_folder / "train.checkpoint",
        watch=watch,
    )
    _keep_training(job.float_folder, network.state_dict(), history)


def float_state(job: Job) -> dict[str, Tensor] | None:
    """Weights to start from: the trained float network's, else those given in a file, else None."""
    if job.recipe.float_plan is not None:
        return load_state(job.float_folder / "network.safetensors")
    return job.state if job.recipe.model.weights is not None else None


def search(job: Job, watch: Watch = silent, say: Say = quiet, only: Collection[str] = ()) -> None:
    """Find every network that the recipe wants: its method and the baselines for each budget, and the fixed bits.

    Args:
        only: names of networks ("composite", "w2a8"); the others are left for another time or process.
    """
    start = float_state(job) if job.recipe.start != "scratch" else None
    for budgets in job.recipe.budget_sets():
        wanted = [(job.method, "found"), *((BASELINES[name], "baseline") for name in job.recipe.baselines)]
        for method, kind in wanted:
            entry = Entry(name=method.name, kind=kind, budgets=tuple(map(str, budgets)))  # pyright: ignore[reportArgumentType]
            folder = job.run.folder(entry)
            if (folder / "entry.json").exists() or (only and entry.name not in only):
                continue
            try:
                found = verbs.search(
                    job.task,
                    job.space,
                    method,
                    budgets,
                    target=job.recipe.target,
                    float_state=start,
                    seed=job.recipe.seed,
                    folder=folder,
                    watch=watch,
                )
            except BudgetError as error:
                if kind == "found":
                    raise
                write_json(folder / "left_out.json", {"reason": str(error)})
                say(f"{entry.title}: left out; {error}")
                continue
            if found.state is not None:
                save_state(found.state, folder / "inherited.safetensors")
            entry = dataclasses.replace(
                entry,
                search_epochs=found.epochs,
                search_seconds=found.seconds,
                curves=dict(found.curves),
                details=dict(found.details),
            )
            job.run.write_entry(entry, found.best)
            (folder / "search.checkpoint").unlink(missing_ok=True)
            say(f"{entry.title}: {summarize_bits(found.best)}")
    for text in job.recipe.fixed:
        entry = Entry(name=text, kind="baseline", budgets=())
        if not (job.run.folder(entry) / "entry.json").exists() and (not only or text in only):
            bits = ((int(text[1]),), (int(text[3]),))
            section = job.recipe.space
            ends = FLOAT if job.space.template.stream_bits == FLOAT else section.ends
            pinned = precision(job.space.template, *bits, ends=ends, pins=section.pins)
            job.run.write_entry(entry, pinned.uniform(bits[0][0], bits[1][0]))


def train(job: Job, watch: Watch = silent, say: Say = quiet, only: Collection[str] = ()) -> None:
    """Train every network of the run that isn't yet (or `only` some); all get the same epochs, search included."""
    start = job.recipe.start
    floats = float_state(job) if start != "scratch" else None
    entries = job.run.entries()
    unknown = set(only) - {entry.name for entry, _ in entries}
    if unknown:
        raise RunError(
            f"no network of this run is called {', '.join(sorted(unknown))}; it has "
            f"{', '.join(dict.fromkeys(entry.name for entry, _ in entries))}"
        )
    longest = max(job.method.epochs, *(entry.search_epochs for entry, _ in entries))
    for entry, blueprint in entries:
        folder = job.run.folder(entry)
        if job.run.history(folder) is not None or (only and entry.name not in only):
            continue
        # Equal totals: who did not search trains for as many epochs longer.
        plan = dataclasses.replace(
            job.recipe.train, epochs=job.recipe.train.epochs + round(longest - entry.search_epochs)
        )
        inherited = folder / "inherited.safetensors"
        history = History()
        network = verbs.train(
            job.task,
            blueprint,
            plan,
            float_state=floats,
            state=load_state(inherited) if start == "search" and inherited.exists() else None,
            seed=derive(job.recipe.seed, "final"),
            stage=f"train {entry.title}",
            checkpoint=folder / "train.checkpoint",
            watch=watch,
            history=history,
        )
        _keep_training(folder, network.state_dict(), history)
        validation, _ = evaluate(network, job.task.data.validation, job.task)
        job.run.add_trial(
            {
                "name": entry.name,
                "budget": entry.budget,
                "bits": {name: [b.weight, b.activation] for name, b in blueprint.bits.items()},
                "costs": price(blueprint.graph, blueprint.bits),
                "score": validation,
                "metric": job.task.metric_name,
                "epochs": plan.epochs + entry.search_epochs,
                "seconds": history.seconds + entry.search_seconds,
                "seed": job.recipe.seed,
            }
        )
        say(f"{entry.title}: validation {job.task.metric_name} {100 * validation:.2f} %")


def _keep_training(folder: Path, state: dict[str, Tensor], history: History) -> None:
    """Write weights, then training.json, which says that the training is done."""
    save_state(state, folder / "network.safetensors")
    write_json(folder / "training.json", {"seconds": history.seconds, "curves": history.curves})
    (folder / "train.checkpoint").unlink(missing_ok=True)


def export(run: RunFolder, formats: tuple[str, ...] = ("onnx",), say: Say = quiet) -> None:
    """Write the artefacts of every trained network; float networks have none and are named."""
    for entry, blueprint in run.entries():
        folder = run.folder(entry)
        if run.history(folder) is None:
            raise RunError(f"{entry.title} is not trained yet; run bitsmith train {run.path} first")
        if not is_integer(blueprint):
            say(f"{entry.title}: has float layers by its method, so there is no integer file to write")
            continue
        files = verbs.export(verbs.load(folder), folder, formats)
        for name, path in files.artefacts.items():
            say(f"{entry.title}: {name} {path} ({path.stat().st_size:,} bytes)")


def is_integer(blueprint: Blueprint) -> bool:
    """Whether every layer of a blueprint is quantized."""
    widths = [width for bits in blueprint.bits.values() for width in (bits.weight, bits.activation)]
    return FLOAT not in (*widths, blueprint.stream_bits)


def verify(job: Job, say: Say = quiet) -> bool:
    """Verify every artefact on test images; writes verification.json. False where one is not what was trained."""
    fine = True
    for entry, blueprint in job.run.entries():
        folder = job.run.folder(entry)
        if not is_integer(blueprint):
            network = verbs.load(folder)
            score, _ = evaluate(network, job.task.data.test, job.task)
            write_json(folder / "verification.json", {"test": score, "source": "torch", "checks": []})
            continue
        if not (folder / "model.onnx").exists():
            raise RunError(f"{folder / 'model.onnx'} is missing; run bitsmith export {job.run.path} first")
        checked = verbs.verify(folder, job.task.data.test, limit=job.recipe.verify_images)
        fine = fine and checked.ok
        values = dataclasses.asdict(checked) | {"ok": checked.ok, "artefact": "model.onnx"}
        score = min(checked.accuracy_onnxruntime.values())  # equal at all levels where the file is right
        write_json(folder / "verification.json", {"test": score, "source": "onnx", "checks": [values]})
        say(f"{entry.title}: {describe(checked)}")
    if job.run.history(job.float_folder) is not None:
        network = build(float_blueprint(job.graph))
        load_into(network, load_state(job.float_folder / "network.safetensors"), str(job.float_folder))
        score, _ = evaluate(network, job.task.data.test, job.task)
        write_json(job.float_folder / "verification.json", {"test": score, "source": "torch", "checks": []})
    return fine


def describe(checked: Verification) -> str:
    """A verification in a sentence."""
    accuracy = 100 * checked.accuracy_reference
    if checked.ok:
        flagged = f"; on x86 without VNNI {', '.join(checked.flagged)} may differ" if checked.flagged else ""
        return (
            f"verified on {checked.images:,} images, {accuracy:.2f} %, "
            f"all {checked.integer_layers} layers as integers{flagged}"
        )
    return f"NOT VERIFIED on {checked.images:,} images: " + "; ".join(checked.problems)


def summarize_bits(blueprint: Blueprint) -> str:
    """Short text of a blueprint's bits: "w2a8", or "w1-8 a8" where they differ."""

    def spread(values: list[int]) -> str:
        low, high = min(values), max(values)
        return str(low) if low == high else f"{low}-{high}"

    inner = list(blueprint.bits.values())
    weight, activation = spread([b.weight for b in inner]), spread([b.activation for b in inner])
    return f"w{weight} a{activation}"


def meets(blueprint: Blueprint, budgets: Iterable[Budget]) -> dict[str, bool]:
    """Budget text -> whether a blueprint is inside."""
    costs = price(blueprint.graph, blueprint.bits)
    return {str(budget): costs[budget.cost] <= budget.limit for budget in budgets}
