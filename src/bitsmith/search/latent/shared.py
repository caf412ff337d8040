"""Trials in an Optuna study, which several processes fill together; each ends with all of them.

A rung is a study of its own: "NAME" the search's, "NAME, rung 1" the first of longer trainings. A trial is COMPLETE
with its score (and the costs that it is traded against), FAIL with a reason, or RUNNING; its parameters are the tokens
of its network, its user attributes everything else that `Trial` holds. How networks are taken says `sampler`.
"""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, final

import numpy as np
import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, OptunaError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.storages._heartbeat import get_heartbeat_thread
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from bitsmith.cost import price
from bitsmith.errors import RunError
from bitsmith.search.latent.sampler import (
    DEATHS,
    GivenUpError,
    NothingLeftError,
    SequenceSampler,
    give_up,
    given_up,
    live,
    require_space,
    seen,
    taken,
)
from bitsmith.search.latent.trials import Choose, Evaluate, More, Together, Trial, settings_digest
from bitsmith.space import Sequences

BEAT, GRACE = 20, 120  # seconds between two heartbeats; without one, after which a process counts as dead
_POLL, _TRIES = 0.5, 5
_SETTINGS = "bitsmith:settings"  # system attribute
_KEPT = ("number", "network", "costs", "metric", "loss", "failed", "epochs", "seconds", "seed")  # user attributes
_BROKEN = (SQLAlchemyError, OptunaError, ImportError, ValueError, RuntimeError)


@final
class SharedTrials:
    """The trials of a search, in studies of a storage that other processes may work in too.

    Args:
        storage: URL as of SQLAlchemy, such as sqlite:///study.db.
        name: of the first study.
        space: of the networks.
        settings: JSON-able, what the trials hang on.
        traded: costs that are further objectives, minimized.
        value: score of a trial, the first objective, maximized.

    Raises:
        RunError: the storage can't be used, or holds trials of another search.
    """

    def __init__(
        self,
        storage: str,
        name: str,
        space: Sequences,
        settings: Mapping[str, Any],
        traded: tuple[str, ...],
        value: Callable[[Trial], float],
    ) -> None:
        self._url, self._name, self._space, self._traded, self._value = storage, name, space, traded, value
        self._settings = settings_digest(settings)
        self._studies: dict[int, optuna.Study] = {}
        with _quiet():
            try:
                self._storage = _opened(storage)
                self._study(0)
            except RunError:
                raise
            except _BROKEN as error:
                raise RunError(_refusal(storage, error)) from error

    def _study(self, rung: int) -> optuna.Study:
        if rung not in self._studies:
            study = optuna.create_study(
                storage=self._storage,
                study_name=f"{self._name}, rung {rung}" if rung else self._name,
                directions=[StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE] * len(self._traded)],
                load_if_exists=True,
            )
            require_space(study, self._space)
            attributes = study._storage.get_study_system_attrs(study._study_id)
            if attributes.setdefault(_SETTINGS, self._settings) != self._settings:
                raise RunError(
                    f"the study {study.study_name!r} in {self._url} is of another search (other settings, seed, "
                    "budgets or data); choose another storage"
                )
            study._storage.set_study_system_attr(study._study_id, _SETTINGS, self._settings)
            self._studies[rung] = study
        return self._studies[rung]

    @property
    def all(self) -> list[Trial]:
        """Those of all rungs, evaluated."""
        return [trial for rung in self._studies for trial in self.of(rung)]

    def of(self, rung: int) -> list[Trial]:
        """Those of a rung that are evaluated, in the order of their numbers."""
        with _quiet():
            trials = self._live(self._study(rung))
        return [self._read(trial, rung) for trial in trials if trial.state != TrialState.RUNNING]

    def fill(self, rung: int, more: More, choose: Choose, evaluate: Evaluate, together: Together | None = None) -> None:
        """Choose networks for a rung and evaluate them while `more` says so and one is left; then wait for others'.

        What another process died at is evaluated here. A process evaluates one network at a time.
        """
        assert together is None
        with _quiet():
            study, none_left_of = self._study(rung), -1
            sampler = SequenceSampler(self._space, lambda known, number: choose(known, number) if more(known) else None)
            study.sampler = sampler
            while True:
                fail_stale_trials(study)
                trials = self._live(study)
                if len(trials) != none_left_of and more(seen(trials, study.directions[0])):
                    try:
                        self._evaluate(study, sampler, evaluate)
                    except NothingLeftError:
                        none_left_of = len(trials)
                    except GivenUpError:
                        continue  # this process was held up; it asks again
                elif any(trial.state == TrialState.RUNNING for trial in trials):
                    time.sleep(_POLL)
                else:
                    return

    def _evaluate(self, study: optuna.Study, sampler: SequenceSampler, evaluate: Evaluate) -> None:
        trial = study.ask()
        with get_heartbeat_thread(trial._trial_id, study._storage):
            try:
                done = evaluate(sampler.sequence(trial), trial.number)
                values = [self._value(done), *(done.costs[name] for name in self._traded)]
                well = math.isfinite(values[0])
                for name in _KEPT:
                    trial.set_user_attr(name, asdict(done)[name])
                state = TrialState.COMPLETE if well else TrialState.FAIL
                study.tell(trial, values if well else None, state=state, skip_if_finished=True)
            except UpdateFinishedTrialError:
                return  # given up by others, as of a process that died; they evaluate it
            except BaseException:
                give_up(study, trial)
                raise

    def _live(self, study: optuna.Study) -> list[FrozenTrial]:
        return live(study._storage.get_all_trials(study._study_id, deepcopy=False))

    def _read(self, trial: FrozenTrial, rung: int) -> Trial:
        sequence = tuple(taken(trial) or ())
        if not given_up(trial):
            return Trial(rung=rung, sequence=sequence, **{name: trial.user_attrs[name] for name in _KEPT})
        blueprint = self._space.decode(np.array(sequence))
        return Trial(
            number=trial.number,
            rung=rung,
            network=self._space.key(blueprint),
            sequence=sequence,
            costs=price(blueprint.graph, blueprint.bits, self._space.costs),
            failed=f"{DEATHS} processes died while it was trained",
        )


def _opened(url: str) -> RDBStorage:
    """A storage with its tables; two processes that make them at once are in each other's way."""
    slow = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    for _ in range(_TRIES):
        try:
            return RDBStorage(url, slow, heartbeat_interval=BEAT, grace_period=GRACE)
        except SQLAlchemyError as error:
            if not isinstance(error, IntegrityError) and "already exists" not in str(error):
                raise
        time.sleep(_POLL)
    return RDBStorage(url, slow, heartbeat_interval=BEAT, grace_period=GRACE)


def require_url(storage: str) -> None:
    """Refuse what is no URL of a database, or of one that can't be talked to; it isn't looked for yet.

    Raises:
        RunError: with the reason; also for a password, which recipes and reports would keep.
    """
    try:
        url = sqlalchemy.make_url(storage)
        if url.password is not None:
            raise RunError(
                f"the storage {url.render_as_string()} has a password in it, which the run's recipe would keep; leave "
                "it out, and give it as your database's client reads it (such as PGPASSWORD, or a file ~/.pgpass)"
            )
        sqlalchemy.create_engine(url)
    except RunError:
        raise
    except _BROKEN as error:
        raise RunError(_refusal(storage, error)) from error


def _refusal(storage: str, error: Exception) -> str:
    reason = next(iter(str(error.__cause__ or error).splitlines()), type(error).__name__)
    storage = re.sub(r":[^:@/]*@", ":***@", storage)  # a password is for nobody's log
    return f"the storage {storage!r} can't be used: {reason}; give a database as sqlite:///study.db, see docs/latent.md"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's lines about every trial, and its warnings to developers."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            warnings.filterwarnings("ignore", "Heartbeat of storage is supposed")
            yield
    finally:
        optuna.logging.set_verbosity(before)
