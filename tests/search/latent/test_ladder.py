"""The evaluation ladder: failures become trials, what is stopped from outside does not, the best climb."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bitsmith.blueprint import Blueprint
from bitsmith.errors import RunError, TrainingError
from bitsmith.quantize import build, float_blueprint
from bitsmith.search import Score
from bitsmith.search.latent import Evaluator, Trial, Trials, front_depths, ladder, promoted, synflow
from bitsmith.train import Event, TrainPlan

PLAN = TrainPlan(epochs=2, batch_size=32, lr=0.05, compile="none", device="cpu")


def evaluator(problem, **changes) -> Evaluator:
    return Evaluator(**({"problem": problem, "plan": PLAN, "rungs": (4,)} | changes))


def test_a_trial_of_a_real_training(space, problem, tmp_path):
    """At 2 and 8 bits, with exact costs; the checkpoint is left to whoever keeps the trial."""
    row = space.automaton.at(0)
    trial = evaluator(problem(folder=tmp_path)).evaluate(row, 7)
    assert trial.number == 7
    assert trial.rung == 0
    assert trial.network == "conv k3 c4 s2 w2a8"
    assert trial.metric is not None
    assert 0 <= trial.metric <= 1
    assert trial.loss is not None
    assert math.isfinite(trial.loss)
    assert trial.epochs == 2
    assert not trial.failed
    assert trial.costs["params"] == space.additive.of(row[None])[0, 0]
    assert [file.name for file in tmp_path.iterdir()] == [ladder.CHECKPOINT]


def test_failures_are_trials(space, problem, monkeypatch, tmp_path):
    row = space.automaton.at(0)
    for error in (
        TrainingError("the loss became nan"),
        RuntimeError("out of memory"),
        MemoryError(),
        ZeroDivisionError(),
    ):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(ladder, "evaluate_blueprint", fail)
        trial = evaluator(problem(folder=tmp_path)).evaluate(row, 0)
        assert trial.failed.startswith(f"{type(error).__name__}: {error}"[:30])
        assert trial.metric is trial.loss is None
        assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(
        ladder, "evaluate_blueprint", lambda *_, **__: Score(metric=0.1, loss=math.nan, epochs=2, seconds=0.1)
    )
    assert evaluator(problem()).evaluate(row, 0).failed == "the validation loss is nan"
    for fault in (TypeError("a bug"), RunError("a damaged checkpoint")):

        def break_(*_, fault=fault, **__):
            raise fault

        monkeypatch.setattr(ladder, "evaluate_blueprint", break_)
        with pytest.raises(type(fault), match=r"a bug|a damaged"):
            evaluator(problem()).evaluate(row, 0)


def test_what_the_watch_raises_is_no_failure(space, problem, monkeypatch):
    """Of the very kinds that failures have; a time-out is one, and it is told at a step."""

    def train(problem, *_, **__):
        problem.watch(Event(stage="x", step=1, steps=4, images=1))
        return Score(metric=0.5, loss=1.0, epochs=2, seconds=0.1)

    def stop(event):
        raise RuntimeError("stopped from outside")

    monkeypatch.setattr(ladder, "evaluate_blueprint", train)
    row = space.automaton.at(0)
    with pytest.raises(RuntimeError, match="stopped from outside"):
        evaluator(problem(watch=stop)).evaluate(row, 0)
    late = evaluator(problem(), limit=1e-9).evaluate(row, 0)
    assert late.failed == "TrainingError: it took longer than 1e-09 seconds, at step 1 of 4"
    assert evaluator(problem(), limit=1e9).evaluate(row, 0).metric == 0.5


def test_a_process_that_dies_is_a_failure_in_the_end(space, problem, monkeypatch, tmp_path):
    """Three deaths at one place; a checkpoint that moved on starts counting anew."""
    row, checkpoint = space.automaton.at(0), tmp_path / "evaluation.checkpoint"
    monkeypatch.setattr(
        ladder, "evaluate_blueprint", lambda *_, **__: Score(metric=0.5, loss=1.0, epochs=2, seconds=0.1)
    )

    def die():
        ladder._Attempt(tmp_path / "evaluating.json", checkpoint, "0/5").begin()

    for deaths, failed in ((2, False), (3, True)):
        for _ in range(deaths):
            die()
        trial = evaluator(problem(folder=tmp_path)).evaluate(row, 5)
        assert bool(trial.failed) is failed
        assert list(tmp_path.iterdir()) == []
    for _ in range(3):
        die()
    checkpoint.write_text("moved on")
    assert not evaluator(problem(folder=tmp_path)).evaluate(row, 5).failed
    for _ in range(3):
        die()
    assert not evaluator(problem(folder=tmp_path)).evaluate(row, 6).failed  # they were another one's


def test_promoted():
    nan = float("nan")
    assert promoted([0.5, 0.9, nan, 0.7], [0] * 4, 2) == [1, 3]
    assert promoted([nan, nan, 0.1], [0] * 3, 2) == [2]
    assert promoted([nan], [0], 2) == []
    assert promoted([0.1, 0.9, 0.5, 0.4, 0.3], [0, 1, 0, 1, 2], 2) == [2, 0, 1]


def test_front_depths_against_every_pair():
    points = np.random.default_rng(0).integers(0, 6, (40, 2)).astype(float)
    points[3] = np.nan
    depths = front_depths(points)
    assert depths[3] == 40
    for i, p in enumerate(points):
        beaters = [depths[j] for j, q in enumerate(points) if (q >= p).all() and (q > p).any()]
        if i != 3:
            assert depths[i] == (max(beaters) + 1 if beaters else 0)


def test_synflow_is_its_formula(space):
    """By differences: R rises by sum(w dR/dw) times what a layer's weights are scaled by; the same at other bits."""
    blueprint = space.at(40)
    torch.manual_seed(ladder.derive(0, "synflow"))
    network = build(float_blueprint(blueprint.graph)).double().eval()
    layers = [layer for _, layer in network.priced()]
    x = torch.ones(1, *blueprint.graph.input_shape, dtype=torch.float64)
    total = 0.0
    with torch.no_grad():
        for layer in layers:
            layer.weight.abs_()
        for layer in layers:
            before = float(network(x).sum())
            layer.weight.mul_(1 + 1e-6)
            total += (float(network(x).sum()) - before) / 1e-6
            layer.weight.div_(1 + 1e-6)
    assert synflow(blueprint.graph) == pytest.approx(math.log(total), rel=1e-4)
    layers = space.layers(blueprint)
    other = tuple(replace(t, weight_bits=10 - t.weight_bits) for t in layers)
    assert synflow(space.build(other).graph) == synflow(blueprint.graph)


def test_trials_are_kept(tmp_path):
    file, settings = tmp_path / "trials.jsonl", {"seed": 1}
    trial = Trial(number=0, network="a", sequence=(1, 2, 0), costs={"params": 3.0}, metric=0.5, loss=1.0)

    def value(trial: Trial) -> float:
        return math.nan if trial.failed else 1.0

    def add(kept: Trials, *trials: Trial) -> None:
        """Fill a rung with trials; what was there comes first, with its score."""
        (rung,) = {trial.rung for trial in trials}
        before, waiting = len(kept.of(rung)), list(trials)

        def more(seen) -> bool:
            known = [value(trial) for trial in kept.of(rung)]
            np.testing.assert_array_equal([one.score for one in seen], known)
            return len(seen) < before + len(trials)

        kept.fill(rung, more, lambda seen, place: np.array([place]), lambda row, place: waiting.pop(0))
        assert not waiting

    kept = Trials(file, settings, value)
    add(kept, trial, replace(trial, number=1, metric=None, loss=None, failed="nan"))
    assert Trials(file, settings, value).all == kept.all
    assert [json.loads(line)["network"] for line in file.read_text().splitlines()[1:]] == ["a", "a"]
    file.write_bytes(file.read_bytes() + b'{"number": 2, "half')
    again = Trials(file, settings, value)
    assert again.all == kept.all
    add(again, replace(trial, number=2, rung=1))
    assert [t.number for t in Trials(file, settings, value).of(0)] == [0, 1]
    assert [t.number for t in Trials(file, settings, value).of(1)] == [2]
    with pytest.raises(RunError, match="trials of another search"):
        Trials(file, {"seed": 2}, value)
    file.write_bytes(file.read_bytes().replace(b'"number": 1', b'"nummer": 1'))
    with pytest.raises(RunError, match="is damaged"):
        Trials(file, settings, value)


def test_blueprints_of_trials(space):
    blueprint = space.at(100)
    row = tuple(int(token) for token in space.encode(blueprint))
    back = space.decode(np.array(json.loads(json.dumps(row))))
    assert isinstance(back, Blueprint)
    assert back == blueprint
