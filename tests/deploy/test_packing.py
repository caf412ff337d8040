"""The packed stream, against bit strings; the unpacking function, against plain arithmetic."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from bitsmith.deploy.functions import DOMAIN, OPSET
from bitsmith.deploy.packing import pack, pack_layer, silence_function, unpack_function
from bitsmith.deploy.runtime import LEVELS, session
from bitsmith.quantize import Grid
from bitsmith.quantize.fold import fold

GRID = Grid(step=0.1, lo=0, hi=15)


def as_bits(numbers, bits):
    """The stream as an integer, written out number by number."""
    value = 0
    for place, number in enumerate(numbers):
        value += int(number) << (bits * place)
    return value


@pytest.mark.parametrize("bits", range(1, 8))
def test_stream_is_little_endian_and_ends_within_a_byte(bits):
    rng = np.random.default_rng(bits)
    for count in (1, 2, 7, 8, 9, 31):
        numbers = rng.integers(0, 2**bits, count)
        stream = pack(numbers, bits)
        assert len(stream) == -(-count * bits // 8)
        assert int.from_bytes(stream.tobytes(), "little") == as_bits(numbers, bits)


def folded_layer(rng, bits, odd, shape, dead=()):
    bound = 2**bits - 1 if odd else 2 ** (bits - 1) - 1
    codes = rng.integers(-bound, bound + 1, shape)
    codes = codes // 2 * 2 + 1 if odd else codes
    codes = np.clip(codes, -bound, bound)
    step = np.linspace(0.01, 0.1, shape[0]) * np.where(rng.random(shape[0]) < 0.4, -1, 1)
    step[list(dead)] = 0
    bias = rng.normal(size=shape[0])
    return fold("layer", codes=codes.astype(float), step=step, bits=bits, odd=odd, bias=bias, input=GRID)


def unpack(folded, level):
    packed = pack_layer(folded)
    values = {"p": packed.stream, "s": np.array(folded.codes.shape), "h": packed.half}
    values |= {"g": np.int32(packed.gain), "o": np.int32(packed.offset)}
    nodes = [helper.make_node("unpack", ["p", "s", "g", "o"], ["w"], domain=DOMAIN, bits=[packed.bits])]
    nodes += [helper.make_node("silence", ["w", "h"], ["v"], domain=DOMAIN)] if packed.silent else []
    name = "v" if packed.silent else "w"
    graph = helper.make_graph(
        [*nodes, helper.make_node("Identity", [name], ["y"])],
        "test",
        [],
        [helper.make_tensor_value_info("y", TensorProto.INT8, folded.codes.shape)],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in values.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, functions=[unpack_function(), silence_function()], opset_imports=opsets)
    model.ir_version = 10
    return session(model.SerializeToString(), level).run(None, {})[0]


@pytest.mark.parametrize("level", ["disabled", "all"])
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("bits", range(1, 8))
def test_function_gives_back_every_weight(bits, odd, level):
    rng = np.random.default_rng(bits)
    for shape in ((1, 1, 1, 1), (3, 1, 1, 1), (5, 3, 3, 3), (4, 2, 1, 5)):
        if bits == 1 and not odd:  # one bit has no zero, whatever the quantizer calls it
            folded = folded_layer(rng, 1, True, shape)
            folded = type(folded)(**{**{f: getattr(folded, f) for f in folded.__dataclass_fields__}, "odd": False})
        else:
            folded = folded_layer(rng, bits, odd, shape)
        expected = folded.codes.astype(int) * 2**folded.shift
        assert np.array_equal(unpack(folded, level), expected)


@pytest.mark.parametrize("level", LEVELS)
def test_constant_filters_of_an_odd_grid_are_silent(level):
    folded = folded_layer(np.random.default_rng(0), 3, True, (4, 2, 3, 3), dead=(1, 3))
    assert pack_layer(folded).silent
    weight = unpack(folded, level)
    assert not weight[[1, 3]].any()
    assert np.array_equal(weight, folded.weight)
