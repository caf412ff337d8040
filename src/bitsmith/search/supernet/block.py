"""One searched block: expand, depthwise, squeeze-and-excitation, project, each the largest that may be chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitsmith.blueprint import Node
from bitsmith.quantize import QuantizerPair, Stream
from bitsmith.search.supernet.parts import STREAM_BITS, Flow, Reader, Scaling, Shared, blend, soft_mask
from bitsmith.space import MobileSpace

INPUT = "input"  # the reader of what comes from the block before; the others are called after a function
_UNSIGNED = ("relu", "relu6")


@final
class Functions(nn.Module):
    """The activation functions that may follow a convolution, each with the grid that it needs in front.

    A clip merges with the convolution; any other function reads an 8-bit stream.

    Args:
        ops: to choose from.
    """

    def __init__(self, ops: Sequence[str], *, power_of_two: bool) -> None:
        super().__init__()
        self.ops = tuple(ops)
        self.before = nn.ModuleDict(
            {op: Stream(STREAM_BITS, power_of_two=power_of_two) for op in ops if op not in _UNSIGNED}
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """One tensor per function."""
        return [self._one(op, x) for op in self.ops]

    def _one(self, op: str, x: Tensor) -> Tensor:
        if op in _UNSIGNED:
            return x.relu() if op == "relu" else F.relu6(x)
        return F.hardswish(self.before[op](x, True))


def is_signed(op: str) -> bool:
    """Whether what a function gives can be negative."""
    return op not in _UNSIGNED


@final
class Block(nn.Module):
    """An inverted residual block in all its forms.

    Args:
        space: its bits, widths and rounding.
        stage, number: which block it is, both counted from 1.
        nodes: of the largest network, by name.
        signed: whether its input can be negative.
        quantizers: learned steps.
        scaling: see `parts`.
    """

    hidden: Tensor  # (input widths, expansions, channels), 1 where a channel is there
    squeezed: Tensor
    expands: Tensor  # (expansions,), 1 where there is an expanding convolution

    def __init__(
        self,
        space: MobileSpace,
        stage: int,
        number: int,
        nodes: Mapping[str, Node],
        *,
        signed: bool,
        quantizers: QuantizerPair,
        scaling: Scaling,
    ) -> None:
        super().__init__()
        options = space.stages[stage - 1]
        self.name = f"stage{stage}.block{number}"
        self.scaling: Scaling = scaling
        self.output = f"stage{stage}.channels"
        self.source = f"stage{stage - 1}.channels" if number == 1 else self.output
        widths = space.input_widths(stage) if number == 1 else options.channels
        self.by_layer = space.bits == "layer"
        self.adds = number > 1 or space.adds_first(stage)
        expanding = [e != 1 for e in options.expansions]
        self.always, self.never = all(expanding), not any(expanding)  # whether it expands
        ops, power_of_two = options.activations, quantizers.power_of_two

        def shared(layer: str, in_channels: int, kernels: Sequence[int] = ()) -> Shared:
            node = nodes[f"{self.name}.{layer}"]
            return Shared(node, in_channels, space.weight_bits, quantizers, kernels=kernels)

        def reader(op: str, bits: Sequence[int] = space.activation_bits) -> Reader:
            return Reader(bits, quantizers, signed=is_signed(op))

        def input_reader() -> Reader:
            return Reader(space.activation_bits, quantizers, signed=signed, narrows=True)

        sizes = [[space.hidden(width, e) for e in options.expansions] for width in widths]
        most = max(map(max, sizes))
        self.register_buffer("hidden", _prefixes(sizes, most), persistent=False)
        if not self.never:
            self.expand = shared("expand", max(widths))
            self.expand_in = input_reader()
            self.expanded = Functions(ops, power_of_two=power_of_two)
            self.register_buffer("expands", torch.tensor(expanding, dtype=torch.float32), persistent=False)
        self.depthwise = shared("depthwise", most, options.kernels)
        self.depthwise_in = nn.ModuleDict({} if self.never else {op: reader(op) for op in ops})
        if not self.always:
            self.depthwise_in[INPUT] = input_reader()
        self.activation = Functions(ops, power_of_two=power_of_two)
        self.gates = any(options.squeeze_excite)
        self.gate_options = options.squeeze_excite
        if self.gates:
            squeezed = [[space.squeezed(size) for size in row] for row in sizes]
            self.register_buffer("squeezed", _prefixes(squeezed, max(map(max, squeezed))), persistent=False)
            self.squeeze, self.excite = shared("squeeze", most), shared("excite", max(map(max, squeezed)))
            ends = (space.ends,)
            self.squeeze_in = nn.ModuleDict({op: reader(op, ends) for op in ops})
            self.excite_in = reader("relu", ends)
            self.streams = nn.ModuleDict(
                {name: Stream(STREAM_BITS, power_of_two=power_of_two) for name in (*ops, "excite", "gate")}
            )
        self.project = shared("project", most)
        self.project_in = nn.ModuleDict({op: reader(op) for op in ops})

    def bits_of(self, layer: str) -> str:
        """The decision prefix that a layer's bits hang on."""
        return f"{self.name}.{layer}" if self.by_layer else self.name

    def forward(self, flow: Flow, p: Mapping[str, Tensor]) -> Tensor:
        """The projection, before its width is masked and before anything is added."""
        expansion = p[f"{self.name}.expansion"]
        shares = p[f"{self.name}.activation"]
        reach = p[self.source] if self.source in p else self.hidden.new_ones(1)
        x = self._before_depthwise(flow, expansion, reach, shares, p)
        x = self.depthwise(x, p[f"{self.bits_of('depthwise')}.weight_bits"], p[f"{self.name}.kernel"])
        kept = torch.einsum("i,e,iec->c", reach, expansion, self.hidden)
        forms = [soft_mask(y, kept, self.scaling) for y in self.activation(x)]
        if self.gates:
            forms = self._gated(forms, expansion, reach, shares, p)
        bits = p[f"{self.bits_of('project')}.activation_bits"]
        ops = self.activation.ops
        read = blend([self.project_in[op](y, bits) for op, y in zip(ops, forms, strict=True)], shares, self.scaling)
        return self.project(read, p[f"{self.bits_of('project')}.weight_bits"])

    def _before_depthwise(
        self, flow: Flow, expansion: Tensor, reach: Tensor, shares: Tensor, p: Mapping[str, Tensor]
    ) -> Tensor:
        bits = p[f"{self.bits_of('depthwise')}.activation_bits"]
        plain = None
        if not self.always:
            plain = self.depthwise_in[INPUT](flow.x, bits, flow.streamed)
            plain = F.pad(plain, (0, 0, 0, 0, 0, self.hidden.shape[2] - plain.shape[1]))
            if self.never:
                return plain
        x = self.expand_in(flow.x, p[f"{self.bits_of('expand')}.activation_bits"], flow.streamed)
        x = self.expand(x, p[f"{self.bits_of('expand')}.weight_bits"])
        kept = torch.einsum("i,e,iec->c", reach, expansion * self.expands, self.hidden)
        forms = [soft_mask(y, kept, self.scaling) for y in self.expanded(x)]
        ops = self.expanded.ops
        x = blend([self.depthwise_in[op](y, bits) for op, y in zip(ops, forms, strict=True)], shares, self.scaling)
        return x if plain is None else x + plain * (expansion * (1 - self.expands)).sum()

    def _gated(
        self, forms: list[Tensor], expansion: Tensor, reach: Tensor, shares: Tensor, p: Mapping[str, Tensor]
    ) -> list[Tensor]:
        """(1 - s) y + s gate y per function, with s the probability of a gate, which all functions share."""
        ops = self.activation.ops
        weight = p[f"{self.bits_of('project')}.weight_bits"]
        one = shares.new_ones(1)
        streamed = [self.streams[op](y, is_signed(op)) for op, y in zip(ops, forms, strict=True)]
        means = [self.squeeze_in[op](_mean(y), one) for op, y in zip(ops, streamed, strict=True)]
        z = self.squeeze(blend(means, shares, self.scaling), weight).relu()
        z = soft_mask(z, torch.einsum("i,e,iec->c", reach, expansion, self.squeezed), self.scaling)
        z = self.streams["excite"](self.excite(self.excite_in(z, one), weight), True)
        gate = self.streams["gate"](F.hardsigmoid(z), False)
        if len(self.gate_options) == 1:
            return [y * gate for y in streamed]
        there = p[f"{self.name}.squeeze_excite"][self.gate_options.index(True)]
        return [(1 - there) * y + there * (s * gate) for y, s in zip(forms, streamed, strict=True)]


def _prefixes(sizes: Sequence[Sequence[int]], most: int) -> Tensor:
    return (torch.arange(most) < torch.tensor(sizes)[..., None]).float()


def _mean(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, x.shape[2:])
