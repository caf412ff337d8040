"""`verify_onnx`: does the file compute what was trained?

Three computations of the same images are compared: the simulation (the frozen torch network in float32), the reference
interpreter on the program lowered from that network, and onnxruntime on the file from disk, at every optimization
level. The last two have to agree bit for bit; the first two in 99.9 % of the predictions (float32 sums round).

Two things find what is wrong: the weights, scales and biases that the file unpacks are compared with the network's,
and every intermediate tensor is made an extra output of a copy of the model, which leaves its kernels as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import ModelProto, helper

from bitsmith.deploy.onnx_file import metadata
from bitsmith.deploy.onnx_writer import INPUT, OUTPUT, parameter_names, tensor_name
from bitsmith.deploy.operators import Conv, Logits
from bitsmith.deploy.program import IntegerProgram
from bitsmith.deploy.reference import run, trace
from bitsmith.deploy.runtime import FLOAT_KERNELS, INTEGER_KERNELS, LEVELS, infer, kernel_nodes, session
from bitsmith.errors import VerifyError
from bitsmith.quantize import Network

LEAST_AGREEMENT = 0.999  # of predictions, simulation against reference
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
        agreement: fraction of the images on which simulation and reference predict the same class, or where the
            simulation predicts one of those between which the reference ties exactly.
        first_difference: the first layer that differs, or None.
        integer_layers: kernels with weights (average pools too) that onnxruntime ran in integers, as its profile says.
        float_layers: those that it ran in floating point.
        flagged: layers whose products can pass 16 bits, which x86 machines without VNNI saturate: there the file can
            differ though it doesn't here.
        problems: one sentence for each thing that is wrong.
    """

    images: int
    equal_images: Mapping[str, int]
    differing_outputs: Mapping[str, int]
    accuracy_simulation: float
    accuracy_reference: float
    accuracy_onnxruntime: Mapping[str, float]
    scores: Mapping[str, float]
    agreement: float
    first_difference: str | None
    integer_layers: int
    float_layers: int
    flagged: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the file computes what was trained."""
        return not self.problems


def verify_onnx(
    path: Path | str,
    frozen: Network,
    program: IntegerProgram,
    images: np.ndarray,
    labels: np.ndarray | Sequence[int],
    *,
    levels: Sequence[str] = tuple(LEVELS),
    threads: int = 1,
    batch: int = 100,
    score: Callable[[np.ndarray, np.ndarray], float] | None = None,
) -> Verification:
    """Compare a file with the frozen network that it was written from.

    Args:
        path: the file; what it holds is taken from disk.
        frozen, program: as `freeze` and `lower` returned them.
        images: (N, C, H, W), uint8 pixels or, for a float input contract, float32.
        labels: (N,) class numbers.
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
    simulation = _simulate(frozen, program, images, batch)
    wanted, got = _predictions(reference), _predictions(simulation)
    differing = int((~_best(reference, got)).sum())

    problems = []
    if differing > max(1, (1 - LEAST_AGREEMENT) * len(images)):
        problems.append(
            f"simulation and reference predict different classes on {differing} of {len(images)} images, "
            f"more than {1 - LEAST_AGREEMENT:.1%}"
        )
    equal, outputs, accuracy, scores, first = {}, {}, {}, {}, []
    for level in levels:
        computed = infer(session(path, level, threads=threads), images, [OUTPUT], batch=batch)[0]
        same = _same(computed, reference)
        rows = same.reshape(len(images), -1).all(1)
        equal[level], outputs[level] = int(rows.sum()), int((~same).sum())
        accuracy[level] = float((_predictions(computed) == labels).mean())
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
        accuracy_simulation=float((got == labels).mean()),
        accuracy_reference=float((wanted == labels).mean()),
        accuracy_onnxruntime=accuracy,
        scores=scores,
        agreement=1 - differing / len(images),
        first_difference=min(first)[2] if first else None,
        integer_layers=sum(kernel in INTEGER_KERNELS for _, kernel in kernels),
        float_layers=sum(kernel in FLOAT_KERNELS for _, kernel in kernels),
        flagged=tuple(operator.layer for operator in program.weighted if program.may_saturate(operator)),
        problems=tuple(problems),
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


@torch.no_grad()
def _simulate(frozen: Network, program: IntegerProgram, images: np.ndarray, batch: int) -> np.ndarray:
    """Outputs of the frozen network on normalized pixels, in true float32 on the CPU."""
    network = copy.deepcopy(frozen).cpu().eval()
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        parts = [network(_normalized(program, images[i : i + batch])) for i in range(0, len(images), batch)]
    finally:
        torch.set_float32_matmul_precision(precision)
    return torch.cat(parts).numpy()


def _normalized(program: IntegerProgram, images: np.ndarray) -> torch.Tensor:
    x = torch.from_numpy(np.array(images))
    if program.input.kind == "float":
        return x
    shape = (-1, *[1] * (x.ndim - 2))
    mean, std = torch.tensor(program.input.mean).reshape(shape), torch.tensor(program.input.std).reshape(shape)
    return x.to(torch.float32).div_(255).sub_(mean).div_(std)


def _predictions(outputs: np.ndarray) -> np.ndarray:
    return outputs.reshape(len(outputs), -1).argmax(1)


def _best(outputs: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Where a prediction is one of the largest outputs: few-bit classifiers tie exactly, which float sums don't."""
    rows = outputs.reshape(len(outputs), -1)
    return rows[np.arange(len(rows)), predictions] == rows.max(1)


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
