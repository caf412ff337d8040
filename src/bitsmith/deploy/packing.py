"""Weights at exactly b bits: the stream of codes that the files hold, and the ONNX functions that read it.

The codes of a layer are one stream of b-bit numbers, little-endian: weight i is bits i b .. (i + 1) b - 1, and bit j
is bit j % 8 of byte j // 8. Only the last byte is padded. Codes of the symmetric grid are stored as
u = code + 2^(b-1) - 1, odd codes (and one bit) as u = (code + 2^b - 1) / 2. With the layer's shift k the int8 weight is

    w = u * gain - offset:    gain = 2^k,       offset = (2^(b-1) - 1) 2^k     (symmetric)
                              gain = 2^(k+1),   offset = (2^b - 1) 2^k         (odd).

An odd grid has no zero, but a channel frozen constant needs zero weights: such a channel is marked by a negative
`half` scale, of which everything else takes the magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import AttributeProto, FunctionProto, TensorProto, helper

from bitsmith.deploy.functions import constant_nodes, make_function
from bitsmith.quantize import Folded

UNSIGNED_ZERO = 128  # the zero point of weights that are written as uint8


@dataclass(frozen=True, kw_only=True)
class Packed:
    """The stored weights of a layer of 1..7 bits; see the module's text.

    Args:
        stream: uint8, ceil(n b / 8) bytes.
        half: float16 (channels,), negative where `silent` silences a channel.
    """

    bits: int
    stream: np.ndarray
    gain: int
    offset: int
    half: np.ndarray
    silent: bool


def pack(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned numbers below 2^bits -> their stream of bytes.

    Example:
        >>> pack(np.array([1, 2, 3]), 3).tolist()  # 001, 010, 011 from the least bit up
        [209, 0]
    """
    flat = numbers.reshape(-1).astype(np.uint8)
    return np.packbits((flat[:, None] >> np.arange(bits, dtype=np.uint8)) & 1, bitorder="little")


def pack_codes(codes: np.ndarray, bits: int, *, odd: bool, shift: int = 0) -> tuple[np.ndarray, int, int]:
    """(stream, gain, offset) of integer weights of 1..7 bits; see the module's text."""
    assert bits < 8
    codes = codes.astype(np.int64)
    if odd or bits == 1:
        numbers = np.where(codes == 0, 0, (codes + 2**bits - 1) // 2)
        gain, offset = 2 ** (shift + 1), (2**bits - 1) * 2**shift
    else:
        numbers = codes + 2 ** (bits - 1) - 1
        gain, offset = 2**shift, (2 ** (bits - 1) - 1) * 2**shift
    assert numbers.min() >= 0
    assert numbers.max() < 2**bits
    return pack(numbers, bits), gain, offset


def pack_layer(folded: Folded) -> Packed:
    """The stored weights of a layer, or of the filters of one bit-width of it (`Folded.parts`), of 1..7 bits."""
    assert isinstance(folded.bits, int)
    assert isinstance(folded.odd, bool)
    stream, gain, offset = pack_codes(folded.codes, folded.bits, odd=folded.odd, shift=folded.shift)
    dead = (folded.codes.reshape(len(folded.codes), -1) == 0).all(1)
    silent = bool((folded.odd or folded.bits == 1) and dead.any())
    half = np.where(dead & silent, -folded.half, folded.half).astype(np.float16)
    return Packed(bits=folded.bits, stream=stream, gain=gain, offset=offset, half=half, silent=silent)


def unpack_function() -> FunctionProto:
    """unpack<bits>(packed uint8, shape int64, gain int32, offset int32) -> int8 weights, for 1..7 bits.

    Eight weights are b whole bytes: weight j starts in byte j b // 8 at bit j b % 8 and may go on in the next byte.
    Reading that next byte where it isn't needed does no harm: its bits come out above the mask. One shift by 8 - bit
    is made of two that stay below 8, the width of the type. The stream is filled up to whole groups of b bytes here, so
    that the file doesn't have to be.
    """
    node = helper.make_node
    bits = node("Constant", [], ["b"])
    bits.attribute.append(AttributeProto(name="value_ints", ref_attr_name="bits", type=AttributeProto.INTS))
    constants = constant_nodes(
        {
            "zero": np.zeros(1, np.int64),
            "one": np.full(1, 1),
            "seven": np.full(1, 7),
            "eight": np.full(1, 8),
            "rest": np.full(1, -1),
            "lanes": np.arange(8),
            "step": np.uint8(1),
            "ones": np.uint8(255),
            "padding": np.zeros(7, np.uint8),
        }
    )
    nodes = [
        node("Mul", ["lanes", "b"], ["start"]),
        node("Div", ["start", "eight"], ["first"]),
        node("Add", ["first", "one"], ["next"]),
        node("Sub", ["b", "one"], ["last"]),
        node("Min", ["next", "last"], ["second"]),
        node("Mod", ["start", "eight"], ["bit"]),
        node("Sub", ["seven", "bit"], ["gap"]),
        node("Sub", ["eight", "b"], ["spare"]),
        node("Cast", ["bit"], ["right"], to=TensorProto.UINT8),
        node("Cast", ["gap"], ["left"], to=TensorProto.UINT8),
        node("Cast", ["spare"], ["unused"], to=TensorProto.UINT8),
        node("BitShift", ["ones", "unused"], ["mask"], direction="RIGHT"),
        node("ReduceProd", ["shape"], ["count"]),
        node("Add", ["count", "seven"], ["above"]),
        node("Div", ["above", "eight"], ["groups"]),
        node("Mul", ["groups", "b"], ["end"]),
        node("Concat", ["packed", "padding"], ["padded"], axis=0),
        node("Slice", ["padded", "zero", "end"], ["whole"]),
        node("Concat", ["rest", "b"], ["rows"], axis=0),
        node("Reshape", ["whole", "rows"], ["bytes"]),
        node("Gather", ["bytes", "first"], ["here"], axis=1),
        node("Gather", ["bytes", "second"], ["there"], axis=1),
        node("BitShift", ["here", "right"], ["low"], direction="RIGHT"),
        node("BitShift", ["there", "left"], ["almost"], direction="LEFT"),
        node("BitShift", ["almost", "step"], ["high"], direction="LEFT"),
        node("BitwiseOr", ["low", "high"], ["both"]),
        node("BitwiseAnd", ["both", "mask"], ["masked"]),
        node("Reshape", ["masked", "rest"], ["flat"]),
        node("Slice", ["flat", "zero", "count"], ["numbers"]),
        node("Cast", ["numbers"], ["wide"], to=TensorProto.INT32),
        node("Mul", ["wide", "gain"], ["scaled"]),
        node("Sub", ["scaled", "offset"], ["centered"]),
        node("Cast", ["centered"], ["narrow"], to=TensorProto.INT8),
        node("Reshape", ["narrow", "shape"], ["weight"]),
    ]
    inputs = ["packed", "shape", "gain", "offset"]
    return make_function("unpack", inputs, ["weight"], [bits, *constants, *nodes], attributes=["bits"])


def arrange_function() -> FunctionProto:
    """arrange(stored int8, places uint8 or uint16) -> filters[places] of what is stored by rising bits."""
    node = helper.make_node
    nodes = [
        node("Cast", ["places"], ["order"], to=TensorProto.INT32),
        node("Gather", ["stored", "order"], ["weight"], axis=0),
    ]
    return make_function("arrange", ["stored", "places"], ["weight"], nodes)


def to_unsigned(weight: np.ndarray) -> np.ndarray:
    """int8 weights as uint8 ones with zero point 128.

    Example:
        >>> to_unsigned(np.array([-127, 0, 127], np.int8)).tolist()
        [1, 128, 255]
    """
    return (weight.astype(np.int16) + UNSIGNED_ZERO).astype(np.uint8)


def unsigned_function() -> FunctionProto:
    """unsigned(weight int8) -> the weight as uint8, as `to_unsigned`."""
    node = helper.make_node
    nodes = [
        node("Cast", ["weight"], ["wide"], to=TensorProto.INT32),
        node("Add", ["wide", "zero"], ["raised"]),
        node("Cast", ["raised"], ["out"], to=TensorProto.UINT8),
    ]
    constants = constant_nodes({"zero": np.array(UNSIGNED_ZERO, np.int32)})
    return make_function("unsigned", ["weight"], ["out"], [*constants, *nodes])


def silence_function() -> FunctionProto:
    """silence(weight int8, half float16) -> the weight with the filters of negative half set to zero."""
    node = helper.make_node
    nodes = [
        node("Cast", ["half"], ["sign"], to=TensorProto.FLOAT),
        node("Greater", ["sign", "zero"], ["audible"]),
        node("Unsqueeze", ["audible", "axes"], ["filters"]),
        node("Cast", ["filters"], ["keep"], to=TensorProto.INT32),
        node("Cast", ["weight"], ["wide"], to=TensorProto.INT32),
        node("Mul", ["wide", "keep"], ["kept"]),
        node("Cast", ["kept"], ["out"], to=TensorProto.INT8),
    ]
    constants = constant_nodes({"zero": np.float32(0), "axes": np.array([1, 2, 3])})
    return make_function("silence", ["weight", "half"], ["out"], [*constants, *nodes])


def channels_function() -> FunctionProto:
    """channels(half, layer_scale, stored_bias, granule) -> float32 scale, int32 bias, as `Folded.scale` and `.bias`."""
    node = helper.make_node
    nodes = [
        node("Cast", ["half"], ["signed"], to=TensorProto.FLOAT),
        node("Abs", ["signed"], ["part"]),
        node("Mul", ["layer_scale", "part"], ["scale"]),
        node("Cast", ["stored_bias"], ["units"], to=TensorProto.FLOAT),
        node("Mul", ["units", "granule"], ["product"]),
        node("Div", ["product", "part"], ["exact"]),
        node("Round", ["exact"], ["rounded"]),
        node("Cast", ["rounded"], ["bias"], to=TensorProto.INT32),
    ]
    return make_function("channels", ["half", "layer_scale", "stored_bias", "granule"], ["scale", "bias"], nodes)
