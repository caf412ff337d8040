"""SharedNetwork: every network of a mobile space around one largest convolution per layer.

It is held against the networks that `build` makes, tensor by tensor: at one-hot probabilities each of its tensors lies
on the grid that `plan_grids` gives the built network's, with its channels behind the chosen width at zero. Which grid
that is depends on what is chosen: a hard-swish reads a stream and gives signed numbers, a relu merges and gives
unsigned ones; a stage of one block hands its output straight to the next layer's grid, one of more ends in an add and
so on a stream. Each such form has its own quantizer here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitsmith.blueprint import Node
from bitsmith.errors import RecipeError
from bitsmith.quantize import Stepped, Stream, find_quantizers
from bitsmith.search.supernet.block import Block, Functions, is_signed
from bitsmith.search.supernet.parts import STREAM_BITS, Flow, Reader, Scaling, Shared, blend_flows, soft_mask
from bitsmith.space import Mobile, MobileSpace
from bitsmith.space.mobile_graph import CLASSIFIER, HEAD, STEM, MobileNetwork
from bitsmith.space.mobile_graph import Block as BlockShape


@final
class SharedNetwork(Stepped):
    """The searchable network of a mobile space.

    Args:
        space: its quantizer must have learned steps; `calibrate` starts them.
        scaling: of what is mixed: "none", "mask" (A') or "branch" (B); see `parts`.

    Attributes:
        present: per decision the probabilities of its options, what `forward` mixes by; equal at first.

    Raises:
        RecipeError: a space or quantizer whose networks can't share weights.

    Example:
        >>> network = SharedNetwork(space)
        >>> network.fix(space.encode(blueprint))  # now it computes what build(blueprint) does, with its own weights
    """

    def __init__(self, space: Mobile, *, scaling: Scaling = "mask") -> None:
        super().__init__()
        check_shareable(space)
        description, quantizers = space.description, find_quantizers(space.quantizer)
        self.space = space
        self.scaling: Scaling = scaling
        nodes = largest_nodes(space)
        ends = (description.ends,)
        power_of_two = quantizers.power_of_two

        def stream() -> Stream:
            return Stream(STREAM_BITS, power_of_two=power_of_two)

        signed = is_signed(description.activation)
        self.stem_in = Reader(ends, quantizers, signed=True)
        self.stem = Shared(nodes[STEM], space.input_shape[0], ends, quantizers)
        self.stem_function = Functions((description.activation,), power_of_two=power_of_two)
        self.stages = nn.ModuleList()
        for s, stage in enumerate(description.stages, start=1):
            blocks = [
                Block(
                    description,
                    s,
                    b,
                    nodes,
                    signed=signed if s == b == 1 else True,
                    quantizers=quantizers,
                    scaling=scaling,
                )
                for b in range(1, stage.blocks[1] + 1)
            ]
            self.stages.append(nn.ModuleList(blocks))
            widths = torch.tensor(stage.channels)
            prefix = (torch.arange(max(stage.channels)) < widths[:, None]).float()
            self.register_buffer(f"widths{s}", prefix, persistent=False)
        # One step per chain of tensors that are added: stages whose first block adds go on with the chain before.
        self.chains = {0: 0}
        for s in range(1, len(description.stages) + 1):
            self.chains[s] = self.chains[s - 1] if description.adds_first(s) else s
        self.added = nn.ModuleDict({str(chain): stream() for chain in sorted(set(self.chains.values()))})
        last = max(description.stages[-1].channels)
        if description.head:
            self.head_in = Reader(description.activation_bits, quantizers, signed=True, narrows=True)
            self.head = Shared(nodes[HEAD], last, description.weight_bits, quantizers)
            self.head_function = Functions((description.activation,), power_of_two=power_of_two)
            self.head_stream = stream()
            prefix = (torch.arange(max(description.head)) < torch.tensor(description.head)[:, None]).float()
            self.register_buffer("head_widths", prefix, persistent=False)
        self.classifier_in = Reader(ends, quantizers, signed=signed if description.head else True)
        self.classifier = Shared(
            nodes[CLASSIFIER], max(description.head, default=last), ends, quantizers, per_filter=False
        )
        self.present: dict[str, Tensor] = {
            d.name: torch.full((len(d.options),), 1 / len(d.options)) for d in space.decisions.decisions
        }
        self.to(memory_format=torch.channels_last)

    def fix(self, indices: Sequence[int] | np.ndarray) -> None:
        """Every decision at one option; decisions that are not made may stand anywhere.

        Args:
            indices: as `Mobile.encode` gives them.
        """
        like = self.stem.weight
        for decision, index in zip(self.space.decisions.decisions, indices, strict=True):
            self.present[decision.name] = F.one_hot(torch.tensor(int(index)), len(decision.options)).to(like)

    def forward(self, x: Tensor) -> Tensor:
        description, p = self.space.description, self.present
        one = self.stem.weight.new_ones(1)
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.stem_function(self.stem(self.stem_in(x, one), one))[0]
        flow = Flow(x=x, streamed=x.new_zeros(()), signed=is_signed(description.activation))
        if description.adds_first(1):
            flow = self._onto(0, flow)
        for s in range(1, len(self.stages) + 1):
            flow = self._stage(s, flow, p)
        x = flow.x
        if description.head:
            x = self.head_in(x, p[f"{HEAD}.activation_bits"], flow.streamed)
            x = self.head_function(self.head(x, p[f"{HEAD}.weight_bits"]))[0]
            x = soft_mask(x, p[f"{HEAD}.channels"] @ cast(Tensor, self.head_widths), self.scaling)
            x = self.head_stream(x, is_signed(description.activation))
        x = F.avg_pool2d(x, x.shape[2:]).flatten(1)
        return self.classifier(self.classifier_in(x, one), one)

    def _stage(self, s: int, flow: Flow, p: Mapping[str, Tensor]) -> Flow:
        description = self.space.description
        least, most = description.stages[s - 1].blocks
        kept = p[f"stage{s}.channels"] @ cast(Tensor, getattr(self, f"widths{s}"))
        last = s == len(self.stages)
        read_as_stream = (last and not description.head) or (not last and description.adds_first(s + 1))
        ends: list[Flow] = []
        for b, block in enumerate(cast(nn.ModuleList, self.stages[s - 1]), start=1):
            x = soft_mask(block(flow, p), kept, self.scaling)
            plain = Flow(x=x, streamed=x.new_zeros(()), signed=True)
            if cast(Block, block).adds:
                projected = self._onto(self.chains[s], plain)
                flow = self._onto(self.chains[s], Flow(x=projected.x + flow.x, streamed=one_of(x), signed=True))
            else:
                flow = self._onto(self.chains[s], plain) if read_as_stream or most > 1 else plain
            if b >= least:
                straight = not cast(Block, block).adds and not read_as_stream
                ends.append(plain if straight else flow)
        return blend_flows(ends, p[f"stage{s}.blocks"], self.scaling) if len(ends) > 1 else ends[0]

    def _onto(self, chain: int, flow: Flow) -> Flow:
        """On the stream of a chain."""
        x = self.added[str(chain)](flow.x, flow.signed)
        return Flow(x=x, streamed=one_of(x), signed=flow.signed)


def one_of(x: Tensor) -> Tensor:
    """The number one, of x's kind."""
    return x.new_ones(())


def largest_nodes(space: Mobile) -> dict[str, Node]:
    """The nodes of a network that has every layer, each as large as any choice makes it."""
    description, blocks = space.description, []
    for s, stage in enumerate(description.stages, start=1):
        for b in range(1, stage.blocks[1] + 1):
            widths = description.input_widths(s) if b == 1 else stage.channels
            hidden = max(description.hidden(width, e) for width in widths for e in stage.expansions)
            blocks.append(
                BlockShape(
                    name=f"stage{s}.block{b}",
                    channels=max(stage.channels),
                    stride=stage.stride if b == 1 else 1,
                    kernel=max(stage.kernels),
                    hidden=hidden,
                    expands=stage.expansions != (1,),
                    squeezed=description.squeezed(hidden) if any(stage.squeeze_excite) else 0,
                    activation="relu",
                    adds=b > 1 or description.adds_first(s),
                )
            )
    network = MobileNetwork(
        input_shape=space.input_shape,
        stem=description.stem.channels,
        stem_stride=description.stem.stride,
        blocks=tuple(blocks),
        head=max(description.head, default=0),
        activation="relu",
        outputs=space.outputs,
    )
    return {node.name: node for node in network.graph().nodes}


def check_shareable(space: Mobile) -> None:
    """Refuse what the shared network can't be exact for.

    Raises:
        RecipeError: saying what.
    """
    description: MobileSpace = space.description
    for s, stage in enumerate(description.stages, start=1):
        if stage.blocks[0] == 0:
            raise RecipeError(
                f"stage {s}: the supernet needs at least one block in every stage, since behind one that vanishes the "
                "next would read what the stage before it happens to give, a stream or not, and its grids and costs "
                "depend on that; make the fewest blocks 1, or give the stage before more blocks in its place"
            )
    if 1 in (*description.activation_bits, description.ends):
        raise RecipeError(
            "the supernet leaves channels out by setting them to zero, which one signed bit doesn't have; "
            "leave 1 out of activation_bits and ends"
        )
