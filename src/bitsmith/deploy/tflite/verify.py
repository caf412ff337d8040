"""`verify_tflite`: is the file the network, and how far does TFLite's arithmetic lie from ours?

LiteRT runs it, which isn't ours, with both kinds of its kernels:

- "xnnpack", what CPUs run: factors in float32, halves to even, as ours.
- "reference", whose fixed-point arithmetic is that of microcontrollers and of Ethos-U.

On a few images every operator by itself is compared: our operator gets the numbers that LiteRT's read and must give
what LiteRT gave, or its neighbor: one level, where the two roundings part. All such numbers are counted. Stored weights
and biases must be the network's. On all images classes are compared: the logits lie on an int8 grid, so that near ties
become ties.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bitsmith.deploy.nearness import accuracy_of, is_best, predictions_of
from bitsmith.deploy.operators import Conv, InputTable, Logits, StoredGrid
from bitsmith.deploy.program import IntegerProgram
from bitsmith.deploy.reference import apply, run
from bitsmith.deploy.tflite.nodes import INPUT, Lowering, write_operator
from bitsmith.errors import VerifyError

LEAST_AGREEMENT = 0.99  # of classes; one may differ always
_TRACED = 8  # images whose every operator is compared
_KERNELS = {"xnnpack": "AUTO", "reference": "BUILTIN_REF"}


@dataclass(frozen=True, kw_only=True)
class OperatorGap:
    """How far one operator of the file is from ours, from the same inputs.

    Args:
        layer: it is of.
        size: numbers compared.
        differing: kernels -> those that are other levels.
        largest: kernels -> the largest difference, in levels (LSB).
    """

    layer: str
    operator: str
    size: int
    differing: Mapping[str, int]
    largest: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class TfliteVerification:
    """What `verify_tflite` found.

    Args:
        images: compared.
        equal_images: kernels -> images whose outputs are those of our logits on the output's grid. Of the reference
            kernels, of the images traced alone, as these are slow.
        largest_difference: kernels -> the largest difference of an output, in levels (LSB) of its grid.
        agreement: fraction of the images whose class is one of those between which our logits' grid ties, or the same.
        accuracy, accuracy_reference: of the file by its fast kernels, and of the integer reference.
        score: what `score` gives for the file's outputs; None without one.
        operators: each by itself.
        first_difference: the first layer that is wrong: more than one level from ours; or None.
        integer_layers: operators that sum with weights, all of them in int8.
        problems: one sentence for each thing that is wrong.
        predictions: (N,) classes.
    """

    images: int
    equal_images: Mapping[str, int]
    largest_difference: Mapping[str, int]
    agreement: float
    accuracy: float
    accuracy_reference: float
    score: float | None
    operators: tuple[OperatorGap, ...]
    first_difference: str | None
    integer_layers: int
    problems: tuple[str, ...]
    predictions: np.ndarray = field(repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def differing(self) -> Mapping[str, tuple[int, int]]:
        """Kernels -> numbers of all operators that are other levels than ours, and how many were compared."""
        size = sum(gap.size for gap in self.operators)
        return {name: (sum(gap.differing[name] for gap in self.operators), size) for name in _KERNELS}


def verify_tflite(
    path: Path | str,
    program: IntegerProgram,
    images: np.ndarray,
    labels: np.ndarray | Sequence[int],
    *,
    score: Callable[[np.ndarray, np.ndarray], float] | None = None,
) -> TfliteVerification:
    """Compare a TFLite file with the program that it was written from, in LiteRT.

    Args:
        images: (N, C, H, W), as the program takes them.
        labels: (N,).
        score: (outputs, labels) -> the task's metric.

    Raises:
        VerifyError: the file is damaged or of another network, LiteRT isn't installed; no images.
    """
    labels = np.asarray(labels)
    if len(images) == 0 or len(labels) != len(images):
        raise VerifyError(f"verification needs images and as many labels, got {len(images)} and {len(labels)}")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise VerifyError(f"can't read {path}: {error.strerror}") from error
    traced = images[:_TRACED]
    found = {name: _Interpreter(content, path, program, name) for name in _KERNELS}
    step, zero = found["xnnpack"].output
    lowering = _written(program, (step, zero))
    problems = _stored_problems(found["xnnpack"], lowering)
    tensors = {name: interpreter.trace(traced) for name, interpreter in found.items()}
    gaps, first = [], None
    for operator in program.operators[:-1]:
        gap = _gap(lowering, operator, traced, tensors)
        gaps.append(gap)
        wrong = {name: by for name, by in gap.largest.items() if by > 1}
        if wrong:
            first = first or gap.layer
            name, by = next(iter(wrong.items()))
            count = gap.differing[name]
            problems.append(
                f"layer {gap.layer!r}: {count} of {gap.size} numbers are others ({name}), by up to {by} levels"
            )
    logits = run(program, images)
    levels = np.clip(np.rint(logits / step) + zero, -128, 127)
    outputs = {"xnnpack": found["xnnpack"].outputs(images), "reference": tensors["reference"][program.output]}
    away = {name: np.abs(given - levels[: len(given)]) for name, given in outputs.items()}
    given = ((outputs["xnnpack"] - zero) * step).astype(np.float32)
    predictions = predictions_of(given)
    differing = int((~(is_best(levels, predictions) | is_best(logits, predictions))).sum())
    if differing > max(1, (1 - LEAST_AGREEMENT) * len(images)):
        problems.append(f"the file predicts other classes than the reference on {differing} of {len(images)} images")
    return TfliteVerification(
        images=len(images),
        equal_images={name: int((by.max(1) == 0).sum()) for name, by in away.items()},
        largest_difference={name: int(by.max()) for name, by in away.items()},
        agreement=1 - differing / len(images),
        accuracy=accuracy_of(given, labels),
        accuracy_reference=accuracy_of(logits, labels),
        score=None if score is None else score(given, labels),
        operators=tuple(gaps),
        first_difference=first,
        integer_layers=len(program.summing),
        problems=tuple(problems),
        predictions=predictions[:, 0],
    )


class _Interpreter:
    """LiteRT on one file, image by image."""

    def __init__(self, content: bytes, path: Path | str, program: IntegerProgram, kernels: str) -> None:
        try:
            module = importlib.import_module("ai_edge_litert.interpreter")
        except ImportError as error:
            raise VerifyError("TFLite files are verified in LiteRT: pip install 'bitsmith[tflite]'") from error
        if content[4:8] != b"TFL3":
            raise VerifyError(f"{path} is not a TFLite file")
        kind = getattr(module.OpResolverType, _KERNELS[kernels])
        try:
            with warnings.catch_warnings():  # keeping all tensors takes memory, it says
                warnings.simplefilter("ignore")
                self.running = module.Interpreter(
                    model_content=content,
                    num_threads=1,
                    experimental_op_resolver_type=kind,
                    experimental_preserve_all_tensors=True,
                )
            self.running.allocate_tensors()
        except Exception as error:  # LiteRT's exceptions share no base class
            raise VerifyError(f"LiteRT can't load {path}: {str(error).strip().splitlines()[0]}") from error
        self.program = program
        self.details: dict[str, Any] = {d["name"]: d for d in self.running.get_tensor_details()}
        missing = [name for name in (INPUT, *(o.name for o in program.operators)) if name not in self.details]
        if missing:
            raise VerifyError(f"{path} is of another network: it has no tensor {missing[0]!r}")

    @property
    def output(self) -> tuple[float, int]:
        """Step and zero point of the output's int8 grid."""
        step, zero = self.details[self.program.output]["quantization"]
        return float(step), int(zero)

    def value(self, name: str) -> np.ndarray:
        """The present content of a tensor; a copy."""
        return self.running.get_tensor(self.details[name]["index"])

    def outputs(self, images: np.ndarray) -> np.ndarray:
        """(N, classes) levels."""
        return np.concatenate([self._run(image)[self.program.output] for image in images]).astype(np.int64)

    def trace(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Every operator's levels, (N, 1, H, W, C) but for the output's (N, classes)."""
        names = [operator.name for operator in self.program.operators]
        runs = [self._run(image, names) for image in images]
        found = {name: np.concatenate([run[name] for run in runs]) for name in names}
        return found | {self.program.output: found[self.program.output].astype(np.int64)}

    def _run(self, image: np.ndarray, names: Sequence[str] = ()) -> dict[str, np.ndarray]:
        x = image.transpose(1, 2, 0)[None] if image.ndim == 3 else image.reshape(1, 1, 1, -1)
        if self.program.input.kind == "uint8":
            x = (x.astype(np.int16) - 128).astype(np.int8)
        self.running.set_tensor(self.details[INPUT]["index"], np.ascontiguousarray(x))
        self.running.invoke()
        found = {name: self.value(name) for name in (*names, self.program.output)}
        return found | {self.program.output: found[self.program.output].reshape(1, -1)}


def _written(program: IntegerProgram, output: tuple[float, int]) -> Lowering:
    """The file as it is written anew, on the output's grid that it has."""
    step, zero = output
    lowering = Lowering(program, StoredGrid(step=np.float32(step), zero_point=zero + 128, top=255))
    for operator in program.operators:
        write_operator(lowering, operator)
    return lowering


def _stored_problems(found: _Interpreter, lowering: Lowering) -> list[str]:
    """Weights and biases of the file that aren't the program's, by the layer."""
    problems = []
    for operator in lowering.program.operators:
        if not isinstance(operator, InputTable | Conv | Logits):
            continue
        part = INPUT if isinstance(operator, InputTable) else operator.name
        for name in (f"{part}.weight", f"{part}.bias"):
            right = lowering.to.tensors[lowering.to.index[name]]
            stored = found.value(name).tobytes() if name in found.details else b""
            given = found.details.get(name, {}).get("quantization_parameters", {}).get("scales", np.zeros(0))
            if stored != bytes(lowering.to.buffers[right.buffer].data):
                problems.append(f"layer {operator.layer!r}: its stored {name.rpartition('.')[2]} is not the network's")
            elif not np.array_equal(given, np.array(right.quantization.scale, np.float32)):
                problems.append(f"layer {operator.layer!r}: the scales of its {name.rpartition('.')[2]} are others")
    return problems


def _gap(
    lowering: Lowering, operator: Any, images: np.ndarray, tensors: Mapping[str, Mapping[str, np.ndarray]]
) -> OperatorGap:
    """One operator of ours on what LiteRT's read, against what LiteRT's gave."""
    differing, largest, size = {}, {}, 0
    for name, values in tensors.items():
        given = _ours(lowering, operator.name, values[operator.name])
        inputs = [_ours(lowering, read, values[read]) for read in operator.inputs] or [images]
        right = apply(lowering.program, operator, inputs).reshape(given.shape)
        away = np.abs(given.astype(np.int64) - right)
        differing[name], largest[name], size = int((away > 0).sum()), int(away.max()), away.size
    return OperatorGap(layer=operator.layer, operator=operator.name, size=size, differing=differing, largest=largest)


def _ours(lowering: Lowering, name: str, levels: np.ndarray) -> np.ndarray:
    """int8 in NHWC to stored bytes in our order."""
    stored = (levels.astype(np.int16) + 128).astype(np.uint8)
    shape = lowering.program.shapes[name]
    if len(shape) == 3:
        return stored.reshape(len(levels), shape[1], shape[2], shape[0]).transpose(0, 3, 1, 2)
    stored = stored.reshape(len(levels), -1)
    order = lowering.orders.get(name)
    if order is None:
        return stored
    back = np.empty_like(stored)
    back[:, order] = stored
    return back
