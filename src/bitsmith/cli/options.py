"""Options that several commands share, and reading what was typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bitsmith.errors import RecipeError, suggestion
from bitsmith.recipe import FILLED, METHODS
from bitsmith.space import MOBILE_SPACES, SEQUENCE_SPACES

Folder = Annotated[Path, typer.Argument(help="Run folder.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no messages.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")]
Only = Annotated[list[str] | None, typer.Option("--only", help="Just the networks of this name.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]

Model = Annotated[str, typer.Option(help="NAME, torchvision:NAME or package.module:function.")]
SpaceName = Annotated[
    str | None,
    typer.Option("--space", help="In place of --model, whole networks: a preset, as sequence-28, mobile-32."),
]
Weights = Annotated[Path | None, typer.Option(help="Trained weights: .safetensors or a state_dict.")]
Width = Annotated[float | None, typer.Option(help="Share of every layer's channels that is left, as 0.5.")]
Output = Annotated[str | None, typer.Option(help="Which output to take where the network gives several.")]

Data = Annotated[
    str,
    typer.Option(
        help="digits, fashion-mnist, cifar10, cifar100, stl10, elpv, folder:PATH, imagenet:PATH, npz:FILE, npy:FOLDER."
    ),
]
Shape = Annotated[str | None, typer.Option("--input", help="Input shape, as 3x64x64.")]
Limit = Annotated[int | None, typer.Option(help="Use at most so many training images.")]
AugmentWord = Annotated[str | None, typer.Option("--augment", help="default, none, crop, flip or crop+flip.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Skip and count images that can't be read.")]
Download = Annotated[bool, typer.Option("--download", help="Download the data set where it is missing.")]
MetricName = Annotated[str | None, typer.Option("--metric", help="accuracy, f1, auc or balanced_accuracy.")]
Positive = Annotated[str | None, typer.Option(help="The class that F1 is about.")]
ClassWeights = Annotated[str | None, typer.Option(help="balanced, or one number per class: 1,5.")]

Budgets = Annotated[
    list[str],
    typer.Option("--budget", help="As size=20kB; give several to meet all of them; size=10,15,20kB: a network each."),
]
WeightBits = Annotated[
    str | None, typer.Option(help="What weights may take; default 2,3,4,8 if the target holds them.")
]
ActivationBits = Annotated[str | None, typer.Option(help="What activations may take; default 8.")]
Pins = Annotated[
    list[str] | None, typer.Option("--pin", help="LAYER=8, =w4a8, =w4, =a8 or =float; * in LAYER is any text.")
]
Ends = Annotated[str | None, typer.Option(help="Bits of the first and the last layer, or 'free'; default 8.")]
TargetName = Annotated[
    str | None,
    typer.Option("--target", help="What must hold the network: a name of bitsmith targets, or my-board.yaml."),
]
Quantizer = Annotated[
    str | None, typer.Option(help="lsq, lsq-pow2, pact, gaussian, hwgq, hwgq-optimal, or package.module:Name.")
]

MethodName = Annotated[
    str, typer.Option("--method", help=f"{', '.join([*METHODS, FILLED])}, or package.module:Name of your own.")
]

Storage = Annotated[
    str | None,
    typer.Option(help="With method latent: a database that several processes search with, as sqlite:///study.db."),
]

Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Compile = Annotated[str | None, typer.Option("--compile", help="auto, none, quantizers or network.")]
Arithmetic = Annotated[str | None, typer.Option("--precision", help="Of training: float32, bf16 or auto.")]
Distill = Annotated[float | None, typer.Option(help="Share of the loss learned from the float network, 0..1.")]
Ema = Annotated[float | None, typer.Option(help="Decay of averaged weights, as 0.999.")]
Lr = Annotated[float | None, typer.Option("--lr", help="Peak learning rate of the final training.")]


def parse_shape(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise RecipeError(f"can't read the input shape {text!r}; write it as CHANNELSxHEIGHTxWIDTH, such as 3x64x64")
    return int(parts[0]), int(parts[1]), int(parts[2])


def parse_numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise RecipeError(f"{option} takes numbers with commas between, such as 2,3,4,8; got {text!r}") from error


def parse_class_weights(text: str | None) -> str | list[float] | None:
    if text is None or text == "balanced":
        return text
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise RecipeError(f"--class-weights takes 'balanced' or one number per class, as 1,5; got {text!r}") from error


def space_section(
    weight_bits: str | None, activation_bits: str | None, ends: str | None, pins: list[str] | None
) -> dict[str, Any]:
    """The recipe's space from the options of that name that were given."""
    found: dict[str, Any] = {"pins": parse_pins(pins)} if pins else {}
    if weight_bits is not None:
        found["weight_bits"] = parse_numbers(weight_bits, "--weight-bits")
    if activation_bits is not None:
        found["activation_bits"] = parse_numbers(activation_bits, "--activation-bits")
    return found if ends is None else {**found, "ends": parse_ends(ends)}


def preset_section(model: str | None, preset: str | None) -> dict[str, Any]:
    """Kind and preset of a space of whole networks; nothing for the bits of a model.

    Raises:
        RecipeError: not one of both, or an unknown preset.
    """
    if (model is None) == (preset is None):
        raise RecipeError("give --model, a network whose bits are searched, or --space, a space of whole networks")
    if preset is None:
        return {}
    kinds = dict.fromkeys(MOBILE_SPACES, "mobile") | dict.fromkeys(SEQUENCE_SPACES, "sequence")
    if preset not in kinds:
        raise RecipeError(f"--space: there is no {preset!r}{suggestion(preset, kinds)}; there are {', '.join(kinds)}")
    return {"kind": kinds[preset], "preset": preset}


def parse_ends(text: str) -> int | None:
    """Bits of the first and the last layer; None for "free"."""
    if text == "free":
        return None
    if not text.isdecimal():
        raise RecipeError(f"--ends takes one number of bits, or 'free'; got {text!r}")
    return int(text)


def parse_pins(texts: list[str]) -> dict[str, str]:
    """Layer or pattern -> bits.

    Raises:
        RecipeError: a text that is not LAYER=BITS, or a layer given twice with different bits.
    """
    found: dict[str, str] = {}
    for text in texts:
        layer, _, bits = text.rpartition("=")
        if not layer or not bits:
            raise RecipeError(f"can't read the pin {text!r}; write it as LAYER=BITS, such as classifier=8")
        if found.setdefault(layer, bits) != bits:
            raise RecipeError(f"--pin gives {layer!r} both {found[layer]} and {bits}; keep one of them")
    return found
