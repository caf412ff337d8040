"""profile: a latency table, measured here or as Vela estimates it, and its predictions against whole networks."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from bitsmith import pipeline
from bitsmith.blueprint import Blueprint, InputContract, format_cost
from bitsmith.capture import capture
from bitsmith.cli.app import app
from bitsmith.cli.options import (
    ActivationBits,
    AsJson,
    Ends,
    Output,
    Pins,
    Quiet,
    Shape,
    WeightBits,
    Width,
    parse_shape,
    space_section,
)
from bitsmith.cli.show import counted, counting, out
from bitsmith.cost.latency import LatencyTable, read_latency_table
from bitsmith.errors import RecipeError
from bitsmith.files import read_yaml
from bitsmith.models import load_model
from bitsmith.pipeline import RunFolder
from bitsmith.pipeline.latencies import check_run, exported
from bitsmith.pipeline.profile import ROUNDS, check_random, covering, refuse_other_setting
from bitsmith.pipeline.profile import Progress as Watch
from bitsmith.pipeline.profile import profile as measure_table
from bitsmith.pipeline.traits import is_integer
from bitsmith.pipeline.vela import check_vela, covering_weights, profile_vela, vela_setting
from bitsmith.pipeline.verbs import bare_template
from bitsmith.recipe import SpaceSection, parse_recipe
from bitsmith.report import Latency, median_error
from bitsmith.space import Precision, narrow, precision


@app.command()
def profile(
    source: Annotated[Path | None, typer.Argument(help="A run folder or a YAML recipe, in place of --model.")] = None,
    model: Annotated[str | None, typer.Option(help="NAME, torchvision:NAME or package.module:function.")] = None,
    shape: Shape = None,
    output: Output = None,
    width: Width = None,
    weight_bits: WeightBits = None,
    activation_bits: ActivationBits = None,
    pin: Pins = None,
    ends: Ends = None,
    float_input: Annotated[bool, typer.Option("--float-input", help="Of --model: numbers, not pixels.")] = False,
    out_file: Annotated[Path, typer.Option("--out", help="The table; what it lacks is added to it.")] = Path(
        "latency.json"
    ),
    threads: Annotated[int | None, typer.Option(min=1, help="Within one operator; default 1, or the table's.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Of 8 calls, with and without onnxruntime's profile.")] = ROUNDS,
    checked: Annotated[
        bool, typer.Option("--check", help="Measure nothing new: hold predictions against whole networks.")
    ] = False,
    random: Annotated[int, typer.Option(min=0, help="Check so many random networks of the space.")] = 0,
    vela: Annotated[
        str | None,
        typer.Option(metavar="ACCELERATOR", help="Take Vela's estimates, as for ethos-u55-128."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of random weights and random networks.")] = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure on this machine how long the layers of a network's space take, for budgets such as latency=3ms.

    Stopped, it goes on where it was. Weights' bits don't matter to onnxruntime: files unpack them at load. With --vela,
    Arm's compiler says what every layer takes at every bit-width of its weights.
    """
    target = "onnx" if vela is None else "ethos-u"
    if vela is not None and threads is not None:
        raise RecipeError("--threads belongs to measuring on this machine; leave it out beside --vela")
    run = RunFolder(path=source) if source is not None and source.is_dir() else None
    if source is not None:
        if model is not None or shape is not None or width is not None:
            raise RecipeError("give a run folder or recipe, or --model and --input, not both")
        space = _space_of(source, target)
        if weight_bits or activation_bits or pin or ends:
            raise RecipeError(
                "a recipe says itself what its layers may take; options of bits, --pin and --ends are of --model"
            )
    else:
        bits = activation_bits or ("8" if vela is not None else None)
        space = _space_of_model(model, shape, output, width, space_section(weight_bits, bits, ends, pin), float_input)
    known = read_latency_table(out_file).setting.threads if out_file.exists() and threads is None else threads or 1
    with counting(quiet or as_json) as watch:
        if vela is not None:
            covered = covering_weights(space)
            if checked and not random:
                raise RecipeError("give --random 5 for random networks of the space, which Vela compiles too")
            if checked:
                table = read_latency_table(out_file)
                refuse_other_setting(table, vela_setting(vela, space.template.input.kind))
            else:
                table = profile_vela(covered, out_file, vela, seed=seed, watch=watch)
            rows = check_vela(table, space, random, seed=seed, watch=watch)
        elif checked:
            table = read_latency_table(out_file)
            rows = _check(table, run, space, random, rounds, seed, watch)
        else:
            networks = [*covering(space), *_searched(run)]
            table = measure_table(networks, out_file, threads=known, rounds=rounds, seed=seed, watch=watch)
            rows = check_random(table, space, random, rounds=rounds, seed=seed, watch=watch) if random else []
    if as_json:
        facts = {"file": str(out_file), "setting": asdict(table.setting), "entries": len(table.entries)}
        checks = [asdict(row) | {"error": row.error} for row in rows]
        print(json.dumps(facts | {"checked": checks, "median_error": median_error(rows)}, indent=1))
    elif not quiet:
        if rows:
            _print(rows)
        count = counted(len(table.networks), "network")
        out.print(
            f"{escape(str(out_file))}: {len(table.entries)} times of {count}, {escape(str(table.setting))}",
            soft_wrap=True,
        )
        if not checked:
            out.print("In a target's YAML: [bold]latency: FILE[/]; then budgets such as latency=3ms", soft_wrap=True)


def _check(
    table: LatencyTable, run: RunFolder | None, space: Precision, random: int, rounds: int, seed: int, watch: Watch
) -> list[Latency]:
    found = check_run(run, table, rounds=rounds, watch=watch) if run is not None and exported(run) else []
    if not found and not random:
        raise RecipeError("there is no exported network to check; give --random 5 for random networks of the space")
    return found + (check_random(table, space, random, rounds=rounds, seed=seed, watch=watch) if random else [])


def _searched(run: RunFolder | None) -> list[Blueprint]:
    """Networks that a run has already, whatever space they are of."""
    if run is None or not any(run.path.glob("*/entry.json")):
        return []
    return [blueprint for _, blueprint in run.entries() if is_integer(blueprint)]


def _space_of(source: Path, target: str) -> Precision:
    """The space of a recipe or run, whatever its own target and budgets: these may need the table that isn't there."""
    file = source / "recipe.yaml" if source.is_dir() else source
    values = read_yaml(file, "recipe", "model, data and budgets")
    recipe = parse_recipe({**values, "target": target, "budgets": ["size=1GB"]}, str(file))
    with tempfile.TemporaryDirectory() as folder:
        for name in ("graph.json", "captured.safetensors"):
            if source.is_dir() and (source / name).exists():
                shutil.copy(source / name, Path(folder) / name)
        return pipeline.prepare(RunFolder.create(Path(folder), recipe)).space


def _space_of_model(
    model: str | None, shape: str | None, output: str | None, width: float | None, section: dict, float_input: bool
) -> Precision:
    wanted = parse_shape(shape)
    if model is None or wanted is None:
        raise RecipeError("give a run folder or a recipe, or --model with --input, such as --input 3x224x224")
    module, _ = load_model(model, classes=None, shape=wanted, output=output)
    graph = capture(module, wanted, output=output).graph
    template = bare_template(graph if width is None else narrow(graph, width))
    channels = wanted[0]
    pixels = InputContract(kind="uint8", mean=(0.5,) * channels, std=(0.5,) * channels)
    template = Blueprint(graph=template.graph, bits=template.bits, input=InputContract() if float_input else pixels)
    at = SpaceSection(**section)
    return precision(template, at.weight_bits, at.activation_bits, ends=at.ends, pins=at.pins)


def _print(rows: list[Latency]) -> None:
    table = Table(title="Latency, predicted and measured", caption="± half the range of the middle half of the calls")
    table.add_column("network", overflow="fold")
    for name in ("predicted", "measured", "error", "new"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        measured = "–" if row.measured is None else f"{format_cost('latency', row.measured)}"
        spread = "" if row.spread is None else f" ± {format_cost('latency', row.spread)}"
        error = "–" if row.error is None else f"{100 * row.error:+.1f} %"
        table.add_row(
            escape(row.network),
            format_cost("latency", row.predicted),
            measured + spread,
            error,
            "no" if row.known else "yes",
        )
    out.print(table)
    middle = median_error(rows)
    if middle is not None:
        largest = max(abs(row.error) for row in rows if row.error is not None and not row.known)
        out.print(f"Networks new to the table: median error {100 * middle:.1f} %, largest {100 * largest:.1f} %")
    for note in dict.fromkeys(row.setting for row in rows if row.measured is None):
        out.print(f"[yellow]note:[/] measured: {escape(note)}", soft_wrap=True)
