"""Commands that take a run folder on: train, export, verify, report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bitsmith import pipeline
from bitsmith.cli.app import app
from bitsmith.cli.executors import Address, ExecutorName, Workers, shared_out, training_place
from bitsmith.cli.options import AsJson, Device, Folder, Lr, Only, Quiet
from bitsmith.cli.settings import override
from bitsmith.cli.show import counting, print_report, progress, say
from bitsmith.cli.verified import against_facts, print_against, print_speeds, speed_facts
from bitsmith.deploy.theirs import Feed
from bitsmith.errors import RecipeError
from bitsmith.pipeline import Job, RunFolder
from bitsmith.pipeline.against import compare_run, read_other
from bitsmith.pipeline.exported import EXPORTERS
from bitsmith.pipeline.speed import measure_speeds
from bitsmith.report import Speed
from bitsmith.train import processes, read_json


@app.command()
def train(
    folder: Folder,
    only: Only = None,
    lr: Lr = None,
    device: Device = None,
    workers: Workers = None,
    executor: ExecutorName = None,
    address: Address = None,
    quiet: Quiet = False,
) -> None:
    """Train every searched network of a run folder at its low precision; with --workers several at a time."""
    if lr is not None and processes().rank == 0:
        pipeline.change_lr(RunFolder(path=folder), lr)
    with pipeline.copied(folder) as place:
        job = _opened(place, quiet, device)
        with progress(quiet) as watch:
            pipeline.train_float(job, watch)
        with shared_out(executor, workers, address) as where, training_place(where, quiet) as at:
            pipeline.train(job, at.watch, say(quiet), only or (), executor=at.executor, show=at.show)


@app.command()
def export(
    folder: Folder,
    to: Annotated[
        str | None,
        typer.Option(help=f"Formats: {', '.join(EXPORTERS)}; by default onnx and what the run's target takes."),
    ] = None,
    no_fpu: Annotated[bool, typer.Option("--no-fpu", help="C code without any floating point.")] = False,
    vnni: Annotated[
        bool,
        typer.Option("--vnni", help="ONNX files faster with 8-bit weights, but exact only on x86 CPUs with VNNI."),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write every trained network of a run folder as files that run as integers, but for layers left float."""
    run = RunFolder(path=folder)
    run.recipe()
    pipeline.export(run, None if to is None else to.split(","), say(quiet), fpu=not no_fpu, vnni=vnni)


@app.command()
def verify(
    folder: Folder,
    against: Annotated[
        Path | None, typer.Option(help="An ONNX file that others made, to compare with on the same images.")
    ] = None,
    feed: Annotated[
        str | None, typer.Option(help="What it reads: pixels, unit (0 to 1), normalized (as the run), or MEAN/STD.")
    ] = None,
    layout: Annotated[str | None, typer.Option(help="What it reads, NCHW or NHWC, where that can't be seen.")] = None,
    their_output: Annotated[str | None, typer.Option(help="Which of its outputs, where there are several.")] = None,
    speed: Annotated[
        bool, typer.Option("--speed", help="Measure what each layer really runs in, and what its bits bought in time.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Prove on test images that the files compute what was trained, layer by layer."""
    if layout not in (None, "NCHW", "NHWC"):
        raise RecipeError(f"--layout takes NCHW or NHWC, got {layout!r}")
    if against is None and (feed, layout, their_output) != (None, None, None):
        raise RecipeError("--feed, --layout and --their-output are about a file of others: give it by --against FILE")
    job = _opened(folder, quiet or as_json)
    told = Feed(values=feed, layout=layout, output=their_output)  # pyright: ignore[reportArgumentType] - checked above
    theirs = None if against is None else read_other(job, against, told)
    fine = pipeline.verify(job, say(quiet or as_json))
    compared = [] if theirs is None else compare_run(job, theirs)
    speeds: list[Speed] = []
    if speed:
        with counting(quiet or as_json) as watch:
            speeds = measure_speeds(job.run, watch=watch, say=say(quiet or as_json))
    if as_json:
        facts: dict[str, Any] = {"ok": fine, "artefacts": _artefacts(job)}
        if theirs is not None:
            facts["against"] = [against_facts(entry, found) for entry, found in compared]
        if speed:
            facts["speed"] = [speed_facts(found) for found in speeds]
        print(json.dumps(facts, indent=1))
    elif not quiet:
        print_against(compared)
        print_speeds(speeds)
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
                    "accuracy": min(check["accuracy_onnxruntime"].values())
                    if "accuracy_onnxruntime" in check
                    else check["accuracy"],
                    "integer_layers": check["integer_layers"],
                    "float_layers": check["float_layers"],
                    "excluded": check.get("excluded", []),
                    "largest_difference": max(check.get("largest_difference", {"": 0.0}).values()),
                    "first_difference": check["first_difference"],
                    "problems": check["problems"],
                    "trained": job.run.history(job.run.folder(entry)) is not None,
                    "ok": check["ok"],
                }
            )
    return found


@app.command()
def report(folder: Folder, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Write report.html and report.json of a verified run folder."""
    print_report(pipeline.report(_opened(folder, quiet or as_json)), quiet, as_json)


def _opened(folder: Path, quiet: bool, device: str | None = None) -> Job:
    run = RunFolder(path=folder)
    job = pipeline.prepare(run, say(quiet))
    return replace(job, recipe=override(job.recipe, device=device)) if device else job
