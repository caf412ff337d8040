"""The final training of a run's networks as trials: here, elsewhere, and when one of them fails."""

from __future__ import annotations

import json

import pytest
from conftest import FULL

from bitsmith import pipeline
from bitsmith.errors import TrainingError
from bitsmith.executor import Ended, Executor, InProcess, Processes, Work
from bitsmith.pipeline import RunFolder, stages
from bitsmith.pipeline.opened import at_hand, opened
from bitsmith.recipe import parse_recipe

PLAN = {"epochs": 1, "batch_size": 64, "lr": 0.05, "device": "cpu", "compile": "none"}
RECIPE = {
    "name": "tiny",
    "model": {"spec": "resnet8_slim"},
    "data": {"source": "digits", "limit": 120},
    "space": {"weight_bits": [2, 4, 8], "activation_bits": [8]},
    "budgets": ["size=7kB"],
    "method": {"name": "random"},
    "baselines": ["uniform", "uniform+fill"],
    "train": PLAN,
    "start": "scratch",
}


class Elsewhere(Executor):
    """As a process would: only what JSON holds gets through, and it opens the run itself."""

    def __init__(self) -> None:
        self.done: list[Work] = []
        self._here = InProcess()

    @property
    def places(self) -> int:
        return 1

    def begin(self, place: int, work: Work) -> None:
        self.done.append(work)
        arguments = json.loads(json.dumps(dict(work.arguments)))
        self._here.begin(place, Work(title=work.title, folder=work.folder, call=work.call, arguments=arguments))

    def ended(self, seconds: float) -> list[Ended]:
        return self._here.ended(seconds)

    def interrupt(self) -> None:
        self._here.interrupt()

    def close(self) -> None:
        pass


@pytest.fixture
def job(tmp_path):
    """Searched, and nothing trained."""
    job = pipeline.prepare(RunFolder.create(tmp_path / "run", parse_recipe(RECIPE, "the test")))
    pipeline.search(job)
    return job


def states(job):
    """The bytes of every network's weights."""
    return {entry.name: (job.run.folder(entry) / "network.safetensors").read_bytes() for entry, _ in job.run.entries()}


def test_elsewhere_they_come_to_the_same_weights(job, tmp_path):
    """Where they are in processes, as in the full tier, too; and each is trained once."""
    pipeline.train(job)
    other = pipeline.prepare(RunFolder.create(tmp_path / "other", parse_recipe(RECIPE, "the test")))
    pipeline.search(other)
    executor = Processes(2) if FULL else Elsewhere()
    seen = []
    with executor:
        pipeline.train(other, executor=executor, show=seen.append)
        assert (seen[-1].done, seen[-1].total) == (3, 3)
        pipeline.train(other, executor=executor, show=seen.append)
        assert seen[-1].total == 0
    assert states(other) == states(job)
    lines = [
        [json.loads(line) for line in (j.run.path / "trials.jsonl").read_text().splitlines()] for j in (job, other)
    ]
    assert len(lines[1]) == 3
    assert {line["name"]: line["score"] for line in lines[0]} == {line["name"]: line["score"] for line in lines[1]}


def test_one_that_fails_loses_no_other(job, monkeypatch):
    train_one = stages._train_one

    def fail(job, entry, *rest):
        if entry.name == "uniform":
            raise TrainingError("the loss became nan")
        train_one(job, entry, *rest)

    monkeypatch.setattr(stages, "_train_one", fail)
    said = []
    with pytest.raises(
        TrainingError, match=r"^uniform at size=7kB failed: the loss became nan\. The same command goes"
    ):
        pipeline.train(job, say=said.append)
    assert said.count("uniform at size=7kB failed: the loss became nan") == 1
    trained = {entry.name for entry, _ in job.run.entries() if job.run.history(job.run.folder(entry)) is not None}
    assert trained == {"random", "uniform+fill"}
    monkeypatch.setattr(stages, "_train_one", train_one)
    pipeline.train(job)
    assert states(job).keys() == {"random", "uniform", "uniform+fill"}


def test_a_job_at_hand_is_not_opened_again(job, monkeypatch):
    """Another folder is, once, and so is one whose recipe has changed."""
    count = []
    prepare = pipeline.prepare

    def counted(*arguments):
        count.append(arguments)
        return prepare(*arguments)

    monkeypatch.setattr("bitsmith.pipeline.opened.prepare", counted)
    with at_hand(job):
        assert opened(job.run.path, pipeline.quiet) is job
        assert not count
    first = opened(job.run.path, pipeline.quiet)
    assert first is not job
    assert opened(job.run.path, pipeline.quiet) is first
    assert len(count) == 1
    job.run.recipe_file.write_text(job.run.recipe_file.read_text() + "# changed\n")
    assert opened(job.run.path, pipeline.quiet) is not first
