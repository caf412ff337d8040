"""What `bitsmith verify` shows beside its verdict: a file of others compared, and honest speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from bitsmith.blueprint import FLOAT, format_cost
from bitsmith.cli.show import out
from bitsmith.deploy.against import Against
from bitsmith.pipeline import Entry
from bitsmith.report import Speed


def against_facts(entry: Entry, found: Against) -> dict[str, Any]:
    """A comparison with a file of others as JSON."""
    values = asdict(found)
    del values["predictions"]
    return {"network": entry.slug} | values | {"first_difference": found.first_difference}


def speed_facts(speed: Speed) -> dict[str, Any]:
    """A network's speed as JSON, with what follows from its numbers."""
    values = asdict(speed)
    for layer, row in zip(speed.layers, values["layers"], strict=True):
        row |= {"change": layer.time.change, "bought": layer.bought}
    return values | {"words": speed.words}


def print_against(compared: Sequence[tuple[Entry, Against]]) -> None:
    if not compared:
        return
    first = compared[0][1]
    table = Table(
        title=escape(f"{first.file} (reads {first.reads}) on {first.images:,} images"),
        caption="largest: as a part of the range of our outputs",
    )
    table.add_column("against", overflow="fold")
    for name in ("same class", "theirs", "ours", "outputs differ", "largest"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("first layer that differs", overflow="fold")
    for entry, found in compared:
        table.add_row(
            escape(entry.title),
            f"{100 * found.agreement:.2f} %",
            f"{100 * found.accuracy:.2f} %",
            f"{100 * found.accuracy_ours:.2f} %",
            "–" if found.differing_outputs is None else f"{found.differing_outputs:,}",
            "–" if found.largest_difference is None else f"{100 * found.largest_difference:.2g} %",
            _first_layer(found),
        )
    out.print(table)


def _first_layer(found: Against) -> str:
    if found.not_shown is not None:
        return escape(f"its layers can't be shown: {found.not_shown}")
    if not found.layers:
        return "no layer matches"
    every = len(found.layers) + len(found.unmatched)
    matched = f"{len(found.layers)} of {every} matched"
    layer = next((layer for layer in found.layers if layer.differing), None)
    if layer is None:
        return f"none; {matched}"
    share = 100 * layer.differing / layer.size
    return escape(f"{layer.layer}: {share:.2g} % of its numbers, by {100 * layer.error:.2g} % (rms); {matched}")


_WIDE = 110  # characters of a terminal that shows all columns


def print_speeds(speeds: Sequence[Speed]) -> None:
    for speed in speeds:
        out.print(_speed_table(speed))
        out.print(escape(speed.words), soft_wrap=True)
    if speeds:
        out.print(f"Measured: {escape(speeds[0].setting)}", soft_wrap=True)


def _speed_table(speed: Speed) -> Table:
    """A row per layer; a narrow terminal gets no kernels and bytes, which stand in the report."""
    wide = out.width >= _WIDE
    table = Table(title=escape(speed.network), caption="asked and executed: bits of weights / of activations")
    table.add_column("layer", overflow="fold", min_width=10)
    for name in ("asked", "executed"):
        table.add_column(name, no_wrap=True)
    if wide:
        table.add_column("kernel", overflow="fold", min_width=10)
    for name in ("time", "at 8 bits", *(("bytes", "at 8 bits") if wide else ())):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("bought", no_wrap=True)
    for layer in speed.layers:
        more = f" +{layer.extra_kernels}" if layer.extra_kernels else ""
        table.add_row(
            escape(layer.name),
            f"{_bits(layer.weight_bits)}/{_bits(layer.activation_bits)}",
            f"{layer.executed_weight_bits}/{layer.executed_activation_bits} {layer.weight_type}",
            *((layer.kernel + more,) if wide else ()),
            format_cost("latency", layer.time.asked),
            format_cost("latency", layer.time.eight),
            *((f"{layer.bytes:,.0f}", f"{layer.bytes_at_eight:,.0f}") if wide else ()),
            layer.bought,
        )
    rest = speed.rest
    times = format_cost("latency", rest.asked), format_cost("latency", rest.eight)
    table.add_row("all else", "", "", *(("",) if wide else ()), *times, *(("", "") if wide else ()), "")
    return table


def _bits(bits: float) -> str:
    return "float" if bits == FLOAT else f"{bits:.3g}"
