"""The plots of one network's layers and of curves over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bitsmith.blueprint import FLOAT, UNITS, spoken_cost
from bitsmith.report.parts import Curve, LayerRow, Sensitivities
from bitsmith.report.plot import COLORS, DASHES, GRAY, LIMIT, Figure, Key, escape, finish, shorten_all

_FLOAT_BAR = 9  # a float layer is drawn one step above 8 bit: 32 would flatten all others


def layer_figure(layers: Sequence[LayerRow], name: str) -> Figure | None:
    """Weight and activation bits of each layer of a network, and beneath them its share of each cost."""
    if not layers:
        return None
    costs = [cost for cost in UNITS if any(cost in layer.shares for layer in layers)]
    x = list(range(len(layers)))
    names = [escape(layer.name) for layer in layers]
    keys: list[Key] = []
    figure = make_subplots(
        rows=2 if costs else 1, cols=1, shared_xaxes=True, vertical_spacing=0.06,
        row_heights=[0.6, 0.4] if costs else None,
    )  # fmt: skip
    bits = {
        "weight bits": [layer.weight_bits for layer in layers],
        "activation bits": [layer.activation_bits for layer in layers],
    }
    for (title, values), color in zip(bits.items(), COLORS, strict=False):
        shown = ["float" if b == FLOAT else f"{b:.3g}" for b in values]
        keys.append(Key(text=title, color=color, mark="bar"))
        figure.add_bar(
            x=x, y=[min(b, _FLOAT_BAR) for b in values], name=title, marker={"color": color},
            text=shown, textposition="outside", textangle=0, cliponaxis=False, constraintext="none",
            customdata=list(zip(names, shown, strict=True)),
            hovertemplate=f"%{{customdata[0]}}<br>{title}: %{{customdata[1]}}<extra></extra>",
            row=1, col=1,
        )  # fmt: skip
    for cost, color in zip(costs, COLORS[2:] * len(costs), strict=False):
        keys.append(Key(text=f"share of {spoken_cost(cost)}", color=color, mark="bar"))
        figure.add_bar(
            x=x, y=[100 * layer.shares.get(cost, 0.0) for layer in layers], name=f"share of {spoken_cost(cost)}",
            marker={"color": color}, customdata=names,
            hovertemplate=f"%{{customdata}}<br>%{{y:.1f}} % of {spoken_cost(cost)}<extra></extra>",
            row=2, col=1,
        )  # fmt: skip
    ticks = [escape(name) for name in shorten_all([layer.name for layer in layers])]
    x_axis = {"tickmode": "array", "tickvals": x, "ticktext": ticks, "tickangle": -90, "showgrid": False}
    top = _FLOAT_BAR if any(FLOAT in values for values in bits.values()) else 8
    y_axis = {"title": {"text": "bits"}, "range": [0, top + 0.9], "tickvals": [0, 2, 4, 6, 8]}
    axes = {"yaxis": y_axis, "xaxis": x_axis}
    if costs:  # the names stand under the lower plot
        axes = {
            "yaxis": y_axis,
            "xaxis": {"showgrid": False},
            "yaxis2": {"title": {"text": "share, %"}, "rangemode": "tozero"},
            "xaxis2": x_axis,
        }
    height = 520 if costs else 360
    return Figure(
        title=f"Bits per layer: {name}",
        caption="Bits of the weights and of the activations each layer reads, in execution order"
        + ("; below, the layer's part of each cost." if costs else "."),
        keys=tuple(keys),
        plot=finish(figure, axes, height=height),
        height=height,
        least_width=70 + 26 * len(layers),
    )


def sensitivity_figure(measured: Sensitivities) -> Figure | None:
    """The loss of each option above that of the decision's highest bits, and the noise of such differences."""
    if not measured.decisions:
        return None
    layers = list(dict.fromkeys(decision.layer for decision in measured.decisions))
    series: dict[tuple[str, int], dict[int, float]] = {}
    for decision in measured.decisions:
        losses = dict(zip(decision.bits, decision.loss, strict=True))
        highest = max(losses)
        for bits, loss in losses.items():
            if bits != highest:
                series.setdefault((decision.kind, bits), {})[layers.index(decision.layer)] = loss - losses[highest]
    figure, keys = go.Figure(), []
    for i, (kind, bits) in enumerate(sorted(series, key=lambda key: (key[0] != "weight", key[1]))):
        width = "float" if bits == FLOAT else "1 bit" if bits == 1 else f"{bits} bits"
        name, color = f"{kind}s at {width}", COLORS[i % len(COLORS)]
        points = series[kind, bits]
        keys.append(Key(text=name, color=color, mark="dot"))
        figure.add_scatter(
            x=list(points), y=list(points.values()), name=name, mode="markers",
            marker={"color": color, "size": 9, "symbol": "circle" if kind == "weight" else "diamond"},
            customdata=[[escape(layers[x]), f"{loss:+.4f}"] for x, loss in points.items()],
            hovertemplate=f"%{{customdata[0]}}<br>{name}<br>loss %{{customdata[1]}}<extra></extra>",
        )  # fmt: skip
    noise = "how noisy they are is unknown"
    if measured.standard_error is not None and measured.within is not None:
        reach = 2 * measured.standard_error
        figure.add_hrect(y0=-reach, y1=reach, fillcolor=GRAY, opacity=0.25, line_width=0, layer="below")
        keys.append(Key(text="two standard errors of a difference", color=GRAY, mark="bar"))
        noise = (
            f"{measured.within} of {measured.steps} steps from one option to the next are within two standard errors "
            "of zero, so that their order may be chance"
        )
    x_axis = {
        "tickmode": "array", "tickvals": list(range(len(layers))), "tickangle": -90,
        "ticktext": [escape(name) for name in shorten_all(layers)],
    }  # fmt: skip
    return Figure(
        title="Measured sensitivities",
        caption=f"Loss on {measured.images:,} search images above that at the highest bits; {noise}.",
        keys=tuple(keys),
        plot=finish(figure, {"xaxis": x_axis, "yaxis": {"title": {"text": "loss above"}}}, height=360),
        height=360,
        least_width=70 + 26 * len(layers),
    )


def curve_figure(curve: Curve) -> Figure:
    """Its series as lines, its limits dashed."""
    figure, keys = go.Figure(), []
    for i, (name, values) in enumerate(curve.series.items()):
        color, (dash, mark) = COLORS[i % len(COLORS)], DASHES[i // len(COLORS) % len(DASHES)]
        keys.append(Key(text=name, color=color, mark=mark))
        figure.add_scatter(
            x=curve.x, y=values, name=escape(name), mode="lines" if len(curve.x) > 1 else "markers",
            line={"color": color, "width": 2, "dash": dash}, text=[escape(name)] * len(curve.x),
            hovertemplate="%{text}<br>%{y:.5~g} at %{x:~g}<extra></extra>",
        )  # fmt: skip
    for name, limit in (curve.limits or {}).items():
        # As a trace and not a shape, so that the axis always reaches it.
        ends = [min(curve.x, default=0.0), max(curve.x, default=1.0)]
        keys.append(Key(text=name, color=LIMIT, mark="dash"))
        figure.add_scatter(
            x=ends, y=[limit, limit], name=escape(name), mode="lines", text=[escape(name)] * 2,
            line={"color": LIMIT, "width": 1.5, "dash": "dash"},
            hovertemplate="%{text}<br>%{y:.5~g}<extra></extra>",
        )  # fmt: skip
    axes: dict[str, dict[str, Any]] = {"xaxis": {"title": {"text": escape(curve.x_label)}}}
    height = 280 if curve.ticks is None else 380
    if curve.ticks is not None:
        ticks = [escape(name) for name in shorten_all(curve.ticks)]
        axes["xaxis"] |= {"tickmode": "array", "tickvals": curve.x, "ticktext": ticks, "tickangle": -90}
    if curve.logarithmic:
        axes["yaxis"] = {"type": "log", "exponentformat": "power"}
    return Figure(
        title=curve.name,
        caption="Dashed: the limit." if curve.limits else "",
        keys=tuple(keys),
        plot=finish(figure, axes, height=height),
        height=height,
        least_width=70 + 20 * len(curve.ticks) if curve.ticks else 0,
    )
