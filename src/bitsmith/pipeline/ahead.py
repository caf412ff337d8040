"""Estimates that take long, before anybody asks for a price."""

from __future__ import annotations

from bitsmith.pipeline.job import Job
from bitsmith.train import Event, Watch, silent


def estimate_ahead(job: Job, watch: Watch = silent) -> None:
    """Run ZigZag on all that the space can ask for, where the target is priced by it; a second or more per layer.

    Raises:
        RecipeError: it isn't installed, or can't map a layer.
    """
    if job.target.zigzag is not None:

        def progress(done: int, steps: int) -> None:
            watch(Event(stage="ZigZag's estimates", step=done, steps=steps, images=0))

        job.target.zigzag.ahead(job.graph, job.space.options, progress)
