"""Export and verify: the files of every trained network of a run, and the checks that they compute what was trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitsmith.cost import find_target
from bitsmith.data import DataSet
from bitsmith.deploy import Verification
from bitsmith.deploy.c import CVerification
from bitsmith.deploy.qonnx import QonnxVerification
from bitsmith.deploy.tflite import TfliteVerification, compile_with_vela, litert_missing, vela_missing
from bitsmith.errors import BitsmithError, ExportError, RunError, VerifyError
from bitsmith.pipeline import exported
from bitsmith.pipeline.folder import RunFolder
from bitsmith.pipeline.job import Job, Say, float_network, float_state, open_task, quiet
from bitsmith.pipeline.lock import locked
from bitsmith.pipeline.outcomes import Outcomes, save_outcomes
from bitsmith.pipeline.post import NOT_TRAINED
from bitsmith.pipeline.traits import blueprint_arithmetic, is_integer
from bitsmith.quantize import Network
from bitsmith.train import evaluate, infer, write_json

_IMAGES = 256  # validation images that exporters take


def export(
    run: RunFolder,
    formats: Sequence[str] | None = None,
    say: Say = quiet,
    *,
    fpu: bool = True,
    vnni: bool = False,
    data: DataSet | None = None,
) -> None:
    """Write the artefacts of every trained network.

    Args:
        formats: which; by default ONNX and what else its target takes.
        fpu: whether C code may compute scales in float32.
        vnni: whether ONNX files are for x86 CPUs with VNNI alone; see `bitsmith.pipeline.exported.export`.
        data: the run's, where it is open already; C code and TFLite files take some of its validation images.

    Raises:
        ExportError: an unknown format, no floating point without C code, a network that a format can't hold.
        RunError: a network that isn't trained.
    """
    if formats is None:
        formats, missing = formats_of(run), litert_missing()
        if "tflite" in formats and missing is not None:  # a run that was trained is not to fail for it
            say(f"no TFLite file is written: {missing}")
            formats = tuple(name for name in formats if name != "tflite")
    if not fpu and "c" not in formats:
        raise ExportError(f"--no-fpu is about C code, and the formats are {', '.join(formats)}; export --to onnx,c")
    if vnni and "onnx" not in formats:
        raise ExportError(f"--vnni is about ONNX files, and the formats are {', '.join(formats)}; export --to onnx too")
    images = _images(run, data, say) if {"c", "tflite"} & set(formats) else None
    streamlines = find_target(run.recipe().target).streamlines
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
                vnni=vnni,
                images=images,
                streamlines=streamlines,
            )
            for name, path in files.artefacts.items():
                mark = "" if trained else f", {NOT_TRAINED}"
                if name == "tflite":
                    say(f"{entry.title}: {describe_vela(path)}")
                if name == "onnx" and vnni:
                    mark += ", for x86 CPUs with VNNI"
                if not is_integer(blueprint):
                    mark += f", {blueprint_arithmetic(blueprint)}"
                say(f"{entry.title}: {name} {path} ({path.stat().st_size:,} bytes{mark})")


def formats_of(run: RunFolder) -> tuple[str, ...]:
    """ONNX, which is what verification begins with, and all else that bitsmith writes for the run's target."""
    target = find_target(run.recipe().target)
    return ("onnx", *(name for name in target.formats if name in exported.EXPORTERS and name != "onnx"))


def _images(run: RunFolder, data: DataSet | None, say: Say) -> np.ndarray | None:
    """Validation images for the self-test of C code and for the range of a TFLite file's logits."""
    try:
        data = open_task(run.recipe()).data if data is None else data
        return data.validation.raw(_IMAGES)[0]
    except BitsmithError as error:
        say(f"the data can't be read, so the self-test of C code takes images of noise: {error}")
        return None


def verify(job: Job, say: Say = quiet) -> bool:
    """Verify every artefact on test images; writes verification.json. False where one is not what was trained."""
    with locked(job.run.path):
        return _verify(job, say)


def _verify(job: Job, say: Say) -> bool:
    fine = True
    for entry, _ in job.run.entries():
        folder = job.run.folder(entry)
        if not (folder / "model.onnx").exists():
            raise RunError(
                f"{folder / 'model.onnx'} is missing, which every other file is compared with; run bitsmith export "
                f"{job.run.path} first, without --to or with --to onnx"
            )
        checked = exported.verify(folder, job.task.data.test, limit=job.recipe.verify_images, score=job.task.score)
        fine = fine and checked.ok
        labels = job.task.data.test.labels[: checked.images].numpy()
        save_outcomes(Outcomes(predictions=checked.predictions, labels=labels), folder)
        values = dataclasses.asdict(checked) | {"ok": checked.ok, "artefact": "model.onnx"}
        del values["predictions"]  # kept beside it, as numbers
        found: dict[str, Any] = {"test": checked.score, "source": "onnx", "checks": [values]}
        say(f"{entry.title}: {describe(checked, job.task.metric_name)}")
        write_json(folder / "verification.json", found)  # kept whatever becomes of the C code
        for name, check_other in _OTHERS.items():
            if exported.files_of(folder).artefacts[name].exists():
                check, said = check_other(job, folder)
                fine = fine and check["ok"]
                found["checks"].append(check)
                say(f"{entry.title}: {said}")
                write_json(folder / "verification.json", found)
    floats = float_state(job)
    if floats is not None:
        network = float_network(job, floats)
        score = _test_in_torch(job, network, job.float_folder)
        validation, _ = evaluate(network, job.task.data.validation, job.task)
        values = {"test": score, "validation": validation, "source": "torch", "checks": []}
        write_json(job.float_folder / "verification.json", values)
    return fine


def _check_c(job: Job, folder: Path) -> tuple[dict[str, Any], str]:
    """The C code's entry among the checks, and a sentence; where nothing can compile or run it, that is its problem."""
    check: dict[str, Any] = {"artefact": f"{exported.C_FOLDER}/model.c", "float_layers": 0}
    try:
        code = exported.verify_c_code(folder, job.task.data.test, limit=job.recipe.verify_images, score=job.task.score)
    except VerifyError as error:
        unknown = {"images": 0, "equal_images": {"gcc": 0}, "accuracy": None, "score": None, "fpu": None}
        failed = {"integer_layers": 0, "first_difference": None, "problems": [str(error)], "ok": False}
        return check | unknown | failed, f"C code NOT VERIFIED: {error}"
    values = dataclasses.asdict(code)
    del values["predictions"]
    return check | values | {"equal_images": {"gcc": code.equal_images}, "ok": code.ok}, describe_c(code)


def _check_qonnx(job: Job, folder: Path) -> tuple[dict[str, Any], str]:
    """The QONNX file's entry among the checks, and a sentence; where nothing can run it, that is its problem."""
    check: dict[str, Any] = {"artefact": exported.QONNX_FILE, "float_layers": 0}
    try:
        found = exported.verify_qonnx_file(
            folder, job.task.data.test, limit=job.recipe.verify_images, score=job.task.score
        )
    except VerifyError as error:
        unknown = {"images": 0, "equal_images": {"qonnx": 0}, "accuracy": None, "score": None}
        failed = {"integer_layers": 0, "first_difference": None, "problems": [str(error)], "ok": False}
        return check | unknown | failed, f"QONNX NOT VERIFIED: {error}"
    values = dataclasses.asdict(found)
    del values["predictions"]
    for name in ("equal_images", "differing_outputs", "largest_difference"):
        values[name] = {"qonnx": values[name]}
    return check | values | {"ok": found.ok}, describe_qonnx(found)


def _check_tflite(job: Job, folder: Path) -> tuple[dict[str, Any], str]:
    """The TFLite file's entry among the checks, with Vela's figures where it is installed, and a sentence."""
    path = exported.files_of(folder).artefacts["tflite"]
    check: dict[str, Any] = {"artefact": path.name, "float_layers": 0}
    test, limit, score = job.task.data.test, job.recipe.verify_images, job.task.score
    try:
        found = exported.verify_tflite_file(folder, test, limit=limit, score=score)
    except VerifyError as error:
        unknown = {"images": 0, "equal_images": {"xnnpack": 0}, "accuracy": None, "score": None}
        failed = {"integer_layers": 0, "first_difference": None, "problems": [str(error)], "ok": False}
        return check | unknown | failed, f"TFLite file NOT VERIFIED: {error}"
    values = dataclasses.asdict(found)
    del values["predictions"]
    vela = describe_vela(path)
    facts = {"ok": found.ok, "differing": found.differing, "vela": vela, "words": describe_tflite(found)}
    return check | values | facts, f"{facts['words']}; {vela}"


# Format -> the check of its file, beside the ONNX file's, which every network has.
_OTHERS: dict[str, Callable[[Job, Path], tuple[dict[str, Any], str]]] = {
    "c": _check_c,
    "tflite": _check_tflite,
    "qonnx": _check_qonnx,
}


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
        same = checked.agreement_trained
        trained = "" if same is None else f", {100 * same:.2f} % predicted as by the trained network"
        layers = f"all {checked.integer_layers} layers as integers"
        if not checked.exact:
            moved = describe_difference(checked.differing_outputs, checked.largest_difference)
            layers = f"{checked.arithmetic}, {checked.integer_layers} layers as integers; {moved}"
        layers += ", for x86 CPUs with VNNI" if checked.vnni else ""
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


def describe_tflite(checked: TfliteVerification) -> str:
    """The verification of a TFLite file in a sentence."""
    if not checked.ok:
        return f"TFLite file NOT VERIFIED on {checked.images:,} images: " + "; ".join(checked.problems)
    counts = ", ".join(f"{count:,} of {size:,} ({name})" for name, (count, size) in checked.differing.items())
    return (
        f"TFLite file verified on {checked.images:,} images, {100 * checked.accuracy:.2f} %, "
        f"{100 * checked.agreement:.2f} % of classes are the reference's; operator by operator, by at most one level "
        f"differ {counts}"
    )


def describe_vela(path: Path) -> str:
    """What Vela makes of a TFLite file, in words, or why that isn't known."""
    missing = vela_missing()
    if missing is not None:
        return missing
    try:
        found = compile_with_vela(path)
    except ExportError as error:
        return str(error)
    left = f", {found.cpu_operators} operators left to the CPU" if found.cpu_operators else ""
    flash, sram = found.flash / 1000, found.sram / 1000
    return (
        f"Vela {found.vela} on {found.accelerator}: flash {flash:.4g} kB, SRAM {sram:.4g} kB, "
        f"{found.cycles:,} cycles, {1000 * found.seconds:.3g} ms{left}"
    )


def describe_qonnx(checked: QonnxVerification) -> str:
    """The verification of a QONNX file in a sentence."""
    if not checked.ok:
        return f"QONNX NOT VERIFIED on {checked.images:,} images: " + "; ".join(checked.problems)
    levels = f"{checked.neighbors:,} of {checked.compared:,} numbers are one level beside the reference's"
    return (
        f"QONNX verified on {checked.images:,} images, {100 * checked.accuracy:.2f} %, "
        f"{checked.differing_outputs:,} outputs differ from the reference's"
        + ("" if checked.exact else f", by at most {100 * checked.largest_difference:.2g} % of their range; {levels}")
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
