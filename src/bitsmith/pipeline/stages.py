"""The stages that learn: the float network, the searches, the final training of every network found.

Each reads and writes the run folder, skips what is done, and can be run again alone.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from torch import Tensor

from bitsmith.blueprint import FLOAT, Blueprint
from bitsmith.cost import price
from bitsmith.errors import BudgetError, RunError, TrainingError
from bitsmith.executor import PATIENCE, Executor, InProcess, State, Work, run_all
from bitsmith.pipeline import verbs
from bitsmith.pipeline.evaluations import elsewhere, search_start
from bitsmith.pipeline.exported import C_FOLDER, QONNX_FILE
from bitsmith.pipeline.folder import Entry, RunFolder
from bitsmith.pipeline.job import Job, Say, float_network, float_state, quiet
from bitsmith.pipeline.lock import locked
from bitsmith.pipeline.opened import at_hand, opened
from bitsmith.pipeline.traits import summarize_bits
from bitsmith.recipe import dump_recipe
from bitsmith.search import Method, Random, Sensitivity, Uniform
from bitsmith.seeding import derive
from bitsmith.space import precision
from bitsmith.train import (
    History,
    Watch,
    agree,
    evaluate,
    fit,
    load_state,
    save_state,
    silent,
    write_json,
    write_text,
)

BASELINES: dict[str, Method] = {
    "uniform": Uniform(),
    "uniform+fill": Uniform(fill=True),
    "random": Random(),
    "sensitivity": Sensitivity(),
}


def train_float(job: Job, watch: Watch = silent) -> None:
    """Train the float network, where the recipe wants that."""
    plan = job.recipe.float_plan
    if plan is None or job.run.history(job.float_folder) is not None:
        return
    with locked(job.run.path, shared=True), locked(job.float_folder):
        network = float_network(job, job.state)
        history = fit(
            network,
            job.task,
            plan,
            seed=derive(job.recipe.seed, "float"),
            stage="train float",
            checkpoint=job.float_folder / "train.checkpoint",
            checkpoint_seconds=job.recipe.checkpoint_seconds,
            watch=watch,
        )
        _keep_training(job.float_folder, network.state_dict(), history)


def search(
    job: Job,
    watch: Watch = silent,
    say: Say = quiet,
    only: Collection[str] = (),
    *,
    executor: Executor | None = None,
) -> None:
    """Find every network that the recipe wants: its method and the baselines for each budget, and the fixed bits.

    Args:
        only: names of networks ("composite", "w2a8"); the others are left for another time or process.
        executor: where the method latent has its networks evaluated; None: here.
    """
    with locked(job.run.path, shared=bool(only)):
        _search(job, watch, say, only, executor)


def _search(job: Job, watch: Watch, say: Say, only: Collection[str], executor: Executor | None) -> None:
    start = search_start(job)
    for number, budgets in enumerate(job.recipe.budget_sets()):
        wanted = [(job.method, "found"), *((BASELINES[name], "baseline") for name in job.recipe.baselines)]
        for method, kind in wanted:
            entry = Entry(name=method.name, kind=kind, budgets=tuple(map(str, budgets)))  # pyright: ignore[reportArgumentType]
            folder = job.run.folder(entry)
            if (folder / "entry.json").exists() or (only and entry.name not in only):
                continue
            with locked(folder):
                try:
                    found = verbs.search(
                        job.task,
                        job.space,
                        method,
                        budgets,
                        target=job.target,
                        float_state=start,
                        seed=job.recipe.seed,
                        folder=folder,
                        shared=job.run.path / "shared" / method.name,
                        checkpoint_seconds=job.recipe.checkpoint_seconds,
                        watch=watch,
                        elsewhere=elsewhere(job, number, executor, say) if kind == "found" else None,
                    )
                except BudgetError as error:
                    if kind == "found":
                        raise
                    write_json(folder / "left_out.json", {"reason": str(error)})
                    say(f"{entry.title}: left out; {error}")
                    continue
                agree({"network": found.best.to_json()}, f"search {entry.title}")
                if found.state is not None:
                    save_state(found.state, folder / "inherited.safetensors")
                entry = dataclasses.replace(
                    entry,
                    search_epochs=found.epochs,
                    search_seconds=found.seconds,
                    curves=dict(found.curves),
                    memory=dict(found.memory),
                    details=dict(found.details),
                )
                job.run.write_entry(entry, found.best)
                for progress in ("search.checkpoint", "sensitivities.json", "refinement.json"):
                    (folder / progress).unlink(missing_ok=True)
            say(f"{entry.title}: {summarize_bits(found.best)}")
    for text in job.recipe.fixed:
        entry = Entry(name=text, kind="baseline", budgets=())
        if not (job.run.folder(entry) / "entry.json").exists() and (not only or text in only):
            bits = ((int(text[1]),), (int(text[3]),))
            section = job.recipe.space
            ends = FLOAT if job.space.template.stream_bits == FLOAT else section.ends
            pinned = precision(job.space.template, *bits, ends=ends, pins=section.pins, costs=job.space.costs)
            job.run.write_entry(entry, pinned.uniform(bits[0][0], bits[1][0]))


def train(
    job: Job,
    watch: Watch = silent,
    say: Say = quiet,
    only: Collection[str] = (),
    *,
    executor: Executor | None = None,
    show: Callable[[State], None] = lambda state: None,
) -> None:
    """Train every network of the run that isn't yet (or `only` some); all get the same epochs, search included.

    Commands that train `only` some networks may work in one run at a time, each on its own.

    Args:
        watch, say: of networks that are trained in this process.
        executor: where networks are trained; None: here.
        show: told of what goes on there.

    Raises:
        TrainingError: networks failed; the others are trained.
    """
    with locked(job.run.path, shared=bool(only)), at_hand(job):
        works = _to_train(job, only)
        failed = run_all(executor or InProcess(watch, say), works, watch=show, failed=lambda problem: say(str(problem)))
    if failed:
        raise TrainingError(f"{'; '.join(map(str, failed))}. The same command goes on from there")


def _to_train(job: Job, only: Collection[str]) -> list[Work]:
    entries = job.run.entries()
    unknown = set(only) - {entry.name for entry, _ in entries}
    if unknown:
        raise RunError(
            f"no network of this run is called {', '.join(sorted(unknown))}; it has "
            f"{', '.join(dict.fromkeys(entry.name for entry, _ in entries))}"
        )
    longest = max(job.method.epochs, *(entry.search_epochs for entry, _ in entries))
    return [
        Work(
            title=entry.title,
            folder=job.run.folder(entry),
            call="bitsmith.pipeline.stages:do_training",
            arguments={
                "run": str(job.run.path.absolute()),
                "entry": entry.slug,
                "longest": longest,
                "device": job.recipe.train.device,
                "patience": 0.0 if only else PATIENCE,  # others may be at work there, or what a killed command left
            },
        )
        for entry, _ in entries
        if job.run.history(job.run.folder(entry)) is None and (not only or entry.name in only)
    ]


def do_training(watch: Watch, say: Say, *, run: str, entry: str, longest: float, device: str, patience: float) -> None:
    """Train one network of a run, as a trial.

    Args:
        run, entry: its folders.
        longest: epochs of the longest search of the run.
        device: in place of the recipe's.
        patience: see `locked`.
    """
    job = opened(Path(run), say)
    plan = dataclasses.replace(job.recipe.train, device=device)
    job = dataclasses.replace(job, recipe=job.recipe.model_copy(update={"train": plan}))
    found, blueprint = job.run.read_entry(job.run.path / entry)
    with locked(job.run.folder(found), patience=patience):
        if job.run.history(job.run.folder(found)) is None:
            _train_one(job, found, blueprint, longest, watch, say)


def _train_one(job: Job, entry: Entry, blueprint: Blueprint, longest: float, watch: Watch, say: Say) -> None:
    folder, start = job.run.folder(entry), job.recipe.start
    floats = float_state(job) if start != "scratch" or job.recipe.train.distill else None
    # Equal totals: who did not search trains for as many epochs longer.
    plan = dataclasses.replace(job.recipe.train, epochs=job.recipe.train.epochs + round(longest - entry.search_epochs))
    inherited = folder / "inherited.safetensors"
    history = History()
    network = verbs.train(
        job.task,
        blueprint,
        plan,
        float_state=floats if start != "scratch" else None,
        state=load_state(inherited) if start == "search" and inherited.exists() else None,
        seed=derive(job.recipe.seed, "final"),
        stage=f"train {entry.title}",
        teacher=float_network(job, floats) if job.recipe.train.distill and floats is not None else None,
        checkpoint=folder / "train.checkpoint",
        checkpoint_seconds=job.recipe.checkpoint_seconds,
        watch=watch,
        history=history,
    )
    validation, _ = evaluate(network, job.task.data.validation, job.task)
    job.run.add_trial(
        {
            "name": entry.name,
            "budget": entry.budget,
            "bits": {name: [b.weight, b.activation] for name, b in blueprint.bits.items()},
            "costs": price(blueprint.graph, blueprint.bits, job.space.costs),
            "score": validation,
            "metric": job.task.metric_name,
            "epochs": plan.epochs + entry.search_epochs,
            "seconds": history.seconds + entry.search_seconds,
            "seed": job.recipe.seed,
        }
    )
    _keep_training(folder, network.state_dict(), history)
    say(f"{entry.title}: validation {job.task.metric_name} {100 * validation:.2f} %")


def change_lr(run: RunFolder, lr: float) -> None:
    """Another learning rate for the final training, as after a loss that became NaN; written into the run's recipe.

    Checkpoints at the old rate are deleted, so that every network is trained at one rate from its start.

    Raises:
        RunError: a network is trained already: all of a run are compared at equal training.
        RecipeError: the rate is not positive.
    """
    run.recipe()  # is it a run at all?
    with locked(run.path):
        recipe = run.recipe()
        if recipe.train.lr == lr:
            return
        changed = recipe.model_copy(update={"train": dataclasses.replace(recipe.train, lr=lr)})
        entries = run.entries()
        for entry, _ in entries:
            if run.history(run.folder(entry)) is not None:
                raise RunError(
                    f"{entry.title} is already trained at lr {recipe.train.lr:g}, and all networks of a run "
                    f"are compared at equal training; for {lr:g} start a new run folder"
                )
        for entry, _ in entries:
            (run.folder(entry) / "train.checkpoint").unlink(missing_ok=True)
        write_text(run.recipe_file, dump_recipe(changed))


def _keep_training(folder: Path, state: dict[str, Tensor], history: History) -> None:
    """Write weights, then training.json, which says that the training is done; files of other weights go first."""
    for stale in (
        "model.onnx",
        QONNX_FILE,
        "verification.json",
        "outcomes.safetensors",
        "explain.json",
        "model.tflite",
        "speed.json",
    ):
        (folder / stale).unlink(missing_ok=True)
    if (folder / C_FOLDER).exists():
        shutil.rmtree(folder / C_FOLDER)
    save_state(state, folder / "network.safetensors")
    facts = {"seconds": history.seconds, "curves": history.curves, "memory": history.memory}
    write_json(folder / "training.json", facts)
    (folder / "train.checkpoint").unlink(missing_ok=True)
