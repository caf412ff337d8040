"""The whole job on whole networks searched in a latent space, alone and by two runs that share a storage."""

import json

import optuna

from bitsmith import pipeline
from bitsmith.blueprint import Budget
from bitsmith.cost import fits
from bitsmith.pipeline import RunFolder
from bitsmith.recipe import parse_recipe
from bitsmith.report import read_record

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


def searched(path, method=RECIPE["method"]):
    """A run, searched, and the stages of which a person saw progress."""
    job = pipeline.prepare(RunFolder.create(path, parse_recipe(RECIPE | {"method": method}, "the test")))
    pipeline.check_budgets(job)
    stages = {}
    pipeline.search(job, lambda event: stages.setdefault(event.stage, event.steps))
    return job, stages


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
    lines = (job.run.folder(entry) / "trials.jsonl").read_text().splitlines()
    assert [json.loads(line)["rung"] for line in lines[1:]] == [0] * 4 + [1]


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
