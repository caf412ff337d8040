"""One call for each operator of a program, and the constants that it takes."""

from __future__ import annotations

import math

import numpy as np

from bitsmith.deploy.c.fixed import average_factor, layer_factor, multiply_factor
from bitsmith.deploy.c.layers import write_layer
from bitsmith.deploy.c.layout import Layout
from bitsmith.deploy.c.literals import comment, number
from bitsmith.deploy.c.source import Call, Source, at, element, factor_text, grid_text, size, window_text
from bitsmith.deploy.float_operators import Dequantize
from bitsmith.deploy.operators import (
    Add,
    Average,
    Concat,
    Conv,
    Flatten,
    InputQuantize,
    InputTable,
    Logits,
    MaxPool,
    Multiply,
    Operator,
    Pad,
    Shuffle,
    Split,
    Table,
)
from bitsmith.deploy.program import IntegerProgram
from bitsmith.errors import ExportError


def write_source(program: IntegerProgram, layout: Layout, *, fpu: bool) -> Source:
    """Constants and calls of a program.

    Raises:
        ExportError: sums beyond 32 bits; float inputs without floating point.
    """
    source = Source(program=program, layout=layout, fpu=fpu)
    for place, operator in enumerate(program.operators):
        if operator.name in layout.fused or isinstance(operator, Flatten):
            continue
        layer, code = _write(source, place, operator)
        width = element(program, operator.name)
        source.calls.append(
            Call(
                place=place,
                title=comment(f"{operator.layer}: {_title(program, operator)}"),
                code=code,
                written=at(source, operator.name),
                bytes=math.prod(program.shapes[operator.name]) * width,
                layer=layer,
                per_filter=not code.startswith("depthwise"),
            )
        )
    return source


def _write(source: Source, place: int, operator: Operator) -> tuple[str, str]:
    """(name of a layer's constants, call) of one operator."""
    program, layout = source.program, source.layout
    y = at(source, operator.name)
    x = [at(source, name) for name in operator.inputs]
    positions, channels = size(program, operator.name)
    count = positions * channels
    match operator:
        case InputTable():
            same = (operator.table == operator.table[:1]).all()
            table = source.array("input_table", operator.table[:1] if same else operator.table)
            source.kernels.add("table")
            return "", f"lookup({table}, {0 if same else 256}, image, {y}, {count}, {channels});"
        case InputQuantize():
            if not source.fpu:
                raise ExportError(
                    f"{operator.layer!r} takes float32 numbers, which --no-fpu can't; train on uint8 pixels, or "
                    "leave --no-fpu out"
                )
            line = ["0", "0"]
            if operator.gain is not None and operator.offset is not None:
                line = [
                    source.array(name, np.broadcast_to(values.reshape(-1), (channels,)).astype(np.float32))
                    for name, values in (("input_gain", operator.gain), ("input_offset", operator.offset))
                ]
            grid = source.struct("grid", f"grid{place}", grid_text(source, operator.name))
            source.kernels |= {"nearest", "quantize"}
            return "", f"quantize(image, {', '.join(line)}, &{grid}, {y}, {count}, {channels});"
        case Conv() | Logits() if operator.sums.folded is not None:
            return write_layer(source, place, operator, x[0], y)
        case Conv() | Logits():
            sums = operator.sums
            window = window_text(program, operator.name, operator.inputs[0], sums.weight.shape[2:], sums.stride,
                             sums.padding, sums.dilation)  # fmt: skip
            step = program.grids[operator.inputs[0]].step * sums.scale[0]
            if isinstance(operator, Conv):
                step = step / program.grids[operator.name].step
            factor = factor_text(source, step, lambda: layer_factor(program, operator))
            return "", _write_average(source, place, operator, window, factor, x[0], y, by_window=False)
        case Average():
            window = window_text(program, operator.name, operator.inputs[0], operator.kernel, operator.stride,
                             operator.padding)  # fmt: skip
            step = program.grids[operator.inputs[0]].step / program.grids[operator.name].step
            factor = factor_text(source, step, lambda: average_factor(program, operator))
            source.averages_by_window = True
            return "", _write_average(source, place, operator, window, factor, x[0], y, by_window=True)
        case Add():
            zeros = sum(program.grids[name].zero_point for name in operator.inputs)
            offset = program.grids[operator.name].zero_point - zeros
            source.kernels.add("add")
            return "", (
                f"{{ const uint8_t *const operands[] = {{{', '.join(x)}}}; "
                f"add(operands, {len(x)}, {offset}, {operator.top}, {y}, {count}); }}"
            )
        case Multiply():
            a, b = (program.grids[name] for name in operator.inputs)
            step = (a.step * b.step) / program.grids[operator.name].step
            factor = factor_text(source, step, lambda: multiply_factor(program, operator))
            text = f"{{{a.zero_point}, {b.zero_point}, {grid_text(source, operator.name, operator.top)}, {factor}}}"
            layer = source.struct("multiply_layer", f"multiply{place}", text)
            source.kernels |= {"store", "multiply"}
            period = math.prod(program.shapes[operator.inputs[1]])
            return "", f"multiply(&{layer}, {x[0]}, {x[1]}, {y}, {count}, {period});"
        case Concat():
            source.kernels.add("copy")
            statements, start, width = [], 0, element(program, operator.name)
            for name, read in zip(operator.inputs, x, strict=True):
                table = source.array(f"table{place}", layout.fused[name].table) if name in layout.fused else "0"
                bytes_ = size(program, name)[1] * width
                statements.append(
                    f"copy({read}, {bytes_}, {channels * width}, {y} + {start}, {bytes_}, {positions}, {table});"
                )
                start += bytes_
            return "", " ".join(statements)
        case Split():
            source.kernels.add("copy")
            width, all_channels = element(program, operator.name), size(program, operator.inputs[0])[1]
            bytes_ = channels * width
            read = f"{x[0]} + {operator.start * width}"
            return "", f"copy({read}, {all_channels * width}, {bytes_}, {y}, {bytes_}, {positions}, 0);"
        case Table():
            assert operator.table.ndim == 1, "tables for each map are applied by the layer that reads them"
            source.kernels.add("table")
            table = source.array(f"table{place}", operator.table)
            return "", f"lookup({table}, 0, {x[0]}, {y}, {count}, {channels});"
        case MaxPool():
            kernel = "max_pool" if operator.name in program.grids else "max_pool_numbers"
            window = window_text(program, operator.name, operator.inputs[0], operator.kernel, operator.stride,
                             operator.padding, operator.dilation)  # fmt: skip
            source.kernels.add(kernel)
            return "", f"{kernel}(&{source.struct('window', f'window{place}', window)}, {x[0]}, {y});"
        case Pad():
            window = window_text(program, operator.name, operator.inputs[0], (1, 1), (1, 1), operator.padding)
            window = source.struct("window", f"window{place}", window)
            zero = program.grids[operator.name].zero_point if operator.name in program.grids else 0
            source.kernels.add("pad")
            bytes_ = channels * element(program, operator.name)
            return "", f"pad(&{window}, {x[0]}, {y}, {bytes_}, {operator.mode.upper()}, {zero});"
        case Shuffle():
            source.kernels.add("shuffle")
            each, width = channels // operator.groups, element(program, operator.name)
            return "", f"shuffle({x[0]}, {y}, {positions}, {operator.groups}, {each}, {width});"
        case Dequantize():
            grid = program.grids[operator.inputs[0]]
            source.kernels.add("dequantize")
            step = f"{number(grid.step)}, " if source.fpu else ""
            return "", f"dequantize({x[0]}, {step}{grid.zero_point}, {y}, {count});"
    raise ExportError(f"layer {operator.layer!r}: C code has no {type(operator).__name__}; export to onnx")


def _write_average(
    source: Source, place: int, operator: Operator, window: str, factor: str, x: str, y: str, *, by_window: bool
) -> str:
    zero = source.program.grids[next(iter(operator.inputs))].zero_point
    out = grid_text(source, operator.name, getattr(operator, "top", 0))
    layer = source.struct(
        "average_layer", f"average{place}", f"{{{window}, {zero}, {int(by_window)}, {out}, {factor}}}"
    )
    source.kernels |= {"store", "average"}
    return f"average(&{layer}, {x}, {y});"


def _title(program: IntegerProgram, operator: Operator) -> str:
    kind = type(operator).__name__.lower()
    owner = operator.sums.owner if isinstance(operator, Conv | Logits) else ""
    if owner in program.bits:
        bits = program.bits[owner]
        wide = [b if isinstance(b, int) else f"{min(b)}..{max(b)}" for b in (bits.weight, bits.activation)]
        return f"{kind}, weights of {wide[0]} bits, activations of {wide[1]}"
    return kind
