"""Which kernels may run a program: integers everywhere but in the layers that stay float."""

from __future__ import annotations

from bitsmith.deploy.float_operators import FloatAdd, FloatFunction, FloatScale
from bitsmith.deploy.onnx_writer import tensor_name
from bitsmith.deploy.program import IntegerProgram
from bitsmith.deploy.runtime import FLOAT_KERNELS, INTEGER_KERNELS


def kernel_problems(kernels: list[tuple[str, str]], program: IntegerProgram) -> list[str]:
    """What of (node, kernel) pairs a program doesn't allow, in sentences."""
    # A fusion gives float kernels names of its own, so that a layer is recognized by its missing integer kernel.
    integer = {node for node, kernel in kernels if kernel in INTEGER_KERNELS}
    allowed = _float_names(program)
    found = [(node, kernel) for node, kernel in kernels if kernel in FLOAT_KERNELS]
    others = [f"{kernel} ({node})" for node, kernel in found if node not in allowed]
    lost = [operator.layer for operator in program.summing if operator.name not in integer]
    problems = [f"layer {layer!r} did not run as an integer kernel" for layer in lost]
    if others:
        problems.append(f"onnxruntime ran in floating point: {', '.join(others)}")
    elif len(found) != len(program.float_sums):
        problems.append(f"onnxruntime ran {len(found)} float kernels for {len(program.float_sums)} float layers")
    return problems


def _float_names(program: IntegerProgram) -> set[str]:
    """What onnxruntime may call the kernel of a layer that stays float.

    A Gemm fused with its function is "fused NAME"; a convolution in blocked layout (NCHWc) is called after the tensor
    that it writes, which is that of the function, the sum or the line that was fused into it.
    """
    readers: dict[str, list[str]] = {}
    for operator in program.operators:
        if isinstance(operator, FloatFunction | FloatAdd | FloatScale):
            for name in operator.inputs:
                readers.setdefault(name, []).append(operator.name)
    names: set[str] = set()
    for operator in program.float_sums:
        names |= {operator.name, f"fused {operator.name}"}
        written = [operator.name]
        for name in written:  # grows by what may be fused
            names |= {f"{tensor_name(program, name)}_nchwc", f"{name}.gain_nchwc"}
            written += readers.get(name, [])
    return names
