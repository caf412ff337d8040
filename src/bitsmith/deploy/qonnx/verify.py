"""`verify_qonnx`: does the QONNX file, run by the package qonnx, compute what the integer program says?

Where float32 is exact (`exactness`), outputs have to be the reference's to the bit on all images. Elsewhere every
operator is compared by itself on a few images, those that differ most: from the levels that the file's own tensors are
on, the reference's operator may give neighboring levels and no others, which are counted. On all images the classes
then have to be the same in 99.9 %, as of files with float layers. Weights, biases and scales are compared with the
program's, and the clean-up passes of qonnx may change no output.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

from bitsmith.deploy.nearness import accuracy_of, apart_problems, predictions_of
from bitsmith.deploy.onnx_writer import INPUT, OUTPUT, tensor_name
from bitsmith.deploy.operators import Conv, Logits, Operator
from bitsmith.deploy.program import IntegerProgram
from bitsmith.deploy.qonnx.exactness import all_exact, is_exact, level_of
from bitsmith.deploy.reference import apply, run
from bitsmith.deploy.simulation import apart
from bitsmith.errors import VerifyError

_TRACED = 8  # images whose every tensor is compared
_BATCH = 50
_OFF_GRID = 0.01  # of a level; float32 rounding of 8-bit numbers is a thousand times smaller


@dataclass(frozen=True, kw_only=True)
class QonnxVerification:
    """What `verify_qonnx` found.

    Args:
        images: number of images compared.
        exact: whether the outputs have to be the reference's bit for bit.
        equal_images: those whose outputs are.
        differing_outputs: single numbers among all outputs that differ.
        largest_difference: as a part of the range of all of the reference's outputs.
        neighbors: numbers, of all tensors of the traced images, that are one level beside the reference's.
        compared: of how many numbers.
        agreement: fraction of the predictions in which file and reference are of the same class.
        accuracy: fraction of the labels.
        score: what `score` gives for the outputs; the accuracy without one.
        integer_layers: how many layers with weights ran (average pools over whole maps too).
        first_difference: the first layer that is wrong, or None.
        problems: one sentence for each thing that is wrong.
        predictions: (N,) or (N, positions) classes.
    """

    images: int
    exact: bool
    equal_images: int
    differing_outputs: int
    largest_difference: float
    neighbors: int
    compared: int
    agreement: float
    accuracy: float
    score: float
    integer_layers: int
    first_difference: str | None
    problems: tuple[str, ...]
    predictions: np.ndarray = field(repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify_qonnx(
    path: Path | str,
    program: IntegerProgram,
    images: np.ndarray,
    labels: np.ndarray | Sequence[int],
    *,
    score: Callable[[np.ndarray, np.ndarray], float] | None = None,
    clean: bool = True,
) -> QonnxVerification:
    """Run a file with the package qonnx and compare it with the program.

    Args:
        program: what it was written from.
        images: (N, C, H, W), uint8 pixels or, for a float input contract, float32.
        labels: (N,) class numbers.
        score: (outputs, labels) -> the task's metric.
        clean: whether the clean-up passes of qonnx are run, too.

    Raises:
        VerifyError: the package qonnx is missing, or can't run the file; the file is damaged; no images.
    """
    labels = np.asarray(labels)
    if len(images) == 0 or len(labels) != len(images):
        raise VerifyError(f"verification needs images and as many labels, got {len(images)} and {len(labels)}")
    model = _read(path)
    wanted = run(program, images)
    few = trace_file(model, images) if len(images) <= _TRACED else None
    got = execute(model, images) if few is None else few[OUTPUT]
    exact, same = all_exact(program), got == wanted  # a Quant node makes -0 of what rounds to 0 from below
    rows, away = same.reshape(len(images), -1).all(1), apart(got, wanted)
    suspects = images if few else images[np.lexsort((-away, rows))[:_TRACED]]
    traced = few or trace_file(model, suspects)
    first, neighbors, compared = _compare(program, traced, suspects)
    problems = [] if first is None else [f"{path}: {first[1]}"]
    if exact and not rows.all():
        problems.append(f"{path}: {(~rows).sum()} of {len(images)} images differ")
    if not exact:
        problems += apart_problems(got, wanted, f"{path}: qonnx and reference")
    if clean and not np.array_equal(execute(_cleaned(model), suspects), traced[OUTPUT]):
        problems.append(f"{path}: the clean-up of qonnx changes what it computes")
    predictions = predictions_of(got)
    return QonnxVerification(
        images=len(images),
        exact=exact,
        equal_images=int(rows.sum()),
        differing_outputs=int((~same).sum()),
        largest_difference=float(away.max()),
        neighbors=neighbors,
        compared=compared,
        agreement=float((predictions == predictions_of(wanted)).mean()),
        accuracy=(accuracy := accuracy_of(got, labels)),
        score=accuracy if score is None else score(got, labels),
        integer_layers=len(program.weighted),
        first_difference=first and first[0],
        problems=tuple(problems),
        predictions=predictions[:, 0] if predictions.shape[1] == 1 else predictions,
    )


def execute(model: ModelProto, images: np.ndarray) -> np.ndarray:
    """The float32 outputs that the package qonnx computes.

    Raises:
        VerifyError: it is missing, or can't run the model.
    """
    return np.concatenate([trace_file(model, images[i : i + _BATCH])[OUTPUT] for i in range(0, len(images), _BATCH)])


def trace_file(model: ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor of a model, run by the package qonnx; the output under the name that bitsmith's files have.

    Raises:
        VerifyError: as of `execute`.
    """
    wrapper, transforms, run_model = _package()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own and onnx' about what is deprecated
            copy = wrapper(model, make_deepcopy=True)
            copy = copy.transform(transforms.ChangeBatchSize(len(images))).transform(transforms.InferShapes())
            taken, given = copy.graph.input[0].name, copy.graph.output[0].name
            values = run_model(copy, {taken: images.astype(np.float32)}, return_full_exec_context=True)
    except Exception as error:  # whatever qonnx and onnxruntime raise
        raise VerifyError(f"the package qonnx can't run the file: {str(error).strip()[:500]}") from error
    return values | {OUTPUT: values[given]}


def _cleaned(model: ModelProto) -> ModelProto:
    wrapper, transforms, _ = _package()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return transforms.cleanup_model(wrapper(model, make_deepcopy=True)).model
    except Exception as error:  # as above
        raise VerifyError(f"the clean-up of qonnx fails: {str(error).strip()[:500]}") from error


def _package() -> tuple[Any, Any, Any]:
    """(ModelWrapper, transformations, execute_onnx) of the package qonnx, which is an extra."""
    try:
        from bitsmith.deploy.qonnx import package
    except ImportError as error:
        raise VerifyError(
            f"QONNX files are verified by running them with the package qonnx, which isn't installed ({error}); "
            "pip install 'bitsmith[qonnx]'"
        ) from error
    return package.ModelWrapper, package, package.execute_onnx


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


def _compare(
    program: IntegerProgram, values: dict[str, np.ndarray], images: np.ndarray
) -> tuple[tuple[str, str] | None, int, int]:
    """((layer, what is wrong) of the first wrong operator or None, neighboring levels, numbers compared)."""
    stored: dict[str, np.ndarray] = {}  # numbers themselves where there is no grid
    neighbors = compared = 0
    for operator in program.operators:
        name = operator.name
        for kind, (got, right) in _parameters(program, operator, values).items():
            if got is None or not np.array_equal(got, right):
                return (operator.layer, f"layer {operator.layer!r}: its {kind} are others"), neighbors, compared
        got = values.get(tensor_name(program, name))
        right = apply(program, operator, [stored[read] for read in operator.inputs] or [images])
        right = right.reshape(len(images), *program.shapes[name])
        if got is None or got.shape != right.shape:
            return (operator.layer, f"layer {operator.layer!r}: the file has no such tensor"), neighbors, compared
        if name not in program.grids:
            stored[name] = got
            wrong = ~(np.abs(got - right) <= _room(program, operator))
        else:
            grid = program.grids[name]
            levels = got.astype(np.float64) / grid.step + grid.zero_point
            stored[name] = np.rint(levels).clip(0, 255).astype(np.uint8)
            away = np.abs(stored[name].astype(int) - right)
            near = 0 if is_exact(program, operator) else level_of(program, operator)
            wrong = ~((np.abs(levels - stored[name]) <= _OFF_GRID) & (away <= near))
            neighbors, compared = neighbors + int((away > 0).sum()), compared + away.size
        if wrong.any():
            text = f"layer {operator.layer!r}: {int(wrong.sum())} of its {wrong.size} numbers are others"
            return (operator.layer, text), neighbors, compared
    return None, neighbors, compared


def _room(program: IntegerProgram, operator: Operator) -> np.ndarray | float:
    """How far float32 sums of outputs may be apart: 2^-20 of the largest that they can be; nothing where exact."""
    if is_exact(program, operator) or not isinstance(operator, Logits):
        return 0.0
    step = program.grids[operator.inputs[0]].step
    room = 2.0**-20 * program.accumulator_bound(operator) * step * operator.sums.scale
    return room.reshape(-1, *[1] * (len(program.shapes[operator.name]) - 1))


def _parameters(
    program: IntegerProgram, operator: Operator, values: dict[str, np.ndarray]
) -> dict[str, tuple[np.ndarray | None, np.ndarray]]:
    """kind -> what the file has and what is right, both float32, of an operator with weights."""
    if not isinstance(operator, Conv | Logits) or operator.sums.folded is None:
        return {}
    sums, step = operator.sums, np.float64(program.grids[operator.inputs[0]].step)
    found: dict[str, tuple[np.ndarray | None, np.ndarray]] = {}
    right_ones = (
        ("weights", "weight", sums.weight),
        ("biases", "bias", sums.bias * step),
        ("scales", "scale", sums.scale),
    )
    for kind, name, right in right_ones:
        got = values.get(f"{sums.owner}.{name}")
        right = right.astype(np.float32).reshape(len(right), -1)
        if got is not None and name == "weight" and got.ndim == 2 and got.shape == right.T.shape:
            got = got.T
        found[kind] = (None if got is None or got.size != right.size else got.reshape(right.shape), right)
    return found
