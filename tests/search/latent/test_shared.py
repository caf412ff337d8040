"""A search that several processes share in an Optuna storage, and its proposals as an Optuna sampler."""

import dataclasses
import math
import sqlite3
import warnings
from pathlib import Path

import numpy as np
import optuna
import pytest
from latents import closed_form, proposer
from sequences import sequences, tiny_sequences
from together import in_a_fresh_process

from bitsmith.blueprint import Budget
from bitsmith.errors import RecipeError, RunError, TrainingError
from bitsmith.search import Latent
from bitsmith.search.latent import ladder, sampler, shared
from bitsmith.search.latent.sampler import GivenUpError, LatentSampler, NothingLeftError, give_up, given_up, taken
from bitsmith.space import Stem
from bitsmith.train import TrainPlan

BUDGET = [Budget.parse("macs=1G")]


@pytest.fixture(autouse=True)
def _quiet_optuna():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path}/study.db"


def latent(kept_model, storage, **changes) -> Latent:
    settings = {"plan": TrainPlan(epochs=2, compile="none"), "initial": 5, "evaluations": 1, "rungs": (3,), "eta": 4}
    return Latent(**(settings | {"pretrained": kept_model, "storage": storage} | changes))


def outcome(found):
    return found.best, found.curves, found.details, found.epochs


def study_of(space, model, storage, *, initial=3, direction="minimize") -> tuple[optuna.Study, LatentSampler]:
    taking = LatentSampler(proposer(space, model), initial=initial, seed=1)
    study = optuna.create_study(
        study_name="own", storage=storage, sampler=taking, direction=direction, load_if_exists=True
    )
    return study, taking


def test_two_processes_share_a_search():
    """torch can't always go backward in a fork of a process that has gone backward itself."""
    in_a_fresh_process(Path(__file__).with_name("forking_shared.py"))


def test_goes_on_and_counts_alike(kept_model, problem, scored, storage):
    """Stopped within an evaluation: that one is given up; the others are not repeated. A third worker adds nothing."""
    problem = problem(budgets=BUDGET)

    def stop(event):
        if event.stage == "search latent" and event.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        latent(kept_model, storage).search(dataclasses.replace(problem, watch=stop))
    assert len(scored) == 4
    found = latent(kept_model, storage).search(problem)
    assert [epochs for _, epochs in scored] == [2] * 6 + [3] * 2
    assert outcome(latent(kept_model, storage).search(problem)) == outcome(found)
    assert len(scored) == 8
    more = latent(kept_model, storage, evaluations=2).search(problem)
    assert more.details["evaluations"] == 7
    study = optuna.load_study(study_name="latent at macs=1G", storage=storage)
    first = study.trials[0]
    assert set(first.params) == {"layer 1", "layer 2", "layer 3"}
    assert first.user_attrs["network"] == scored[0][0]
    assert first.values == pytest.approx([first.user_attrs["metric"]])


def test_failures_are_told(kept_model, problem, scored, storage, monkeypatch):
    well = ladder.evaluate_blueprint

    def fail(problem, blueprint, plan, **settings):
        score = well(problem, blueprint, plan, **settings)
        if "separable" in problem.space.key(blueprint):
            raise TrainingError("the loss became nan")
        return score

    monkeypatch.setattr(ladder, "evaluate_blueprint", fail)
    found = latent(kept_model, storage, initial=7, rungs=()).search(problem(budgets=BUDGET))
    failed = [name for name, _ in scored if "separable" in name]
    assert 0 < len(failed) < 8
    assert list(found.details["failed"].values()) == ["TrainingError: the loss became nan"] * len(failed)
    study = optuna.load_study(study_name="latent at macs=1G", storage=storage)
    states = [trial.state for trial in study.trials]
    assert states.count(optuna.trial.TrialState.FAIL) == len(failed)
    assert not any(given_up(trial) for trial in study.trials)


def test_what_a_process_died_at_is_evaluated_by_another(kept_model, problem, scored, storage, monkeypatch):
    """Its trial beats no more; after three deaths a network counts as failed."""
    monkeypatch.setattr(shared, "GRACE", 1)
    monkeypatch.setattr(shared, "_POLL", 0.1)
    method = latent(kept_model, storage, initial=2, evaluations=0, rungs=())
    problem = problem(budgets=BUDGET)
    trials = method._trials(problem)
    study = trials._study(0)
    for _ in range(2):  # two processes that died at one network
        enqueued = dict.fromkeys(("layer 1", "layer 2", "layer 3"), 0) | {"layer 1": 17}
        study.enqueue_trial(enqueued)
        study.sampler = sampler.SequenceSampler(problem.space, lambda *_: None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            give_up(study, study.ask())
    study.enqueue_trial(enqueued)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        last = study.ask()
    study._storage.record_heartbeat(last._trial_id)
    found = method.search(problem)
    assert len(scored) == 1
    assert found.details["failed"] == {"3": "3 processes died while it was trained"}
    assert found.details["evaluations"] == 2


def test_sampler_in_a_study_of_ones_own(space, model, storage, scored):
    """Networks inside the space, none twice, failures told; the score may be minimized; other parameters are free."""
    study, taking = study_of(space, model, storage, initial=4)
    met = []

    def objective(trial):
        row = taking.sequence(trial)
        assert space.automaton.valid(row[None])[0]
        met.append(row.tobytes())
        trial.suggest_float("lr", 0.01, 0.1)
        if len(met) == 2:
            raise TrainingError("the loss became nan")
        return -closed_form(space, row)

    study.enqueue_trial({"layer 1": 17, "layer 2": 0, "layer 3": 0})
    study.optimize(objective, n_trials=5, catch=TrainingError)
    assert len(set(met)) == 5
    assert np.frombuffer(met[0], dtype=np.int64).tolist() == [17, 0, 0]
    seen = sampler.seen(study.trials, study.directions[0])
    assert [s.score for s in seen if not math.isnan(s.score)] == pytest.approx(
        [closed_form(space, np.frombuffer(row, dtype=np.int64)) for i, row in enumerate(met) if i != 1]
    )
    assert math.isnan(seen[1].score)
    running = study.ask()
    assert taken(running._cached_frozen_trial) is None  # what was there before it chose
    assert sampler.seen(study.get_trials(), study.directions[0])[-1].score is None


def test_who_dies_while_choosing_is_given_up(space, model, storage, scored, monkeypatch):
    """Later trials wait for a while only; what was given up can't come back with a network."""
    monkeypatch.setattr(sampler, "PATIENCE", 0.3)
    study, taking = study_of(space, model, storage)
    study._storage.create_new_trial(study._study_id)
    trial = study.ask()
    assert [given_up(t) for t in study.trials] == [True, False]
    assert len(taking.sequence(trial)) == 3

    def slow(seen, number):
        give_up(study, study.trials[number])  # as another process does meanwhile
        return space.automaton.at(0)

    study.sampler = sampler.SequenceSampler(space, slow)
    with pytest.raises(GivenUpError, match=r"trial 2 of 'own' was given up by another process"):
        study.ask()


def test_a_space_is_used_up(storage):
    few = sequences(tiny_sequences(stem=Stem(channels=4), channels=(4,), layers=(1, 2), strided=(0, 0), skips=(0, 1),
                                   operators=("conv",)), input_shape=(1, 8, 8))  # fmt: skip
    rows = [few.automaton.at(number) for number in range(few.count())]

    def choose(seen, number):
        known = {s.sequence.tobytes() for s in seen}
        return next((row for row in rows if row.tobytes() not in known), None)

    study = optuna.create_study(storage=storage, sampler=sampler.SequenceSampler(few, choose))
    asked = [study.ask() for _ in rows]
    assert len({tuple(study.sampler.sequence(trial)) for trial in asked}) == len(rows) == 6
    with pytest.raises(NothingLeftError, match="no network is left"):
        study.ask()


def test_refusals(space, model, kept_model, problem, every, storage, tmp_path):
    """One message each: what is wrong, and the way out."""
    limits = [Budget(cost="params", limit=float(np.quantile(every[1], 0.5)))]
    for url, reason in (
        ("study.db", r"'study.db' can't be used: .*give a database as sqlite:///study.db"),
        ("nosuch://host/study", "can't be used: .*nosuch"),
        ("postgresql://me:secret@host/db", "has a password in it, which the run's recipe would keep"),
        ("nosuch://me:secret@host/db", "has a password in it"),
        ("me:secret@host", "can't be used"),
    ):
        with pytest.raises(RunError, match=reason) as refused:
            latent(kept_model, url).check(space, limits, trained=False)
        assert "secret" not in str(refused.value)
    with pytest.raises(RunError, match=r"can't be used: .*unable to open database file"):
        latent(kept_model, f"sqlite:///{tmp_path}/nowhere/study.db").search(problem(budgets=BUDGET))
    (tmp_path / "no.db").write_text("this is no database, whatever its name says")
    with pytest.raises(RunError, match=r"can't be used: .*not a database"):
        latent(kept_model, f"sqlite:///{tmp_path}/no.db").search(problem(budgets=BUDGET))
    method = latent(kept_model, storage)
    method._trials(problem(budgets=BUDGET))
    with pytest.raises(RunError, match=r"of another search .*choose another storage"):
        method._trials(problem(budgets=BUDGET, seed=4))
    other = sequences(dataclasses.replace(space.description, weight_bits=(4,)), input_shape=(1, 8, 8), outputs=10)
    with pytest.raises(RunError, match="networks of another space"):
        method._trials(problem(budgets=BUDGET, space=other))
    study_of(space, model, storage)[0].ask()
    with pytest.raises(RunError, match="networks of another space"):
        study_of(other, model, storage)[0].ask()
    with pytest.raises(RecipeError):
        latent(kept_model, storage, initial=1)
    assert sqlite3.connect(tmp_path / "study.db").execute("select count(*) from studies").fetchone() == (2,)
