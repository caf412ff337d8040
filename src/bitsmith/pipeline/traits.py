"""What a run says of a blueprint: its bits in a word, whether it is integer, which budgets it meets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bitsmith.blueprint import FLOAT, Blueprint, Budget
from bitsmith.cost import Cost, exact


def summarize_bits(blueprint: Blueprint) -> str:
    """Short text of a blueprint's bits: "w2a8", or "w1-8 a8" where they differ."""

    def spread(values: list[int]) -> str:
        low, high = min(values), max(values)
        return str(low) if low == high else f"{low}-{high}"

    inner = list(blueprint.bits.values())
    weight, activation = spread([b.weight for b in inner]), spread([b.activation for b in inner])
    return f"w{weight} a{activation}"


def meets(blueprint: Blueprint, budgets: Iterable[Budget], costs: Mapping[str, Cost]) -> dict[str, bool]:
    """Budget text -> whether a blueprint is inside."""
    graph, bits = blueprint.graph, blueprint.bits
    return {str(budget): exact(budget.cost, graph, bits, costs) <= budget.limit for budget in budgets}


def is_integer(blueprint: Blueprint) -> bool:
    """Whether every layer of a blueprint is quantized."""
    widths = [width for bits in blueprint.bits.values() for width in (bits.weight, bits.activation)]
    return FLOAT not in (*widths, blueprint.stream_bits)
