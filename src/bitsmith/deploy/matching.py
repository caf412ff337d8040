"""Which layer of a file that others made is which of a program: by what a layer is, as names are everybody's own.

A layer with weights is told by the shape that it writes, its kernel, strides and groups. Where both have equally many
of a kind, the first is the first, the second the second, and so on in the order of execution; others stay unmatched.

Files fold different things into a layer (bias, BatchNorm, ReLU, a narrowing), so that of each the tensors up to the
next layer or join are candidates, as real numbers; `bitsmith.deploy.against` takes the nearest pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, helper

from bitsmith.deploy.float_operators import Dequantize, FloatFunction, FloatSums, Quantize
from bitsmith.deploy.operators import Logits, Table
from bitsmith.deploy.program import IntegerProgram

# Operators that sum with weights -> place of the weights among the inputs.
_SUMS = {"Conv": 1, "ConvInteger": 1, "Gemm": 1, "MatMul": 1, "MatMulInteger": 1}
_SUMS |= {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3}
# Operators that write on a grid -> places of its step and zero point.
_GRIDS = {"QuantizeLinear": (1, 2), "QLinearConv": (6, 7), "QLinearMatMul": (6, 7), "QGemm": (7, 8)}
_KEEP_GRID = frozenset({"Clip", "Relu", "BitShift", "BitwiseAnd", "Min", "Max"})
_PER_NUMBER = _KEEP_GRID | {"Add", "Sub", "Mul", "Div", "BatchNormalization", "LeakyRelu", "PRelu", "Elu", "Gelu"}
_PER_NUMBER |= {"HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Round", "Floor", "Cast", "QuantizeLinear"}
_PER_NUMBER |= {"DequantizeLinear", "Identity", "Squeeze", "Flatten", "Reshape"}
_MOST = 12  # tensors of a layer that are looked at

Key = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Site:
    """A layer with weights of their file.

    Args:
        name: of its node, or of the tensor that it writes.
        tensors: its candidates, as they are called in the file that `exposed` makes.
        window: kernel, strides and groups; None where the file doesn't tell.
    """

    name: str
    tensors: tuple[str, ...]
    window: Key | None


def exposed(model: ModelProto) -> tuple[bytes, list[Site]]:
    """A copy of a file that gives the candidates of every layer with weights, and these layers.

    Quantized tensors are given as real numbers, those of integers without a step not at all.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in set(node.input):
            readers.setdefault(name, []).append(node)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    constants = set(shapes)
    for node in graph.node:
        if all(name in constants or not name for name in node.input):
            constants |= set(node.output)
    known = {value.name for value in graph.output}
    sites: list[Site] = []
    for node in list(graph.node):
        place = _SUMS.get(node.op_type)
        if (
            place is None
            or len(node.input) <= place
            or node.input[place] not in constants
            or node.input[0] in constants
        ):
            continue
        tensors = []
        for name, grid in _behind(node, readers, constants):
            shown = name
            if grid is not None:
                shown = f"{name}.real"
                graph.node.append(helper.make_node("DequantizeLinear", [name, *grid], [shown]))
            if shown not in known:
                known.add(shown)
                graph.output.append(helper.make_empty_tensor_value_info(shown))
            tensors.append(shown)
        if tensors:
            window = _window(node, shapes.get(node.input[place]))
            sites.append(Site(name=node.name or node.output[0], tensors=tuple(tensors), window=window))
    return copy.SerializeToString(), sites


def matched(
    program: IntegerProgram, sites: Sequence[Site], values: Mapping[str, np.ndarray]
) -> tuple[dict[str, tuple[tuple[str, ...], Site]], tuple[str, ...]]:
    """Layer -> its candidates in the program and the layer of theirs that it is; and the layers without one.

    Args:
        values: of the candidates, for some images.
    """
    ours = {layer: (names, _our_key(program, layer)) for layer, names in _our_layers(program).items()}
    theirs = [(site, _key(values[site.tensors[0]].shape[1:], site.window)) for site in sites if site.window is not None]
    counts, their_counts = Counter(key for _, key in ours.values()), Counter(key for _, key in theirs)
    alike: dict[Key, list[Site]] = {}
    for site, key in theirs:
        alike.setdefault(key, []).append(site)
    found, missed = {}, []
    for layer, (names, key) in ours.items():
        if counts[key] == their_counts[key]:
            found[layer] = names, alike[key].pop(0)
        else:
            missed.append(layer)
    return found, tuple(missed)


def _behind(
    node: NodeProto, readers: Mapping[str, list[NodeProto]], constants: set[str]
) -> list[tuple[str, list[str] | None]]:
    """The tensors from a layer's sums to the next layer or join: (name, step and zero point or None)."""
    found: list[tuple[str, list[str] | None]] = []
    integer = node.op_type in ("ConvInteger", "MatMulInteger")
    grid: list[str] | None = None
    while True:
        if node.op_type in _GRIDS:
            grid, integer = [node.input[at] for at in _GRIDS[node.op_type] if at < len(node.input)], False
            if not grid or not grid[0]:  # a QGemm without a step of its output writes floats
                grid = None
        elif node.op_type == "DequantizeLinear":
            grid = None
        elif node.op_type == "Cast":
            to = next(attribute.i for attribute in node.attribute if attribute.name == "to")
            grid, integer = None, not np.issubdtype(helper.tensor_dtype_to_np_dtype(to), np.floating)
        elif node.op_type in _SUMS or node.op_type in _KEEP_GRID or grid is None:
            pass
        else:
            integer, grid = True, None  # stored integers that are computed with
        if not integer:
            found.append((node.output[0], grid))
        following = readers.get(node.output[0], [])
        if len(following) != 1 or len(found) >= _MOST:
            return found
        node = following[0]
        data = [name for name in node.input if name and name not in constants]
        if node.op_type not in _PER_NUMBER or len(data) != 1:
            return found


def _window(node: NodeProto, weight: tuple[int, ...] | None) -> Key | None:
    """Kernel, strides and groups of their layer."""
    if "Conv" not in node.op_type:
        return (1, 1), (1, 1), (1,)
    given = {attribute.name: attribute for attribute in node.attribute}
    kernel = tuple(given["kernel_shape"].ints) if "kernel_shape" in given else weight and weight[2:]
    if kernel is None or len(kernel) != 2:
        return None
    strides = tuple(given["strides"].ints) if "strides" in given else (1, 1)
    return kernel, strides, (given["group"].i if "group" in given else 1,)


def _key(shape: Sequence[int], window: Key) -> Key:
    sizes = [*shape, 1, 1][:3] if len(shape) < 3 else shape  # a linear layer is a convolution of one place
    kernel, strides, groups = window
    return tuple(sizes), kernel, strides if tuple(sizes[1:]) != (1, 1) else (1, 1), groups


def _our_layers(program: IntegerProgram) -> dict[str, tuple[str, ...]]:
    """Priced layer -> the tensors from its sums to the next layer or join."""
    readers = Counter(name for operator in program.operators for name in operator.inputs)
    found: dict[str, list[str]] = {}
    last: dict[str, str] = {}  # tensor -> layer
    for operator in program.operators:
        if operator in program.weighted or isinstance(operator, FloatSums):
            if operator.layer in program.bits:
                found[operator.layer] = [operator.name]
                last[operator.name] = operator.layer
        elif isinstance(operator, Table | Quantize | Dequantize | FloatFunction):
            layer = last.get(operator.inputs[0])
            if layer is not None and readers[operator.inputs[0]] == 1:
                found[layer].append(operator.name)
                last[operator.name] = layer
    return {layer: tuple(names) for layer, names in found.items()}


def _our_key(program: IntegerProgram, layer: str) -> Key:
    operator = next(o for o in (*program.weighted, *program.float_sums) if o.layer == layer)
    shape = program.shapes[operator.name]
    weight = operator.folded.numbers[0] if isinstance(operator, FloatSums) else operator.sums.weight
    where = operator if isinstance(operator, FloatSums) else operator.sums
    if isinstance(operator, Logits) or weight.ndim == 2:
        return _key(shape, ((1, 1), (1, 1), (1,)))
    return _key(shape, (tuple(weight.shape[2:]), tuple(where.stride), (where.groups,)))
