"""Options that several commands share, and reading what was typed."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bitsmith.blueprint import Blueprint
from bitsmith.errors import RecipeError, RunError
from bitsmith.recipe import Recipe, parse_recipe

Folder = Annotated[Path, typer.Argument(help="Run folder.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no messages.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Model = Annotated[str, typer.Option(help="NAME, torchvision:NAME or package.module:function.")]
Weights = Annotated[Path | None, typer.Option(help="Trained weights: .safetensors or a state_dict.")]
Data = Annotated[str, typer.Option(help="digits, fashion-mnist, folder:PATH or npy:FOLDER.")]
Shape = Annotated[str | None, typer.Option("--input", help="Input shape, as 3x64x64.")]
Budgets = Annotated[list[str], typer.Option("--budget", help="As size=20kB; give several to meet all of them.")]
WeightBits = Annotated[str, typer.Option(help="What weights may take, as 2,3,4,8.")]
ActivationBits = Annotated[str, typer.Option(help="What activations may take, as 8.")]
Pins = Annotated[list[str] | None, typer.Option("--pin", help="LAYER=BITS, for layers that must not vary.")]
Ends = Annotated[str, typer.Option(help="Bits of the first and the last layer, or 'free'.")]
Only = Annotated[list[str] | None, typer.Option("--only", help="Just the networks of this name.")]


def override(
    recipe: Recipe,
    *,
    data: str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    device: str | None = None,
) -> Recipe:
    """The recipe with what the command line says otherwise."""
    values = recipe.model_dump(mode="json")
    if data is not None:
        values["data"] |= {"source": data, "fallback": None}
    if epochs is not None:
        values["train"]["epochs"] = epochs
    if seed is not None:
        values["seed"] = seed
    if device is not None:
        values["train"]["device"] = device
        if values["method"].get("name", "composite") == "composite":
            values["method"].setdefault("plan", {})["device"] = device
        if values["float_plan"]:
            values["float_plan"]["device"] = device
    values["command"] = values["command"] or typed_command()
    return parse_recipe(values, "the options")


def typed_command() -> str:
    return shlex.join(["bitsmith", *sys.argv[1:]])


def read_blueprint(path: Path) -> Blueprint:
    try:
        return Blueprint.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"can't read the blueprint {path}: {error}") from error


def layer_bits(blueprint: Blueprint) -> dict[str, list[int]]:
    return {name: [bits.weight, bits.activation] for name, bits in blueprint.bits.items()}


def plain_number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def parse_shape(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise RecipeError(f"can't read the input shape {text!r}; write it as CHANNELSxHEIGHTxWIDTH, such as 3x64x64")
    return int(parts[0]), int(parts[1]), int(parts[2])


def parse_numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise RecipeError(f"{option} takes numbers with commas between, such as 2,3,4,8; got {text!r}") from error


def space_section(weight_bits: str, activation_bits: str, ends: str, pins: list[str] | None) -> dict[str, Any]:
    """The recipe's space from the options of that name."""
    return {
        "weight_bits": parse_numbers(weight_bits, "--weight-bits"),
        "activation_bits": parse_numbers(activation_bits, "--activation-bits"),
        "ends": parse_ends(ends),
        "pins": dict(parse_pin(text) for text in pins or []),
    }


def parse_ends(text: str) -> int | None:
    """Bits of the first and the last layer; None for "free"."""
    if text == "free":
        return None
    if not text.isdigit():
        raise RecipeError(f"--ends takes one number of bits, or 'free'; got {text!r}")
    return int(text)


def parse_pin(text: str) -> tuple[str, int]:
    layer, _, bits = text.rpartition("=")
    if not layer or not bits.isdigit():
        raise RecipeError(f"can't read the pin {text!r}; write it as LAYER=BITS")
    return layer, int(bits)
