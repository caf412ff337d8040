"""An integer program as a folder of C99: model.h, model.c, selftest.c, example.c and a Makefile."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bitsmith.cost import ArenaPlan
from bitsmith.deploy.c.calls import write_source
from bitsmith.deploy.c.fixed import output_step, run_fixed
from bitsmith.deploy.c.layout import Layout, lay_out
from bitsmith.deploy.c.literals import number, string
from bitsmith.deploy.c.source import Source
from bitsmith.deploy.program import IntegerProgram, check_accumulators
from bitsmith.deploy.reference import run
from bitsmith.errors import ExportError, VerifyError
from bitsmith.files import write_text
from bitsmith.seeding import derive

_HERE = Path(__file__).parent
SELFTEST = 10  # images
_OTHERS = ("selftest", "example")  # files beside the network's


@dataclass(frozen=True, kw_only=True)
class CFiles:
    """What `write_c` wrote.

    Args:
        folder: holds all of it.
        name: of the network; functions and files begin with it.
        fpu: whether it computes scales in float32, else in integers alone.
        arena: bytes of RAM for activations.
        data: bytes of flash for weights, channels and tables.
        pixels: whether it takes uint8 pixels, else float32 numbers.
    """

    folder: Path
    name: str
    fpu: bool
    arena: int
    data: int
    pixels: bool

    @property
    def source(self) -> Path:
        """model.c."""
        return self.folder / f"{self.name}.c"


def write_c(
    program: IntegerProgram,
    arena: ArenaPlan,
    folder: Path | str,
    *,
    images: np.ndarray | None = None,
    fpu: bool = True,
    name: str = "model",
) -> CFiles:
    """Write a program as C99 that computes the reference's numbers, bit for bit.

    It allocates nothing, and of the C library it needs memcpy and memset. Without floating point (`fpu=False`) it
    computes the numbers of `bitsmith.deploy.c.fixed` instead, which give the same classes but for a few images in ten
    thousand.

    Args:
        arena: the memory plan of the program's graph.
        images: for the self-test, of which ten are taken; without them ten of noise.
        name: a C identifier.

    Raises:
        ExportError: layers that stay float, sums beyond 32 bits, flattened maps that C code can't split or join, a
            folder that can't be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ExportError(f"{name!r} can't begin names in C; take small letters, digits and underscores")
    if name in _OTHERS:
        raise ExportError(f"a network can't be called {name!r}, which is the name of another file beside it")
    check_accumulators(program)
    layout = lay_out(program, arena)
    source = write_source(program, layout, fpu=fpu)
    folder = Path(folder)
    # C, not HTML; names are escaped by `literals`
    environment = Environment(  # nosec B701
        loader=FileSystemLoader([_HERE / "templates", _HERE / "kernels"]),
        undefined=StrictUndefined,
        keep_trailing_newline=False,
    )
    values = _values(program, layout, source, name) | _selftest(program, layout, images, fpu)
    texts = {
        f"{name}.h": "model.h.j2",
        f"{name}.c": "model.c.j2",
        "selftest.c": "selftest.c.j2",
        "example.c": "example.c.j2",
        "Makefile": "Makefile.j2",
    }
    try:
        for file, template in texts.items():
            text = environment.get_template(template).render(values)
            write_text(folder / file, re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n")
    except OSError as error:
        raise ExportError(f"can't write into {folder}: {error}") from error
    pixels = program.input.kind == "uint8"
    return CFiles(folder=folder, name=name, fpu=fpu, arena=arena.total, data=source.data_bytes, pixels=pixels)


def read_c(folder: Path | str, name: str = "model") -> CFiles:
    """The files that `write_c` wrote into a folder before.

    Raises:
        VerifyError: there are none, or their header is damaged.
    """
    header = Path(folder) / f"{name}.h"
    try:
        text = header.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VerifyError(f"can't read {header}: {error}") from error
    arena, data = (re.search(rf"#define {name.upper()}_{what} (\d+)", text) for what in ("ARENA", "DATA"))
    if arena is None or data is None:
        raise VerifyError(f"{header} is damaged or not a file of bitsmith")
    fpu, pixels = f"{name.upper()}_OUTPUT_STEP" not in text, f"{name}_input(" in text
    return CFiles(folder=Path(folder), name=name, fpu=fpu, arena=int(arena[1]), data=int(data[1]), pixels=pixels)


# kernels in the order in which they stand: what is called comes first
_KERNELS = {
    "nearest": "nearest.c",
    "arithmetic": "{}_arithmetic.c",
    "store": "store.c",
    "divided": "fixed_divided.c",
    "conv_layer": "conv_layer.c",
    "channels": "{}_channels.c",
    "unpack": "unpack.c",
    "conv": "conv.c",
    "depthwise": "depthwise.c",
    "shared": "{}_shared.c",
    "average": "average.c",
    "add": "add.c",
    "multiply": "multiply.c",
    "max_pool": "max_pool.c",
    "max_pool_numbers": "max_pool_numbers.c",
    "table": "table.c",
    "copy": "copy.c",
    "shuffle": "shuffle.c",
    "pad": "pad.c",
    "quantize": "quantize.c",
    "dequantize": "dequantize.c",
}


def _values(program: IntegerProgram, layout: Layout, source: Source, name: str) -> dict[str, Any]:
    """All that the templates say."""
    fpu, kernels = source.fpu, set(source.kernels)
    if "store" in kernels:
        kernels.add("arithmetic")
    if "conv_layer" in kernels:
        kernels |= {"channels", "unpack"} | (set() if fpu else {"divided"})
    if source.averages_by_window:
        kernels.add("shared")
    if not fpu:
        kernels.discard("nearest")
    shape, pixels = program.input_shape, program.input.kind == "uint8"
    channels, height, width = (*shape, 1, 1)[:3]
    outputs = program.shapes[program.output]
    largest = max(max(shape) for shape in program.shapes.values())
    flat = max((math.prod(shape) for shape in program.shapes.values() if len(shape) == 1), default=0)
    contract = program.input
    means = f"normalized inside by mean {list(contract.mean)} and std {list(contract.std)}" if pixels else "as trained"
    order = "in the order of its maps' rows, columns and channels"
    is_flat = len(outputs) == 1 and program.output not in layout.order
    return {
        "name": name,
        "macro": name.upper(),
        "version": version("bitsmith"),
        "title": f"A network of {len(program.bits)} layers with weights of 1 to 8 bits",
        "fpu": fpu,
        "pixels": pixels,
        "input_type": "uint8_t" if pixels else "float",
        "output_type": "float" if fpu else "int32_t",
        "input_text": f"{'raw uint8 pixels' if pixels else 'float32 numbers'}, {height} x {width} x {channels} "
        f"(height, width, channels: HWC), {means}",
        "output_text": f"{math.prod(outputs)} {'numbers' if fpu else 'integers'} {'' if is_flat else order}".rstrip(),
        "layers": len(program.bits),
        "height": height,
        "width": width,
        "channels": channels,
        "inputs": math.prod(shape),
        "outputs": math.prod(outputs),
        "output_step": "" if fpu else f"{output_step(program):.17g}",
        "arena": layout.arena.total,
        "input_offset": layout.arena.offsets[program.operators[0].name],
        "data_bytes": source.data_bytes,
        "labels": [string(label) for label in program.classes],
        "dim": "int32_t" if max(largest, flat) > 65535 else "uint16_t",
        "filter_type": "uint16_t" if source.wide else "uint8_t",
        "kernels": kernels,
        "sources": [file.format("float" if fpu else "fixed") for key, file in _KERNELS.items() if key in kernels],
        "unpacked_bits": sorted(source.bits - {8}),
        "has_bytes": 8 in source.bits,
        "narrows": source.narrows,
        "narrows_maps": source.narrows_maps,
        "averages_by_window": source.averages_by_window,
        "depthwise_taps": source.depthwise_taps,
        "constants": source.constants,
        "calls": source.calls,
    }


def _selftest(program: IntegerProgram, layout: Layout, images: np.ndarray | None, fpu: bool) -> dict[str, Any]:
    """Images and the outputs that they must give."""
    given = images is not None
    if images is None:
        rng = np.random.default_rng(derive(0, "selftest"))
        light = rng.uniform(0, 255, (SELFTEST, *program.input_shape[:1], *[1] * (len(program.input_shape) - 1)))
        noise = light + 60 * rng.normal(size=(SELFTEST, *program.input_shape))
        pixels = noise.clip(0, 255).round().astype(np.uint8)
        images = pixels if program.input.kind == "uint8" else (pixels / np.float32(64) - 2).astype(np.float32)
    images = images[:SELFTEST]
    expected = to_memory(layout, program, run(program, images) if fpu else run_fixed(program, images))
    return {
        "count": len(images),
        "images_are": "of those that were given" if given else "noise, as no others were given",
        "images": [_listed(image) for image in pixels_in_memory(images)],
        "expected": [_listed(output) for output in expected],
    }


def pixels_in_memory(images: np.ndarray) -> np.ndarray:
    """(N, channels, height, width) -> (N, numbers) as C code takes them."""
    images = images.transpose(0, 2, 3, 1) if images.ndim == 4 else images
    return np.ascontiguousarray(images).reshape(len(images), -1)


def to_memory(layout: Layout, program: IntegerProgram, outputs: np.ndarray) -> np.ndarray:
    """The reference's outputs in C code's order, (N, numbers)."""
    if outputs.ndim == 2 and program.output in layout.order:
        outputs = outputs[:, layout.order[program.output]]
    return pixels_in_memory(outputs)


def _listed(values: np.ndarray) -> str:
    return ", ".join(number(x) if values.dtype == np.float32 else str(x) for x in values.reshape(-1))
