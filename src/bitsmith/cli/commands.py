"""The command line. Commands are thin: they read options, call the pipeline and print.

Exit codes: 0 done; 1 the input can't be used, a budget can't be met or a file is not what was trained; 2 wrong usage;
130 interrupted.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

import bitsmith
from bitsmith import pipeline
from bitsmith.blueprint import Bits, Budget, format_cost
from bitsmith.capture import capture
from bitsmith.cli.options import (
    ActivationBits,
    AsJson,
    Budgets,
    Data,
    Device,
    Ends,
    Folder,
    Model,
    Only,
    Pins,
    Quiet,
    Seed,
    Shape,
    WeightBits,
    Weights,
    layer_bits,
    override,
    parse_shape,
    plain_number,
    read_blueprint,
    space_section,
    typed_command,
)
from bitsmith.cli.show import announce, err, out, print_check, print_rows, progress, say
from bitsmith.cost import price, tabulate
from bitsmith.errors import BitsmithError, RecipeError, RunError
from bitsmith.models import load_model
from bitsmith.pipeline import Job, RunFolder
from bitsmith.pipeline.estimate import estimate
from bitsmith.pipeline.verbs import EXPORTERS
from bitsmith.recipe import parse_recipe, read_recipe
from bitsmith.search import allocate
from bitsmith.train import read_json

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Search low-precision convolutional networks under hard budgets; get files that run as integers, verified.",
)


class _InterruptedError(BaseException):
    """Ctrl-C; not a KeyboardInterrupt, which typer would answer with a message of its own."""


def _interrupt(*_: object) -> None:
    raise _InterruptedError


def main() -> None:
    """Run the command line; every error is one message."""
    # Libraries talk to developers by warnings; what users must know, we say ourselves.
    warnings.filterwarnings("ignore")
    signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except BitsmithError as error:
        sys.exit(_fail(str(error), 1))
    except _InterruptedError:
        sys.exit(_fail("interrupted; what was finished is kept, and the same command goes on from there", 130))
    except MemoryError:
        sys.exit(_fail("out of memory; use a smaller batch size", 1))
    except OSError as error:
        sys.exit(_fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), 1))


def _fail(message: str, code: int) -> int:
    err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    return code


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        print(bitsmith.__version__)
        raise typer.Exit


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe.")],
    out_folder: Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/RECIPE.")] = None,
    data: Annotated[str | None, typer.Option(help="Another data set than the recipe's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of the final training.")] = None,
    seed: Seed = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """The whole job of a recipe: search, train, export, verify, report. Run again, it goes on where it was."""
    values = override(read_recipe(recipe), data=data, epochs=epochs, seed=seed, device=device)
    folder = RunFolder.create(out_folder or Path("runs") / recipe.stem, values)
    tell = say(quiet or as_json)
    job = pipeline.prepare(folder, tell)
    announce(job, tell)
    with progress(quiet or as_json) as watch:
        pipeline.train_float(job, watch)
        pipeline.search(job, watch, tell)
        pipeline.train(job, watch, tell)
    pipeline.export(folder, say=tell)
    fine = pipeline.verify(job, tell)
    page = pipeline.report(job)
    record = read_json(page.with_suffix(".json"), "the report")
    if as_json:
        print(json.dumps(record, indent=1))
    elif not quiet:
        print_rows(record)
        out.print(f"{escape(record['verdict'])}\nReport: {page}", soft_wrap=True)
    if not fine:
        raise RunError(f"a file does not compute what was trained; see {page}")


@app.command()
def search(
    model: Model,
    data: Data,
    budget: Budgets,
    out_folder: Annotated[Path, typer.Option("--out", help="Run folder to make.")],
    shape: Shape = None,
    weights: Weights = None,
    weight_bits: WeightBits = "2,3,4,8",
    activation_bits: ActivationBits = "8",
    method: Annotated[str, typer.Option(help="composite, uniform, random, or package.module:Name.")] = "composite",
    as_published: Annotated[bool, typer.Option(help="Composite as its paper has it.")] = False,
    pin: Pins = None,
    ends: Ends = "8",
    epochs: Annotated[int | None, typer.Option(help="Epochs of the search.")] = None,
    train_epochs: Annotated[int, typer.Option(help="Epochs of the final training.")] = 30,
    float_epochs: Annotated[int, typer.Option(help="Train the float network first; 0 = don't.")] = 0,
    label_smoothing: Annotated[float, typer.Option(help="0..1.")] = 0.0,
    limit: Annotated[int | None, typer.Option(help="Use at most so many training images.")] = None,
    seed: Seed = 0,
    device: Device = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find bit-widths inside every budget; the first stage of a run folder. Then: bitsmith train FOLDER."""
    settings: dict[str, Any] = {"name": method}
    if method == "composite":
        settings |= {"as_published": as_published}
        if as_published:  # the paper's training: SGD, lr .1, a tenth after every 10 epochs (25 of them)
            settings |= {"plan": {"epochs": epochs or 25, "batch_size": 256}, "architecture_lr": 0.01}
        elif epochs is not None:
            settings |= {"plan": {"epochs": epochs}}
    elif as_published or epochs is not None:
        raise RecipeError(f"--as-published and --epochs belong to --method composite, not to {method!r}")
    values = {
        "name": out_folder.name,
        "model": {"spec": model, "weights": str(weights) if weights else None},
        "data": {"source": data, "shape": parse_shape(shape), "limit": limit},
        "task": {"label_smoothing": label_smoothing},
        "space": space_section(weight_bits, activation_bits, ends, pin),
        "budgets": [budget],
        "method": settings,
        "baselines": [] if method in ("uniform", "random") else ["uniform", "uniform+fill"],
        "float_plan": {"epochs": float_epochs} if float_epochs else None,
        "train": {"epochs": train_epochs},
        "start": "scratch" if as_published else "auto",
    }
    recipe = override(parse_recipe(values, "the options"), seed=seed, device=device)
    folder = RunFolder.create(out_folder, recipe.model_copy(update={"command": typed_command()}))
    tell = say(quiet or as_json)
    job = pipeline.prepare(folder, tell)
    announce(job, tell)
    with progress(quiet or as_json) as watch:
        pipeline.train_float(job, watch)
        pipeline.search(job, watch, tell)
    found = [
        {"name": e.name, "budget": e.budget, "costs": price(b.graph, b.bits), "bits": layer_bits(b)}
        for e, b in folder.entries()
    ]
    if as_json:
        print(json.dumps(found, indent=1))
    elif not quiet:
        out.print(f"Next: bitsmith train {escape(shlex.quote(str(out_folder)))}")


@app.command()
def train(
    folder: Folder,
    only: Only = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Train every searched network of a run folder at its low precision."""
    job = _opened(folder, quiet, device)
    with progress(quiet) as watch:
        pipeline.train_float(job, watch)
        pipeline.train(job, watch, say(quiet), only or ())


@app.command()
def export(
    folder: Folder,
    to: Annotated[str, typer.Option(help=f"Formats: {', '.join(EXPORTERS)}.")] = "onnx",
    quiet: Quiet = False,
) -> None:
    """Write every trained network of a run folder as files that run as integers."""
    run = RunFolder(path=folder)
    run.recipe()
    pipeline.export(run, tuple(to.split(",")), say(quiet))


@app.command()
def verify(folder: Folder, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Prove on test images that the files compute what was trained, layer by layer."""
    job = _opened(folder, quiet or as_json)
    fine = pipeline.verify(job, say(quiet or as_json))
    if as_json:
        print(json.dumps({"ok": fine, "artefacts": _artefacts(job)}, indent=1))
    if not fine:
        raise typer.Exit(1)


def _artefacts(job: Job) -> list[dict[str, Any]]:
    found = []
    for entry, _ in job.run.entries():
        file = job.run.folder(entry) / "verification.json"
        for check in read_json(file, "run bitsmith verify first")["checks"]:
            found.append(
                {
                    "artefact": str(job.run.folder(entry) / check["artefact"]),
                    "images": check["images"],
                    "equal_outputs": min(check["equal_images"].values()),
                    "accuracy": min(check["accuracy_onnxruntime"].values()),
                    "integer_layers": check["integer_layers"],
                    "float_layers": check["float_layers"],
                    "first_difference": check["first_difference"],
                    "problems": check["problems"],
                    "may_saturate_without_vnni": check["flagged"],
                    "ok": check["ok"],
                }
            )
    return found


@app.command()
def report(folder: Folder, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Write report.html and report.json of a verified run folder."""
    page = pipeline.report(_opened(folder, quiet or as_json))
    record = read_json(page.with_suffix(".json"), "the report")
    if as_json:
        print(json.dumps(record, indent=1))
    elif not quiet:
        print_rows(record)
        out.print(f"{escape(record['verdict'])}\nReport: {page}", soft_wrap=True)


@app.command()
def cost(
    model: Annotated[str | None, typer.Option(help="NAME, torchvision:NAME or package.module:function.")] = None,
    shape: Shape = None,
    blueprint: Annotated[Path | None, typer.Option(help="A blueprint.json; alone, or for the bits of --model.")] = None,
    weight_bits: Annotated[int, typer.Option(min=1, max=32, help="Of every layer; 32 = float.")] = 8,
    activation_bits: Annotated[int, typer.Option(min=1, max=32, help="Of every layer; 32 = float.")] = 8,
    as_json: AsJson = False,
) -> None:
    """What a network costs per inference: parameters, bytes, operations, RAM."""
    given = read_blueprint(blueprint) if blueprint else None
    if model is None:
        if given is None:
            raise RecipeError("give --model with --input, or --blueprint FILE")
        graph, bits = given.graph, given.bits
    else:
        wanted = parse_shape(shape)
        if wanted is None:
            raise RecipeError("give the input's shape, such as --input 3x224x224")
        module, _ = load_model(model, classes=None, shape=wanted)
        graph = capture(module, wanted).graph
        bits = {layer.name: Bits(weight=weight_bits, activation=activation_bits) for layer in graph.layers}
        if given is not None:
            if set(given.bits) != set(bits):
                raise RecipeError(f"{blueprint} is of another network than {model}: its layers have other names")
            bits = dict(given.bits)
    costs = price(graph, bits)
    if as_json:
        renamed = {"weights": "weight_bytes", "size": "size_bytes", "ram": "ram_bytes"}
        print(json.dumps({renamed.get(name, name): plain_number(value) for name, value in costs.items()}, indent=1))
        return
    table = Table(title=f"{escape(model or str(blueprint))}: cost per inference")
    table.add_column("cost")
    table.add_column("value", justify="right")
    for name, value in costs.items():
        table.add_row(name, format_cost(name, value))
    out.print(table)


@app.command()
def check(
    model: Model,
    data: Data,
    budget: Budgets,
    shape: Shape = None,
    weights: Weights = None,
    weight_bits: WeightBits = "2,3,4,8",
    activation_bits: ActivationBits = "8",
    pin: Pins = None,
    ends: Ends = "8",
    epochs: Annotated[int, typer.Option(help="Epochs of the search to estimate.")] = 8,
    train_epochs: Annotated[int, typer.Option(help="Epochs of the final training to estimate.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Before any training: does it capture, what is out of reach, what binds, how long will it take."""
    values = {
        "model": {"spec": model, "weights": str(weights) if weights else None},
        "data": {"source": data, "shape": parse_shape(shape)},
        "space": space_section(weight_bits, activation_bits, ends, pin),
        "budgets": [budget],
        "method": {"name": "composite", "plan": {"epochs": epochs}},
        "train": {"epochs": train_epochs},
    }
    recipe = parse_recipe(values, "the options")
    with tempfile.TemporaryDirectory() as folder:
        job = pipeline.prepare(RunFolder.create(Path(folder), recipe))
    rows = []
    for limit in (Budget.parse(text) for text in budget):
        tables = tabulate(limit.cost, job.graph, job.space.options)
        least, most = tables.least(), tables.greatest()
        state = "out of reach" if least > limit.limit else "binds" if most > limit.limit else "always met"
        rows.append(
            {"budget": str(limit), "cost": limit.cost, "limit": limit.limit, "least": least, "most": most}
            | {"decided": tables.decided, "state": state}
        )
    problem = ""
    try:
        free = {
            name: np.zeros((len(options.weight), len(options.activation)))
            for name, options in job.space.options.items()
        }
        allocate(job.space, free, [Budget.parse(text) for text in budget])
    except BitsmithError as error:
        problem = str(error)
    expected = estimate(job)
    result = {
        "ok": not problem,
        "layers": len(job.graph.layers),
        "choices": job.space.count(),
        "notes": list(job.notes),
        "budgets": rows,
        "problem": problem,
        "seconds": {
            "search": expected.search_seconds,
            "train": expected.train_seconds,
            "total": expected.total,
            "networks": expected.networks,
        },
    }
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        print_check(job, rows, expected.total, expected.networks)
        if not problem:
            out.print("Every budget can be met.")
    if problem:
        if not as_json:
            raise BitsmithError(problem)
        raise typer.Exit(1)


def _opened(folder: Path, quiet: bool, device: str | None = None) -> Job:
    run = RunFolder(path=folder)
    job = pipeline.prepare(run, say(quiet))
    return replace(job, recipe=override(job.recipe, device=device)) if device else job
