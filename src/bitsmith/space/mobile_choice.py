"""Between the decisions of a MobileSpace and the network that they choose, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitsmith.blueprint import Bits, Blueprint, Options
from bitsmith.space.decisions import Decision, Decisions, Option
from bitsmith.space.mobile_graph import CLASSIFIER, HEAD, STEM, Block, MobileNetwork
from bitsmith.space.mobile_space import MobileSpace

# What is chosen of a block beside its bits.
BLOCK = ("expansion", "kernel", "squeeze_excite", "activation")
# Layer of a block -> the layer whose bits it has, where each has its own.
DECIDED_BY = {
    "expand": "expand",
    "depthwise": "depthwise",
    "squeeze": "project",
    "excite": "project",
    "project": "project",
}
GATE = ("squeeze", "excite")  # their activations have the ends' bits


def make_decisions(space: MobileSpace) -> Decisions:
    """What is chosen: "stage1.channels", "stage1.blocks", "stage1.block1.kernel", ..., "head.activation_bits".

    With bits per layer, those of an expanding convolution hang on the expansion: expansion 1 has none.
    """

    def bits(name: str, parent: str = "", when: frozenset[int] = frozenset()) -> list[Decision]:
        return [
            Decision(name=f"{name}.weight_bits", options=space.weight_bits, parent=parent, when=when),
            Decision(name=f"{name}.activation_bits", options=space.activation_bits, parent=parent, when=when),
        ]

    found = []
    for s, stage in enumerate(space.stages, start=1):
        least, most = stage.blocks
        blocks = Decision(name=f"stage{s}.blocks", options=tuple(range(least, most + 1)))
        found += [Decision(name=f"stage{s}.channels", options=stage.channels), blocks]
        for b in range(1, most + 1):
            name = f"stage{s}.block{b}"
            there = frozenset(range(max(0, b - least), most - least + 1))  # with b blocks or more
            options = (stage.expansions, stage.kernels, stage.squeeze_excite, stage.activations)
            found += [
                Decision(name=f"{name}.{what}", options=of, parent=blocks.name, when=there)
                for what, of in zip(BLOCK, options, strict=True)
            ]
            if space.bits == "block":
                found += bits(name, blocks.name, there)
                continue
            expanding = frozenset(i for i, expansion in enumerate(stage.expansions) if expansion != 1)
            if expanding:
                found += bits(f"{name}.expand", f"{name}.expansion", expanding)
            found += bits(f"{name}.depthwise", blocks.name, there) + bits(f"{name}.project", blocks.name, there)
    if space.head:
        found += [Decision(name=f"{HEAD}.channels", options=space.head), *bits(HEAD)]
    return Decisions(decisions=tuple(found))


def make_block(
    space: MobileSpace, stage: int, number: int, width: int, channels: int, chosen: Mapping[str, Any]
) -> Block:
    """A block of a stage, both counted from 1.

    Args:
        width, channels: of its input and its output.
        chosen: "expansion", "kernel", "squeeze_excite", "activation" -> the option.
    """
    hidden = space.hidden(width, chosen["expansion"])
    return Block(
        name=f"stage{stage}.block{number}",
        channels=channels,
        stride=space.stages[stage - 1].stride if number == 1 else 1,
        kernel=chosen["kernel"],
        hidden=hidden,
        expands=chosen["expansion"] != 1,
        squeezed=space.squeezed(hidden) if chosen["squeeze_excite"] else 0,
        activation=chosen["activation"],
        adds=number > 1 or space.adds_first(stage),
    )


def make_network(
    space: MobileSpace, chosen: Mapping[str, Any], input_shape: tuple[int, int, int], outputs: int
) -> MobileNetwork:
    """The network of a choice (decision -> option)."""
    blocks, width = [], space.stem.channels
    for s in range(1, len(space.stages) + 1):
        for b in range(1, chosen[f"stage{s}.blocks"] + 1):
            channels = chosen[f"stage{s}.channels"]
            of_block = {what: chosen[f"stage{s}.block{b}.{what}"] for what in BLOCK}
            blocks.append(make_block(space, s, b, width, channels, of_block))
            width = channels
    return MobileNetwork(
        input_shape=input_shape,
        stem=space.stem.channels,
        stem_stride=space.stem.stride,
        blocks=tuple(blocks),
        head=chosen[f"{HEAD}.channels"] if space.head else 0,
        activation=space.activation,
        outputs=outputs,
    )


def make_bits(space: MobileSpace, chosen: Mapping[str, Any], network: MobileNetwork) -> dict[str, Bits]:
    """The bits of every priced layer of a choice's network."""
    ends = Bits(weight=space.ends, activation=space.ends)
    found = {STEM: ends}
    for block in network.blocks:
        for layer in block.layers:
            by = block.name if space.bits == "block" else f"{block.name}.{DECIDED_BY[layer]}"
            activation = space.ends if layer in GATE else chosen[f"{by}.activation_bits"]
            found[f"{block.name}.{layer}"] = Bits(weight=chosen[f"{by}.weight_bits"], activation=activation)
    if network.head:
        found[HEAD] = Bits(weight=chosen[f"{HEAD}.weight_bits"], activation=chosen[f"{HEAD}.activation_bits"])
    return found | {CLASSIFIER: ends}


def layer_options(space: MobileSpace) -> dict[str, Options]:
    """For every priced layer that any choice has, in execution order, the bit-widths that it may take."""
    ends = Options(weight=(space.ends,), activation=(space.ends,))
    free = Options(weight=space.weight_bits, activation=space.activation_bits)
    gate = Options(weight=space.weight_bits, activation=(space.ends,))
    found = {STEM: ends}
    for s, stage in enumerate(space.stages, start=1):
        there = {"expand": stage.expansions != (1,)} | dict.fromkeys(GATE, any(stage.squeeze_excite))
        for b in range(1, stage.blocks[1] + 1):
            for layer in DECIDED_BY:
                if there.get(layer, True):
                    found[f"stage{s}.block{b}.{layer}"] = gate if layer in GATE else free
    if space.head:
        found[HEAD] = free
    return found | {CLASSIFIER: ends}


def read_choice(space: MobileSpace, blueprint: Blueprint) -> dict[str, Option]:
    """What the names and shapes of a blueprint's layers say of the decisions; whether that is all of it, they don't.

    Whoever reads has to compare what the choice gives with the blueprint.
    """
    nodes = {node.name: node for node in blueprint.graph.nodes}
    found: dict[str, Option] = {}
    width = space.stem.channels
    for s, stage in enumerate(space.stages, start=1):
        names = [f"stage{s}.block{b}" for b in range(1, stage.blocks[1] + 1)]
        there = [
            name for name in names if {f"{name}.{n}" for n in ("depthwise", "activation", "project")} <= set(nodes)
        ]
        found[f"stage{s}.blocks"] = len(there)
        for name in there:
            depthwise, expands = nodes[f"{name}.depthwise"], f"{name}.expand" in nodes
            for expansion in stage.expansions:
                if space.hidden(width, expansion) == depthwise.shape[0] and expands == (expansion != 1):
                    found[f"{name}.expansion"] = expansion
            found[f"{name}.kernel"] = depthwise.kernel[0]
            found[f"{name}.squeeze_excite"] = f"{name}.squeeze" in nodes
            found[f"{name}.activation"] = nodes[f"{name}.activation"].op
            width = nodes[f"{name}.project"].shape[0]
            found[f"stage{s}.channels"] = width
    if HEAD in nodes:
        found[f"{HEAD}.channels"] = nodes[HEAD].shape[0]
    for layer, bits in blueprint.bits.items():
        block, _, part = layer.rpartition(".")
        by = block if space.bits == "block" and part in DECIDED_BY else layer
        if part not in GATE:
            found[f"{by}.weight_bits"], found[f"{by}.activation_bits"] = bits.pair(layer)
    return found
