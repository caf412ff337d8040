"""Explain: what each layer of a trained network gains and costs, on validation images; the test split is never read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

from bitsmith.blueprint import Blueprint, Budget
from bitsmith.cost import exact, fits
from bitsmith.errors import RunError
from bitsmith.pipeline import exported
from bitsmith.pipeline.folder import Entry
from bitsmith.pipeline.job import Job, Say, quiet
from bitsmith.pipeline.lock import locked
from bitsmith.quantize import Network
from bitsmith.report import Effect, Explained, LayerStep, Requested, advise, write_explained
from bitsmith.search import Step, measure_steps, single_steps
from bitsmith.seeding import derive
from bitsmith.space import Mobile, Precision, Sequences
from bitsmith.train import Difference, Task, Watch, pick_device, silent

FILE, MEASURED = "explain.json", "explain.measured.json"
_ALWAYS = ("size", "bitops")  # priced beside the budgets


def explain(
    task: Task,
    network: Network,
    space: Precision,
    budgets: Sequence[str | Budget] = (),
    *,
    sensitivities: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    seed: int = 0,
    name: str = "network",
    file: Path | None = None,
    watch: Watch = silent,
) -> Explained:
    """What each layer of a trained network gains by one bit-width more, loses by one less, and what that costs.

    Each step to the next option of the space up or down is measured alone, by the metric and the loss on the validation
    split: the weights of that layer rounded anew, BatchNorm re-estimated, the rest as trained and nothing trained. The
    network as it is gets the same re-estimation. A margin is

        z error,    z = Phi^-1(1 - 0.025 / n)

    for n steps: 95 % intervals that hold together (Bonferroni), since the best and the worst of many are looked for.
    What `error` is, `bitsmith.train.paired` says.

    Args:
        network: trained, made by `build`, `train` or `load`.
        space: whose options are the steps, and whose costs are known.
        budgets: that the network was made for: "size=20kB", or Budget values.
        sensitivities: `Found.details["sensitivities"]` of its search, where that measured some.
        name: what the result calls it.
        file: where each measured step is kept; a measurement that was stopped goes on there.

    Raises:
        RunError: the network was not made by `build`, or is of another graph than the space; validation data that comes
            in another order each time.
        BudgetError: a budget that can't be read, or on a cost that the space doesn't know.

    Example:
        >>> explained = bs.explain(task, net, space, ["size=20kB"])            # doctest: +SKIP
        >>> print(*explained.words, sep="\\n")                                  # doctest: +SKIP
    """
    blueprint = network.blueprint
    if blueprint is None:
        raise RunError("this network was not made by build(blueprint), so its bits are not known")
    if set(blueprint.bits) != set(space.options):
        raise RunError("the network's layers are not those of the space; give the space that it was found in")
    limits = [budget if isinstance(budget, Budget) else Budget.parse(budget) for budget in budgets]
    steps = single_steps(space, blueprint)
    measured = measure_steps(
        network,
        dataclasses.replace(task, data=task.data.without_test()),
        steps,
        seed=derive(seed, "explain"),
        stage=f"explain {name}",
        file=file,
        watch=watch,
    )
    names = tuple(dict.fromkeys([*(budget.cost for budget in limits), *_ALWAYS]))
    now = _costs(names, space, blueprint)
    margins = NormalDist().inv_cdf(1 - 0.025 / max(1, len(steps)))
    rows = []
    for marginal in measured.steps:
        step, changed = marginal.step, marginal.step.of(blueprint)
        rows.append(
            LayerStep(
                layer=step.layer,
                kind=step.kind,
                before=step.before,
                after=step.after,
                score=_effect(marginal.score, margins),
                loss=_effect(marginal.loss, margins),
                costs={cost: value - now[cost] for cost, value in _costs(names, space, changed).items()},
                inside=fits(changed.graph, changed.bits, limits, space.costs) if limits else None,
                believed=_believed(step, space, sensitivities),
            )
        )
    explained = Explained(
        network=name,
        metric=task.metric_name,
        images=measured.images,
        trained_score=measured.trained_score,
        score=measured.score,
        loss=measured.loss,
        price=next((cost for cost in names if any(_rises(row, cost) for row in rows)), "size"),
        requested=[
            Requested(network=name, cost=b.cost, limit=b.limit, obtained=now[b.cost], met=now[b.cost] <= b.limit)
            for b in limits
        ],
        steps=rows,
        words=[],
    )
    return dataclasses.replace(explained, words=advise(explained))


def explain_run(
    job: Job, networks: Sequence[str] = (), watch: Watch = silent, say: Say = quiet
) -> dict[str, Explained]:
    """Explain networks of a run, each in its folder (explain.json); what was measured before is not measured again.

    Args:
        networks: names ("composite") or folders ("composite-size_20kB"); none: what the run's method found.

    Returns:
        Folder -> what was found.

    Raises:
        RunError: an unknown network, or one that has no weights yet.
    """
    found = {}
    with locked(job.run.path, shared=True):
        for entry in _wanted(job, networks):
            folder = job.run.folder(entry)
            if job.run.history(folder) is None and job.run.post_training(folder) is None:
                raise RunError(f"{entry.title} is not trained yet; run bitsmith train {job.run.path} first")
            with locked(folder):
                network = exported.load(folder).to(pick_device(job.recipe.train))
                explained = explain(
                    job.task,
                    network,
                    _bits_of(job, network),
                    entry.budgets,
                    sensitivities=entry.details.get("sensitivities"),
                    seed=job.recipe.seed,
                    name=entry.slug,
                    file=folder / MEASURED,
                    watch=watch,
                )
                write_explained(explained, folder / FILE)
            say(f"{entry.title}: {folder / FILE}")
            found[entry.slug] = explained
    return found


def _bits_of(job: Job, network: Network) -> Precision:
    """The space of a network's bits: the job's own; of whole networks the options of its layers, each alone."""
    if not isinstance(job.space, Mobile | Sequences):
        return job.space
    blueprint = network.blueprint
    assert blueprint is not None, "made by build"
    options = {layer.name: job.space.options[layer.name] for layer in blueprint.graph.layers}
    return Precision(template=blueprint, options=options, costs=job.space.costs)


def _wanted(job: Job, networks: Sequence[str]) -> list[Entry]:
    entries = [entry for entry, _ in job.run.entries()]
    if not networks:
        return [entry for entry in entries if entry.kind == "found"]
    known = list(dict.fromkeys(name for entry in entries for name in (entry.name, entry.slug)))
    if unknown := [name for name in networks if name not in known]:
        raise RunError(f"no network of this run is called {', '.join(unknown)}; it has {', '.join(known)}")
    return [entry for entry in entries if {entry.name, entry.slug} & set(networks)]


def _costs(names: Sequence[str], space: Precision, blueprint: Blueprint) -> dict[str, float]:
    return {name: exact(name, blueprint.graph, blueprint.bits, space.costs) for name in names}


def _rises(row: LayerStep, cost: str) -> bool:
    """Whether a cost rises with bits, as latency does not where fewer bits take a kernel that narrows."""
    return row.costs[cost] > 0 if row.up else row.costs[cost] < 0


def _effect(difference: Difference, margins: float) -> Effect:
    margin = margins * difference.error
    return Effect(value=difference.value, margin=margin, noise=abs(difference.value) <= margin)


def _believed(step: Step, space: Precision, sensitivities: Mapping[str, Any] | None) -> float | None:
    """What the search had measured between the two options; None where it hadn't, or not at these bits."""
    allowed = getattr(space.options[step.layer], step.kind)
    if sensitivities is None or step.before not in allowed:
        return None
    losses = sensitivities[step.layer][step.kind]
    return losses[allowed.index(step.after)] - losses[allowed.index(step.before)]
