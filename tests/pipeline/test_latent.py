"""The whole job on whole networks searched in a latent space, alone and by two runs that share a storage."""

import dataclasses
import json
import shutil

import optuna
import pytest

import bitsmith as bs
from bitsmith import pipeline
from bitsmith.blueprint import Budget
from bitsmith.cost import fits
from bitsmith.errors import RecipeError, TrainingError
from bitsmith.executor import InProcess, Processes
from bitsmith.files import write_json
from bitsmith.pipeline import RunFolder
from bitsmith.pipeline.evaluations import elsewhere
from bitsmith.pipeline.verbs import pose
from bitsmith.recipe import parse_recipe
from bitsmith.report import read_record
from bitsmith.search import Elsewhere, Latent, Random

RECIPE = {
    "data": {"source": "digits", "limit": 200},
    "space": {
        "kind": "sequence",
        "description": {
            "stem": {"channels": 4},
            "channels": [4, 8],
            "layers": [1, 2],
            "strided": [1, 1],
            "operators": ["conv", "separable"],
            "kernels": 3,
            "skips": [0, 1],
            "weight_bits": [2, 8],
            "activation_bits": 8,
        },
    },
    "budgets": [["size=1.5kB", "macs=60k"]],
    "method": {
        "name": "latent",
        "plan": {"epochs": 1, "batch_size": 64, "compile": "none"},
        "initial": 3,
        "evaluations": 1,
        "rungs": [2],
        "eta": 4,
        "traded": ["params"],
        "autoencoder": {
            "steps": 20,
            "batch_size": 32,
            "widths": {"code": 4, "encoder": 16, "decoder": 16, "token": 8, "predictor": 8},
        },
    },
    "train": {"epochs": 1, "batch_size": 64, "lr": 0.05, "compile": "none"},
}


def made(path, method):
    return pipeline.prepare(RunFolder.create(path, parse_recipe(RECIPE | {"method": method}, "the test")))


def searched(path, method=RECIPE["method"], executor=None):
    """A run, searched, and the stages of which a person saw progress."""
    job = made(path, method)
    pipeline.check_budgets(job)
    stages = {}
    pipeline.search(job, lambda event: stages.setdefault(event.stage, event.steps), executor=executor)
    return job, stages


def trials_of(job):
    """Every line of the trials, but how long it took."""
    lines = (job.run.path / "latent-size_1.5kB-macs_60k" / "trials.jsonl").read_text().splitlines()
    return [lines[0], *({**json.loads(line), "seconds": None} for line in lines[1:])]


def test_the_whole_job(tmp_path):
    job, stages = searched(tmp_path / "run")
    assert list(stages) == ["autoencoder", "search latent", "latent networks", "latent networks, 2 epochs"]
    pipeline.train(job)
    pipeline.export(job.run)
    assert pipeline.verify(job)
    pipeline.report(job)
    record = read_record(job.run.path / "report.json")
    assert [row.name for row in record.rows] == ["latent"]
    assert all(record.rows[0].meets.values())
    [(entry, blueprint)] = job.run.entries()
    assert job.space.contains(blueprint)
    assert fits(blueprint.graph, blueprint.bits, job.recipe.budget_sets()[0])
    assert entry.search_epochs == 4 * 1 + 1 * 2
    assert (job.run.folder(entry) / "inherited.safetensors").exists()
    lines = (job.run.folder(entry) / "trials.jsonl").read_text().splitlines()
    assert [json.loads(line)["rung"] for line in lines[1:]] == [0] * 4 + [1]


def test_weights_of_32_bits(tmp_path):
    """The published candidates have 32, 8 or 4 bits; a float layer's file says so, and is verified."""
    description = RECIPE["space"]["description"] | {"weight_bits": [32], "operators": ["conv"]}
    method = RECIPE["method"] | {"initial": 2, "evaluations": 0, "rungs": [], "traded": []}
    changes = {"method": method, "space": {"kind": "sequence", "description": description}, "budgets": ["size=6kB"]}
    job = pipeline.prepare(RunFolder.create(tmp_path / "run", parse_recipe(RECIPE | changes, "the test")))
    pipeline.search(job)
    pipeline.train(job)
    pipeline.export(job.run)
    assert pipeline.verify(job)
    [(entry, blueprint)] = job.run.entries()
    assert {bits.weight for bits in blueprint.bits.values()} == {8, 32}
    [check] = json.loads((job.run.folder(entry) / "verification.json").read_text())["checks"]
    assert check["float_layers"] == len(check["excluded"]) > 0


def test_two_runs_share_a_storage(tmp_path):
    """The second one finds everything evaluated, trains no network, and hands on the same one."""
    method = RECIPE["method"] | {"evaluations": 0, "storage": f"sqlite:///{tmp_path}/study.db"}
    (one, _), (two, stages) = searched(tmp_path / "one", method), searched(tmp_path / "two", method)
    assert list(stages) == ["autoencoder", "search latent"]
    [(entry, blueprint)], [(other, same)] = one.run.entries(), two.run.entries()
    assert blueprint == same
    assert (entry.details, entry.curves, entry.search_epochs) == (other.details, other.curves, other.search_epochs)
    name = ", ".join(str(Budget.parse(text)) for text in RECIPE["budgets"][0])
    study = optuna.load_study(study_name=f"latent at {name}", storage=method["storage"])
    assert [trial.state for trial in study.trials] == [optuna.trial.TrialState.COMPLETE] * 3


BATCHES = RECIPE["method"] | {"evaluations": 3, "batch": 2, "rungs": [2], "eta": 3}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A search whose networks are evaluated in this process, in batches."""
    return searched(tmp_path_factory.mktemp("here") / "run", BATCHES)[0]


@pytest.fixture(scope="module")
def there():
    with Processes(2) as executor:
        yield executor


def test_processes_come_to_the_same_networks(here, there, tmp_path):
    """Stopped while networks are evaluated, too; nothing that has a result is evaluated again."""
    folder = tmp_path / "run" / "latent-size_1.5kB-macs_60k"
    results = set()

    def stop(event):
        results.update(folder.glob("trials/*/trial.json"))
        if event.stage == "search latent" and len(results) >= 2:
            raise KeyboardInterrupt

    job = made(tmp_path / "run", BATCHES)
    with pytest.raises(KeyboardInterrupt):
        pipeline.search(job, stop, executor=there)
    before = {file: file.stat().st_mtime_ns for file in results}
    assert len(before) >= 2
    again, stages = {}, []

    def watch(event):
        stages.append((event.stage, event.step, event.steps))
        again.update({file: file.stat().st_mtime_ns for file in before if file.exists()})

    pipeline.search(job, watch, executor=there)
    assert again == before
    assert ("search latent", 6, 6) in stages
    assert ("search latent, 2 epochs", 2, 2) in stages
    assert trials_of(job) == trials_of(here)
    assert list((folder / "trials").iterdir()) == []
    [(entry, best)], [(other, same)] = job.run.entries(), here.run.entries()
    assert best == same
    assert entry.curves == other.curves
    learned = [path / folder.name / "inherited.safetensors" for path in (job.run.path, here.run.path)]
    assert learned[0].read_bytes() == learned[1].read_bytes()


def test_what_another_search_left_is_not_taken(here, tmp_path):
    """Results of trials that were deleted to start anew; results of another request under the same name."""
    job = made(tmp_path / "run", BATCHES)
    left = job.run.path / "latent-size_1.5kB-macs_60k" / "trials" / "0-0"
    sequence = trials_of(here)[1]["sequence"]
    request = {"search": "another", "sequence": sequence, "number": 0, "rung": 0, "epochs": 1}
    write_json(left / "request.json", request)
    write_json(left / "trial.json", trials_of(here)[1] | {"metric": 2.0})
    kept = shutil.copytree(left, tmp_path / "kept")
    pipeline.search(job)
    assert trials_of(job) == trials_of(here)
    assert not left.exists()

    budgets = job.recipe.budget_sets()[0]
    assert isinstance(job.method, Latent)
    problem = pose(job.task, job.space, job.method, budgets, target="onnx", float_state=None, seed=0)
    job.method.answer(problem, request, kept)
    assert json.loads((kept / "trial.json").read_text())["metric"] == 2
    job.method.answer(problem, request | {"search": "this"}, kept)
    assert json.loads((kept / "trial.json").read_text())["metric"] <= 1


def test_a_search_goes_on_here_and_there(here, there, tmp_path, full):
    """Stopped in this process, in processes, and in this one again."""
    if not full:
        pytest.skip("in the full tier")
    folder = tmp_path / "run" / "latent-size_1.5kB-macs_60k"

    def stop_at(n):
        def stop(event):
            if event.stage == "search latent" and event.step >= n:
                raise KeyboardInterrupt

        return stop

    job = made(tmp_path / "run", BATCHES)
    with pytest.raises(KeyboardInterrupt):
        pipeline.search(job, stop_at(2))
    with pytest.raises(KeyboardInterrupt):
        pipeline.search(job, stop_at(4), executor=there)
    pipeline.search(job)
    assert trials_of(job) == trials_of(here)
    assert list((folder / "trials").iterdir()) == []


def test_a_person_is_told_of_places_that_wait(tmp_path):
    said = []
    with Processes(2) as idle:
        for batch in (1, 2):
            assert elsewhere(made(tmp_path / str(batch), RECIPE["method"] | {"batch": batch}), 0, idle, said.append)
    [told] = said
    assert "1 networks at a time behind its first 3, and there are 2 places" in told


def test_a_network_that_fails_in_another_process_is_data(there, tmp_path, full):
    """All trainings take longer than allowed."""
    if not full:
        pytest.skip("in the full tier")
    with pytest.raises(TrainingError, match="all 3 first networks failed"):
        searched(tmp_path / "run", BATCHES | {"seconds": 1e-6}, there)
    folder = tmp_path / "run" / "latent-size_1.5kB-macs_60k"
    rows = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()[1:]]
    assert ["it took longer than" in row["failed"] for row in rows] == [True] * 3
    assert "starting" in (folder / "trials" / "0-0" / "log.txt").read_text()
    assert not list(folder.glob("trials/*/trial.json"))


def test_a_fault_of_the_machine_is_none_of_the_networks(tmp_path):
    """The other processes don't find the run: nothing counts as evaluated."""
    job = made(tmp_path / "run", BATCHES)
    method, space = job.method, job.space
    assert isinstance(method, Latent)
    nowhere = Elsewhere(
        executor=InProcess(),
        call="bitsmith.pipeline.evaluations:do_evaluation",
        arguments={"run": str(tmp_path / "nowhere"), "budgets": 0},
    )
    budgets = job.recipe.budget_sets()[0]
    with pytest.raises(TrainingError, match=r"network 1 failed: .*nowhere.* The same command goes on from there"):
        bs.search(job.task, space, method, budgets, folder=tmp_path / "search", elsewhere=nowhere)
    assert len((tmp_path / "search" / "trials.jsonl").read_text().splitlines()) == 1
    with pytest.raises(RecipeError, match="give a folder"):
        bs.search(job.task, space, method, budgets, elsewhere=nowhere)
    with pytest.raises(RecipeError, match="a search by 'random' has none"):
        bs.search(job.task, space, Random(), budgets, elsewhere=nowhere)
    stored = dataclasses.replace(method, storage=f"sqlite:///{tmp_path}/study.db")
    with pytest.raises(RecipeError, match="leave it out, or the workers"):
        bs.search(job.task, space, stored, budgets, folder=tmp_path / "search", elsewhere=nowhere)
