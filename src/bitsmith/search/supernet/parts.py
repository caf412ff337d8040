"""What a supernet is made of: shared convolutions, readers of activations, soft masks.

All that is chosen is mixed *before* the one convolution that reads it, which is linear:

    conv(sum_i p_i Q_i(x), sum_k pi_k M_k sum_j q_j Q_j(W)) = sum_ijk p_i q_j pi_k conv(Q_i(x), M_k Q_j(W)).

Kernels are centre crops M_k of the largest one, so that all sizes share weights and one learned step per bit-width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, final

import torch
from torch import Tensor, nn

from bitsmith.blueprint import FLOAT, Node
from bitsmith.errors import RecipeError
from bitsmith.quantize import LearnedStep, Priced, QuantizerPair, apply_weight, mix, scale_gradient

STREAM_BITS = 8
Scaling = Literal["none", "mask", "branch"]
_LARGEST_GRADIENT = 10.0  # a factor, so that a branch that has all but lost doesn't blow up


@final
class Shared(Priced):
    """The largest convolution of all that may be chosen in its place.

    Args:
        node: of the largest network.
        in_channels: there.
        bits: options of its weights.
        kernels: side lengths to choose from, the last one that of the node.
        quantizers: learned steps.
        per_filter: whether each filter has a step.
    """

    crops: Tensor  # (kernels, side, side), 1 inside each crop

    def __init__(
        self,
        node: Node,
        in_channels: int,
        bits: Sequence[int],
        quantizers: QuantizerPair,
        *,
        kernels: Sequence[int] = (),
        per_filter: bool = True,
    ) -> None:
        super().__init__(node, in_channels)
        shape = tuple(self.weight.shape)
        self.quantize_weight = nn.ModuleList(learned(quantizers.weight(b, shape, per_filter)) for b in bits)
        largest = node.kernel[0]
        crops = torch.zeros(len(kernels), largest, largest)
        for crop, side in zip(crops, kernels, strict=True):
            edge = (largest - side) // 2
            crop[edge : edge + side, edge : edge + side] = 1
        self.register_buffer("crops", crops, persistent=False)

    def forward(self, x: Tensor, bits: Tensor, kernel: Tensor | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """y = norm(conv(x, W) + bias).

        Args:
            x: quantized.
            bits, kernel: probabilities of the options.
        """
        weight = mix(self.candidates, self.weight, bits)
        if kernel is not None and len(kernel) > 1:
            weight = weight * torch.einsum("k,khw->hw", kernel, self.crops)
        y = apply_weight(self.node, x, weight, self.bias)
        return y if self.norm is None else self.norm(y)

    @property
    def candidates(self) -> nn.ModuleList:
        """Its quantizers, one per bit-width."""
        return cast(nn.ModuleList, self.quantize_weight)


@final
class Reader(nn.Module):
    """The quantizers in front of a layer, one per bit-width, for one tensor that it may read.

    Args:
        bits: options.
        signed: whether the tensor can be negative.
        narrows: whether the tensor may lie on a stream, which is read at the stream's own bits as it is.
    """

    def __init__(self, bits: Sequence[int], quantizers: QuantizerPair, *, signed: bool, narrows: bool = False) -> None:
        super().__init__()
        self.candidates = nn.ModuleList(learned(quantizers.activation(b, signed)) for b in bits)
        self._plain = tuple(bits).index(STREAM_BITS) if narrows and STREAM_BITS in bits else None

    def forward(self, x: Tensor, bits: Tensor, streamed: Tensor | None = None) -> Tensor:
        """sum_i p_i Q_i(x), where 8 bits leave what lies on a stream as it is.

        Args:
            bits: probabilities p.
            streamed: how probable it is that x lies on a stream; None is never.
        """
        if self._plain is None or streamed is None:
            return mix(self.candidates, x, bits)
        on = nn.functional.one_hot(torch.tensor(self._plain), len(bits)).to(bits)
        return mix(self.candidates, x, bits * (1 - on * streamed)) + bits[self._plain] * streamed * x


@dataclass(kw_only=True)
class Flow:
    """A tensor on its way between blocks.

    Args:
        x: values.
        streamed: how probable it is that they lie on a stream.
        signed: whether they can be negative.
    """

    x: Tensor
    streamed: Tensor
    signed: bool


def learned(quantizer: nn.Module) -> LearnedStep:
    """The quantizer, where its step doesn't depend on which part of a tensor it sees.

    Raises:
        RecipeError: another kind.
    """
    if not isinstance(quantizer, LearnedStep) or quantizer.bits == FLOAT:
        raise RecipeError(
            "the supernet shares weights among widths and kernels, so its quantizers need learned steps; "
            "use quantizer: lsq or lsq-pow2"
        )
    return quantizer


def soft_mask(x: Tensor, kept: Tensor, scaling: Scaling) -> Tensor:
    """x times, per channel, the probability that it is there.

    With "mask" it is y = x m / (sum m^2 / sum m), the divisor without gradient: prefix masks leave the last channels at
    1/K, and the divisor is the mean of m weighted by itself; at one-hot it is exactly 1.

    Args:
        x: (batch, channels, height, width).
        kept: m, (channels,).
    """
    if scaling == "mask":
        kept = kept / (kept.square().sum() / kept.sum().clamp_min(1e-12)).clamp_min(1e-12).detach()
    return x * kept[:, None, None]


def blend(parts: Sequence[Tensor], shares: Tensor, scaling: Scaling) -> Tensor:
    """sum_k p_k x_k of branches that share nothing.

    With "branch" it is divided by sqrt(sum p^2), which keeps the deviation of independent branches, and branch k learns
    from its gradient times (sum p^2 / sum p) / p_k, at most 10: all learn alike, and what lies before them gets no more
    than it would at equal shares (with 1/p_k it multiplies from stage to stage, and trainings diverge). At one-hot
    nothing changes.

    Args:
        shares: p; they may sum to less than 1.
    """
    if len(parts) == 1:
        return parts[0] * shares[0]
    if scaling == "branch":
        p = shares.detach()
        typical = p.square().sum() / p.sum().clamp_min(1e-12)
        factors = (typical / p.clamp_min(1e-12)).clamp_max(_LARGEST_GRADIENT).tolist()
        parts = [scale_gradient(x, factor) for x, factor in zip(parts, factors, strict=True)]
        spread = shares.square().sum() / shares.sum().square().clamp_min(1e-12)
        shares = shares / spread.clamp_min(1e-12).sqrt()
    return sum((p * x for p, x in zip(shares[1:], parts[1:], strict=True)), shares[0] * parts[0])


def blend_flows(flows: Sequence[Flow], shares: Tensor, scaling: Scaling) -> Flow:
    """The stage's output over how many blocks it has."""
    streamed = torch.stack([flow.streamed for flow in flows])
    return Flow(
        x=blend([flow.x for flow in flows], shares, scaling), streamed=(streamed * shares).sum(), signed=flows[0].signed
    )
