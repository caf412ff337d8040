"""Commands that make a run folder and learn in it: run and search."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from bitsmith import pipeline
from bitsmith.cli.app import app
from bitsmith.cli.executors import Address, ExecutorName, Workers, require_place, shared_out, training_place
from bitsmith.cli.method_options import method_section, require_storage, require_trials
from bitsmith.cli.options import (
    ActivationBits,
    Arithmetic,
    AsJson,
    AugmentWord,
    Budgets,
    ClassWeights,
    Compile,
    Data,
    Device,
    Distill,
    Download,
    Ema,
    Ends,
    Limit,
    Lr,
    MethodName,
    MetricName,
    Output,
    Pins,
    Positive,
    Quantizer,
    Quiet,
    Seed,
    Shape,
    SkipBad,
    SpaceName,
    Storage,
    TargetName,
    WeightBits,
    Weights,
    Width,
    parse_class_weights,
    parse_shape,
    preset_section,
    space_section,
)
from bitsmith.cli.settings import build, override
from bitsmith.cli.show import announce, out, print_report, progress, say
from bitsmith.cost import price
from bitsmith.errors import RunError
from bitsmith.pipeline import Job
from bitsmith.recipe import FILLED, read_recipe
from bitsmith.search import Latent
from bitsmith.train import processes


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe.")],
    out_folder: Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/RECIPE.")] = None,
    data: Annotated[str | None, typer.Option(help="Another data set than the recipe's.")] = None,
    shape: Shape = None,
    width: Width = None,
    limit: Limit = None,
    augment: AugmentWord = None,
    skip_bad: SkipBad = False,
    download: Download = False,
    epochs: Annotated[int | None, typer.Option(help="Epochs of the final training.")] = None,
    lr: Lr = None,
    distill: Distill = None,
    ema: Ema = None,
    target: TargetName = None,
    storage: Storage = None,
    seed: Seed = None,
    device: Device = None,
    compile_mode: Compile = None,
    precision: Arithmetic = None,
    workers: Workers = None,
    executor: ExecutorName = None,
    address: Address = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """The whole job of a recipe: search, train, export, verify, report. Run again, it goes on where it was."""
    require_place(executor, workers, address)
    read = read_recipe(recipe, target=target)
    require_storage(storage, read.method)
    values = override(
        read,
        data=data,
        shape=parse_shape(shape),
        width=width,
        limit=limit,
        augment=augment,
        skip_bad=skip_bad or None,
        download=download or None,
        epochs=epochs,
        lr=lr,
        distill=distill,
        ema=ema,
        storage=storage,
        seed=seed,
        device=device,
        compile=compile_mode,
        precision=precision,
    )
    tell = say(quiet or as_json)
    with pipeline.begun(out_folder or Path("runs") / recipe.stem, values) as folder:
        job = pipeline.prepare(folder, tell)
        with progress(quiet or as_json) as watch:
            pipeline.estimate_ahead(job, watch)
        announce(job, tell)
        shares = isinstance(job.method, Latent)
        with progress(quiet or as_json) as watch:
            pipeline.train_float(job, watch)
            if not shares:
                pipeline.search(job, watch, tell)
        with shared_out(executor, workers, address) as where:
            if shares:
                with progress(quiet or as_json) as watch:
                    pipeline.search(job, watch, tell, executor=where)
            with training_place(where, quiet or as_json) as at:
                pipeline.train(job, at.watch, tell, executor=at.executor, show=at.show)
        if processes().rank == 0:
            prove(job, quiet, as_json)


@app.command()
def search(
    data: Data,
    budget: Budgets,
    out_folder: Annotated[Path, typer.Option("--out", help="Run folder to make.")],
    model: Annotated[str | None, typer.Option(help="NAME, torchvision:NAME or package.module:function.")] = None,
    space: SpaceName = None,
    shape: Shape = None,
    weights: Weights = None,
    output: Output = None,
    width: Width = None,
    limit: Limit = None,
    augment: AugmentWord = None,
    skip_bad: SkipBad = False,
    download: Download = False,
    metric: MetricName = None,
    positive: Positive = None,
    class_weights: ClassWeights = None,
    label_smoothing: Annotated[float | None, typer.Option(help="0..1.")] = None,
    weight_bits: WeightBits = None,
    activation_bits: ActivationBits = None,
    pin: Pins = None,
    ends: Ends = None,
    quantizer: Quantizer = None,
    target: TargetName = None,
    method: MethodName = "composite",
    as_published: Annotated[bool, typer.Option(help="As the method's paper has it.")] = False,
    storage: Storage = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Networks that latent proposes at once, such as one for each worker.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of the search.")] = None,
    train_epochs: Annotated[int | None, typer.Option(help="Epochs of the final training.")] = None,
    float_epochs: Annotated[int | None, typer.Option(help="Train the float network first; default: don't.")] = None,
    lr: Lr = None,
    distill: Distill = None,
    ema: Ema = None,
    seed: Seed = None,
    device: Device = None,
    compile_mode: Compile = None,
    precision: Arithmetic = None,
    workers: Workers = None,
    executor: ExecutorName = None,
    address: Address = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find bit-widths inside every budget; the first stage of a run folder. Then: bitsmith train FOLDER."""
    require_place(executor, workers, address)
    searched = method_section(method, as_published, epochs, batch)
    require_storage(storage, searched)
    require_trials(workers, executor, searched | ({"storage": storage} if storage else {}))
    recipe = build(
        {
            "name": out_folder.resolve().name,
            "space": preset_section(model, space) | space_section(weight_bits, activation_bits, ends, pin),
            "budgets": [budget],
            "method": searched,
            "baselines": [] if method in ("uniform", FILLED, "random") else ["uniform", FILLED],
            "start": "scratch" if as_published else "auto",
        },
        model=model,
        weights=weights,
        output=output,
        width=width,
        data=data,
        shape=parse_shape(shape),
        limit=limit,
        augment=augment,
        skip_bad=skip_bad or None,
        download=download or None,
        metric=metric,
        positive=positive,
        class_weights=parse_class_weights(class_weights),
        label_smoothing=label_smoothing,
        quantizer=quantizer,
        target=target,
        epochs=train_epochs,
        float_epochs=float_epochs or None,
        lr=lr,
        distill=distill,
        ema=ema,
        storage=storage,
        seed=seed,
        device=device,
        compile=compile_mode,
        precision=precision,
    )
    tell = say(quiet or as_json)
    with pipeline.begun(out_folder, recipe) as folder:
        job = pipeline.prepare(folder, tell)
        with progress(quiet or as_json) as watch:
            pipeline.estimate_ahead(job, watch)
        announce(job, tell)
        with progress(quiet or as_json) as watch:
            pipeline.train_float(job, watch)
            with shared_out(executor, workers, address) as where:
                pipeline.search(job, watch, tell, executor=where)
    if as_json:
        found = [
            {
                "name": entry.name,
                "budget": entry.budget,
                "costs": price(blueprint.graph, blueprint.bits, job.space.costs),
                "bits": {name: [bits.weight, bits.activation] for name, bits in blueprint.bits.items()},
            }
            for entry, blueprint in folder.entries()
        ]
        print(json.dumps(found, indent=1))
    elif not quiet:
        out.print(f"Next: bitsmith train {escape(shlex.quote(str(out_folder)))}", soft_wrap=True)


def prove(job: Job, quiet: bool, as_json: bool) -> None:
    """The stages after the last weight is set: export, verify, report."""
    tell = say(quiet or as_json)
    pipeline.export(job.run, say=tell, data=job.task.data)
    fine = pipeline.verify(job, tell)
    page = pipeline.report(job)
    print_report(page, quiet, as_json)
    if not fine:
        raise RunError(f"a file does not compute what was trained; see {page}")
