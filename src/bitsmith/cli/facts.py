"""Commands that write nothing: cost, check."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from bitsmith import pipeline
from bitsmith.blueprint import FLOAT, Bits, Blueprint, format_cost
from bitsmith.capture import capture
from bitsmith.cli.app import app
from bitsmith.cli.jobs import method_section
from bitsmith.cli.options import (
    ActivationBits,
    AsJson,
    Ends,
    Output,
    Pins,
    Shape,
    WeightBits,
    Weights,
    parse_shape,
    space_section,
)
from bitsmith.cli.settings import build, override
from bitsmith.cli.show import out, print_check
from bitsmith.cost import price, tabulate
from bitsmith.errors import BitsmithError, RecipeError, RunError
from bitsmith.models import load_model
from bitsmith.pipeline import Job, RunFolder
from bitsmith.pipeline.estimate import estimate
from bitsmith.recipe import Recipe, read_recipe

BitsOption = typer.Option(min=1, max=FLOAT, help="Of every layer; 32 = float.")


@app.command()
def cost(
    model: Annotated[str | None, typer.Option(help="NAME, torchvision:NAME or package.module:function.")] = None,
    shape: Shape = None,
    output: Output = None,
    blueprint: Annotated[Path | None, typer.Option(help="A blueprint.json; alone, or for the bits of --model.")] = None,
    weight_bits: Annotated[int, BitsOption] = 8,
    activation_bits: Annotated[int, BitsOption] = 8,
    as_json: AsJson = False,
) -> None:
    """What a network costs per inference: parameters, bytes, operations, RAM."""
    given = _read_blueprint(blueprint) if blueprint else None
    if model is None:
        if given is None:
            raise RecipeError("give --model with --input, or --blueprint FILE")
        graph, bits = given.graph, given.bits
    else:
        wanted = parse_shape(shape)
        if wanted is None:
            raise RecipeError("give the input's shape, such as --input 3x224x224")
        module, _ = load_model(model, classes=None, shape=wanted, output=output)
        graph = capture(module, wanted, output=output).graph
        bits = {layer.name: Bits(weight=weight_bits, activation=activation_bits) for layer in graph.layers}
        if given is not None:
            if set(given.bits) != set(bits):
                raise RecipeError(f"{blueprint} is of another network than {model}: its layers have other names")
            bits = dict(given.bits)
    costs = price(graph, bits)
    if as_json:
        renamed = {"weights": "weight_bytes", "size": "size_bytes", "ram": "ram_bytes"}
        print(json.dumps({renamed.get(name, name): _plain(value) for name, value in costs.items()}, indent=1))
        return
    table = Table(title=f"{escape(model or str(blueprint))}: cost per inference")
    table.add_column("cost")
    table.add_column("value", justify="right")
    for name, value in costs.items():
        table.add_row(name, format_cost(name, value))
    out.print(table)


@app.command()
def check(
    recipe: Annotated[Path | None, typer.Argument(help="A YAML recipe, in place of --model, --data, --budget.")] = None,
    model: Annotated[str | None, typer.Option(help="NAME, torchvision:NAME or package.module:function.")] = None,
    data: Annotated[str | None, typer.Option(help="digits, fashion-mnist, folder:PATH, npy:FOLDER, ...")] = None,
    budget: Annotated[list[str] | None, typer.Option("--budget", help="As size=20kB or size=10,15,20kB.")] = None,
    shape: Shape = None,
    weights: Weights = None,
    output: Output = None,
    weight_bits: WeightBits = "2,3,4,8",
    activation_bits: ActivationBits = "8",
    pin: Pins = None,
    ends: Ends = "8",
    method: Annotated[str, typer.Option(help="The search to estimate.")] = "composite",
    epochs: Annotated[int | None, typer.Option(help="Epochs of the search to estimate.")] = None,
    train_epochs: Annotated[int | None, typer.Option(help="Epochs of the final training to estimate.")] = None,
    as_json: AsJson = False,
) -> None:
    """Before any training: does it capture, what is out of reach, what binds, how long will it take."""
    common = {"model": model, "data": data, "shape": parse_shape(shape), "weights": weights, "output": output}
    if recipe is not None:
        wanted = override(read_recipe(recipe), budget=[budget] if budget else None, epochs=train_epochs, **common)
    elif model is None or data is None or not budget:
        raise RecipeError("give a recipe, or --model, --data and --budget")
    else:
        values = {
            "space": space_section(weight_bits, activation_bits, ends, pin),
            "budgets": [budget],
            "method": method_section(method, False, epochs),
        }
        wanted = build(values, epochs=train_epochs, **common)
    with tempfile.TemporaryDirectory() as folder:
        job = pipeline.prepare(RunFolder.create(Path(folder), wanted))
    rows, problem = _reach(job, wanted), _problem(job)
    expected = estimate(job)
    result = {
        "ok": not problem,
        "layers": len(job.graph.layers),
        "choices": job.space.count(),
        "notes": list(job.notes),
        "method": job.method.name,
        "budgets": rows,
        "problem": problem,
        "seconds": {
            "float": expected.float_seconds,
            "search": expected.search_seconds,
            "train": expected.train_seconds,
            "total": expected.total,
            "networks": expected.networks,
        },
    }
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        print_check(job, rows, expected)
        if not problem:
            out.print("Every budget can be met.")
    if problem:
        if not as_json:
            raise BitsmithError(problem)
        raise typer.Exit(1)


def _reach(job: Job, recipe: Recipe) -> list[dict[str, Any]]:
    """What each budget by itself leaves of the space."""
    rows = []
    for limit in dict.fromkeys(budget for line in recipe.budget_sets() for budget in line):
        tables = tabulate(limit.cost, job.graph, job.space.options)
        least, most = tables.least(), tables.greatest()
        state = "out of reach" if least > limit.limit else "binds" if most > limit.limit else "always met"
        rows.append(
            {"budget": str(limit), "cost": limit.cost, "limit": limit.limit, "least": least, "most": most}
            | {"decided": tables.decided, "state": state}
        )
    return rows


def _problem(job: Job) -> str:
    """Why the run can't be done, or ""."""
    try:
        pipeline.check_budgets(job)
    except BitsmithError as error:
        return str(error)
    return ""


def _read_blueprint(path: Path) -> Blueprint:
    try:
        return Blueprint.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"can't read the blueprint {path}: {error}") from error


def _plain(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value
