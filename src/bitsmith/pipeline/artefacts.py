"""Export and verify: the files of every trained network of a run, and the checks that they compute what was trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitsmith.deploy import Verification
from bitsmith.deploy.c import CVerification
from bitsmith.errors import RunError
from bitsmith.pipeline import exported
from bitsmith.pipeline.folder import RunFolder
from bitsmith.pipeline.job import Job, Say, float_network, float_state, quiet
from bitsmith.pipeline.lock import locked
from bitsmith.pipeline.outcomes import Outcomes, save_outcomes
from bitsmith.pipeline.post import NOT_TRAINED
from bitsmith.pipeline.traits import blueprint_arithmetic, is_integer
from bitsmith.quantize import Network
from bitsmith.train import evaluate, infer, write_json


def export(run: RunFolder, formats: tuple[str, ...] = ("onnx",), say: Say = quiet, *, fpu: bool = True) -> None:
    """Write the artefacts of every trained network; `fpu` says whether C code may compute scales in float32."""
    with locked(run.path):
        for entry, blueprint in run.entries():
            folder = run.folder(entry)
            trained = run.history(folder) is not None
            if not trained and run.post_training(folder) is None:
                raise RunError(f"{entry.title} is not trained yet; run bitsmith train {run.path} first")
            files = exported.export(
                exported.load(folder),
                folder,
                formats,
                properties=None if trained else {"training": NOT_TRAINED},
                fpu=fpu,
            )
            for name, path in files.artefacts.items():
                mark = "" if trained else f", {NOT_TRAINED}"
                if not is_integer(blueprint):
                    mark += f", {blueprint_arithmetic(blueprint)}"
                say(f"{entry.title}: {name} {path} ({path.stat().st_size:,} bytes{mark})")


def verify(job: Job, say: Say = quiet) -> bool:
    """Verify every artefact on test images; writes verification.json. False where one is not what was trained."""
    with locked(job.run.path):
        return _verify(job, say)


def _verify(job: Job, say: Say) -> bool:
    fine = True
    for entry, _ in job.run.entries():
        folder = job.run.folder(entry)
        if not (folder / "model.onnx").exists():
            raise RunError(f"{folder / 'model.onnx'} is missing; run bitsmith export {job.run.path} first")
        checked = exported.verify(folder, job.task.data.test, limit=job.recipe.verify_images, score=job.task.score)
        fine = fine and checked.ok
        labels = job.task.data.test.labels[: checked.images].numpy()
        save_outcomes(Outcomes(predictions=checked.predictions, labels=labels), folder)
        values = dataclasses.asdict(checked) | {"ok": checked.ok, "artefact": "model.onnx"}
        del values["predictions"]  # kept beside it, as numbers
        found: dict[str, Any] = {"test": checked.score, "source": "onnx", "checks": [values]}
        say(f"{entry.title}: {describe(checked, job.task.metric_name)}")
        if (folder / exported.C_FOLDER / "model.c").exists():
            code = exported.verify_c_code(folder, job.task.data.test, limit=job.recipe.verify_images)
            fine = fine and code.ok
            found["c"] = dataclasses.asdict(code) | {"ok": code.ok, "artefact": f"{exported.C_FOLDER}/model.c"}
            del found["c"]["predictions"]
            say(f"{entry.title}: {describe_c(code)}")
        write_json(folder / "verification.json", found)
    floats = float_state(job)
    if floats is not None:
        network = float_network(job, floats)
        score = _test_in_torch(job, network, job.float_folder)
        validation, _ = evaluate(network, job.task.data.validation, job.task)
        values = {"test": score, "validation": validation, "source": "torch", "checks": []}
        write_json(job.float_folder / "verification.json", values)
    return fine


def _test_in_torch(job: Job, network: Network, folder: Path) -> float:
    """The test score of the float network, which has no file; what it predicts is kept."""
    logits, labels = infer(network, job.task.data.test)
    save_outcomes(Outcomes(predictions=logits.argmax(1).numpy(), labels=labels.numpy()), folder)
    return job.task.score(logits, labels)


def describe(checked: Verification, metric: str = "accuracy") -> str:
    """A verification in a sentence; `metric` names its scores."""
    scored = f"{100 * checked.accuracy_reference:.2f} %"
    if metric != "accuracy" and checked.scores:
        scored = f"{metric} {100 * checked.score:.2f} %, accuracy {scored}"
    if checked.ok:
        flagged = f"; on x86 without VNNI {', '.join(checked.flagged)} may differ" if checked.flagged else ""
        same = checked.agreement_trained
        trained = "" if same is None else f", {100 * same:.2f} % predicted as by the trained network"
        layers = f"all {checked.integer_layers} layers as integers{flagged}"
        if not checked.exact:
            moved = describe_difference(checked.differing_outputs, checked.largest_difference)
            layers = f"{checked.arithmetic}, {checked.integer_layers} layers as integers{flagged}; {moved}"
        return f"verified on {checked.images:,} images, {scored}{trained}, {layers}"
    return f"NOT VERIFIED on {checked.images:,} images: " + "; ".join(checked.problems)


def describe_c(checked: CVerification) -> str:
    """The verification of C code in a sentence."""
    if not checked.ok:
        return f"C code NOT VERIFIED on {checked.images:,} images: " + "; ".join(checked.problems)
    return (
        f"C code verified on {checked.images:,} images, {100 * checked.accuracy:.2f} %, "
        f"{checked.differing_outputs} outputs differ from the reference's"
    )


def describe_difference(differing: Mapping[str, int], largest: Mapping[str, float]) -> str:
    """How far a file's outputs are from the reference's at the optimization level where that is most."""
    most = max(differing.values())
    if not most:
        return "onnxruntime's outputs are the reference's"
    return (
        f"{most:,} of onnxruntime's outputs differ from the reference's, "
        f"by at most {100 * max(largest.values()):.2g} % of their range"
    )
