"""The files of one network: export, load, verify."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bitsmith.blueprint import read_blueprint
from bitsmith.cost import plan_arena
from bitsmith.data import Split
from bitsmith.deploy import Verification, lower, verify_onnx, write_onnx
from bitsmith.deploy.against import Against, compare_with
from bitsmith.deploy.c import CVerification, read_c, verify_c, write_c
from bitsmith.deploy.onnx_writer import OUTPUT
from bitsmith.deploy.qonnx import QonnxVerification, check_streamlining, verify_qonnx, write_qonnx
from bitsmith.deploy.runtime import infer, session
from bitsmith.deploy.tflite import TfliteVerification, verify_tflite, write_tflite
from bitsmith.deploy.theirs import Feed, Layout, read_theirs
from bitsmith.errors import ExportError, RunError, VerifyError
from bitsmith.quantize import Network, build, freeze
from bitsmith.train import Metric, load_into, load_state, save_state, write_text

EXPORTERS = ("onnx", "c", "tflite", "qonnx")
C_FOLDER = "c"
QONNX_FILE = "model.qonnx.onnx"


@dataclass(frozen=True, kw_only=True)
class Files:
    """What `export` wrote.

    Args:
        folder: holds all of it.
        blueprint: blueprint.json.
        weights: network.safetensors, the trained network.
        artefacts: format -> file.
    """

    folder: Path
    blueprint: Path
    weights: Path
    artefacts: Mapping[str, Path]


def export(
    network: Network,
    folder: str | Path,
    formats: Sequence[str] = ("onnx",),
    *,
    properties: Mapping[str, str] | None = None,
    fpu: bool = True,
    vnni: bool = False,
    images: np.ndarray | None = None,
    streamlines: bool = False,
) -> Files:
    """Write a trained network to files that run as integers, but for layers that its blueprint leaves float.

    Writes blueprint.json, network.safetensors and one artefact per format, each under a temporary name first.

    Args:
        properties: what the ONNX file's metadata says besides its own: {"training": "post-training (not trained)"}.
        fpu: whether C code may compute scales in float32.
        vnni: whether the ONNX file is for x86 CPUs with VNNI alone: faster there with weights of 8 bits, and wrong
            on other x86 machines, which saturate sums of int8 weights. Its metadata says so.
        images: for the self-test of C code and the range of a TFLite file's logits, as `Split.raw` gives them; without
            them images of noise are taken.
        streamlines: whether a QONNX file has to be one that FINN can streamline exactly.

    Raises:
        ExportError: an unknown format, a network that can't be lowered, or one that a format can't hold.
    """
    folder = Path(folder)
    unknown = [name for name in formats if name not in EXPORTERS]
    if unknown:
        raise ExportError(f"unknown format {', '.join(unknown)}; known are {', '.join(EXPORTERS)}")
    if not fpu and "c" not in formats:
        raise ExportError("--no-fpu (fpu=False) is about C code, which isn't among the formats; add c to them")
    if vnni and "onnx" not in formats:
        raise ExportError("--vnni (vnni=True) is about ONNX files, which aren't among the formats; add onnx to them")
    blueprint = network.blueprint
    if blueprint is None:
        raise ExportError("this network was not made by build(blueprint), so there is nothing to export it by")
    program = lower(freeze(network, blueprint), blueprint)
    files = files_of(folder)
    write_text(files.blueprint, blueprint.to_json())
    save_state(network.state_dict(), files.weights)
    artefacts: dict[str, Path] = {}
    for name in formats:
        if name == "onnx":
            artefacts[name] = write_onnx(replace(program, vnni=vnni), folder / "model.onnx", properties)
        elif name == "tflite":
            artefacts[name] = write_tflite(program, folder / "model.tflite", images)
        elif name == "qonnx":
            if streamlines:
                check_streamlining(program)
            artefacts[name] = write_qonnx(program, blueprint.graph, folder / QONNX_FILE)
        else:
            arena = plan_arena(blueprint.graph)
            artefacts[name] = write_c(program, arena, folder / C_FOLDER, images=images, fpu=fpu).source
    return Files(folder=folder, blueprint=files.blueprint, weights=files.weights, artefacts=artefacts)


def files_of(folder: str | Path) -> Files:
    """The files of an exported network in a folder, whether they are there yet or not."""
    folder = Path(folder)
    return Files(
        folder=folder,
        blueprint=folder / "blueprint.json",
        weights=folder / "network.safetensors",
        artefacts={
            "onnx": folder / "model.onnx",
            "c": folder / C_FOLDER / "model.c",
            "tflite": folder / "model.tflite",
            "qonnx": folder / QONNX_FILE,
        },
    )


def load(folder: str | Path) -> Network:
    """The trained network that a folder holds, rebuilt from its blueprint without its author's code.

    Raises:
        RunError: files missing or damaged.
    """
    files = files_of(folder)
    blueprint = read_blueprint(files.blueprint, "search or export first")
    state = load_state(files.weights)
    stored = sum(tensor.numel() for tensor in state.values())
    if (needed := sum(layer.weights for layer in blueprint.graph.layers)) > stored:  # before so many are allocated
        raise RunError(f"{files.weights} holds {stored:,} numbers, and {files.blueprint} has {needed:,} weights")
    network = build(blueprint)
    load_into(network, state, str(files.weights))
    return network.eval()


def verify(
    files: Files | str | Path, split: Split, *, limit: int | None = None, score: Metric | None = None
) -> Verification:
    """Compare the trained network, its frozen form, the integer reference and the ONNX file on real inputs.

    The last three are compared layer by layer too; what must be equal and what close, `bitsmith.deploy.verify` says.

    Args:
        split: labeled inputs that nothing was chosen by, usually the test split.
        limit: check at most so many of them.
        score: (logits, labels) -> a number that the result keeps for the file, such as `Task.score`.

    Raises:
        RunError, VerifyError: files missing or damaged. A file that computes something else is not an error here:
            the result's `ok` is False and its `problems` say what.
    """
    files = files if isinstance(files, Files) else files_of(files)
    network = load(files.folder)
    assert network.blueprint is not None
    frozen = freeze(network, network.blueprint)
    program = lower(frozen, network.blueprint)
    images, labels = split.raw(limit)
    return verify_onnx(
        files.artefacts["onnx"],
        frozen,
        program,
        images,
        labels,
        trained=network,
        score=_of_arrays(score),
    )


def verify_c_code(
    files: Files | str | Path, split: Split, *, limit: int | None = None, score: Metric | None = None
) -> CVerification:
    """Compile the C code of a network and compare it with the integer reference on real inputs.

    Code that lies in a folder is compiled and run only if it is, letter by letter, what is written for the network.

    Args:
        split, limit, score: as of `verify`.

    Raises:
        RunError, VerifyError: files missing, damaged or changed, no compiler.
    """
    files = files if isinstance(files, Files) else files_of(files)
    network = load(files.folder)
    assert network.blueprint is not None
    program = lower(freeze(network, network.blueprint), network.blueprint)
    images, labels = split.raw(limit)
    code = read_c(files.artefacts["c"].parent)
    arena = plan_arena(network.blueprint.graph)
    with tempfile.TemporaryDirectory() as fresh:
        written = write_c(program, arena, Path(fresh), fpu=code.fpu)
        for file in (code.source, code.source.with_suffix(".h")):
            if file.read_bytes() != (written.folder / file.name).read_bytes():
                raise VerifyError(
                    f"{file} is not what this version of bitsmith writes for the network, so it is not run; export it "
                    "again"
                )
    return verify_c(code, program, arena, images, labels, score=_of_arrays(score))


def verify_against(
    files: Files | str | Path,
    other: str | Path,
    split: Split,
    *,
    values: str | None = None,
    layout: Layout | None = None,
    output: str | None = None,
    limit: int | None = None,
) -> Against:
    """Compare the ONNX file of a network with a file that others made, on the same images.

    The other file is any classifier in ONNX. It runs in a process of its own.

    Args:
        other: the file.
        split: labeled inputs, as of `verify`, of which at most `limit` are taken.
        values: what its input's numbers mean, where these aren't raw pixels: "pixels", "unit" (0 to 1), "normalized"
            (by the mean and std of the data), or "MEAN/STD", such as "0.485,0.456,0.406/0.229,0.224,0.225".
        layout: "NCHW" or "NHWC", where the shape of its input doesn't tell.
        output: which of its outputs, where it gives several.

    Raises:
        RunError, VerifyError: files missing or damaged; a file of others that can't be run, or of which something has
            to be told that wasn't.

    Example:
        >>> bs.verify_against("run/", "resnet8_float.onnx", data.test, values="normalized")  # doctest: +SKIP
        Against(file='resnet8_float.onnx', reads='pixels / 255, normalized as the run's data are, float32, NCHW', ...)
    """
    files = files if isinstance(files, Files) else files_of(files)
    network = load(files.folder)
    assert network.blueprint is not None
    shape = network.blueprint.graph.input_shape
    feed = Feed(values=values, layout=layout, output=output)
    theirs = read_theirs(other, shape, network.blueprint.input, feed)
    program = lower(freeze(network, network.blueprint), network.blueprint)
    images, labels = split.raw(limit)
    outputs = infer(session(files.artefacts["onnx"]), images, [OUTPUT])[0]
    return compare_with(theirs, theirs.run(images)[0], program, outputs, images, labels)


def verify_tflite_file(
    files: Files | str | Path, split: Split, *, limit: int | None = None, score: Metric | None = None
) -> TfliteVerification:
    """Compare the TFLite file of a network with the integer reference on real inputs, in LiteRT.

    Args:
        split, limit, score: as of `verify`.

    Raises:
        RunError, VerifyError: files missing or damaged, no LiteRT.
    """
    files = files if isinstance(files, Files) else files_of(files)
    network = load(files.folder)
    assert network.blueprint is not None
    program = lower(freeze(network, network.blueprint), network.blueprint)
    images, labels = split.raw(limit)
    return verify_tflite(files.artefacts["tflite"], program, images, labels, score=_of_arrays(score))


def verify_qonnx_file(
    files: Files | str | Path, split: Split, *, limit: int | None = None, score: Metric | None = None
) -> QonnxVerification:
    """Run the QONNX file of a network with the package qonnx and compare it with the integer reference on real inputs.

    Args:
        split, limit, score: as of `verify`.

    Raises:
        RunError, VerifyError: files missing or damaged, the package is.
    """
    files = files if isinstance(files, Files) else files_of(files)
    network = load(files.folder)
    assert network.blueprint is not None
    program = lower(freeze(network, network.blueprint), network.blueprint)
    images, labels = split.raw(limit)
    return verify_qonnx(files.artefacts["qonnx"], program, images, labels, score=_of_arrays(score))


def verify_all(
    files: Files | str | Path, split: Split, *, limit: int | None = None, score: Metric | None = None
) -> dict[str, Verification | CVerification | TfliteVerification | QonnxVerification]:
    """Verify every artefact that was exported: format -> what was found.

    Args:
        split, limit, score: as of `verify`.

    Raises:
        RunError, VerifyError: nothing was exported; as of `verify` and of the others.

    Example:
        >>> {name: found.ok for name, found in bs.verify_all("run/", data.test).items()}  # doctest: +SKIP
        {'onnx': True, 'c': True}
    """
    files = files if isinstance(files, Files) else files_of(files)
    there = [name for name in EXPORTERS if name in files.artefacts and files.artefacts[name].exists()]
    if not there:
        raise RunError(f"{files.folder} holds no exported file; export first")
    return {name: VERIFIERS[name](files, split, limit=limit, score=score) for name in there}


# Format -> what verifies a file of it; every format that is written has one.
VERIFIERS: dict[str, Callable[..., Verification | CVerification | TfliteVerification | QonnxVerification]] = {
    "onnx": verify,
    "c": verify_c_code,
    "tflite": verify_tflite_file,
    "qonnx": verify_qonnx_file,
}


def _of_arrays(score: Metric | None) -> Callable[[np.ndarray, np.ndarray], float] | None:
    return score and (lambda outputs, labels: score(torch.from_numpy(outputs), torch.from_numpy(labels)))
