"""Latent: Bayesian search of whole networks, in the latent space of an autoencoder of them.

    z -> network = decode(z) -> train it shortly, at its bits -> score, believed at encode(network) -> next z

"Hardware-Aware Bayesian Neural Architecture Search of Quantized CNNs" (Perrin, Guicquero, Paille, Sicard, IEEE ESL
2024): a Wasserstein autoencoder embeds architectures, Bayesian optimization proposes codes, networks are trained
quantization-aware and scored under size and operation limits, the best are trained again for longer. How their space,
autoencoder and acquisition are built isn't public; ours are (docs/latent.md).

- What is scored is a network, not a code: proposals are decoded, met ones left out, and encoded again, and the score is
  told to the surrogate there (`proposals`, `surrogate`).
- Budgets are hard: costs are computed, and no network outside is ever trained.
- What fails (a loss that isn't finite, an error, a time-out, a process that dies) is told as infeasible and not tried
  again.
- A proposal is a function of the trials before it, so the file of trials is all that a stopped search goes on from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np

from bitsmith.blueprint import Budget
from bitsmith.errors import RecipeError, TrainingError, suggestion
from bitsmith.search.evaluate import require_start
from bitsmith.search.latent.autoencoder import Autoencoder
from bitsmith.search.latent.climb import climb
from bitsmith.search.latent.elsewhere import answer, tidy, together
from bitsmith.search.latent.ladder import Evaluator, promoted, synflow
from bitsmith.search.latent.outcome import handed_on, ranked
from bitsmith.search.latent.proposals import Proposer, Seen
from bitsmith.search.latent.saved import load_autoencoder, save_autoencoder
from bitsmith.search.latent.training import LatentPlan, train_autoencoder
from bitsmith.search.latent.trials import Trial, Trials, settings_digest
from bitsmith.search.problem import Found, Problem, starting_point
from bitsmith.search.sequence_inside import some_sequence
from bitsmith.seeding import derive
from bitsmith.space import Sequences
from bitsmith.train import Event, TrainPlan, refuse_processes

if TYPE_CHECKING:  # optuna takes a second
    from bitsmith.search.latent.shared import SharedTrials


@final
@dataclass(frozen=True, kw_only=True)
class Latent:
    """Whole networks of a sequence space, by Bayesian optimization in its latent space.

    Args:
        plan: training of every network evaluated.
        initial: networks drawn at random first.
        evaluations: networks proposed after them.
        batch: networks proposed at once; each counts as pending for those behind it.
        traded: costs that the score is traded against, such as params and macs; none looks for the best score alone.
        score: what is modeled and maximized: the task's "metric", or minus the logarithm of the validation "loss",
            which is finer where few images are there.
        screen: how many networks are proposed for each one that is trained; `synflow` chooses. 1 trusts the surrogate.
        rungs: epochs of longer trainings behind the search.
        eta: one of so many climbs from rung to rung.
        seconds: after which a training is given up, or None.
        autoencoder: how the latent space is learned.
        pretrained: folder of an autoencoder of this very space (`save_autoencoder`), taken instead.
        storage: URL of a database, such as sqlite:///study.db, that keeps the trials as Optuna studies; all processes
            that search with it share the work and end with the same trials. Without it a file of this search does.

    Example:
        10 + 100 networks of 6 epochs, of which 28 are trained for 18 epochs and 7 for 54: 660 + 504 + 378 epochs.
    """

    plan: TrainPlan = field(default_factory=lambda: TrainPlan(epochs=6))
    initial: int = 10
    evaluations: int = 100
    batch: int = 1
    traded: tuple[str, ...] = ()
    score: Literal["metric", "loss"] = "metric"
    screen: int = 1
    rungs: tuple[int, ...] = (18, 54)
    eta: int = 4
    seconds: float | None = None
    autoencoder: LatentPlan = field(default_factory=LatentPlan)
    pretrained: str | None = None
    storage: str | None = None

    def __post_init__(self) -> None:
        rises = list(pairwise((self.plan.epochs, *self.rungs, math.inf)))
        for name, fine, wanted in (
            ("initial", self.initial >= 2, "at least 2"),
            ("evaluations", self.evaluations >= 0, "not negative"),
            ("batch", self.batch >= 1, "at least 1"),
            ("traded", len(set(self.traded)) == len(self.traded), "costs, each once"),
            ("score", self.score in ("metric", "loss"), "metric or loss"),
            ("screen", self.screen >= 1, "at least 1"),
            ("rungs", all(a < b for a, b in rises), f"numbers of epochs that rise from above the plan's {rises[0][0]}"),
            ("eta", self.eta >= 2, "at least 2"),
            ("seconds", self.seconds is None or 0 < self.seconds < math.inf, "positive"),
        ):
            if not fine:
                raise RecipeError(f"{name} of method 'latent' must be {wanted}, got {getattr(self, name)}")

    @property
    def name(self) -> str:
        return "latent"

    @property
    def epochs(self) -> float:
        """Of all trainings of all rungs, where none fails and the space isn't used up."""
        n = self.initial + self.evaluations
        total = n * self.plan.epochs
        for epochs in self.rungs:
            n = math.ceil(n / self.eta)
            total += n * epochs
        return total

    def check(self, space: Any, budgets: Sequence[Budget], *, trained: bool) -> None:
        """Refuse other spaces, budgets that can't be met, unknown costs, float weights, another space's autoencoder."""
        if not isinstance(space, Sequences):
            raise RecipeError(
                f"the latent method searches whole networks of a sequence space (space: kind: sequence, a preset or a "
                f"description, see docs/spaces.md), and this is a {space.kind} space"
            )
        require_start(space, trained=trained, plan=self.plan)
        refuse_processes("a latent search", "its autoencoder and its surrogate are made in one")
        for cost in self.traded:
            if cost not in space.costs:
                raise RecipeError(
                    f"traded: there is no cost {cost!r}{suggestion(cost, space.costs)}; there are "
                    f"{', '.join(space.costs)}"
                )
        if self.storage is not None:
            from bitsmith.search.latent.shared import require_url

            require_url(self.storage)
        some_sequence(space, budgets)
        if self.pretrained is not None:
            load_autoencoder(space, Path(self.pretrained))

    def search(self, problem: Problem) -> Found:
        """Evaluate networks, each with a line in trials.jsonl; then the ladder.

        The state is what the best network has learned on the highest rung: of a search in a folder without a storage.

        Details: "evaluations", "failed" (why, by number of the proposal), "ladder" (networks and epochs of each rung),
        "front" (networks of the highest rung that nothing beats in score and the costs traded; of one objective none).

        Raises:
            BudgetError: no network that meets the budgets was found (before any training).
            RecipeError: as `check`; the space has fewer than two networks inside.
            RunError: the kept trials are damaged or of another search.
            TrainingError: every evaluation failed.
        """
        self.check(problem.space, problem.budgets, trained=problem.float_state is not None)
        if problem.elsewhere is not None and self.storage is not None:
            raise RecipeError(
                "a storage shares the work among commands that you start; leave it out, or the workers of this one"
            )
        if problem.elsewhere is not None and problem.folder is None:
            raise RecipeError("networks that are evaluated elsewhere leave their results in files: give a folder")
        trials = self._trials(problem)
        if problem.folder is not None:
            tidy(problem.folder, trials.all)
        model, learning = self._latent_space(problem)
        proposer = Proposer(problem.space, model, tuple(problem.budgets), self.traded)
        # What others have taken over is evaluated by them from its start, so checkpoints would only be in the way.
        evaluator = self._evaluator(problem if self.storage is None else replace(problem, folder=None))
        total, digest = self.initial + self.evaluations, settings_digest(self._settings(problem))

        def choose(seen: Sequence[Seen], number: int) -> np.ndarray | None:
            done = sum(s.score is not None for s in seen)
            self._tell(problem, done, total)
            if done >= self.initial and all(s.score is not None and math.isnan(s.score) for s in seen):
                first = next(trial.failed for trial in trials.of(0))
                raise TrainingError(
                    f"all {done} first networks failed, so there is nothing to go on from; the first: {first}"
                )
            row = self._proposal(seen, number, proposer, problem.seed)
            if row is None and done == len(seen):
                self._tell(problem, done, total, f"all {len(seen)} networks that were found inside are evaluated")
            return row

        def evaluate(row: np.ndarray, number: int) -> Trial:
            trial = evaluator.evaluate(row, number)
            if trial.failed:
                self._tell(problem, number + 1, total, f"network {number + 1} failed: {trial.failed}")
            return trial

        several = together(
            evaluator,
            0,
            digest,
            most=self._left_of_batch,
            tell=lambda n, note: self._tell(problem, n, total, note),
        )
        trials.fill(0, lambda seen: len(seen) < total, choose, evaluate, several)
        self._tell(problem, len(trials.of(0)), total)
        rungs = climb(
            trials,
            evaluator,
            digest,
            choose=lambda done: [done[i] for i in promoted(*ranked(done, self.value, self.traded), self.eta)],
            tell=lambda rung, n, of, note: self._tell(problem, n, of, note, rung),
        )
        return handed_on(
            evaluator.problem,
            rungs,
            (self.plan.epochs, *self.rungs),
            value=self.value,
            traded=self.traded,
            seconds=learning + sum(trial.seconds for trial in trials.all),
        )

    def answer(self, problem: Problem, request: Mapping[str, Any], folder: Path) -> None:
        """Evaluate a network for the search of another process (`Elsewhere`), and leave what came of it in the folder.

        Args:
            problem: that of the search.
            request: as the search made it.
            folder: of this evaluation alone; it goes on from its checkpoint there.
        """
        answer(self._evaluator(problem), request, folder)

    def _evaluator(self, problem: Problem) -> Evaluator:
        return Evaluator(problem=problem, plan=self.plan, rungs=self.rungs, limit=self.seconds)

    def _left_of_batch(self, n: int) -> int:
        """Networks that can be chosen after `n` others before any of them is evaluated."""
        return self.initial - n if n < self.initial else self.batch - (n - self.initial) % self.batch

    def _trials(self, problem: Problem) -> Trials | SharedTrials:
        if self.storage is None:
            path = problem.folder / "trials.jsonl" if problem.folder else None
            return Trials(path, self._settings(problem), self.value)
        from bitsmith.search.latent.shared import SharedTrials

        name = f"latent at {', '.join(map(str, problem.budgets))}"
        return SharedTrials(self.storage, name, problem.space, self._settings(problem), self.traded, self.value)

    def _proposal(self, seen: Sequence[Seen], number: int, proposer: Proposer, seed: int) -> np.ndarray | None:
        """What to evaluate as `number`: the same whether those of its batch before it are evaluated or not."""
        if len(seen) < self.initial:
            drawn: list[np.ndarray] = []
            for k in range(self.screen):
                known = [s.sequence for s in seen]
                row = proposer.draw([*known, *drawn], derive(seed, "latent", "initial", number, k))
                drawn += [] if row is None else [row]
            return self._screened(drawn, proposer.space)
        first = len(seen) - (len(seen) - self.initial) % self.batch
        pending = [replace(s, score=None) for s in seen[first:]]
        rows = proposer.propose([*seen[:first], *pending], self.screen, derive(seed, "latent", "proposal", number))
        return self._screened(rows, proposer.space)

    def _screened(self, rows: Sequence[np.ndarray], space: Sequences) -> np.ndarray | None:
        """The row with the most synaptic flow."""
        if len(rows) < 2:
            return next(iter(rows), None)
        return rows[int(np.argmax([synflow(space.decode(row).graph) for row in rows]))]

    def value(self, trial: Trial) -> float:
        """The score that the surrogate is told: larger is better; NaN of what failed."""
        if trial.metric is None or trial.loss is None:
            return math.nan
        return trial.metric if self.score == "metric" else -math.log(max(trial.loss, 1e-12))

    def _latent_space(self, problem: Problem) -> tuple[Autoencoder, float]:
        """The autoencoder, and the seconds that it took to learn."""
        if self.pretrained is not None:
            return load_autoencoder(problem.space, Path(self.pretrained)), 0.0
        folder = problem.shared or problem.folder
        model, history = train_autoencoder(
            problem.space,
            self.autoencoder,
            seed=derive(problem.seed, "latent space"),
            checkpoint=folder / "autoencoder.checkpoint" if folder else None,
            checkpoint_seconds=problem.checkpoint_seconds,
            watch=problem.watch,
        )
        if folder:
            save_autoencoder(model, problem.space, folder)
        return model, history.seconds

    def _settings(self, problem: Problem) -> dict[str, Any]:
        """What trials hang on; more evaluations or other rungs go on with those that are there."""
        data = problem.task.data
        free = {"evaluations", "rungs", "eta", "storage"}
        if self.storage is not None:  # each process has its own autoencoder; it only leads
            free |= {"autoencoder", "pretrained"}
        own = {k: v for k, v in asdict(self).items() if k not in free}
        return own | {
            "seed": problem.seed,
            "budgets": [str(budget) for budget in problem.budgets],
            "metric": problem.task.metric_name,
            "data": [data.training.fingerprint(), data.validation.fingerprint()],
            **starting_point(problem),
        }

    def _tell(self, problem: Problem, step: int, steps: int, note: str = "", rung: int = 0) -> None:
        stage = "search latent" + (f", {self.rungs[rung - 1]} epochs" if rung else "")
        problem.watch(Event(stage=stage, step=step, steps=steps, images=0, note=note))
