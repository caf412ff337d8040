"""What of a network computes with integers, in words."""

from __future__ import annotations

from collections.abc import Sequence

from bitsmith.deploy.program import IntegerProgram


def arithmetic(program: IntegerProgram) -> str:
    """What a program computes in, as files say it: "integer", or "all integer but ..."."""
    excluded = tuple(dict.fromkeys(operator.owner for operator in program.float_sums))
    text = spoken_arithmetic(excluded, len(program.bits), sums=program.float_streams)
    return "integer" if text == "all integer" else text


def spoken_arithmetic(layers: Sequence[str], count: int, *, sums: bool = False) -> str:
    """What computes with integers, in words, by the layers that don't.

    Args:
        layers: those that stay float.
        count: of all layers.
        sums: whether what lies between the layers is float too.

    Example:
        >>> spoken_arithmetic(["classifier"], 10)
        'all integer but 1 float layer: classifier'
    """
    between = "float sums between layers"
    if layers and len(layers) == count:
        return f"no integer layer, and {between}" if sums else "no integer layer"
    parts = []
    if layers:
        parts.append(f"{len(layers)} float layer{'s' * (len(layers) > 1)}: {', '.join(layers)}")
    if sums:
        parts.append(between)
    return f"all integer but {', and '.join(parts)}" if parts else "all integer"
