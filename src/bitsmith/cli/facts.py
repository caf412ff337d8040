"""cost: what a network costs, written or given as a blueprint."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from bitsmith.blueprint import (
    FLOAT,
    Bits,
    Blueprint,
    NetworkGraph,
    Options,
    format_cost,
    json_name,
    prune,
    read_blueprint,
)
from bitsmith.capture import capture
from bitsmith.cli.app import app
from bitsmith.cli.options import AsJson, Output, Shape, TargetName, Width, parse_shape
from bitsmith.cli.show import out
from bitsmith.cost import Target, costs_at_streams, find_target, price
from bitsmith.errors import RecipeError, RunError
from bitsmith.models import load_model
from bitsmith.space import narrowed

BitsOption = typer.Option(min=1, max=FLOAT, help="Of every layer; 32 = float; default the most the target holds.")


@app.command()
def cost(
    model: Annotated[str | None, typer.Option(help="NAME, torchvision:NAME or package.module:function.")] = None,
    shape: Shape = None,
    output: Output = None,
    width: Width = None,
    blueprint: Annotated[Path | None, typer.Option(help="A blueprint.json; alone, or for the bits of --model.")] = None,
    weight_bits: Annotated[int | None, BitsOption] = None,
    activation_bits: Annotated[int | None, BitsOption] = None,
    target: TargetName = None,
    as_json: AsJson = False,
) -> None:
    """What a network costs per inference: parameters, bytes, operations, RAM; energy and latency on a --target."""
    device, notes = find_target(target or "onnx"), list[str]()
    given = _read_blueprint(blueprint) if blueprint else None
    if model is None:
        if given is None:
            raise RecipeError("give --model with --input, or --blueprint FILE")
        given = _cut(given)
        graph, bits = given.graph, given.bits
    else:
        wanted = parse_shape(shape)
        if wanted is None:
            raise RecipeError("give the input's shape, such as --input 3x224x224")
        module, _ = load_model(model, classes=None, shape=wanted, output=output)
        graph = capture(module, wanted, output=output).graph
        typed = Bits(
            weight=weight_bits or max(device.weight_bits), activation=activation_bits or max(device.activation_bits)
        )
        bits = {layer.name: typed for layer in graph.layers}
        if given is not None:
            if set(given.bits) != set(bits):
                raise RecipeError(f"{blueprint} is of another network than {model}: its layers have other names")
            if given.graph.output_shape != graph.output_shape:
                theirs, ours = _spell(given.graph.output_shape), _spell(graph.output_shape)
                notes.append(f"{blueprint} is of {theirs} outputs, and {model}, which is priced, has {ours}")
            given = _cut(dataclasses.replace(given, graph=graph))
            graph, bits = given.graph, dict(given.bits)
    if width is not None and not all(isinstance(w, int) for b in bits.values() for w in (b.weight, b.activation)):
        raise RecipeError(
            f"{blueprint} has filters or maps with bits of their own, and --width doesn't say which of them are left; "
            "leave out --width, or set the bits of filters to be removed to 0 in the blueprint"
        )
    narrow = None if width is None else narrowed(graph, width)
    graph = graph if narrow is None else narrow.graph
    if target is not None:
        _check_held(device, graph, bits)
    costs = price(graph, bits, device.costs if given is None else costs_at_streams(given.stream_bits, device.costs))
    if as_json:
        print(json.dumps({json_name(name): _plain(value) for name, value in costs.items()}, indent=1))
        return
    for note in [*notes, *([narrow.note()] if narrow is not None else [])]:
        out.print(f"note: {escape(note)}", soft_wrap=True)
    table = Table(title=f"{escape(model or str(blueprint))}: cost per inference")
    table.add_column("cost")
    table.add_column("value", justify="right")
    for name, value in costs.items():
        table.add_row(name, format_cost(name, value))
    out.print(table)


def _cut(given: Blueprint) -> Blueprint:
    """Without the filters that it removes; where there are none, as it is, in whatever order its filters are."""
    return prune(given).blueprint if any(0 in bits.weight_widths for bits in given.bits.values()) else given


def _read_blueprint(path: Path) -> Blueprint:
    found = read_blueprint(path, "a run folder has one for each network")
    outputs = found.graph.output_shape
    if found.classes and outputs != (len(found.classes),):
        raise RunError(
            f"the blueprint {path} names {len(found.classes)} classes ({', '.join(found.classes)}), and its network "
            f"gives {_spell(outputs)} outputs; name one per output, or none ([])"
        )
    return found


def _check_held(target: Target, graph: NetworkGraph, bits: Mapping[str, Bits]) -> None:
    """Refuse what a search for the target would refuse; its prices alone would hide it.

    Raises:
        RecipeError: naming the layer and the bits, or the operators and their places.
    """
    widths = {layer.name: bits[layer.name].filters(layer) for layer in graph.layers}
    mixed = next((name for name, filters in widths.items() if len(set(filters)) > 1), None)
    if mixed is not None and not target.per_filter:
        raise RecipeError(
            f"target {target.name!r} has one weight bit-width for each layer, and filters of layer {mixed!r} differ: "
            f"they have {sorted(set(widths[mixed]))} bits; give the layer one, or choose target onnx, which takes bits "
            "per filter"
        )
    options = {
        layer.name: Options(
            weight=tuple(sorted(set(widths[layer.name]))),
            activation=tuple(sorted(set(bits[layer.name].maps(layer)))),
        )
        for layer in graph.layers
    }
    target.check(options, graph, power_of_two=True)  # steps cost nothing, whatever they are


def _spell(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _plain(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value
