"""The search as an Optuna sampler: Optuna's storages share it between processes, its dashboard shows it.

    sampler = LatentSampler(Proposer(space, model, budgets), seed=0)
    study = optuna.create_study(storage="sqlite:///study.db", sampler=sampler, direction="maximize")
    trial = study.ask()
    blueprint = space.decode(sampler.sequence(trial))

A trial's parameters "layer 1", "layer 2", ... are the numbers of its tokens, 0 the end. What was told is evidence, what
runs is pending, what failed is a failure. No network is taken twice, however many processes ask:

- Optuna numbers trials one by one, so a number is a ticket: a trial takes its network when all with lower numbers have
  taken theirs or were given up, and keeps it in one write.
- Who dies while choosing is given up by those that wait, after PATIENCE seconds. A trial that was given up can take
  nothing any more, as Optuna refuses to change it.
- Who dies while evaluating is given up by Optuna's heartbeats, where the storage has them. The network may come again,
  until that has happened DEATHS times: then it counts as failed.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from bitsmith.errors import RunError
from bitsmith.search.latent.proposals import Proposer, Seen
from bitsmith.search.latent.trials import Choose
from bitsmith.seeding import derive
from bitsmith.space import Sequences

PATIENCE = 300.0  # seconds for a choice, which takes some
DEATHS = 3  # of processes at one network, before it counts as its fault
_POLL = 0.2
_SPACE, _TAKEN, _FAILED = "bitsmith:space", "bitsmith:sequence", "bitsmith:failed"  # system attributes


class NothingLeftError(RunError):
    """No network is left for a trial; it was given up."""


class GivenUpError(RunError):
    """A trial was given up by other processes while it chose."""


class SequenceSampler(optuna.samplers.BaseSampler):
    """Gives every trial of a study a network of its own when it is asked for; `choose` says which one.

    Args:
        space: of the networks.
        choose: called for one trial of the study at a time, whichever process asks.

    Raises:
        RunError: from `study.ask`, where the study is of another space, or nothing is left to choose.
    """

    def __init__(self, space: Sequences, choose: Choose) -> None:
        self._space, self._choose = space, choose
        self._others = optuna.samplers.RandomSampler(seed=0)

    def sequence(self, trial: optuna.Trial) -> np.ndarray:
        """The network that a trial is to evaluate, int64 [length]; `space.decode` makes it a blueprint."""
        last = len(self._space.automaton.tokens) - 1
        return np.array([trial.suggest_int(name, 0, last) for name in self._names], dtype=np.int64)

    @property
    def _names(self) -> list[str]:
        return [f"layer {k + 1}" for k in range(self._space.automaton.length)]

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Let the trial take its network."""
        require_space(study, self._space)
        if taken(trial) is not None:
            return
        given = trial.system_attrs.get("fixed_params", {})  # of study.enqueue_trial
        try:
            if set(self._names) <= set(given):
                row = [given[name] for name in self._names]
            else:
                row = self._choose(seen(self._before(study, trial), study.directions[0]), trial.number)
            if row is None:
                raise NothingLeftError(f"trial {trial.number} of {study.study_name!r}: no network is left to evaluate")
        except BaseException:
            give_up(study, trial)
            raise
        try:
            study._storage.set_trial_system_attr(trial._trial_id, _TAKEN, [int(token) for token in row])
        except UpdateFinishedTrialError as error:
            raise GivenUpError(
                f"trial {trial.number} of {study.study_name!r} was given up by another process, as it took more than "
                f"{PATIENCE:g} s to choose a network; ask again"
            ) from error

    def _before(self, study: optuna.Study, trial: FrozenTrial) -> list[FrozenTrial]:
        """The trials with lower numbers that have a network, when none of them is still choosing."""
        first, since = -1, time.monotonic()
        while True:
            every = study._storage.get_all_trials(study._study_id, deepcopy=False)
            lower = [t for t in every if t.number < trial.number]
            choosing = [t for t in lower if t.state == TrialState.RUNNING and taken(t) is None]
            if not choosing:
                return [t for t in lower if taken(t) is not None]
            if choosing[0].number != first:  # those behind it wait, as this one does
                first, since = choosing[0].number, time.monotonic()
            if time.monotonic() - since > PATIENCE:
                give_up(study, choosing[0])
            time.sleep(_POLL)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The layers."""
        return {name: IntDistribution(0, len(self._space.automaton.tokens) - 1) for name in self._names}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The tokens of the trial's network."""
        row = taken(study._storage.get_trial(trial._trial_id))
        return dict(zip(search_space, row or (), strict=True))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Parameters that are no layers, at random."""
        return self._others.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Remember that a failure was told; who is given up is told nothing."""
        if state == TrialState.FAIL:
            study._storage.set_trial_system_attr(trial._trial_id, _FAILED, True)


@final
class LatentSampler(SequenceSampler):
    """Bayesian optimization in a latent space.

    The first objective is the score, to be maximized or minimized as the study says. Others must be the costs that the
    proposer trades it against, in their order; they are computed, not read from the study.

    Args:
        proposer: of the space, with its autoencoder and budgets.
        initial: networks drawn at random first.
        seed: of draws and proposals.
    """

    def __init__(self, proposer: Proposer, *, initial: int = 10, seed: int = 0) -> None:
        def choose(seen: Sequence[Seen], number: int) -> np.ndarray | None:
            if len(seen) < initial:
                return proposer.draw([s.sequence for s in seen], derive(seed, "initial", number))
            return next(iter(proposer.propose(seen, 1, derive(seed, "proposal", number))), None)

        super().__init__(proposer.space, choose)


def taken(trial: FrozenTrial) -> list[int] | None:
    """The tokens of the network that a trial has taken."""
    return trial.system_attrs.get(_TAKEN)


def given_up(trial: FrozenTrial) -> bool:
    """Whether the process that had a trial died or was stopped."""
    return trial.state == TrialState.FAIL and not trial.system_attrs.get(_FAILED, False)


def give_up(study: optuna.Study, trial: FrozenTrial | optuna.Trial) -> None:
    """End a trial without a result, as Optuna does with those whose process died; for good."""
    try:
        study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    except UpdateFinishedTrialError:
        return  # another process was quicker


def live(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that count: with a network, and not given up; of a network that was given up DEATHS times the last one."""
    deaths = Counter(tuple(taken(t) or ()) for t in trials if given_up(t))
    last = {tuple(taken(t) or ()): t.number for t in trials if given_up(t)}
    return [
        t
        for t in trials
        if (row := tuple(taken(t) or ())) and (not given_up(t) or (deaths[row] >= DEATHS and last[row] == t.number))
    ]


def seen(trials: Sequence[FrozenTrial], direction: StudyDirection) -> list[Seen]:
    """What proposals see of trials."""
    sign = -1.0 if direction == StudyDirection.MINIMIZE else 1.0

    def score(trial: FrozenTrial) -> float | None:
        if trial.state == TrialState.RUNNING:
            return None
        value = sign * trial.values[0] if trial.values else math.nan
        return value if math.isfinite(value) else math.nan

    return [Seen(sequence=np.array(taken(t), dtype=np.int64), score=score(t)) for t in live(trials)]


def require_space(study: optuna.Study, space: Sequences) -> None:
    """Mark a study as one of a space.

    Raises:
        RunError: it is of another one.
    """
    own, found = space.identity()["graph"], study._storage.get_study_system_attrs(study._study_id).get(_SPACE)
    if found is None:
        study._storage.set_study_system_attr(study._study_id, _SPACE, own)
    elif found != own:
        raise RunError(
            f"the study {study.study_name!r} holds networks of another space, or for images of another shape; choose "
            "another storage or another name"
        )
