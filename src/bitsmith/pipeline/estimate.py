"""How long a run will take, from a few real steps on this machine before it starts."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from bitsmith.blueprint import Blueprint
from bitsmith.errors import BudgetError
from bitsmith.pipeline.job import Job
from bitsmith.quantize import build, float_blueprint
from bitsmith.search import (
    Composite,
    Filters,
    GridSearch,
    Multinomial,
    Partitions,
    SampledFilters,
    Sensitivity,
    SharedNetwork,
    SoftFilters,
    Supernet,
    WidthSearch,
    build_mixed,
    least,
    random_network,
    random_sequence,
)
from bitsmith.search.widths import SHARES
from bitsmith.space import Mobile, Sequences
from bitsmith.train import calibrate, fitting_part, foretell


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds that the stages of a run take from its beginning.

    Example:
        >>> Estimate(float_seconds=60, search_seconds=120, train_seconds=300, networks=4).total
        480
    """

    float_seconds: float
    search_seconds: float
    train_seconds: float
    networks: int

    @property
    def total(self) -> float:
        """Of all stages."""
        return self.float_seconds + self.search_seconds + self.train_seconds


def estimate(job: Job) -> Estimate:
    """Time a step of each kind of network on one real batch, and multiply by the steps that the recipe asks for.

    Compiled training is estimated as if it were not compiled, so it ends sooner. Export and verification are left out:
    they take seconds per network.
    """
    recipe, data = job.recipe, job.task.data
    plan = recipe.float_plan
    float_seconds = search_seconds = 0.0
    if plan is not None:
        network = build(float_blueprint(job.graph))
        float_seconds = plan.epochs * data.training.steps(batch_size=plan.batch_size) * _step(job, network)
    method = job.method
    lines = len(recipe.budgets)
    if isinstance(method, Composite):
        network = build_mixed(job.space)
        step = _step(job, network, method.plan.batch_size)
        options = sum(n for sizes in job.space.sizes for n in sizes if n > 1)
        measured = 0 if method.as_published else options * (method.norm_batches + method.loss_batches)
        # A forward pass alone is about a third of a step.
        search_seconds = (
            lines * step * (method.plan.epochs * data.train.steps(batch_size=method.plan.batch_size) + measured / 3)
        )
    elif isinstance(method, Filters):
        step = _step(job, SoftFilters(job.space, remove=method.remove), method.plan.batch_size)
        steps = method.plan.epochs * data.training.steps(batch_size=method.plan.batch_size)
        search_seconds = lines * step * (steps + method.norm_batches / 3)
    elif isinstance(method, WidthSearch):
        step = _step(job, build(_typical(job)), method.plan.batch_size)
        steps = method.plan.epochs * data.train.steps(batch_size=method.plan.batch_size)
        # Products rise with the square of the width: four homogeneous networks, one drawn; forward passes a third.
        whole = sum(share**2 for share in SHARES)
        scored = (whole + 0.6 * method.samples) * (method.norm_batches + method.loss_batches) / 3
        paths = whole + 0.6 + scored / (method.samples * method.sample_steps)
        search_seconds = lines * step * (paths * steps + method.norm_batches / 3)
    elif isinstance(method, Multinomial):
        step = _step(job, SampledFilters(Partitions(job.space, method.pairs)), method.plan.batch_size)
        steps = method.plan.epochs * data.train.steps(batch_size=method.plan.batch_size)
        scored = (method.plan.epochs - method.weights_first) * method.architecture_steps * method.taken_samples
        search_seconds = lines * step * (steps + (scored * (method.norm_batches + 1) + method.norm_batches) / 3)
    elif isinstance(method, Sensitivity):  # measured once for all budgets
        options = sum(n for sizes in job.space.sizes for n in sizes if n > 1)
        step = _step(job, build_mixed(job.space), method.batch_size)
        search_seconds = step * options * (method.norm_batches + method.loss_batches) / 3
    elif isinstance(method, Supernet):
        step = _step(job, SharedNetwork(job.space, scaling=method.scaling), method.plan.batch_size)
        by_loss = method.score == "sensitivity" and not method.as_published
        options = int(job.space.sizes[job.space.sizes > 1].sum()) if by_loss else 0
        measured = (options + method.refine) * (method.norm_batches + method.loss_batches)
        each = len(data.search) / len(data.train) if method.as_published else 1 / method.architecture_every
        both = 1 + (1 - method.weights_first) * each  # steps of the choices take as long
        steps = method.plan.epochs * data.train.steps(batch_size=method.plan.batch_size) * both
        search_seconds = lines * step * (steps + measured / 3)
    elif method.epochs:  # as if its steps were those of an 8-bit network
        tried = min(method.most, job.space.count()) if isinstance(method, GridSearch) else 1
        step = _step(job, build(_typical(job)))
        search_seconds = tried * lines * step * method.epochs * data.train.steps(batch_size=recipe.train.batch_size)
    step = _step(job, build(_typical(job)), recipe.train.batch_size)
    networks = lines * (1 + len(recipe.baselines)) + len(recipe.fixed)
    epochs = networks * (recipe.train.epochs + job.method.epochs) - lines * job.method.epochs
    train_seconds = epochs * data.training.steps(batch_size=recipe.train.batch_size) * step
    return Estimate(
        float_seconds=float_seconds, search_seconds=search_seconds, train_seconds=train_seconds, networks=networks
    )


def _typical(job: Job) -> Blueprint:
    """A network as large as those to be trained: of whole networks a random one inside the first budgets.

    Where none is inside, the smallest, which comes nearest to them: that nothing fits is for others to say.
    """
    if not isinstance(job.space, Mobile | Sequences):
        return job.space.uniform(8, 8)
    budgets, generator = job.recipe.budget_sets()[0], np.random.default_rng(0)
    try:
        if isinstance(job.space, Sequences):
            return random_sequence(job.space, budgets, generator)
        return random_network(job.space, budgets, generator)
    except BudgetError:
        return least(job.space, "size")


def _step(job: Job, network: nn.Module, batch_size: int | None = None) -> float:
    """Seconds of one training step, the better of two after those that tell how many images memory is enough for.

    Raises:
        TrainingError: not even for the fewest.
    """
    batch_size = batch_size or (job.recipe.float_plan or job.recipe.train).batch_size
    x, y = next(iter(job.task.data.train.batches(batch_size=batch_size, seed=0)))
    parameters = [p for p in network.parameters() if p.requires_grad]
    batches = {"batches": 1, "batch_size": min(len(x), 2)}
    calibrate(network, job.task.data.train, **batches)  # pyright: ignore[reportArgumentType]
    network.train()

    def step(images: int) -> float:
        started = time.perf_counter()
        loss = job.task.compute_loss(network(x[:images]), y[:images])
        torch.autograd.grad(loss, parameters, allow_unused=True)
        return time.perf_counter() - started

    device = torch.device("cpu")
    memory = foretell(step, least=min(2, len(x)), most=len(x), device=device)
    part = len(x) if memory is None else fitting_part(memory, len(x), 2, device, job.recipe.name)
    return min(step(part), step(part)) * len(x) / part
