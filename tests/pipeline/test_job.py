"""The whole job on digits with a small network: files, resuming, stages alone, damaged files."""

import json
import shutil

import pytest
import torch

from bitsmith import pipeline
from bitsmith.errors import RecipeError, RunError
from bitsmith.pipeline import RunFolder
from bitsmith.recipe import parse_recipe
from bitsmith.report import read_record
from bitsmith.train import load_state

RECIPE = {
    "name": "small <b>job</b>",
    "model": {"spec": "resnet8_slim"},
    "data": {"source": "digits", "limit": 700},
    "space": {"weight_bits": [1, 2, 4, 8], "activation_bits": [4, 8]},
    "budgets": ["size=9kB"],
    "method": {
        "name": "composite",
        "plan": {"epochs": 2, "batch_size": 64, "lr": 0.05},
        "norm_batches": 2,
        "loss_batches": 1,
    },
    "baselines": ["uniform", "uniform+fill", "random"],
    "fixed": ["w8a8"],
    "float_plan": {"epochs": 4, "batch_size": 64, "lr": 0.1},
    "train": {"epochs": 1, "batch_size": 64, "lr": 0.05},
    "start": "float",
}


class StopError(Exception):
    """What a test raises to stop a stage in the middle."""


def recipe(**changes):
    return parse_recipe(RECIPE | changes, "the test")


def whole(path, values, watch=None):
    watch = watch or (lambda event: None)
    run = RunFolder.create(path, values)
    job = pipeline.prepare(run)
    pipeline.train_float(job, watch)
    pipeline.search(job, watch)
    pipeline.train(job, watch)
    pipeline.export(run)
    fine = pipeline.verify(job)
    pipeline.report(job)
    return job, fine


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run."""
    return whole(tmp_path_factory.mktemp("run") / "a", recipe())


def test_every_network_is_inside_its_budget_and_verified(done):
    job, fine = done
    assert fine
    record = read_record(job.run.path)
    names = [row.name for row in record.rows]
    assert names == ["float", "composite", "uniform", "uniform+fill", "random", "w8a8"]
    for row in record.rows[1:5]:
        assert row.meets == {"size=9kB": True}
        assert row.costs["size"] <= 9000
        assert row.source == "onnx"
        assert row.epochs == 3  # search included: all get the same
    assert len(record.verification) == 5
    for check in record.verification:
        assert check.ok
        assert set(check.equal_outputs.values()) == {check.images} == {359}
        assert check.float_layers == 0
    assert {line.network for line in record.requested} == {row.folder for row in record.rows if row.budget}
    assert all(line.met for line in record.requested)
    assert record.chosen == ["composite-size_9kB"]
    assert set(record.layers) == {row.folder for row in record.rows[1:]}
    lines = [json.loads(line) for line in (job.run.path / "trials.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == names[1:]
    assert record.rows[0].test is not None
    assert record.rows[0].test > 0.8  # the float network learned; chance is 0.1


def test_priced_size_bounds_the_file(done):
    job, _ = done
    for entry, blueprint in job.run.entries():
        priced = pipeline.summarize(job)
        row = next(row for row in priced.rows if row.name == entry.name)
        file = job.run.folder(entry) / "model.onnx"
        assert file.stat().st_size <= 1.03 * row.costs["size"] + 1000 * len(blueprint.graph.layers)


def test_a_grid_has_a_report(tmp_path):
    """Its curves are scores, with no loss that was learned."""
    plan = {"epochs": 1, "batch_size": 256, "compile": "none"}
    values = recipe(
        model={"spec": "resnet8_slim"},
        data={"source": "digits", "limit": 200},
        method={"name": "grid", "points": "uniform", "plan": plan},
        space={"weight_bits": [4, 8], "activation_bits": [8]},
        budgets=["size=60kB"],
        baselines=[],
        fixed=[],
        float_plan=None,
        train=plan,
        start="scratch",
    )
    job, fine = whole(tmp_path / "grid", values)
    assert fine
    assert [row.name for row in read_record(job.run.path).rows] == ["grid"]


def test_a_finished_run_is_not_done_again(done):
    job, _ = done

    def never(event):
        raise AssertionError(f"{event.stage} ran again")

    pipeline.train_float(job, never)
    pipeline.search(job, never)
    pipeline.train(job, never)


def test_a_stopped_run_goes_on_as_if_nothing_had_happened(done, tmp_path, full):
    """Stopped in the float training, in the search and in the final training; same weights in the end.

    As `test_kill` has it of killed processes in both tiers.
    """
    if not full:
        pytest.skip("in the full tier")
    finished, _ = done
    for stage in ("train float", "search composite", "train composite"):

        def stop(event, stage=stage):
            if event.stage.startswith(stage) and event.step * 2 > event.steps:
                raise StopError

        with pytest.raises(StopError):
            whole(tmp_path / "a", recipe(), stop)
    job, fine = whole(tmp_path / "a", recipe())
    assert fine
    for entry, _ in finished.run.entries():
        old = load_state(finished.run.folder(entry) / "network.safetensors")
        new = load_state(job.run.folder(entry) / "network.safetensors")
        assert all(torch.equal(value, new[name]) for name, value in old.items())


def test_only_some_networks(tmp_path):
    run = RunFolder.create(tmp_path, recipe(float_plan=None, start="scratch"))
    job = pipeline.prepare(run)
    pipeline.search(job, only=["uniform", "w8a8"])
    assert [entry.name for entry, _ in run.entries()] == ["uniform", "w8a8"]


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("composite-size_9kB/entry.json", "damaged"),
        ("composite-size_9kB/blueprint.json", "not JSON"),
        ("composite-size_9kB/network.safetensors", "damaged"),
        ("graph.json", "damaged"),
        ("captured.safetensors", "damaged"),
    ],
)
def test_truncated_files_are_named(done, tmp_path, file, words):
    job, _ = done
    copy = tmp_path / "copy"
    shutil.copytree(job.run.path, copy)
    damaged = copy / file
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    with pytest.raises(RunError, match=words) as caught:
        pipeline.verify(pipeline.prepare(RunFolder(path=copy)))
    assert damaged.name in str(caught.value) or "blueprint" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "name"), [("entry.json", "batch"), ("training.json", "batch"), ("training.json", "loss")]
)
def test_a_name_with_a_flipped_bit_is_missed(done, tmp_path, file, name):
    job, _ = done
    copy = tmp_path / "copy"
    shutil.copytree(job.run.path, copy)
    damaged = copy / "composite-size_9kB" / file
    text = damaged.read_text()
    assert f'"{name}"' in text
    damaged.write_text(text.replace(f'"{name}"', '"#"'))
    with pytest.raises(RunError, match=rf"composite-size_9kB.* is damaged \(.*{name}"):
        pipeline.report(pipeline.prepare(RunFolder(path=copy)))


def test_a_truncated_artefact_is_named(done, tmp_path):
    job, _ = done
    copy = tmp_path / "copy"
    shutil.copytree(job.run.path, copy)
    file = copy / "uniform-size_9kB" / "model.onnx"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model\.onnx"):
        pipeline.verify(pipeline.prepare(RunFolder(path=copy)))


def test_stages_say_what_is_missing(tmp_path):
    with pytest.raises(RunError, match="not a run folder"):
        RunFolder(path=tmp_path / "nowhere").recipe()
    run = RunFolder.create(tmp_path / "new", recipe())
    with pytest.raises(RunError, match="no searched network yet"):
        pipeline.export(run)
    (run.path / "graph.json").write_text("{}")
    assert RunFolder.create(run.path, recipe(seed=5)).recipe().seed == 5  # nothing was learned yet
    assert not (run.path / "graph.json").exists()
    run.recipe_file.write_text("no recipe, or one whose latency table is another one by now")
    assert RunFolder.create(run.path, recipe(seed=5)).recipe().seed == 5
    (run.path / "float").mkdir()
    (run.path / "float" / "train.checkpoint").write_text("")
    with pytest.raises(RunError, match="another recipe"):
        RunFolder.create(run.path, recipe(seed=6))
    run.recipe_file.write_text("no recipe")
    with pytest.raises(RecipeError, match="is not a recipe"):
        RunFolder.create(run.path, recipe(seed=5))


def test_as_published_keeps_float_ends_and_sums_in_its_file(tmp_path):
    values = recipe(
        method={"name": "composite", "as_published": True, "plan": {"epochs": 1, "batch_size": 64}},
        space={"weight_bits": [1, 2, 3, 4], "activation_bits": [2, 3, 4]},
        baselines=[],
        fixed=[],
        float_plan=None,
        start="scratch",
    )
    job, fine = whole(tmp_path, values)
    assert fine
    entry, blueprint = job.run.entries()[0]
    assert entry.name == "composite-as-published"
    assert blueprint.quantizer == "hwgq"
    assert (blueprint.bits["conv1"].weight, blueprint.bits["fc"].activation) == (32, 32)
    assert (job.run.folder(entry) / "model.onnx").exists()
    found = read_record(tmp_path)
    assert found.rows[0].source == "onnx"
    assert "float sums between layers" in found.verification[0].level
