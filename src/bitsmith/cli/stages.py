"""Commands that take a run folder on: train, export, verify, report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bitsmith import pipeline
from bitsmith.cli.app import app
from bitsmith.cli.options import AsJson, Device, Folder, Lr, Only, Quiet
from bitsmith.cli.settings import override
from bitsmith.cli.show import print_report, progress, say
from bitsmith.pipeline import Job, RunFolder
from bitsmith.pipeline.exported import EXPORTERS
from bitsmith.train import read_json


@app.command()
def train(
    folder: Folder,
    only: Only = None,
    lr: Lr = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Train every searched network of a run folder at its low precision."""
    if lr is not None:
        pipeline.change_lr(RunFolder(path=folder), lr)
    job = _opened(folder, quiet, device)
    with progress(quiet) as watch:
        pipeline.train_float(job, watch)
        pipeline.train(job, watch, say(quiet), only or ())


@app.command()
def export(
    folder: Folder,
    to: Annotated[
        str | None,
        typer.Option(help=f"Formats: {', '.join(EXPORTERS)}; by default onnx and what the run's target takes."),
    ] = None,
    no_fpu: Annotated[bool, typer.Option("--no-fpu", help="C code without any floating point.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write every trained network of a run folder as files that run as integers, but for layers left float."""
    run = RunFolder(path=folder)
    run.recipe()
    pipeline.export(run, None if to is None else to.split(","), say(quiet), fpu=not no_fpu)


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
