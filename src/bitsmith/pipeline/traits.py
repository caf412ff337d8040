"""What a run says of a blueprint: its bits in a word, whether it is integer, which budgets it meets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bitsmith.blueprint import FLOAT, Blueprint, Budget
from bitsmith.cost import Cost, exact
from bitsmith.deploy import spoken_arithmetic


def summarize_bits(blueprint: Blueprint) -> str:
    """Short text of a blueprint's bits: "w2 a8", "w1-8 a8" where they differ, "w2+float a8+float" with float layers."""

    def spread(values: list[int]) -> str:
        widths = [value for value in values if value != FLOAT]
        if not widths:
            return "float"
        low, high = min(widths), max(widths)
        return (str(low) if low == high else f"{low}-{high}") + "+float" * (len(widths) < len(values))

    inner = list(blueprint.bits.values())
    weight = spread([width for b in inner for width in b.weight_widths])
    activation = spread([width for b in inner for width in b.activation_widths])
    return f"w{weight} a{activation}"


def meets(blueprint: Blueprint, budgets: Iterable[Budget], costs: Mapping[str, Cost]) -> dict[str, bool]:
    """Budget text -> whether a blueprint is inside."""
    graph, bits = blueprint.graph, blueprint.bits
    return {str(budget): exact(budget.cost, graph, bits, costs) <= budget.limit for budget in budgets}


def float_layers(blueprint: Blueprint) -> tuple[str, ...]:
    """The layers that compute in float32: their weights or what they read is not quantized."""
    return tuple(name for name, bits in blueprint.bits.items() if bits.is_float)


def is_integer(blueprint: Blueprint) -> bool:
    """Whether everything in a blueprint is quantized."""
    return not float_layers(blueprint) and blueprint.stream_bits != FLOAT


def blueprint_arithmetic(blueprint: Blueprint) -> str:
    """What of a blueprint computes with integers, in words; see `bitsmith.deploy.spoken_arithmetic`."""
    return spoken_arithmetic(float_layers(blueprint), len(blueprint.bits), sums=blueprint.stream_bits == FLOAT)
