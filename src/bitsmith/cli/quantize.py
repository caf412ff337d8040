"""The command that makes a run folder without training: quantize."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from bitsmith import pipeline
from bitsmith.cli.app import app
from bitsmith.cli.jobs import prove
from bitsmith.cli.options import (
    ActivationBits,
    AsJson,
    Budgets,
    ClassWeights,
    Data,
    Device,
    Download,
    Ends,
    Limit,
    MetricName,
    Model,
    Output,
    Pins,
    Positive,
    Quantizer,
    Quiet,
    Seed,
    Shape,
    SkipBad,
    TargetName,
    WeightBits,
    Weights,
    parse_class_weights,
    parse_shape,
    space_section,
)
from bitsmith.cli.settings import build
from bitsmith.cli.show import progress, say
from bitsmith.errors import RecipeError
from bitsmith.recipe import FILLED


@app.command()
def quantize(
    model: Model,
    data: Data,
    budget: Budgets,
    weights: Weights = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Run folder; default runs/MODEL-post-training.")
    ] = None,
    shape: Shape = None,
    output: Output = None,
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
    target: TargetName = None,
    train_epochs: Annotated[int | None, typer.Option(help="Epochs of bitsmith train, should it go on.")] = None,
    seed: Seed = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """A first look without training: calibrate, allocate bits by measured sensitivity, export, verify, report.

    The folder is an ordinary run: bitsmith train FOLDER goes on from it.
    """
    if weights is None:
        raise RecipeError(
            "post-training quantization needs a trained network: give its weights as --weights FILE; from random "
            "weights the result would mean nothing (bitsmith search trains from scratch)"
        )
    recipe = build(
        {
            "name": model,
            "space": space_section(weight_bits, activation_bits, ends, pin),
            "budgets": [budget],
            "method": {"name": "sensitivity"},
            "baselines": [FILLED],
            "start": "float",
        },
        model=model,
        weights=weights,
        output=output,
        data=data,
        shape=parse_shape(shape),
        limit=limit,
        skip_bad=skip_bad or None,
        download=download or None,
        metric=metric,
        positive=positive,
        class_weights=parse_class_weights(class_weights),
        quantizer=quantizer,
        target=target,
        epochs=train_epochs,
        seed=seed,
        device=device,
    )
    default = Path("runs") / f"{re.sub(r'[^A-Za-z0-9.+-]+', '_', model)}-post-training"
    tell = say(quiet or as_json)
    with pipeline.begun(out_folder or default, recipe) as folder:
        job = pipeline.prepare(folder, tell)
        with progress(quiet or as_json) as watch:
            pipeline.estimate_ahead(job, watch)
        pipeline.check_budgets(job)
        pipeline.require_float(job)
        with progress(quiet or as_json) as watch:
            pipeline.search(job, watch, tell)
            pipeline.quantize(job, watch, tell)
        prove(job, quiet, as_json)
