"""Which layer is worth a bit most and which could give one up, in words; what is not shown is not claimed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from bitsmith.blueprint import FLOAT, format_cost, spoken_cost, unit_of
from bitsmith.report.explained import Effect, Explained, LayerStep
from bitsmith.report.plot import spoken_metric

Measure = Literal["score", "loss"]


def advise(explained: Explained) -> list[str]:
    """Sentences on the steps of a network.

    A step counts as a gain or a loss only where its interval, made for all steps together, leaves out zero: the best of
    many noisy numbers always looks good. Steps are ranked by what they change per unit of the price; one that
    nothing is shown against, by what it may lose at worst. The metric speaks first, the finer loss where it is silent.

    Example:
        "One step up is worth most in conv2: its weights at 3 instead of 2 bits gain 0.80 ± 0.50 points for 1.2 kB of
        size, the most per byte; the budgets still hold."
    """
    steps = explained.steps
    if not steps:
        return ["Every layer has one option alone, so there is no single step to measure."]
    ups, downs = [step for step in steps if step.up], [step for step in steps if not step.up]
    return [
        *(_worth(explained, ups) if ups else ["Every layer is at its highest option already."]),
        *(_earns(explained, downs) if downs else []),
        *(_gives_up(explained, downs) if downs else ["Every layer is at its lowest option already."]),
        f"Steps are measured one at a time on {explained.images:,} validation images and not trained, so training may "
        "gain more from a step up and lose less from a step down.",
    ]


def _worth(explained: Explained, ups: Sequence[LayerStep]) -> list[str]:
    for measure in ("score", "loss"):
        shown = [step for step in ups if _gain(step, measure) > 0 and _shown(step, measure)]
        if shown:
            best = max(shown, key=lambda step: _rate(_gain(step, measure), step.costs[explained.price]))
            kept = {None: "", True: "; the budgets still hold", False: "; the budgets do not hold that"}[best.inside]
            return [
                f"One step up is worth most in {best.layer}: {_change(best)} {_moves(explained, best, measure)} "
                f"{_at(explained, best)}{kept}."
            ]
    return [f"No step up, by itself and before training, gains anything beyond the noise of {_images(explained)}."]


def _earns(explained: Explained, downs: Sequence[LayerStep]) -> list[str]:
    for measure in ("score", "loss"):
        shown = [step for step in _saving(explained, downs) if _gain(step, measure) < 0 and _shown(step, measure)]
        if shown:
            best = max(shown, key=lambda step: _gain(step, measure) / step.costs[explained.price])
            return [
                f"Bits earn most in {best.layer}: {_change(best)} {_moves(explained, best, measure)} and save "
                f"{_paid(explained, best)}, the most lost per {_unit(explained)}."
            ]
    return []


def _gives_up(explained: Explained, downs: Sequence[LayerStep]) -> list[str]:
    saving = _saving(explained, downs)
    if not saving:
        return [f"No step down saves any {spoken_cost(explained.price)}."]
    for free in (
        [step for step in saving if not _hurts(step, "score") and not _hurts(step, "loss")],
        [step for step in saving if not _hurts(step, "score")],
    ):
        if free:
            best = min(free, key=lambda step: _worst(step) / -step.costs[explained.price])
            risk = f", at worst by {_points(-_worst(best), '+')}" if best.score.noise else ""
            by_loss = f"; the loss does rise, by {best.loss.value:.4f}" if _hurts(best, "loss") else ""
            return [
                f"{best.layer} could give some up, as far as these images tell: {_change(best)} save "
                f"{_paid(explained, best)} and {_moves(explained, best, 'score')}{risk}{by_loss}."
            ]
    best = min(saving, key=lambda step: _gain(step, "score") / step.costs[explained.price])
    return [
        f"No layer can give a step up for nothing; the least per {_unit(explained)} loses {best.layer}: "
        f"{_change(best)} {_moves(explained, best, 'score')} and save {_paid(explained, best)}."
    ]


def _saving(explained: Explained, steps: Sequence[LayerStep]) -> list[LayerStep]:
    return [step for step in steps if step.costs[explained.price] < 0]


def _effect(step: LayerStep, measure: Measure) -> Effect:
    return step.score if measure == "score" else step.loss


def _gain(step: LayerStep, measure: Measure) -> float:
    """What a step wins: points of the metric, or loss that is gone."""
    return step.score.value if measure == "score" else -step.loss.value


def _shown(step: LayerStep, measure: Measure) -> bool:
    return not _effect(step, measure).noise


def _hurts(step: LayerStep, measure: Measure) -> bool:
    return _shown(step, measure) and _gain(step, measure) < 0


def _worst(step: LayerStep) -> float:
    """The most of the metric that a step may lose."""
    return step.score.margin - step.score.value


def _rate(gain: float, paid: float) -> float:
    return gain / paid if paid > 0 else float("inf")


def _change(step: LayerStep) -> str:
    return f"its {step.kind}s at {_bits(step.after)} instead of {_bits(step.before)} bits"


def _bits(bits: int) -> str:
    return "float" if bits == FLOAT else str(bits)


def _moves(explained: Explained, step: LayerStep, measure: Measure) -> str:
    effect = _effect(step, measure)
    if measure == "loss":
        word = "raise" if effect.value > 0 else "lower"
        return f"{word} the loss by {abs(effect.value):.4f} ± {effect.margin:.4f}"
    if effect.noise:
        return f"change {_metric(explained)} by {_points(effect.value, '+')}, within the noise"
    word = "gain" if effect.value > 0 else "lose"
    return f"{word} {100 * abs(effect.value):.2f} ± {100 * effect.margin:.2f} points of {_metric(explained)}"


def _points(value: float, sign: str = "") -> str:
    return f"{100 * value:{sign}.2f} points"


def _metric(explained: Explained) -> str:
    return spoken_metric(explained.metric)


def _at(explained: Explained, step: LayerStep) -> str:
    """What a step up takes: fewer tables may even make it smaller."""
    paid = step.costs[explained.price]
    if paid > 0:
        return f"for {_paid(explained, step)}, the most per {_unit(explained)}"
    return f"and save {_paid(explained, step)}" if paid else f"for no {spoken_cost(explained.price)} at all"


def _paid(explained: Explained, step: LayerStep) -> str:
    """What a step costs or saves, in the price."""
    return f"{format_cost(explained.price, abs(step.costs[explained.price]))} of {spoken_cost(explained.price)}"


def _unit(explained: Explained) -> str:
    return {"B": "byte", "J": "joule", "s": "second"}.get(unit_of(explained.price), "unit")


def _images(explained: Explained) -> str:
    return f"{explained.images:,} validation images"
