"""cost: what a network costs, written or given as a blueprint."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from bitsmith.blueprint import FLOAT, Bits, Blueprint, format_cost, json_name, prune
from bitsmith.capture import capture
from bitsmith.cli.app import app
from bitsmith.cli.options import AsJson, Output, Shape, TargetName, Width, parse_shape
from bitsmith.cli.show import out
from bitsmith.cost import costs_at_streams, find_target, price
from bitsmith.errors import RecipeError, RunError
from bitsmith.models import load_model
from bitsmith.space import narrowed

BitsOption = typer.Option(min=1, max=FLOAT, help="Of every layer; 32 = float.")


@app.command()
def cost(
    model: Annotated[str | None, typer.Option(help="NAME, torchvision:NAME or package.module:function.")] = None,
    shape: Shape = None,
    output: Output = None,
    width: Width = None,
    blueprint: Annotated[Path | None, typer.Option(help="A blueprint.json; alone, or for the bits of --model.")] = None,
    weight_bits: Annotated[int, BitsOption] = 8,
    activation_bits: Annotated[int, BitsOption] = 8,
    target: TargetName = None,
    as_json: AsJson = False,
) -> None:
    """What a network costs per inference: parameters, bytes, operations, RAM; energy and latency on a --target."""
    given = _read_blueprint(blueprint) if blueprint else None
    if model is None:
        if given is None:
            raise RecipeError("give --model with --input, or --blueprint FILE")
        given = prune(given).blueprint  # without the filters that it removes
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
            given = prune(dataclasses.replace(given, graph=graph)).blueprint
            graph, bits = given.graph, dict(given.bits)
    narrow = None if width is None else narrowed(graph, width)
    graph = graph if narrow is None else narrow.graph
    known = find_target(target or "onnx").costs
    costs = price(graph, bits, known if given is None else costs_at_streams(given.stream_bits, known))
    if as_json:
        print(json.dumps({json_name(name): _plain(value) for name, value in costs.items()}, indent=1))
        return
    if narrow is not None:
        out.print(f"note: {narrow.note()}", soft_wrap=True)
    table = Table(title=f"{escape(model or str(blueprint))}: cost per inference")
    table.add_column("cost")
    table.add_column("value", justify="right")
    for name, value in costs.items():
        table.add_row(name, format_cost(name, value))
    out.print(table)


def _read_blueprint(path: Path) -> Blueprint:
    try:
        return Blueprint.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"can't read the blueprint {path}: {error}") from error


def _plain(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value
