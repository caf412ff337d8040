"""Every choice of width over a few groups of blocks, each trained for a few epochs, as trials; and its map.

A block is all layers of equally many channels (`bitsmith.search.widths`); consecutive blocks make a group where there
are more of them than groups wanted. Three groups at four widths are the 64 networks of arXiv 1904.09872. Each is
trained from scratch in a folder of its own, by the same seed and on the same batches; what is there already is not
trained again, and shares that round to the same channels are one network. Scores are of validation data: a map is there
to choose by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from bitsmith.blueprint import Blueprint
from bitsmith.cost import exact
from bitsmith.errors import RecipeError, RunError
from bitsmith.executor import PATIENCE, Executor, Failed, State, Work, run_all
from bitsmith.pipeline.folder import begun
from bitsmith.pipeline.job import Job, Say, check_training_noise, prepare, quiet
from bitsmith.pipeline.lock import locked
from bitsmith.pipeline.machine import environment
from bitsmith.pipeline.opened import at_hand, opened
from bitsmith.pipeline.verbs import check_target
from bitsmith.recipe import Recipe
from bitsmith.report.width_map import MapPoint, WidthMap, write_width_map
from bitsmith.search import Problem, evaluate_blueprint
from bitsmith.search.problem import require_bits
from bitsmith.search.widths import SHARES, WidthGroups, width_groups
from bitsmith.search.widths.method import at_bits
from bitsmith.space import Precision
from bitsmith.train import Watch, read_json, silent, write_json

SCORE = "score.json"
_COSTS = ("macs", "bitops", "bops", "params", "weights", "size", "ram")


@dataclass(frozen=True, kw_only=True)
class WidthGrid:
    """A grid laid out.

    Args:
        blocks: of the network.
        members: of each group the numbers of its blocks.
        shares: of the channels that a group may have left.
    """

    job: Job
    space: Precision
    blocks: WidthGroups
    members: tuple[tuple[int, ...], ...]
    shares: tuple[float, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Each group by its channels: "16 channels", "32 and 64 channels"."""
        channels = self.blocks.channels
        return tuple(f"{' and '.join(str(channels[d]) for d in group)} channels" for group in self.members)

    def points(self) -> list[tuple[float, ...]]:
        """Every choice of shares, one for each group; the first group changes slowest."""
        return list(product(self.shares, repeat=len(self.members)))

    def widths(self, point: Sequence[float]) -> tuple[int, ...]:
        """The channels of each block at some shares."""
        widths = [1] * len(self.blocks.channels)
        for group, share in zip(self.members, point, strict=True):
            for d in group:
                widths[d] = self.blocks.scaled(share)[d]
        return tuple(widths)

    def networks(self) -> dict[tuple[int, ...], tuple[float, ...]]:
        """The different networks by their widths, each with the first of the points that come to it."""
        found: dict[tuple[int, ...], tuple[float, ...]] = {}
        for point in self.points():
            found.setdefault(self.widths(point), point)
        return found

    def blueprint(self, point: Sequence[float]) -> Blueprint:
        """The network at some shares."""
        return self.blocks.blueprint(self.space.uniform(8, 8), self.widths(point))

    def folder(self, point: Sequence[float]) -> Path:
        """Where a network is trained, whichever of its points it is asked for by."""
        first = self.networks()[self.widths(point)]
        return self.job.run.path / "points" / "-".join(f"{share:g}" for share in first)

    def check(self) -> None:
        """Refuse what a point's training or the page would, before anything is trained.

        Raises:
            RecipeError: bits or operators that the target can't hold, a network that its latency table lacks, noise
                that the quantizer doesn't take.
            BudgetError: a cost that can't be priced.
        """
        check_target(self.space, self.job.target)
        if self.job.recipe.train.noise:
            check_training_noise(self.job, self.space)
        for point in self.networks().values():
            self.costs(point)

    def costs(self, point: Sequence[float]) -> dict[str, float]:
        """What the network at some shares costs, by whatever is budgeted too.

        Raises:
            BudgetError: a cost that can't be priced.
        """
        blueprint = self.blueprint(point)
        budgeted = (budget.cost for line in self.job.recipe.budget_sets() for budget in line)
        names = dict.fromkeys((*_COSTS, *budgeted))
        return {name: exact(name, blueprint.graph, blueprint.bits, self.job.space.costs) for name in names}


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """What a grid left: its page, None where a network is missing; and the networks that failed."""

    page: Path | None
    failed: tuple[Failed, ...]


def lay_out(job: Job, *, shares: Sequence[float] = SHARES, groups: int = 3) -> WidthGrid:
    """The grid of a job.

    Raises:
        RecipeError: a mobile space, a network without widths, distillation, shares or groups out of range.
    """
    require_bits(job.space, "the grid of widths")
    if job.recipe.train.distill:
        raise RecipeError("the grid of widths trains from scratch and has no teacher; leave train.distill out")
    if not shares or not all(0 < share <= 1 for share in shares) or len({f"{s:g}" for s in shares}) < len(shares):
        raise RecipeError(
            f"widths of a grid are shares above 0 and up to 1 that differ in their first six digits, got {list(shares)}"
        )
    if not 1 <= groups <= 3:
        raise RecipeError(f"a grid has 1 to 3 groups, as a page can show; got {groups}")
    blocks = width_groups(job.graph, blocks=True)
    if not blocks.groups:
        raise RecipeError("no layer of this network has a width of its own, so there is no grid of widths")
    parts = np.array_split(np.arange(len(blocks.groups)), min(groups, len(blocks.groups)))
    return WidthGrid(
        job=job,
        space=at_bits(
            job.space,
            None,
            None,
            "the grid of widths",
            hint="pin it to 8 in the recipe's space, or leave float out there",
        ),
        blocks=blocks,
        members=tuple(tuple(part.tolist()) for part in parts),
        shares=tuple(sorted(shares)),
    )


def train_point(grid: WidthGrid, point: Sequence[float], watch: Watch = silent) -> None:
    """Train and score one network, from its checkpoint on where there is one; nothing where it is scored already."""
    folder, job, blueprint = grid.folder(point), grid.job, grid.blueprint(point)
    with locked(folder, patience=PATIENCE):
        if (folder / SCORE).exists():
            return
        problem = Problem(
            task=replace(job.task, data=job.task.data.without_test()),
            space=grid.space,
            budgets=[],
            seed=job.recipe.seed,
            checkpoint_seconds=job.recipe.checkpoint_seconds,
            watch=watch,
        )
        checkpoint = folder / "train.checkpoint"
        title = "train " + " ".join(f"{share:g}" for share in point)
        score = evaluate_blueprint(problem, blueprint, job.recipe.train, stage=title, checkpoint=checkpoint)
        write_json(folder / SCORE, asdict(score))
        checkpoint.unlink(missing_ok=True)


def do_point(watch: Watch, say: Say, *, run: str, groups: int, shares: Sequence[float], point: Sequence[float]) -> None:
    """`train_point` as a trial.

    Args:
        run: folder of the grid's run.
        groups, shares: of that grid.
        point: its shares.
    """
    train_point(lay_out(opened(Path(run), say), shares=shares, groups=groups), point, watch)


def train_grid(
    recipe: Recipe,
    out: Path,
    *,
    shares: Sequence[float] = SHARES,
    groups: int = 3,
    executor: Executor,
    command: str = "",
    say: Say = quiet,
    watch: Callable[[State], None] = lambda state: None,
) -> Mapped:
    """Train what isn't there yet, then write widths.html and widths.json.

    Args:
        out: a run folder of the recipe, whose training (`train`) each network gets.
        executor: where networks are trained.
        command: what was typed, for the page.

    Raises:
        RunError: the folder holds work of another recipe, or another process works there.
        BitsmithError: as `prepare` and `lay_out`.
    """
    with begun(out, recipe) as run:
        grid = lay_out(prepare(run, say), shares=shares, groups=groups)
        grid.check()
        works = [
            Work(
                title=" ".join(f"{share:g}" for share in point),
                folder=grid.folder(point),
                call="bitsmith.pipeline.width_grid:do_point",
                arguments={
                    "run": str(out.absolute()),
                    "groups": groups,
                    "shares": list(shares),
                    "point": list(point),
                },
            )
            for point in grid.networks().values()
            if not (grid.folder(point) / SCORE).exists()
        ]
        with at_hand(grid.job):
            failed = run_all(executor, works, watch=watch, failed=lambda problem: say(str(problem)))
        if failed:
            return Mapped(page=None, failed=tuple(failed))
        return Mapped(page=write_width_map(summarize_grid(grid, command), out), failed=())


def summarize_grid(grid: WidthGrid, command: str = "") -> WidthMap:
    """The map of a grid whose every network is scored.

    Raises:
        RunError: one is missing or damaged.
    """
    job = grid.job
    return WidthMap(
        title=job.recipe.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        metric=job.task.metric_name,
        images=len(job.task.data.validation),
        groups=list(grid.names),
        shares=list(grid.shares),
        budgets=[", ".join(map(str, line)) for line in job.recipe.budget_sets()],
        points=[_read(grid, point) for point in grid.points()],
        facts={
            "model": job.recipe.model.spec,
            "data": job.task.data.name,
            "bits": _bits(grid.blueprint(grid.points()[-1])),
            "networks": f"{len(grid.networks())} of {len(grid.points())} choices of shares are different ones",
            "epochs of each network": job.recipe.train.epochs,
            "validation images": len(job.task.data.validation),
        },
        environment=environment(job.recipe.seed),
        command=command,
    )


def _read(grid: WidthGrid, point: Sequence[float]) -> MapPoint:
    file = grid.folder(point) / SCORE
    values: dict[str, Any] = read_json(file, "train the grid first")
    try:
        return MapPoint(
            shares=list(point),
            score=float(values["metric"]),
            loss=float(values["loss"]),
            seconds=float(values["seconds"]),
            costs=grid.costs(point),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{file} is damaged ({error}); delete it and train the grid again") from error


def _bits(blueprint: Blueprint) -> str:
    pairs = dict.fromkeys(f"w{bits.weight}a{bits.activation}" for bits in blueprint.bits.values())
    return ", ".join(pairs)
