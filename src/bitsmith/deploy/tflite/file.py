"""IntegerProgram to one TFLite file: int8 tensors, int8 weights per channel, int32 biases, raw pixels in.

Weights of fewer bits are int8 numbers of few values: the box is as large, but what compresses weights, as Vela does,
makes less of them. Pixels come as int8, less 128; the first operator brings them onto the first grid. Logits, which
TFLite can't leave as int32, lie on an int8 grid as wide as the logits of the images given.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from bitsmith.deploy.onnx_file import metadata
from bitsmith.deploy.operators import Logits, StoredGrid
from bitsmith.deploy.program import IntegerProgram, check_accumulators
from bitsmith.deploy.reference import run
from bitsmith.deploy.tflite.nodes import INPUT, Lowering, write_operator
from bitsmith.errors import ExportError
from bitsmith.files import whole_file

NOISE = 16  # images, where none are given


def write_tflite(program: IntegerProgram, path: Path | str, images: np.ndarray | None = None) -> Path:
    """Write the program as a TFLite file; the file appears whole or not at all.

    Args:
        images: (N, C, H, W) as the program takes them, whose logits say how wide the output's grid is; noise without.

    Raises:
        ExportError: LiteRT isn't installed; a network that int8 TFLite can't hold, by the layer's name.
    """
    path = Path(path)
    data = to_tflite(program, images)
    try:
        with whole_file(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise ExportError(f"can't write {path}: {error}") from error
    return path


def to_tflite(program: IntegerProgram, images: np.ndarray | None = None) -> bytes:
    """The program as the bytes of a TFLite file; see `write_tflite`."""
    _check(program)
    check_accumulators(program)
    lowering = Lowering(program, output_grid(program, images))
    for operator in program.operators:
        write_operator(lowering, operator)
    facts = metadata(program) | {"layout": "NHWC"}
    if program.input.kind == "uint8":
        facts["preprocessing"] = json.dumps({"input": "int8", "done": "inside: feed raw pixels less 128"})
    return lowering.to.file([INPUT], [program.output], {"bitsmith": json.dumps(facts)})


def _check(program: IntegerProgram) -> None:
    if not program.exact:
        raise ExportError("TFLite files hold integers alone here, and this network has float layers; leave none float")
    narrow = [layer for layer, bits in program.bits.items() if set(bits.activation_widths) != {8}]
    if narrow:
        raise ExportError(
            f"layer {narrow[0]!r} reads fewer than 8 bits, which int8 tensors don't clip to; search with activations "
            "of 8 bits (--target ethos-u), or export --to onnx or c"
        )
    last = program.operators[-1]
    if not isinstance(last, Logits):
        raise ExportError(f"the network must end in a layer with weights, not in {last.layer!r}, for a TFLite file")


def output_grid(program: IntegerProgram, images: np.ndarray | None = None) -> StoredGrid:
    """The grid of the logits: as wide as the largest of the images', zero in its middle."""
    if images is None:
        generator = np.random.default_rng(0)
        shape = (NOISE, *program.input_shape)
        if program.input.kind == "uint8":
            images = generator.integers(0, 256, shape, np.uint8)
        else:
            images = generator.standard_normal(shape, np.float32)
    largest = float(np.abs(run(program, images)).max()) or 1.0
    return StoredGrid(step=np.float32(largest / 127), zero_point=128, top=255)
