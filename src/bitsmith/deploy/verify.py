"""`verify_onnx`: does the file compute what was trained?

Four computations of the same images are compared, each with the next:

1. The trained network in float32. Freezing rounds its scales and biases, which few-bit networks can feel, so that
   only a gross gap is a problem (see `bitsmith.deploy.nearness`).
2. The simulation, the frozen torch network in float32.
3. The reference interpreter on the program lowered from that network. It has to give the simulation's classes in
   99 % of the predictions and outputs close to its own, and on a few images, those first whose classes differ most,
   layer by layer the very integers that the simulation's layer rounds to (`bitsmith.deploy.simulation`).
4. onnxruntime on the file from disk, at every optimization level: bit for bit the reference's outputs. Where layers
   stay float, sums of floats depend on the order in which a machine adds them, and what is rounded after them now and
   then falls to the other side: there the classes have to be the same likewise and outputs close, and on a few images,
   those that differ most, every operator by itself has to be right (`bitsmith.deploy.exposed`). Few images don't reach
   every entry of a table, so that all constants of the file have to be the program's, too.

Two things find what is wrong in the file: the weights, scales and biases that it unpacks are compared with the
network's, and every intermediate tensor is made an extra output of a copy of the model, which leaves its integer
kernels as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bitsmith.deploy.arithmetic import arithmetic
from bitsmith.deploy.exposed import expose, first_difference, same
from bitsmith.deploy.kernel_check import kernel_problems
from bitsmith.deploy.nearness import (
    OUTPUT_APART,
    accuracy_of,
    apart_problems,
    distance,
    freezing_problems,
    is_best,
    predictions_of,
)
from bitsmith.deploy.onnx_file import CPU, for_file, to_onnx
from bitsmith.deploy.onnx_read import read_onnx
from bitsmith.deploy.onnx_writer import OUTPUT
from bitsmith.deploy.program import IntegerProgram
from bitsmith.deploy.reference import run
from bitsmith.deploy.runtime import FLOAT_KERNELS, INTEGER_KERNELS, LEVELS, infer, kernel_nodes, session
from bitsmith.deploy.simulation import apart, first_parting, simulate
from bitsmith.deploy.stored import constant_problems, metadata_problems
from bitsmith.errors import VerifyError
from bitsmith.quantize import Network

_TRACED = 8  # images whose every tensor is compared


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What `verify_onnx` found.

    Args:
        images: number of images compared.
        exact: whether the file computes with integers alone: its outputs have to be the reference's bit for bit.
        arithmetic: what computes in integers, in the words of the file's metadata.
        excluded: the layers that stay float.
        float_streams: whether what lies between the layers is float too.
        vnni: whether the file is for x86 CPUs with VNNI, which sum int8 weights exactly.
        equal_images: level -> images whose outputs equal the reference's bit for bit.
        differing_outputs: level -> single numbers among all outputs that differ.
        largest_difference: level -> the largest difference, as a part of the range of all of the reference's outputs.
        accuracy_simulation, accuracy_reference: fractions of the labels.
        accuracy_onnxruntime: level -> fraction of the labels.
        scores: level -> what `score` gives for onnxruntime's outputs; empty without one.
        agreement: fraction of the predictions in which simulation and reference are of the same class, or where the
            simulation predicts one of those between which the reference ties exactly. At least 99 % must be, and at
            least 99.9 % if outputs nearer than 1 % of their image's range tie too; one may always differ.
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
        float_layers: those that it ran in floating point; only `excluded` layers may be.
        problems: one sentence for each thing that is wrong.
        predictions: (N,) or (N, positions) classes that the file predicts, by onnxruntime as it is used by default.
    """

    images: int
    exact: bool
    arithmetic: str
    excluded: tuple[str, ...]
    float_streams: bool
    vnni: bool
    equal_images: Mapping[str, int]
    differing_outputs: Mapping[str, int]
    largest_difference: Mapping[str, float]
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
    problems: tuple[str, ...]
    predictions: np.ndarray = field(repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def score(self) -> float:
        """What `score` gives for the outputs at the last level, those of `predictions`; needs one."""
        return list(self.scores.values())[-1]


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
    right = to_onnx(program)
    model = read_onnx(path, right)
    program = for_file(program, model)
    right = to_onnx(program)
    exposed = expose(model, program, path)
    reference = run(program, images)
    simulation = simulate(frozen, program, images, batch)
    got = predictions_of(simulation)
    differing = int((~is_best(reference, got)).sum())
    traced = _suspects(simulation, reference)
    parted = first_parting(frozen, program, images[traced])

    rounded = parted is None  # on images that differ, too, layers compute the same: roundings tell them apart
    problems = apart_problems(simulation, reference, "simulation and reference", rounded=rounded)
    if parted is not None:
        problems.append(parted[1])
    before = None if trained is None else simulate(trained, program, images, batch)
    agreement_trained = apart_trained = accuracy_trained = score_trained = None
    if before is not None:
        agreement_trained = float((predictions_of(before) == got).mean())
        apart_trained = distance(before, simulation)
        accuracy_trained = accuracy_of(before, labels)
        score_trained = None if score is None else score(before, labels)
        problems += freezing_problems(before, simulation, labels)
    equal, outputs, largest, accuracy, scores, first = {}, {}, {}, {}, {}, []
    predictions = predictions_of(reference)
    for level in levels:
        computed = infer(session(path, level, threads=threads), images, [OUTPUT], batch=batch)[0]
        equals = same(computed, reference)
        rows = equals.reshape(len(images), -1).all(1)
        away = apart(computed, reference)
        away[np.isnan(away)] = np.finfo(away.dtype).max
        equal[level], outputs[level] = int(rows.sum()), int((~equals).sum())
        largest[level] = float(away.max())
        accuracy[level] = accuracy_of(computed, labels)
        predictions = predictions_of(computed)  # the last level is the one that users get
        if score is not None:
            scores[level] = score(computed, labels)
        suspects = np.lexsort((-away, rows))[:_TRACED]  # those that differ, most first
        found = first_difference(exposed, program, images[suspects], level, threads)
        if found is not None:
            first.append(found)
        if not program.exact:
            who = f"level {level!r}: onnxruntime and reference"
            away_problems = apart_problems(computed, reference, who)
            problems += ([f"level {level!r}: {found[1]}"] if found else []) + away_problems
        elif not rows.all() or found is not None:
            where = f"the first difference is in {found[1]}" if found else "no layer alone differs"
            problems.append(f"level {level!r}: {(~rows).sum()} of {len(images)} images differ; {where}")
    if program.vnni and problems:
        problems.append(f"the file is for {CPU}; export without --vnni if this machine is another")
    kernels = kernel_nodes(path, threads=threads)
    problems += kernel_problems(kernels, program)
    stored = read_onnx(path, right)
    problems += metadata_problems(stored, program)
    if not program.exact:
        problems += constant_problems(stored, program)
    return Verification(
        images=len(images),
        equal_images=equal,
        differing_outputs=outputs,
        largest_difference=largest,
        accuracy_simulation=accuracy_of(simulation, labels),
        accuracy_reference=accuracy_of(reference, labels),
        accuracy_onnxruntime=accuracy,
        scores=scores,
        agreement=1 - differing / got.size,
        apart=float((apart(simulation, reference) > OUTPUT_APART).mean()),
        parted_layer=parted and parted[0],
        agreement_trained=agreement_trained,
        apart_trained=apart_trained,
        accuracy_trained=accuracy_trained,
        score_trained=score_trained,
        first_difference=min(first)[2] if first else None,
        integer_layers=sum(kernel in INTEGER_KERNELS for _, kernel in kernels),
        float_layers=sum(kernel in FLOAT_KERNELS for _, kernel in kernels),
        excluded=tuple(dict.fromkeys(operator.owner for operator in program.float_sums)),
        float_streams=program.float_streams,
        vnni=program.vnni,
        exact=program.exact,
        arithmetic=arithmetic(program),
        problems=tuple(problems),
        predictions=predictions[:, 0] if predictions.shape[1] == 1 else predictions,
    )


def _suspects(simulation: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The images to look at layer by layer: the first few, and as many of those that differ, other classes first."""
    other = (predictions_of(simulation) != predictions_of(reference)).reshape(len(reference), -1).any(1)
    away = apart(simulation, reference).reshape(len(reference), -1).max(1)
    differing = np.lexsort((-np.nan_to_num(away, nan=np.inf), ~other))[:_TRACED]
    return np.unique(np.concatenate([np.arange(min(_TRACED, len(reference))), differing]))
