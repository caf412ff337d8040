"""The narrowed networks of a comparison: uniform bits, made narrower until they fit."""

from __future__ import annotations

import math
from pathlib import Path

from bitsmith.cost import find_target
from bitsmith.errors import BitsmithError
from bitsmith.pipeline import verbs
from bitsmith.pipeline.comparison import Comparison, folder_name
from bitsmith.pipeline.contestants import NARROWED, NARROWED_BITS, Entrant
from bitsmith.pipeline.job import Job, make_space
from bitsmith.pipeline.planned import LeftOut, PlannedRun, finished
from bitsmith.space import largest_width


def narrowed_runs(
    job: Job,
    comparison: Comparison,
    space: str,
    total: float,
    needed: set[tuple[str, ...]],
    left_out: list[LeftOut],
) -> list[PlannedRun]:
    """Uniform networks of some bits, as wide as each budget allows; ends and pins are those of the space.

    Args:
        total: epochs of each.
        needed: budgets that have them, asked for or not.
    """
    runs = []
    for weight in comparison.narrowed.weight_bits if comparison.narrowed else NARROWED_BITS:
        label = f"{NARROWED}{weight}"
        entrant = Entrant(label=label, settings={"name": "uniform"})
        recipe = comparison.recipe(entrant, space, comparison.seeds[0])
        section, target = recipe.space, find_target(recipe.target)
        activation = max(section.activation_bits)
        for budgets in recipe.budget_sets():
            line = tuple(map(str, budgets))
            if line not in needed and not comparison.narrows(list(line)):
                continue
            uniform = {"weight_bits": (weight,), "activation_bits": (activation,)}
            alone = recipe.model_copy(update={"space": section.model_copy(update=uniform)})
            try:
                verbs.check_target(make_space(alone, job.graph, job.task.data, entrant.method(), target), target)
                width = largest_width(
                    job.graph,
                    budgets,
                    weight=weight,
                    activation=activation,
                    ends=section.ends,
                    pins=section.pins,
                    costs=target.costs,
                )
                reason = "" if width < 1 else f"all {weight}-bit weights fit without narrowing"
            except BitsmithError as error:
                width, reason = math.nan, str(error)
            if reason:
                left_out.append(LeftOut(method=label, space=space, budget=", ".join(line), reason=reason))
                continue
            narrow = {
                "model": recipe.model.model_copy(update={"width": width}),
                "space": alone.space,
            }
            for seed in comparison.seeds:
                path = Path("runs") / folder_name(space) / folder_name(label) / folder_name("-".join(line))
                own = comparison.recipe(entrant, space, seed).model_copy(update=narrow)
                runs.append(
                    PlannedRun(
                        method=label,
                        space=space,
                        seed=seed,
                        kind="baseline",
                        recipe=finished(own, [line], total),
                        path=path / f"seed{seed}",
                        floats=None,
                        search_epochs=0.0,
                    )
                )
    return runs
