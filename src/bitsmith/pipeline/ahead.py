"""Estimates that take long, before anybody asks for a price."""

from __future__ import annotations

from collections.abc import Mapping

from bitsmith.blueprint import NetworkGraph, Options
from bitsmith.cost import Target
from bitsmith.errors import RecipeError
from bitsmith.pipeline.job import Job
from bitsmith.space import Mobile, Sequences
from bitsmith.train import Event, Watch, silent


def estimate_ahead(job: Job, watch: Watch = silent) -> None:
    """`price_ahead` of a job whose space is one network's.

    Raises:
        RecipeError: a space of whole networks, which have more layers than ZigZag could estimate.
    """
    if job.target.zigzag is not None and isinstance(job.space, Mobile | Sequences):
        raise RecipeError(
            f"target {job.target.name!r} is priced by ZigZag at a second or more per layer, and a {job.space.kind} "
            "space has thousands of different ones; take a target with a table of energies, or a given model"
        )
    price_ahead(job.target, job.graph, job.space.options, watch)


def price_ahead(target: Target, graph: NetworkGraph, options: Mapping[str, Options], watch: Watch = silent) -> None:
    """Run ZigZag on all that the options can ask for, where the target is priced by it; a second or more per layer.

    Raises:
        RecipeError: it isn't installed, or can't map a layer.
    """
    if target.zigzag is not None:

        def progress(done: int, steps: int) -> None:
            watch(Event(stage="ZigZag's estimates", step=done, steps=steps, images=0))

        target.zigzag.ahead(graph, options, progress)
