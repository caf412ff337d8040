"""From options to a recipe: where each option's value goes."""

from __future__ import annotations

import shlex
import sys
from typing import Any

from bitsmith.recipe import Recipe, make_method, parse_recipe

# option -> its place in a recipe; "*" stands for every training: the float network's, the search's and the final one.
PLACES: dict[str, str] = {
    "model": "model.spec",
    "weights": "model.weights",
    "output": "model.output",
    "width": "model.width",
    "data": "data.source",
    "shape": "data.shape",
    "limit": "data.limit",
    "augment": "data.augment",
    "skip_bad": "data.skip_bad",
    "download": "data.download",
    "metric": "task.metric",
    "positive": "task.positive",
    "class_weights": "task.class_weights",
    "label_smoothing": "task.label_smoothing",
    "quantizer": "space.quantizer",
    "target": "target",
    "storage": "method.storage",
    "budget": "budgets",
    "seed": "seed",
    "epochs": "train.epochs",
    "float_epochs": "float_plan.epochs",
    "lr": "train.lr",
    "distill": "train.distill",
    "ema": "train.ema",
    "device": "*.device",
    "compile": "*.compile",
    "precision": "*.precision",
}


def build(values: dict[str, Any], **options: Any) -> Recipe:
    """The recipe of a command: its own values, and the options that were given (not None)."""
    return parse_recipe(_placed({"command": typed_command(), **values}, options), "the options")


def override(recipe: Recipe, **options: Any) -> Recipe:
    """The recipe with what the command line says otherwise."""
    values = recipe.model_dump(mode="json")
    if options.get("data") is not None:
        values["data"]["fallback"] = None
    values["command"] = values["command"] or typed_command()
    return parse_recipe(_placed(values, options), "the options")


def typed_command() -> str:
    return shlex.join(["bitsmith", *sys.argv[1:]])


def _placed(values: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    for option, value in options.items():
        if value is None:
            continue
        section, _, key = PLACES[option].rpartition(".")
        for place in _trainings(values, key) if section == "*" else [section]:
            at = values
            for name in place.split(".") if place else []:
                at[name] = at[name] if at.get(name) is not None else {}
                at = at[name]
            at[key] = value
    return values


def _trainings(values: dict[str, Any], key: str) -> list[str]:
    """The sections that have a setting of how to compute: all plans, and a method that has the setting itself."""
    method = make_method(values.get("method", {}))
    floats = ["float_plan"] if values.get("float_plan") else []
    searches = ["method.plan"] if getattr(method, "plan", None) is not None else []
    return ["train", *floats, *searches, *(["method"] if hasattr(method, key) else [])]
