"""`verify_c`: does the C code, compiled here, compute what the integer program says?

The files on disk are compiled twice. As they are, they give the outputs on all images, which have to be the
reference's bit for bit (with floating point; without, those of `bitsmith.deploy.c.fixed`, and the reference's classes
in 99.9 % of the images). With MODEL_TRACE they tell what each layer unpacks its weights, biases and multipliers to and
what each operator writes; the first layer in which anything differs is named.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bitsmith.cost import ArenaPlan
from bitsmith.deploy.c.files import CFiles, pixels_in_memory
from bitsmith.deploy.c.fixed import channel_bias, channel_factors, run_fixed, trace_fixed
from bitsmith.deploy.c.layout import Layout, lay_out
from bitsmith.deploy.nearness import accuracy_of, is_best, predictions_of, rounded_ties
from bitsmith.deploy.operators import Conv, Logits
from bitsmith.deploy.program import IntegerProgram
from bitsmith.deploy.reference import run, trace
from bitsmith.errors import VerifyError

_STANDARD = ("-std=c99", "-ffp-contract=off")
STRICT = (*_STANDARD, "-Wall", "-Wextra", "-Wconversion", "-Werror")  # what we hold the files to; users' compilers vary
_TRACED = 4  # images whose every tensor is compared
_AGREEMENT = 0.999  # of the classes, without floating point


@dataclass(frozen=True, kw_only=True)
class CVerification:
    """What `verify_c` found.

    Args:
        images: number of images compared.
        equal_images: those whose outputs are bit for bit what they have to be.
        differing_outputs: single numbers among all outputs that differ.
        agreement: fraction of the predictions in which C code and reference are of the same class; without floating
            point, classes whose outputs are within 1 % of their image's range count as the same.
        accuracy: fraction of the labels.
        score: what `score` gives for the outputs; the accuracy without one.
        integer_layers: how many layers with weights ran (average pools over whole maps too), which all do as integers.
        fpu: whether it computes scales in float32.
        first_difference: the first layer that differs, or None.
        problems: one sentence for each thing that is wrong.
        predictions: (N,) or (N, positions) classes.
    """

    images: int
    equal_images: int
    differing_outputs: int
    agreement: float
    accuracy: float
    score: float
    integer_layers: int
    fpu: bool
    first_difference: str | None
    problems: tuple[str, ...]
    predictions: np.ndarray = field(repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify_c(
    files: CFiles,
    program: IntegerProgram,
    arena: ArenaPlan,
    images: np.ndarray,
    labels: np.ndarray | Sequence[int],
    *,
    compiler: str = "gcc",
    flags: Sequence[str] = ("-O2",),
    score: Callable[[np.ndarray, np.ndarray], float] | None = None,
) -> CVerification:
    """Compile the files, run them, and compare them with the program.

    Args:
        program, arena: what they were written from.
        images: (N, C, H, W), uint8 pixels or, for a float input contract, float32.
        labels: (N,) class numbers.
        flags: of the compiler, beside those for C99 without fused multiply-adds; `STRICT` makes warnings errors.
        score: (outputs, labels) -> the task's metric.

    Raises:
        VerifyError: no compiler, or files that it refuses or that crash; no images.
    """
    labels = np.asarray(labels)
    if len(images) == 0 or len(labels) != len(images):
        raise VerifyError(f"verification needs images and as many labels, got {len(images)} and {len(labels)}")
    layout = lay_out(program, arena)
    with tempfile.TemporaryDirectory() as folder:
        plain = compile_harness(files, Path(folder) / "plain", compiler, flags)
        traced = compile_harness(files, Path(folder) / "traced", compiler, (*flags, "-DMODEL_TRACE"))
        got = _outputs(plain, files, program, layout, images)
        wanted = run(program, images) if files.fpu else run_fixed(program, images)
        differing = _differing(got, wanted)
        rows = ~differing.reshape(len(images), -1).any(1)
        suspects = images[np.argsort(rows, kind="stable")[:_TRACED]]
        first = _first_difference(traced, files, program, layout, suspects)
    problems = []
    if not rows.all() or first is not None:
        where = f"the first difference is in {first[1]}" if first else "no layer alone differs"
        problems.append(f"{files.source}: {(~rows).sum()} of {len(images)} images differ; {where}")
    numbers = got.astype(np.float32)
    reference = wanted if files.fpu else run(program, images)
    best = is_best(reference, predictions_of(numbers), 0.0 if files.fpu else rounded_ties(reference))
    agreement = float(best.mean())
    if agreement < _AGREEMENT and (~best).sum() > 1:
        problems.append(f"{files.source}: {100 * agreement:.2f} % of the classes are the reference's, not 99.9 %")
    predictions = predictions_of(numbers)
    return CVerification(
        images=len(images),
        equal_images=int(rows.sum()),
        differing_outputs=int(differing.sum()),
        agreement=agreement,
        accuracy=(accuracy := accuracy_of(numbers, labels)),
        score=accuracy if score is None else score(numbers, labels),
        integer_layers=len(list(program.weighted)),
        fpu=files.fpu,
        first_difference=first and first[0],
        problems=tuple(problems),
        predictions=predictions[:, 0] if predictions.shape[1] == 1 else predictions,
    )


def compile_harness(files: CFiles, target: Path, compiler: str = "gcc", flags: Sequence[str] = ("-O2",)) -> Path:
    """The network and a program that runs it on images from stdin.

    Raises:
        VerifyError: no compiler, or it refuses.
    """
    if shutil.which(compiler) is None:
        raise VerifyError(f"C code is verified by compiling it, and {compiler!r} isn't installed; apt-get install gcc")
    # C, not HTML; names are escaped by `literals`
    templates = Environment(  # nosec B701
        loader=FileSystemLoader(Path(__file__).parent / "templates"), undefined=StrictUndefined
    )
    values = {
        "name": files.name,
        "macro": files.name.upper(),
        "pixels": files.pixels,
        "input_type": "uint8_t" if files.pixels else "float",
        "output_type": "float" if files.fpu else "int32_t",
    }
    harness = target.with_suffix(".c")
    harness.write_text(templates.get_template("harness.c.j2").render(values), encoding="utf-8")
    # For "model.h" alone: with -I, a stdint.h that lay in the folder would be taken for the system's.
    command = [compiler, *_STANDARD, *flags, "-iquote", str(files.folder), "-o", str(target)]
    command += [str(harness), str(files.source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VerifyError(f"{compiler} refuses {files.source}: {done.stderr.strip()[:1000]}")
    return target


def run_harness(program: Path, images: np.ndarray, *, traced: bool = False) -> bytes:
    """What a compiled harness writes for images.

    Raises:
        VerifyError: it crashes.
    """
    done = subprocess.run(
        [str(program), *(["trace"] if traced else [])],
        input=pixels_in_memory(images).tobytes(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise VerifyError(f"the compiled C code ended with {done.returncode}: {done.stderr.decode()[:1000]}")
    return done.stdout


def _outputs(harness: Path, files: CFiles, program: IntegerProgram, layout: Layout, images: np.ndarray) -> np.ndarray:
    values = np.frombuffer(run_harness(harness, images), np.float32 if files.fpu else np.int32)
    return layout.to_features(program.output, values, program.shapes[program.output])


def _differing(got: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where the bits differ."""
    if got.dtype == np.float32:
        return np.ascontiguousarray(got).view(np.uint32) != np.ascontiguousarray(wanted).view(np.uint32)
    return got != wanted


def _first_difference(
    harness: Path, files: CFiles, program: IntegerProgram, layout: Layout, images: np.ndarray
) -> tuple[str, str] | None:
    """(layer, what differs) of the first operator whose parameters or outputs are wrong."""
    found = _records(run_harness(harness, images, traced=True))
    wanted = trace(program, images) if files.fpu else trace_fixed(program, images)
    for place, operator in enumerate(program.operators):
        if (place, "f") in found:
            assert isinstance(operator, Conv | Logits)
            for kind, right in _parameters(program, layout, operator, fpu=files.fpu).items():
                got = np.frombuffer(b"".join(found[place, kind]), right.dtype)
                order = np.argsort(np.frombuffer(b"".join(found[place, "f"]), np.int32))
                wrong = int((got.reshape(len(order), -1)[order] != right.reshape(len(order), -1)).sum())
                if wrong:
                    what = {"w": "weights", "b": "biases", "m": "multipliers"}[kind]
                    return operator.layer, f"layer {operator.layer!r}: {wrong} of its {right.size} {what} are wrong"
        if (place, "t") not in found:
            continue
        right = wanted[operator.name]
        values = np.frombuffer(b"".join(found[place, "t"]), right.dtype)
        wrong = int(_differing(layout.to_features(operator.name, values, program.shapes[operator.name]), right).sum())
        if wrong:
            return operator.layer, f"layer {operator.layer!r}: {wrong} of its {right.size} outputs differ"
    return None


def _records(data: bytes) -> dict[tuple[int, str], list[bytes]]:
    found: dict[tuple[int, str], list[bytes]] = {}
    at = 0
    while at < len(data):
        place, kind, size = np.frombuffer(data, np.int32, 3, at).tolist()
        found.setdefault((place, chr(kind)), []).append(data[at + 12 : at + 12 + size])
        at += 12 + size
    return found


def _parameters(
    program: IntegerProgram, layout: Layout, operator: Conv | Logits, *, fpu: bool
) -> dict[str, np.ndarray]:
    """What the layer's parameters are, filters in the order of C code, weights by row, column and channel."""
    sums, order = operator.sums, layout.order.get(operator.inputs[0])
    weight = sums.weight.transpose(0, 2, 3, 1).reshape(len(sums.weight), -1)
    places = np.arange(len(weight))
    if order is not None and sums.groups == 1:
        weight = weight[:, order]
    elif order is not None:
        places = order
    if fpu:
        multiplier = program.grids[operator.inputs[0]].step * sums.scale
        if operator.name in program.grids:
            multiplier = multiplier / program.grids[operator.name].step
        bias = sums.bias
    else:
        factors = channel_factors(program, operator)
        multiplier = np.array([[factor.mantissa, factor.shift] for factor in factors], np.int32)
        bias = channel_bias(operator)
    return {"w": weight[places], "b": bias.astype(np.int32)[places], "m": multiplier[places]}
