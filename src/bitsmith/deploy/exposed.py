"""A copy of a file that shows every parameter and every intermediate tensor, and the first that is wrong in it.

Extra outputs leave integer kernels as they are. Programs of integers alone (`IntegerProgram.exact`) are compared with
the reference's own trace, bit for bit. Where layers stay float, a rounding that falls to the other side would be
carried on from layer to layer, so every operator is compared by itself: the reference's operator gets the tensors that
onnxruntime's read, and has to give what onnxruntime gave, to the bit where it computes with integers, steps or clips,
and within the room of float32 sums (`reference_float.room`) where it adds up floats. What a float layer gives has to
be as near as such sums are taken together, too (`reference_float.typical`). By induction the file is then the
program, but for those roundings. A float kernel is not fused here with what follows it, as it can be in the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, helper

from bitsmith.deploy.float_operators import FloatOperator, FloatSums
from bitsmith.deploy.onnx_writer import parameter_names, tensor_name
from bitsmith.deploy.operators import Conv, Logits, Operator
from bitsmith.deploy.packing import to_unsigned
from bitsmith.deploy.program import IntegerProgram
from bitsmith.deploy.reference import apply, trace
from bitsmith.deploy.reference_float import room, typical
from bitsmith.deploy.runtime import infer, session
from bitsmith.errors import VerifyError


def expose(model: ModelProto, program: IntegerProgram, path: Path | str) -> bytes:
    """The model with every parameter and every intermediate tensor as an output.

    Raises:
        VerifyError: it lacks a tensor of the program.
    """
    known = {output for node in model.graph.node for output in node.output}
    known |= {constant.name for constant in model.graph.initializer}
    extra = [tensor_name(program, operator.name) for operator in program.operators[:-1]]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in extra)
    for operator in program.operators:
        for name, _ in _parameters(program, operator).values():
            # A constant can't be an output by itself.
            model.graph.node.append(helper.make_node("Identity", [name], [f"{name}.exposed"]))
            model.graph.output.append(helper.make_empty_tensor_value_info(f"{name}.exposed"))
            extra.append(name)
    missing = [name for name in extra if name not in known]
    if missing:
        raise VerifyError(f"{path} is of another network: it has no tensor {missing[0]!r}")
    return model.SerializeToString()


def first_difference(
    exposed: bytes, program: IntegerProgram, images: np.ndarray, level: str, threads: int
) -> tuple[int, str, str] | None:
    """(place in the program, description, layer) of the first operator whose parameters or output are wrong.

    Args:
        exposed: as of `expose`.
        level: of onnxruntime's optimizer.
    """
    running = session(exposed, level, threads=threads)
    names = [output.name for output in running.get_outputs()]
    values = dict(zip(names, infer(running, images, batch=len(images)), strict=True))
    computed = {operator.name: values[tensor_name(program, operator.name)] for operator in program.operators}
    expected = trace(program, images) if program.exact else None
    for place, operator in enumerate(program.operators):
        for kind, (name, right) in _parameters(program, operator).items():
            differing = int((~same(values[f"{name}.exposed"].reshape(-1), right.reshape(-1))).sum())
            if differing:
                text = f"layer {operator.layer!r}: {differing} of its {right.size} stored {kind}s are wrong"
                return place, text, operator.layer
        got = computed[operator.name]
        if expected is not None:
            what = _differing(~same(got, expected[operator.name]))
        else:
            what = _apart(program, operator, [computed[name] for name in operator.inputs] or [images], got)
        if what is not None:
            return place, f"layer {operator.layer!r}: {what}", operator.layer
    return None


def _differing(wrong: np.ndarray) -> str | None:
    return f"{int(wrong.sum())} of its {wrong.size} outputs differ" if wrong.any() else None


def _parameters(program: IntegerProgram, operator: Operator) -> dict[str, tuple[str, np.ndarray]]:
    """kind -> name in the file and right values; a layer's own where it is first used."""
    if isinstance(operator, FloatSums):
        if operator.layer != operator.owner:
            return {}
        names, (weight, bias) = parameter_names(operator), operator.folded.numbers
        return {"weight": (names["weight"], weight), "bias": (names["bias"], bias)}
    if not isinstance(operator, Conv | Logits) or operator.sums.folded is None:
        return {}
    if operator.layer != operator.sums.owner:
        return {}
    names, sums = parameter_names(operator), operator.sums
    weight = to_unsigned(sums.weight) if operator.layer in program.unsigned else sums.weight
    right = {"weight": weight, "scale": sums.scale, "bias": sums.bias.astype(np.int32)}
    return {kind: (names[kind], values) for kind, values in right.items()}


def _apart(program: IntegerProgram, operator: Operator, inputs: list[np.ndarray], got: np.ndarray) -> str | None:
    """Why an output can't have come from these inputs, or None."""
    right = apply(program, operator, inputs).reshape(len(inputs[0]), *program.shapes[operator.name])
    if got.dtype != right.dtype or got.shape != right.shape:
        return _differing(np.ones(right.shape, bool))
    if not isinstance(operator, FloatOperator):
        return _differing(got != right)
    slack = np.broadcast_to(np.asarray(room(operator, inputs)).reshape(-1), (right.size,)).reshape(right.shape)
    away = np.abs(got.astype(np.float64) - right.astype(np.float64))
    if (wrong := ~(away <= slack)).any() or not isinstance(operator, FloatSums):
        return _differing(wrong)
    far, near = float(np.sqrt((away**2).mean())), typical(operator, inputs)
    if far <= near:
        return None
    return f"all its {right.size} outputs differ more, taken together, than float32 sums do: {far:.2g}, not {near:.2g}"


def same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two arrays hold the same bits; nowhere if they aren't of one type and shape."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return np.zeros(b.shape, bool)
    if a.dtype == np.float32:
        return np.ascontiguousarray(a).view(np.uint32) == np.ascontiguousarray(b).view(np.uint32)
    return a == b
