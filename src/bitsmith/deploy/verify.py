"""`verify_onnx`: does the file compute what was trained?

Four computations of the same images are compared, each with the next:

1. The trained network in float32. Freezing rounds its scales and biases, which few-bit networks can feel, so that
   only a gross gap is a problem (see `TRAINED_AGREEMENT`, `TRAINED_APART`).
2. The simulation, the frozen torch network in float32.
3. The reference interpreter on the program lowered from that network. It has to give the simulation's classes in
   99.9 % of the predictions and outputs close to its own, and on a few images, layer by layer, the very integers that
   the simulation's layer rounds to (`bitsmith.deploy.simulation`).
4. onnxruntime on the file from disk, at every optimization level: bit for bit the reference's outputs.

Two things find what is wrong in the file: the weights, scales and biases that it unpacks are compared with the
network's, and every intermediate tensor is made an extra output of a copy of the model, which leaves its kernels as
they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, helper

from bitsmith.deploy.onnx_file import metadata
from bitsmith.deploy.onnx_writer import INPUT, OUTPUT, parameter_names, tensor_name
from bitsmith.deploy.operators import Conv, Logits
from bitsmith.deploy.program import IntegerProgram
from bitsmith.deploy.reference import run, trace
from bitsmith.deploy.runtime import FLOAT_KERNELS, INTEGER_KERNELS, LEVELS, infer, kernel_nodes, session
from bitsmith.deploy.simulation import apart, first_parting, simulate
from bitsmith.errors import VerifyError
from bitsmith.quantize import Network

LEAST_AGREEMENT = 0.999  # of predictions, simulation against reference; one may differ always
# Outputs further apart than this part of the range of the reference's outputs are others. A single rounding to the
# other side of a half, carried on, moved none of 8-bit to 2-bit test networks by 0.0001, but one image in 100 of a
# 1-bit network by 0.25.
OUTPUT_APART = 0.05
APART_IMAGES = 0.01  # that may be so far apart; one may always
# Trained against frozen: 98 % of the predictions and a median of 0.036 of the range were the worst that was measured.
TRAINED_AGREEMENT = 0.95
TRAINED_APART = 0.2
_TRACED = 8  # images whose every tensor is compared


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What `verify_onnx` found.

    Args:
        images: number of images compared.
        equal_images: level -> images whose outputs equal the reference's bit for bit.
        differing_outputs: level -> single numbers among all outputs that differ.
        accuracy_simulation, accuracy_reference: fractions of the labels.
        accuracy_onnxruntime: level -> fraction of the labels.
        scores: level -> what `score` gives for onnxruntime's outputs; empty without one.
        agreement: fraction of the predictions in which simulation and reference are of the same class, or where the
            simulation predicts one of those between which the reference ties exactly. At least 99.9 % must be, but
            one prediction may differ however few there are.
        apart: fraction of the images with an output further from the reference's than 5 % of the range of its
            outputs; at most 1 % may be, but one image always.
        parted_layer: the first layer whose torch module, given the integers that the reference's layer read, computes
            other numbers; or None.
        agreement_trained: fraction of the predictions in which the trained and the frozen network are of the same
            class; None, as the next three, if no trained network was given.
        apart_trained: the median over the images of the largest difference of their outputs, as a part of the smaller
            of the two ranges.
        accuracy_trained: fraction of the labels.
        score_trained: what `score` gives for the trained network's outputs; None without one.
        first_difference: the first layer that differs, or None.
        integer_layers: kernels with weights (average pools too) that onnxruntime ran in integers, as its profile says.
        float_layers: those that it ran in floating point.
        flagged: layers whose products can pass 16 bits, which x86 machines without VNNI saturate: there the file can
            differ though it doesn't here.
        problems: one sentence for each thing that is wrong.
        predictions: (N,) or (N, positions) classes that the file predicts, by onnxruntime as it is used by default.
    """

    images: int
    equal_images: Mapping[str, int]
    differing_outputs: Mapping[str, int]
    accuracy_simulation: float
    accuracy_reference: float
    accuracy_onnxruntime: Mapping[str, float]
    scores: Mapping[str, float]
    agreement: float
    apart: float
    parted_layer: str | None
    agreement_trained: float | None
    apart_trained: float | None
    accuracy_trained: float | None
    score_trained: float | None
    first_difference: str | None
    integer_layers: int
    float_layers: int
    flagged: tuple[str, ...]
    problems: tuple[str, ...]
    predictions: np.ndarray = field(repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify_onnx(
    path: Path | str,
    frozen: Network,
    program: IntegerProgram,
    images: np.ndarray,
    labels: np.ndarray | Sequence[int],
    *,
    trained: Network | None = None,
    levels: Sequence[str] = tuple(LEVELS),
    threads: int = 1,
    batch: int = 100,
    score: Callable[[np.ndarray, np.ndarray], float] | None = None,
) -> Verification:
    """Compare a file with the frozen network that it was written from, and that with the trained one.

    Args:
        path: the file; what it holds is taken from disk.
        frozen, program: as `freeze` and `lower` returned them.
        images: (N, C, H, W), uint8 pixels or, for a float input contract, float32.
        labels: (N,) class numbers.
        trained: the network that was frozen; without it nothing is known of what freezing changed.
        levels: of onnxruntime's optimizer.
        score: (outputs, labels) -> the task's metric, kept in the result for every level.

    Raises:
        VerifyError: the file is damaged, is not of this network, or can't be run; no images; images of another shape.
    """
    labels = np.asarray(labels)
    if len(images) == 0 or len(labels) != len(images):
        raise VerifyError(f"verification needs images and as many labels, got {len(images)} and {len(labels)}")
    exposed = _expose(_read(path), program, path)
    reference = run(program, images)
    simulation = simulate(frozen, program, images, batch)
    got = _predictions(simulation)
    differing = int((~_best(reference, got)).sum())
    far = apart(simulation, reference) > OUTPUT_APART
    parted = first_parting(frozen, program, images[:_TRACED])

    problems = []
    if differing > max(1, (1 - LEAST_AGREEMENT) * got.size):
        problems.append(
            f"simulation and reference predict different classes on {differing} of {got.size} images, "
            f"more than {1 - LEAST_AGREEMENT:.1%}"
        )
    if far.sum() > max(1, APART_IMAGES * len(images)) or far.all():
        problems.append(
            f"outputs of simulation and reference are more than {OUTPUT_APART:.0%} of their range apart "
            f"on {far.sum()} of {len(images)} images"
        )
    if parted is not None:
        problems.append(parted[1])
    before = None if trained is None else simulate(trained, program, images, batch)
    agreement_trained = apart_trained = accuracy_trained = score_trained = None
    if before is not None:
        agreement_trained = float((_predictions(before) == got).mean())
        apart_trained = _distance(before, simulation)
        accuracy_trained = _accuracy(before, labels)
        score_trained = None if score is None else score(before, labels)
        problems += _freezing_problems(before, simulation, labels)
    equal, outputs, accuracy, scores, first = {}, {}, {}, {}, []
    predictions = _predictions(reference)
    for level in levels:
        computed = infer(session(path, level, threads=threads), images, [OUTPUT], batch=batch)[0]
        same = _same(computed, reference)
        rows = same.reshape(len(images), -1).all(1)
        equal[level], outputs[level] = int(rows.sum()), int((~same).sum())
        accuracy[level] = _accuracy(computed, labels)
        predictions = _predictions(computed)  # the last level is the one that users get
        if score is not None:
            scores[level] = score(computed, labels)
        suspects = np.flatnonzero(~rows) if not rows.all() else np.arange(len(images))
        found = _first_difference(exposed, program, images[suspects[:_TRACED]], level, threads)
        if found is not None:
            first.append(found)
        if not rows.all() or found is not None:
            where = f"the first difference is in {found[1]}" if found else "no layer alone differs"
            problems.append(f"level {level!r}: {(~rows).sum()} of {len(images)} images differ; {where}")
    kernels = kernel_nodes(path, threads=threads)
    problems += _kernel_problems(kernels, program)
    problems += _metadata_problems(_read(path), program)
    return Verification(
        images=len(images),
        equal_images=equal,
        differing_outputs=outputs,
        accuracy_simulation=_accuracy(simulation, labels),
        accuracy_reference=_accuracy(reference, labels),
        accuracy_onnxruntime=accuracy,
        scores=scores,
        agreement=1 - differing / got.size,
        apart=float(far.mean()),
        parted_layer=parted and parted[0],
        agreement_trained=agreement_trained,
        apart_trained=apart_trained,
        accuracy_trained=accuracy_trained,
        score_trained=score_trained,
        first_difference=min(first)[2] if first else None,
        integer_layers=sum(kernel in INTEGER_KERNELS for _, kernel in kernels),
        float_layers=sum(kernel in FLOAT_KERNELS for _, kernel in kernels),
        flagged=tuple(operator.layer for operator in program.weighted if program.may_saturate(operator)),
        problems=tuple(problems),
        predictions=predictions[:, 0] if predictions.shape[1] == 1 else predictions,
    )


def _read(path: Path | str) -> ModelProto:
    try:
        model = onnx.load(str(path))
    except OSError as error:
        raise VerifyError(f"can't read {path}: {error}") from error
    except DecodeError as error:
        raise VerifyError(f"{path} is truncated or not an ONNX file") from error
    signature = [value.name for value in (*model.graph.input, *model.graph.output)]
    if signature != [INPUT, OUTPUT]:
        raise VerifyError(f"{path} is damaged or not a file of bitsmith: its inputs and outputs are {signature}")
    return model


def _expose(model: ModelProto, program: IntegerProgram, path: Path | str) -> bytes:
    """The model with every parameter and every intermediate tensor as an output."""
    known = {output for node in model.graph.node for output in node.output}
    known |= {constant.name for constant in model.graph.initializer}
    extra = [tensor_name(program, operator.name) for operator in program.operators[:-1]]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in extra)
    for operator in program.weighted:
        if operator.sums.folded is None:
            continue
        if operator.layer != operator.sums.owner:  # its parameters are exposed where they are first used
            continue
        for name in parameter_names(operator).values():
            # A constant can't be an output by itself.
            model.graph.node.append(helper.make_node("Identity", [name], [f"{name}.exposed"]))
            model.graph.output.append(helper.make_empty_tensor_value_info(f"{name}.exposed"))
            extra.append(name)
    missing = [name for name in extra if name not in known]
    if missing:
        raise VerifyError(f"{path} is of another network: it has no tensor {missing[0]!r}")
    return model.SerializeToString()


def _first_difference(
    exposed: bytes, program: IntegerProgram, images: np.ndarray, level: str, threads: int
) -> tuple[int, str, str] | None:
    """(place in the program, description, layer) of the first operator whose parameters or output differ."""
    running = session(exposed, level, threads=threads)
    names = [output.name for output in running.get_outputs()]
    values = dict(zip(names, infer(running, images, batch=len(images)), strict=True))
    expected = trace(program, images)
    for place, operator in enumerate(program.operators):
        if isinstance(operator, Conv | Logits) and operator.sums.folded is not None:
            stored = {kind: values[f"{name}.exposed"] for kind, name in parameter_names(operator).items()}
            sums = operator.sums
            for kind, right in (("weight", sums.weight), ("scale", sums.scale), ("bias", sums.bias.astype(np.int32))):
                differing = int((~_same(stored[kind].reshape(-1), right.reshape(-1))).sum())
                if differing:
                    text = f"layer {operator.layer!r}: {differing} of its {right.size} stored {kind}s are wrong"
                    return place, text, operator.layer
        differing = int((~_same(values[tensor_name(program, operator.name)], expected[operator.name])).sum())
        if differing:
            text = f"layer {operator.layer!r}: {differing} of its {expected[operator.name].size} outputs differ"
            return place, text, operator.layer
    return None


def _predictions(outputs: np.ndarray) -> np.ndarray:
    """(N, positions): the largest of (N, classes), or at each place of (N, classes, H, W)."""
    return outputs.reshape(*outputs.shape[:2], -1).argmax(1)


def _right(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return _predictions(outputs) == labels.reshape(len(labels), -1)


def _accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    return float(_right(outputs, labels).mean())


def _best(outputs: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Where a prediction is one of the largest outputs: few-bit classifiers tie exactly, which float sums don't."""
    classes = outputs.reshape(*outputs.shape[:2], -1)
    return np.take_along_axis(classes, predictions[:, None], 1)[:, 0] == classes.max(1)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(max(np.median(apart(a, b)), np.median(apart(b, a))))


def _freezing_problems(trained: np.ndarray, frozen: np.ndarray, labels: np.ndarray) -> list[str]:
    """Gross gaps between the outputs of the trained and the frozen network.

    One is a problem where it costs accuracy: fewer than 95 % of the predictions agree and the accuracy falls by more
    than three standard errors of the paired difference. One in the outputs is where their median is 20 % of the range:
    that sees what no class shows.
    """
    problems = []
    agreement = (_predictions(trained) == _predictions(frozen)).mean()
    fall = (_right(trained, labels).astype(float) - _right(frozen, labels)).mean(1)
    if agreement < TRAINED_AGREEMENT and fall.mean() > 3 * fall.std() / np.sqrt(len(fall)):
        problems.append(
            f"freezing changed the network: trained and frozen predict the same class on {agreement:.1%} of the "
            f"images, and the accuracy falls by {100 * fall.mean():.2f} points"
        )
    distance = _distance(trained, frozen)
    if distance > TRAINED_APART:
        problems.append(
            f"freezing changed the network: its outputs differ from the trained ones by {distance:.0%} of their range"
        )
    return problems


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two arrays hold the same bits; nowhere if they aren't of one type and shape."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return np.zeros(b.shape, bool)
    if a.dtype == np.float32:
        return np.ascontiguousarray(a).view(np.uint32) == np.ascontiguousarray(b).view(np.uint32)
    return a == b


def _kernel_problems(kernels: list[tuple[str, str]], program: IntegerProgram) -> list[str]:
    # A fusion gives float kernels names of its own, so that a layer is recognized by its missing integer kernel.
    integer = {node for node, kernel in kernels if kernel in INTEGER_KERNELS}
    floats = [f"{kernel} ({node})" for node, kernel in kernels if kernel in FLOAT_KERNELS]
    lost = [operator.layer for operator in program.summing if operator.name not in integer]
    problems = [f"layer {layer!r} did not run as an integer kernel" for layer in lost]
    if floats:
        problems.append(f"onnxruntime ran in floating point: {', '.join(floats)}")
    return problems


def _metadata_problems(model: ModelProto, program: IntegerProgram) -> list[str]:
    stored = {entry.key: entry.value for entry in model.metadata_props}
    return [
        f"the file's metadata says {key} = {stored.get(key)!r}, the network's is {value!r}"
        for key, value in metadata(program).items()
        if stored.get(key) != value and key != "bitsmith"
    ]
