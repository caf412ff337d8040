"""targets: the devices that networks can be made for, and where their constants come from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from bitsmith.blueprint import format_cost
from bitsmith.cli.app import app
from bitsmith.cli.options import AsJson
from bitsmith.cli.show import out
from bitsmith.cost import COSTS, TARGETS, PerMac, Target, find_target
from bitsmith.cost.energy import ByBits
from bitsmith.recipe import suited_space


@app.command()
def targets(
    name: Annotated[str | None, typer.Argument(help="One of them in full, or your own as my-board.yaml.")] = None,
    as_json: AsJson = False,
) -> None:
    """The devices that networks can be made for: what they hold, what is priced, what a user gets today."""
    chosen = list(TARGETS.values()) if name is None else [find_target(name)]
    if as_json:
        values = [_values(target) for target in chosen]
        print(json.dumps(values if name is None else values[0], indent=1))
    elif name is not None:
        _print_one(chosen[0])
    else:
        table = Table(title="targets", caption="bitsmith targets NAME: one in full, with the sources of its constants")
        for column in ("target", "holds and prices", "what a user gets today"):
            table.add_column(column, overflow="fold")
        for target in chosen:
            table.add_row(
                escape(target.name), _facts(target), escape(f"{target.what}. {target.note}"), end_section=True
            )
        out.print(table)


def _print_one(target: Target) -> None:
    suited = suited_space(target)
    lines = [
        ("device", target.what),
        ("holds", _bits(target)),
        ("where nothing is said", f"weights {_spell(suited['weight_bits'])}, activations "
         f"{_spell(suited['activation_bits'])}, quantizer {suited['quantizer']}"),
        ("scales", ("one per channel" if target.per_channel else "one per layer")
         + (", powers of two" if target.power_of_two else "")),
        ("memories", target.held() or "not known; give budgets"),
        ("costs", ", ".join(target.costs)),
        ("files", ", ".join(target.formats) or "none of its own yet"),
        ("today", target.note),
    ]  # fmt: skip
    if target.code is not None:
        each = f", {target.operator_code} B for each operator" if target.operator_code else ""
        lines.append(("flash", f"size and {format_cost('flash', target.code)} of code{each}"))
    if target.cycles is not None:
        power = "" if target.cycles.watts is None else f", {1e3 * target.cycles.watts:g} mW"
        lines.append(
            ("MACs per cycle", f"{_spell_table(target.cycles.rates)}; {target.cycles.hertz / 1e6:g} MHz{power}")
        )
    lines += _energy(target)
    for form, why in target.lacks.items():
        lines.append((f"no {form}", why))
    lines += [("source", source) for source in target.sources]
    table = Table(title=escape(target.name), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in lines:
        table.add_row(escape(key), escape(value))
    out.print(table)


def _energy(target: Target) -> list[tuple[str, str]]:
    """What prices energy and latency beside MACs per cycle."""
    lines = []
    if isinstance(target.energy, PerMac):
        pico = {bits: 1e12 * joules for bits, joules in target.energy.joules.items()}
        moved = f"weights {1e12 * target.energy.weight_byte:g}, activations {1e12 * target.energy.activation_byte:g}"
        lines += [("pJ per MAC", _spell_table(pico)), ("pJ per byte moved", moved)]
    elif target.energy is not None:
        lines.append(("energy", f"the model {target.energy}"))
    if target.latency is not None:
        lines.append(("latency", f"by a table: {target.latency.setting}"))
    if target.zigzag is not None:
        lines.append(("zigzag", f"{target.zigzag.accelerator}, {target.zigzag.mapping}"))
    return lines


def _values(target: Target) -> dict[str, Any]:
    return {
        "name": target.name,
        "what": target.what,
        "weight_bits": list(target.weight_bits),
        "activation_bits": list(target.activation_bits),
        "float_layers": target.float_layers,
        "per_channel": target.per_channel,
        "per_filter": target.per_filter,
        "power_of_two": target.power_of_two,
        "lacks": dict(target.lacks),
        "memories": dict(target.memories),
        "costs": list(target.costs),
        "formats": list(target.formats),
        "note": target.note,
        "sources": list(target.sources),
    }


def _own(target: Target) -> list[str]:
    return [cost for cost in target.costs if cost not in COSTS]


def _facts(target: Target) -> str:
    return "\n".join(
        [
            _bits(target),
            f"memories: {target.held() or 'not given'}",
            f"own costs: {', '.join(_own(target)) or 'none'}",
            f"files: {', '.join(target.formats) or 'none yet'}",
        ]
    )


def _bits(target: Target) -> str:
    floats = "; float layers" if target.float_layers else ""
    filters = "; bits per filter" if target.per_filter else "; one for all filters of a layer"
    return f"weights {_spell(target.weight_bits)}, activations {_spell(target.activation_bits)} bits{floats}{filters}"


def _spell(bits: Sequence[int]) -> str:
    """1,2,3 as "1-3", others one by one."""
    whole = len(bits) > 2 and list(bits) == list(range(bits[0], bits[-1] + 1))
    return f"{bits[0]}-{bits[-1]}" if whole else ",".join(map(str, bits))


def _spell_table(table: ByBits) -> str:
    rows = sorted({a for a, _ in table})
    return "; ".join(
        f"a{a}: " + ", ".join(f"w{w} {v:g}" for (b, w), v in sorted(table.items()) if b == a) for a in rows
    )
