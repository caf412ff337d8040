"""What a file stores and says beside what its program is written with: constants byte by byte, metadata."""

from __future__ import annotations

from onnx import ModelProto, TensorProto, numpy_helper

from bitsmith.deploy.arithmetic import arithmetic
from bitsmith.deploy.onnx_file import metadata, to_onnx
from bitsmith.deploy.program import IntegerProgram

_NAMED = 3  # constants that a sentence tells


def constant_problems(model: ModelProto, program: IntegerProgram) -> list[str]:
    """Constants that are missing or others, in a sentence: the same program is written with the same ones each time.

    More than the program's own are let pass; what reads them shows in the tensors that it writes.
    """
    stored = {tensor.name: _bytes(tensor) for tensor in model.graph.initializer}
    right = to_onnx(program).graph.initializer
    wrong = [tensor.name for tensor in right if stored.get(tensor.name) != _bytes(tensor)]
    if not wrong:
        return []
    names = ", ".join(wrong[:_NAMED]) + (f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else "")
    return [f"{len(wrong)} of the file's constants are not the program's: {names}"]


def metadata_problems(model: ModelProto, program: IntegerProgram) -> list[str]:
    """Entries of the metadata that are missing or others, each in a sentence; but for who wrote the file."""
    stored = {entry.key: entry.value for entry in model.metadata_props}
    if program.exact:  # as files say that were written before any computed otherwise
        stored.setdefault("arithmetic", arithmetic(program))
    return [
        f"the file's metadata says {key} = {stored.get(key)!r}, the network's is {value!r}"
        for key, value in metadata(program).items()
        if stored.get(key) != value and key != "bitsmith"
    ]


def _bytes(tensor: TensorProto) -> tuple[str, tuple[int, ...], bytes]:
    array = numpy_helper.to_array(tensor)
    return array.dtype.str, array.shape, array.tobytes()
