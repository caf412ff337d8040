"""Freezing a trained network: BatchNorm folded into integers, scales and biases rounded to what the files store.

A frozen layer computes, with integer weights w (codes times 2^k), input step sx and one scale per channel,

    y_c = (sum w x_int + bias_c) * (sx * scale_c),      scale_c = layer_scale * half_c,
    bias_c = rint(stored_c * granule / half_c),

where half_c is a float16 and stored_c an int16: four bytes per channel. The granule (a power of two, one per layer)
makes 16 bits cover the largest bias of the layer. Codes of filters with fewer bits than the layer's widest are lifted
first: they count as 2^l times as many units of a step 2^l times as small, with the largest l that keeps them within the
codes of the widest filter. k is the largest shift that keeps pairs of products in 16 bits and
every accumulator below 2^24: a low-bit input has so coarse an accumulator unit that an unshifted bias could not be
represented. Where no shift can (a wide layer of 8 bits, the mean of its BatchNorm far from zero), k is 0 and
accumulators may go to 2^31: int32 sums stay exact, and every runtime rounds them to float32 in the same way.
A negative BatchNorm gamma flips the filter's sign, which the symmetric weight grids allow. A channel is frozen constant
where its scale is zero or 2^-14 of the layer's largest, or where its filter does nothing beside its bias (gamma near
0): the bias passes 2^24 units and a thousand times what all inputs together can add, or 2^30 units.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from bitsmith.blueprint import FLOAT, Blueprint, Node, Widths
from bitsmith.errors import ExportError
from bitsmith.quantize.filterwise import FilterWise
from bitsmith.quantize.fold_float import FloatFolded, fold_float
from bitsmith.quantize.layers import Affine, Priced, apply_weight
from bitsmith.quantize.network import Network
from bitsmith.quantize.quantizer import Calibrated, Grid, Quantizer

ACCUMULATOR = 2**24  # int32 accumulators up to here are exact as float32
_LARGEST_BIAS = 2**30  # of a layer whose accumulators pass that; leaves as much of the int32 to the weights
_NO_EFFECT = 2.0**-10  # of its bias: what the weights of a constant channel add at most


@dataclass(frozen=True, kw_only=True)
class Folded:
    """The integers of one frozen layer; all arrays are numpy.

    Args:
        codes: int16 weight codes before the shift, shape of the weight; odd integers where `odd`.
        bits: of the weight, or of each filter.
        odd: codes are odd integers of +-(2^bits - 1), else all integers of +-(2^(bits-1) - 1); for each filter, where
            their bits differ.
        shift: k; the integer weights are codes * 2^(k + l) and fit int8.
        lift: l of each filter; () where all have equal bits, and it is 0.
        half: float16 (channels,), in (0, 1].
        layer_scale: float32; scale_c = float32(layer_scale * half_c).
        stored_bias: int16 (channels,).
        granule: float32, a power of two.
        input: the grid that the layer reads.
    """

    codes: np.ndarray
    bits: Widths
    odd: bool | tuple[bool, ...]
    shift: int
    half: np.ndarray
    layer_scale: np.float32
    stored_bias: np.ndarray
    granule: np.float32
    input: Grid
    lift: tuple[int, ...] = ()

    @property
    def weight(self) -> np.ndarray:
        """int8 weights, codes * 2^(shift + lift)."""
        exponent = self.shift + np.array(self.lift or 0).reshape(-1, *[1] * (self.codes.ndim - 1))
        return (self.codes * 2**exponent).astype(np.int8)

    def parts(self) -> list[tuple[np.ndarray, Folded]]:
        """The filters of each bit-width, by rising bits: their numbers, and the layer that they alone would be."""
        if isinstance(self.bits, int):
            return [(np.arange(len(self.codes)), self)]
        assert not isinstance(self.odd, bool)
        found = []
        for bits in sorted(set(self.bits)):
            filters = np.flatnonzero(np.array(self.bits) == bits)
            part = replace(
                self,
                codes=self.codes[filters],
                bits=bits,
                odd=self.odd[filters[0]],
                shift=self.shift + self.lift[filters[0]],
                lift=(),
                half=self.half[filters],
                stored_bias=self.stored_bias[filters],
            )
            found.append((filters, part))
        return found

    @property
    def scale(self) -> np.ndarray:
        """float32 (channels,): what one unit of `weight` is worth."""
        return (np.float32(self.layer_scale) * self.half.astype(np.float32)).astype(np.float32)

    @property
    def bias(self) -> np.ndarray:
        """int64 (channels,), in accumulator units."""
        exact = self.stored_bias.astype(np.float32) * self.granule / self.half.astype(np.float32)
        return np.rint(exact).astype(np.int64)

    @property
    def numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """float32 weight and bias: what the integers are worth."""
        scale = self.scale.astype(np.float64)
        weight = self.weight.astype(np.float64) * scale.reshape(-1, *[1] * (self.codes.ndim - 1))
        return weight.astype(np.float32), (self.bias * scale * self.input.step).astype(np.float32)


def fold(
    name: str,
    *,
    codes: np.ndarray,
    step: np.ndarray,
    bits: Widths,
    odd: bool | tuple[bool, ...],
    bias: np.ndarray,
    input: Grid,
) -> Folded:
    """Round a layer y_c = step_c * sum codes x + bias_c to its stored integers; see the module's text.

    Args:
        codes: integer weights, filters first.
        step: float64 (channels,); may be negative or zero.
        bits, odd: as of `Folded`.
        bias: float64 (channels,), in the units of y.
        input: grid of x.

    Raises:
        ExportError: a number is not finite.
    """
    if not all(np.isfinite(numbers).all() for numbers in (codes, step, bias)):
        raise ExportError(f"layer {name!r} has weights, steps or BatchNorm statistics that are not finite")
    lift = _lift(bits, odd)
    lifted = 2 ** np.array(lift or 0).reshape(-1, 1)
    rows = codes.reshape(len(codes), -1).astype(np.int64) * lifted
    step = step / lifted[:, 0]
    rows = rows * np.where(step < 0, -1, 1)[:, None]
    step = np.where(np.abs(step) < 2.0**-100, 0.0, np.abs(step))  # float32 holds no smaller scale
    largest_input = max(-input.lo, input.hi)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        bias_units = np.where(step > 0, np.abs(bias) / (step * input.step), np.inf)
    reach = np.abs(rows).sum(1) * largest_input
    idle = (bias_units >= ACCUMULATOR) & (reach <= bias_units * _NO_EFFECT)
    constant = idle | (bias_units >= _LARGEST_BIAS)
    # The layer's scale is its largest, but never so small that the bias of a constant channel leaves the accumulator.
    largest_constant = np.abs(bias[constant]).max(initial=0.0)
    top = max(step[~constant].max(initial=0.0), 2 * largest_constant / (ACCUMULATOR * input.step))
    top = top if top >= 2.0**-100 else 1.0
    constant |= step < top * 2.0**-14  # float16 holds a scale only so far below the layer's largest
    rows[constant], reach[constant] = 0, 0
    widest = max(1, int(np.abs(rows).max()))
    part = np.where(constant, 1.0, step / top).astype(np.float16)
    # Shifted weights stay so small that two products fit 16 bits, which x86 machines without VNNI need.
    roof = min(127, 32767 // (2 * (input.hi - input.lo)))
    for shift in reversed([k for k in range(7) if k == 0 or widest * 2**k <= roof]):
        layer_scale = np.float32(top / 2**shift)
        units = bias / (np.float64(layer_scale) * input.step)
        granule = np.float32(2.0 ** np.ceil(np.log2(max(np.abs(units).max() / 32767, 2.0**-40))))
        folded = Folded(
            codes=(rows // lifted).reshape(codes.shape).astype(np.int16),
            bits=bits,
            odd=odd,
            shift=shift,
            half=part,
            layer_scale=layer_scale,
            stored_bias=np.rint(units / granule).clip(-32767, 32767).astype(np.int16),
            granule=granule,
            input=input,
            lift=lift,
        )
        largest = int((reach * 2**shift + np.abs(folded.bias)).max())
        if largest < ACCUMULATOR:
            return folded
    if largest >= 2**31:
        raise ExportError(f"layer {name!r} is so wide that its sums pass 32 bits; use fewer weight or activation bits")
    return folded


def _lift(bits: Widths, odd: bool | tuple[bool, ...]) -> tuple[int, ...]:
    if isinstance(bits, int):
        return ()
    assert not isinstance(odd, bool)
    largest = [max(1, 2**b - 1 if is_odd else 2 ** (b - 1) - 1) for b, is_odd in zip(bits, odd, strict=True)]
    return tuple((max(largest) // most).bit_length() - 1 for most in largest)


class FrozenLayer(nn.Module):
    """A folded conv, linear or affine node in torch: the same numbers, computed in float32.

    Args:
        node: of the graph.
        folded: its integers, or its floats.
        quantize_input: the layer's own activation quantizer, or None.
    """

    def __init__(self, node: Node, folded: Folded | FloatFolded, quantize_input: nn.Module | None) -> None:
        super().__init__()
        # An affine node is a depthwise 1x1 convolution.
        self.node = node
        self.folded = folded
        self.quantize_input = quantize_input
        weight, bias = folded.numbers
        self.register_buffer("weight", torch.from_numpy(weight), persistent=False)
        self.register_buffer("bias", torch.from_numpy(bias), persistent=False)

    def forward(self, x: Tensor, use: Node | None = None) -> Tensor:
        """y for one use of the layer: a node that shares its parameters, or (None) its own."""
        if self.quantize_input is not None:
            x = self.quantize_input(x)
        weight, bias = cast(Tensor, self.weight), cast(Tensor, self.bias)
        if self.node.op == "affine":
            shape = (1, -1, *[1] * (x.ndim - 2))
            return x * weight.reshape(shape) + bias.reshape(shape)
        return apply_weight(use or self.node, x, weight, bias)


def freeze(network: Network, blueprint: Blueprint) -> Network:
    """A copy of a trained network as it will be written: every layer folded to what is stored, ready to evaluate.

    Layers of 1 to 8 bits become integers, those with float weights or inputs (32 bits) and affine nodes between float
    tensors float32 (`fold_float`).

    Raises:
        ExportError: a layer holds numbers that are not finite.
    """
    for name, module in network.named_modules():  # what layers read; their own numbers are looked at while they fold
        if isinstance(module, Calibrated) and not all(t.isfinite().all() for t in module.state_dict().values()):
            raise ExportError(f"the steps of {name!r} are not finite; train the network again")
    frozen = copy.deepcopy(network).eval().requires_grad_(False)
    for node in network.graph.nodes:
        if node.op not in ("conv", "linear", "affine") or node.shares:
            continue
        layer = network.layer(node.name)
        if node.op == "affine":
            carrier = network.grids.carrier[node.inputs[0]]
            replacement = FrozenLayer(node, _fold_affine(node, cast(Affine, layer), network, carrier), None)
        else:
            bits = blueprint.bits[node.name]
            if bits.is_float:
                folded = _fold_priced_float(node, cast(Priced, layer))
            else:
                folded = _fold_priced(node, cast(Priced, layer), network.input_grid(node.name))
            replacement = FrozenLayer(node, folded, cast(Priced, frozen.layer(node.name)).quantize_input)
        frozen.set_submodule(node.name, replacement)
    return frozen


@torch.no_grad()
def _fold_priced(node: Node, layer: Priced, input: Grid) -> Folded:
    if not layer.weight.isfinite().all():  # infinity would be clipped to the last level
        raise ExportError(f"layer {node.name!r} has weights that are not finite")
    codes, step, quantizer = _codes(node, layer)
    gain, bias = _line(layer)
    mixed = isinstance(quantizer, FilterWise)
    bits, odd = (quantizer.widths, quantizer.odds) if mixed else (quantizer.bits, quantizer.odd)
    return fold(node.name, codes=codes, step=step * gain, bits=bits, odd=odd, bias=bias, input=input)


@torch.no_grad()
def _fold_priced_float(node: Node, layer: Priced) -> FloatFolded:
    gain, bias = _line(layer)
    if layer.quantize_weight is None:
        return fold_float(node.name, weight=layer.weight.double().cpu().numpy(), gain=gain, bias=bias)
    codes, step, quantizer = _codes(node, layer)
    if isinstance(quantizer, FilterWise):
        raise ExportError(
            f"layer {node.name!r} reads floats, and its filters differ in bits, which no file holds yet: give what it "
            "reads 1..8 bits, or its weights one bit-width"
        )
    return fold_float(node.name, weight=codes, gain=step * gain, bias=bias, bits=quantizer.bits, odd=quantizer.odd)


def _codes(node: Node, layer: Priced) -> tuple[np.ndarray, np.ndarray, Quantizer]:
    """Integer weights and the step of each filter, both float64, and the quantizer that they are of."""
    quantizer = layer.quantize_weight
    assert isinstance(quantizer, Quantizer), f"{node.name} has no weight quantizer"
    codes = quantizer.codes(layer.weight).double().cpu().numpy()
    step = quantizer.step(layer.weight).double().cpu().numpy().reshape(-1)
    return codes, np.broadcast_to(step, (len(codes),)).copy(), quantizer


def _line(layer: Priced) -> tuple[np.ndarray, np.ndarray]:
    """What a layer makes of its bare sums, channel by channel: gain and offset, in float64."""
    filters = len(layer.weight)
    bias = np.zeros(filters) if layer.bias is None else layer.bias.detach().double().cpu().numpy()
    if layer.norm is None:
        return np.ones(filters), bias
    gain, offset = _norm_line(layer.norm)
    return gain, bias * gain + offset


def _fold_affine(node: Node, layer: Affine, network: Network, carrier: str) -> Folded | FloatFolded:
    gain, offset = _norm_line(cast(nn.BatchNorm2d, layer.norm))
    shape = (len(gain), *[1] * len(node.shape))
    if carrier in network.grids.stream and network.stream_bits == FLOAT:
        return fold_float(node.name, weight=np.ones(shape), gain=gain, bias=offset)
    codes, grid = np.full(shape, 127.0), network.grid(carrier)
    return fold(node.name, codes=codes, step=gain / 127, bits=8, odd=False, bias=offset, input=grid)


@torch.no_grad()
def _norm_line(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[np.ndarray, np.ndarray]:
    """gain and offset of an eval-mode BatchNorm, in float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return gain.cpu().numpy(), (norm.bias.double() - norm.running_mean.double() * gain).cpu().numpy()
