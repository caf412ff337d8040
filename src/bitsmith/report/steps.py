"""The plot of what one bit-width more or less does in each layer."""

from __future__ import annotations

from plotly.subplots import make_subplots

from bitsmith.report.explained import Explained, LayerStep
from bitsmith.report.plot import COLORS, Figure, Key, escape, finish, shorten, spoken_metric

_SERIES = [  # (up?, kind, marker, place beside the layer's tick)
    (True, "weight", "triangle-up", -0.24),
    (False, "weight", "triangle-down", -0.08),
    (True, "activation", "triangle-up", 0.08),
    (False, "activation", "triangle-down", 0.24),
]


def steps_figure(explained: Explained, name: str) -> Figure | None:
    """Change of the metric and of the loss by each step, with intervals; steps within the noise are hollow."""
    if not explained.steps:
        return None
    layers = list(dict.fromkeys(step.layer for step in explained.steps))
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    keys: list[Key] = []
    for (up, kind, marker, beside), color in zip(_SERIES, COLORS, strict=False):
        steps = [step for step in explained.steps if (step.up, step.kind) == (up, kind)]
        if not steps:
            continue
        title = f"{kind}s, one step {'up' if up else 'down'}"
        keys.append(Key(text=title, color=color, mark="dot"))
        for row, effects, factor in (
            (1, [step.score for step in steps], 100),
            (2, [step.loss for step in steps], 1),
        ):
            figure.add_scatter(
                x=[layers.index(step.layer) + beside for step in steps],
                y=[factor * effect.value for effect in effects],
                error_y={
                    "array": [factor * effect.margin for effect in effects], "color": color, "thickness": 1, "width": 3,
                },
                name=title, mode="markers",
                marker={
                    "size": 9, "color": color, "line": {"color": color, "width": 1.5},
                    "symbol": [marker + ("-open" if effect.noise else "") for effect in effects],
                },
                customdata=[[escape(step.layer), _bits(step), "noise" if e.noise else "shown"]
                            for step, e in zip(steps, effects, strict=True)],
                hovertemplate="%{customdata[0]}<br>%{customdata[1]}<br>%{y:+.4~g} (%{customdata[2]})<extra></extra>",
                row=row, col=1,
            )  # fmt: skip
    if any(effect.noise for step in explained.steps for effect in (step.score, step.loss)):
        keys.append(Key(text="hollow: within the noise", color=COLORS[6], mark="ring"))
    x_axis = {
        "tickmode": "array", "tickvals": list(range(len(layers))), "tickangle": -90, "showgrid": False,
        "ticktext": [escape(shorten(layer)) for layer in layers], "range": [-0.5, len(layers) - 0.5],
    }  # fmt: skip
    zero = {"zeroline": True, "zerolinewidth": 1, "zerolinecolor": COLORS[6]}
    axes = {
        "yaxis": {"title": {"text": escape(f"{spoken_metric(explained.metric)}, points")}, **zero},
        "yaxis2": {"title": {"text": "loss"}, **zero},
        "xaxis": {"showgrid": False, "range": x_axis["range"]},
        "xaxis2": x_axis,
    }
    height = 520
    return Figure(
        title=f"One step up or down per layer: {name}",
        caption="Change on validation images when one layer takes the next bit-width and nothing is trained.",
        keys=tuple(keys),
        plot=finish(figure, axes, height=height),
        height=height,
        least_width=70 + 40 * len(layers),
    )


def _bits(step: LayerStep) -> str:
    return f"{step.kind}s {step.before} → {step.after} bits"
