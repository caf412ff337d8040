"""What a run takes from its data: the metric of the file, augmentation, notes, paths that outlive the directory."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, f1_score

import bitsmith as bs
from bitsmith.data import Augment
from bitsmith.pipeline import RunFolder, prepare
from bitsmith.pipeline.job import open_task
from bitsmith.recipe import absolute, parse_recipe, read_recipe

LEAST = {"model": {"spec": "resnet8_slim"}, "budgets": "size=20kB"}


def _recipe(source, task=None, **data):
    values = LEAST | {"data": {"source": source, **data}, "task": task or {}}
    return parse_recipe(values, "here")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of two unbalanced classes, one of its images damaged; the current directory is its parent."""
    generator = np.random.default_rng(0)
    for name, count in (("good", 40), ("bad", 20)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(count):
            pixels = generator.integers(0, 200 if name == "bad" else 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    (tmp_path / "photos" / "good" / "7.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def test_verify_scores_the_files_own_outputs(tmp_path):
    digits = bs.open_data("digits")
    torch.manual_seed(0)
    task = bs.Task(data=digits, metric="f1")
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 10))
    space = bs.precision_space(net, digits, weight_bits=(8,))
    trained = bs.train(task, space.uniform(8, 8), bs.TrainPlan(epochs=1, batch_size=64, lr=0.05, compile="none"))
    files = bs.export(trained, tmp_path)
    checked = bs.verify(files, digits.test, limit=100, score=task.score)
    session = onnxruntime.InferenceSession(files.artefacts["onnx"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: digits.test.images[:100].numpy()})
    labels = digits.test.labels[:100].numpy()
    wanted = f1_score(labels, logits.argmax(1), average="macro")
    assert checked.scores.keys() == checked.accuracy_onnxruntime.keys()
    assert list(checked.scores.values()) == pytest.approx([wanted] * len(checked.scores))
    assert wanted != pytest.approx(checked.accuracy_reference)
    balanced = bs.verify(files, digits.test, limit=100, score=bs.Task(data=digits, metric="balanced_accuracy").score)
    assert min(balanced.scores.values()) == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("default", Augment(crop=1, flip=True)),
        ("none", None),
        ("flip", Augment(flip=True)),
        ("crop", Augment(crop=1)),
        ("crop+flip", Augment(crop=1, flip=True)),
    ],
)
def test_the_task_of_a_recipe(photos, words, wanted):
    settings = {"metric": "f1", "positive": "bad", "class_weights": [2.0, 1.0], "label_smoothing": 0.1}
    task = open_task(_recipe("folder:photos", settings, shape=(3, 8, 8), skip_bad=True, augment=words))
    assert task.augment == wanted
    assert task.metric_name == "f1"
    assert task.weight is not None
    assert task.weight.tolist() == [2.0, 1.0]
    logits = torch.eye(2)[[0, 0, 1, 1]]  # classes in order of name: bad, good
    assert task.score(logits, torch.tensor([0, 0, 1, 0])) == f1_score([0, 0, 1, 0], [0, 0, 1, 1], pos_label=0)


def test_left_out_images_are_told_and_kept_for_the_report(photos, tmp_path):
    recipe = _recipe("folder:photos", shape=(3, 8, 8), skip_bad=True)
    said = []
    job = prepare(RunFolder.create(tmp_path / "run", recipe), said.append)
    (note,) = [note for note in job.notes if "left out" in note]
    assert note.startswith("1 of 60 images are left out")
    assert str(photos / "good" / "7.png") in note
    assert note in said
    again = prepare(RunFolder(path=tmp_path / "run"))  # from the captured network: told once, not twice
    assert again.notes == job.notes


def test_a_run_goes_on_from_another_directory(photos, tmp_path, monkeypatch):
    recipe = _recipe("folder:photos", shape=(3, 8, 8), skip_bad=True)
    run = RunFolder.create(tmp_path / "run", recipe)
    assert run.recipe().data.source == f"folder:{photos}"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert open_task(run.recipe()).data.name == "folder:photos"
    monkeypatch.chdir(tmp_path)
    assert RunFolder.create(tmp_path / "run", recipe).path == run.path  # the same recipe, so the same run


def test_absolute_paths_of_data_and_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = parse_recipe(
        LEAST
        | {
            "model": {"spec": "resnet8", "weights": "w.safetensors"},
            "data": {"source": "npz:a.npz", "fallback": "cifar10:b"},
        },
        "here",
    )
    found = absolute(recipe)
    assert found.data.source == f"npz:{tmp_path / 'a.npz'}"
    assert found.data.fallback == f"cifar10:{tmp_path / 'b'}"
    assert found.model.weights == tmp_path / "w.safetensors"
    assert absolute(found) == found
    plain = _recipe("digits")
    assert absolute(plain) == plain


def test_the_solar_cells_are_scored_by_f1_of_the_defective():
    recipe = read_recipe(Path(__file__).parents[2] / "recipes" / "solar-cells.yaml")
    assert (recipe.task.metric, recipe.task.positive, recipe.task.class_weights) == ("f1", "defective", "balanced")
