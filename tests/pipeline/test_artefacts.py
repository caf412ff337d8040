"""What is kept and said of a verified file: of the level that users get, in the words of what it computes in."""

import json
from types import SimpleNamespace

import graphs
import numpy as np
import torch

from bitsmith.blueprint import FLOAT, Bits, Blueprint
from bitsmith.deploy import Verification
from bitsmith.pipeline import artefacts
from bitsmith.pipeline.artefacts import describe
from bitsmith.pipeline.outcomes import load_outcomes
from bitsmith.pipeline.traits import blueprint_arithmetic

LEVELS = ("disabled", "all")


def verification(**values):
    plain = {
        "images": 4,
        "exact": False,
        "arithmetic": "all integer but 1 float layer: fc",
        "excluded": ("fc",),
        "float_streams": False,
        "vnni": False,
        "equal_images": {"disabled": 4, "all": 3},
        "differing_outputs": {"disabled": 0, "all": 2},
        "largest_difference": {"disabled": 0.0, "all": 0.001},
        "accuracy_simulation": 0.5,
        "accuracy_reference": 0.5,
        "accuracy_onnxruntime": {"disabled": 0.5, "all": 0.75},
        "scores": {"disabled": 0.5, "all": 0.75},
        "agreement": 1.0,
        "apart": 0.0,
        "parted_layer": None,
        "agreement_trained": None,
        "apart_trained": None,
        "accuracy_trained": None,
        "score_trained": None,
        "first_difference": None,
        "integer_layers": 2,
        "float_layers": 1,
        "problems": (),
        "predictions": np.array([0, 1, 2, 0]),
    }
    return Verification(**(plain | values))


def test_the_score_that_is_kept_is_of_the_predictions_that_are(tmp_path, monkeypatch):
    """Two levels whose scores differ, the last one's the larger: a comparison of runs holds one against the other."""
    (tmp_path / "model.onnx").touch()
    labels = torch.tensor([0, 1, 2, 2])
    entry = SimpleNamespace(title="composite")
    job = SimpleNamespace(
        run=SimpleNamespace(entries=lambda: [(entry, None)], folder=lambda entry: tmp_path, path=tmp_path),
        task=SimpleNamespace(
            data=SimpleNamespace(test=SimpleNamespace(labels=labels)), score=None, metric_name="accuracy"
        ),
        recipe=SimpleNamespace(verify_images=None),
    )
    monkeypatch.setattr(artefacts.exported, "verify", lambda *args, **options: verification())
    monkeypatch.setattr(artefacts, "float_state", lambda job: None)
    assert artefacts.verify(job)
    kept = json.loads((tmp_path / "verification.json").read_text())
    outcomes = load_outcomes(tmp_path)
    assert kept["test"] == (outcomes.predictions == outcomes.labels).mean() == 0.75


def test_a_sentence_has_the_score_of_the_last_level_and_the_files_own_words():
    said = describe(verification(), "f1")
    assert "f1 75.00 %" in said
    assert "all integer but 1 float layer: fc, 2 layers as integers" in said


def test_the_words_of_a_blueprint():
    graph = graphs.chain((4,))
    bits = graphs.uniform_bits(graph, 4, 4)
    floats = Bits(weight=FLOAT, activation=FLOAT)
    assert blueprint_arithmetic(Blueprint(graph=graph, bits=bits)) == "all integer"
    one = Blueprint(graph=graph, bits=bits | {"fc": floats}, stream_bits=FLOAT)
    assert blueprint_arithmetic(one) == "all integer but 1 float layer: fc, and float sums between layers"
    every = Blueprint(graph=graph, bits=dict.fromkeys(bits, floats))
    assert blueprint_arithmetic(every) == "no integer layer"
