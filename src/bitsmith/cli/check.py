"""check: before any training, can it be done at all."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bitsmith import pipeline
from bitsmith.blueprint import fronts
from bitsmith.capture import capture
from bitsmith.cli.app import app
from bitsmith.cli.method_options import method_section
from bitsmith.cli.options import (
    ActivationBits,
    AsJson,
    ClassWeights,
    Download,
    Ends,
    Limit,
    MethodName,
    MetricName,
    Output,
    Pins,
    Positive,
    Quantizer,
    Shape,
    SkipBad,
    TargetName,
    WeightBits,
    Weights,
    Width,
    parse_class_weights,
    parse_shape,
    space_section,
)
from bitsmith.cli.settings import build, override
from bitsmith.cli.show import out, print_check, print_fit, progress
from bitsmith.cost import check_budgets, find_target
from bitsmith.data import open_data
from bitsmith.errors import BitsmithError, RecipeError
from bitsmith.models import load_model
from bitsmith.pipeline import Job, RunFolder
from bitsmith.pipeline.estimate import estimate
from bitsmith.pipeline.reach import Reach, problem_of, reach
from bitsmith.pipeline.verbs import bare_template
from bitsmith.recipe import Recipe, SpaceSection, read_recipe, suited_space
from bitsmith.space import Pin, Precision, blame, narrowed, precision


@app.command()
def check(
    recipe: Annotated[Path | None, typer.Argument(help="A YAML recipe, in place of --model, --data, --budget.")] = None,
    model: Annotated[str | None, typer.Option(help="NAME, torchvision:NAME or package.module:function.")] = None,
    data: Annotated[str | None, typer.Option(help="digits, fashion-mnist, folder:PATH, npy:FOLDER, ...")] = None,
    budget: Annotated[list[str] | None, typer.Option("--budget", help="As size=20kB or size=10,15,20kB.")] = None,
    target: TargetName = None,
    shape: Shape = None,
    weights: Weights = None,
    output: Output = None,
    width: Width = None,
    limit: Limit = None,
    skip_bad: SkipBad = False,
    download: Download = False,
    metric: MetricName = None,
    positive: Positive = None,
    class_weights: ClassWeights = None,
    weight_bits: WeightBits = None,
    activation_bits: ActivationBits = None,
    pin: Pins = None,
    ends: Ends = None,
    quantizer: Quantizer = None,
    method: MethodName = "composite",
    epochs: Annotated[int | None, typer.Option(help="Epochs of the search to estimate.")] = None,
    train_epochs: Annotated[int | None, typer.Option(help="Epochs of the final training to estimate.")] = None,
    float_epochs: Annotated[int | None, typer.Option(help="Epochs of the float network's training.")] = None,
    as_json: AsJson = False,
) -> None:
    """Before any training: does it capture, does it fit the target, what is out of reach, how long will it take.

    Without data or budgets (--model and --input alone) it says what the network can cost on the target.
    """
    space = space_section(weight_bits, activation_bits, ends, pin) | ({"quantizer": quantizer} if quantizer else {})
    if recipe is None and (data is None or not budget):
        if model is None:
            raise RecipeError(
                "give a recipe, or --model with --input (a target alone), or --model, --data and --budget"
            )
        found = _opened(data, parse_shape(shape), limit, skip_bad, download) if data else (None, parse_shape(shape), ())
        _check_fit(model, found, weights, output, width, space, target or "onnx", budget or [], as_json)
        return
    common: dict[str, Any] = {"model": model, "data": data, "shape": parse_shape(shape), "weights": weights}
    common |= {"output": output, "width": width, "limit": limit, "metric": metric, "float_epochs": float_epochs}
    common |= {"positive": positive, "class_weights": parse_class_weights(class_weights)}
    common |= {"skip_bad": skip_bad or None, "download": download or None, "epochs": train_epochs}
    if recipe is not None:
        read = read_recipe(recipe, target=target, space=space, budgets=[budget] if budget else None)
        wanted = override(read, budget=[budget] if budget else None, **common)
    else:
        values = {"space": space, "budgets": [budget], "method": method_section(method, False, epochs)}
        wanted = build(values, target=target, **common)
    _check_run(wanted, as_json)


def _check_run(wanted: Recipe, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        job = pipeline.prepare(RunFolder.create(Path(folder), wanted))
    with progress(as_json) as watch:
        pipeline.estimate_ahead(job, watch)
    lines = [budget for line in wanted.budget_sets() for budget in line]
    rows = [row for row in reach(job.space, lines, job.method) if row.budget]
    problem, expected = _problem(job), estimate(job)
    result = {
        "ok": not problem,
        "target": job.target.name,
        "space": job.space.kind,
        "layers": len(job.graph.layers),
        "choices": job.space.count(),
        "notes": list(job.notes),
        "method": job.method.name,
        "budgets": [_row(row) for row in rows],
        "refused": list(dict.fromkeys(text for graph in job.space.graphs for text in job.target.refused(graph))),
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
    _end(problem, as_json)


def _check_fit(
    model: str,
    found: tuple[int | None, tuple[int, int, int] | None, tuple[str, ...]],
    weights: Path | None,
    output: str | None,
    width: float | None,
    given: dict[str, Any],
    target: str,
    budgets: list[str],
    as_json: bool,
) -> None:
    """What a network alone can cost on a target: nothing is trained, no image is looked at."""
    classes, shape, notes = found
    if shape is None:
        raise RecipeError("give the input's shape, such as --input 3x224x224, or --data")
    device = find_target(target)
    lines = [device.within(line) for line in fronts(*budgets)]
    for line in lines:
        check_budgets(device, line)
    section = SpaceSection.model_validate(suited_space(device) | given)
    module, messages = load_model(model, classes=classes, shape=shape, weights=weights, output=output)
    captured = capture(module, shape, output=output)
    narrow = None if width is None else narrowed(captured.graph, width)
    graph = captured.graph if narrow is None else narrow.graph

    def laid_out(pins: Mapping[str, Pin]) -> Precision:
        return precision(
            bare_template(graph, section.quantizer),
            section.weight_bits,
            section.activation_bits,
            ends=section.ends,
            pins=pins,
            costs=device.costs,
        )

    def problem_with(space: Precision) -> str:
        return "; ".join(dict.fromkeys(text for line in lines if (text := problem_of(space, device, line))))

    space = laid_out(section.pins)
    with progress(as_json) as watch:
        pipeline.price_ahead(device, graph, space.options, watch)
    problem = problem_with(space)
    if problem and section.pins and device.zigzag is None:
        blamed = blame(section.pins, lambda kept: not problem_with(laid_out(kept)))
        problem = f"{blamed}: {problem}" if blamed else problem
    try:
        rows = reach(space, [budget for line in lines for budget in line])
    except BitsmithError as error:  # bits without a price, such as float ones: the target's own reason goes first
        raise BitsmithError(problem or str(error)) from error
    refused = device.refused(graph)
    result = {
        "ok": not problem,
        "target": device.name,
        "layers": len(graph.layers),
        "choices": space.count(),
        "notes": [*notes, *messages, *captured.notes, *([narrow.note()] if narrow else [])],
        "costs": [_row(row) for row in rows],
        "refused": refused,
        "problem": problem,
    }
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        print_fit(space, device, rows, result["notes"])
        if not problem:
            limited = any(row.budget for row in rows)
            out.print("It fits: every limit can be met." if limited else "No limits are given; the target holds it.")
    _end(problem, as_json)


def _opened(
    data: str, shape: tuple[int, int, int] | None, limit: int | None, skip_bad: bool, download: bool
) -> tuple[int, tuple[int, int, int], tuple[str, ...]]:
    """Number of classes, shape of the input, notes."""
    opened = open_data(data, shape=shape, limit=limit, skip_bad=skip_bad, download=download)
    return len(opened.classes), opened.shape, tuple(opened.notes)


def _row(row: Reach) -> dict[str, Any]:
    limit = row.budget
    return {
        "budget": None if limit is None else str(limit),
        "cost": row.cost,
        "limit": None if limit is None else limit.limit,
        "least": row.least,
        "most": row.most,
        "decided": row.decided,
        "state": row.state,
    }


def _problem(job: Job) -> str:
    """Why the run can't be done, or ""."""
    try:
        pipeline.check_budgets(job)
    except BitsmithError as error:
        return str(error)
    return ""


def _end(problem: str, as_json: bool) -> None:
    if problem and not as_json:
        raise BitsmithError(problem)
    if problem:
        raise typer.Exit(1)
