"""The packing layout: what the files of a low-precision network store, byte by byte.

This is the format that exporters write and that the cost `size` prices. It is small on purpose: ResNet-8 has 336
channels, and float32 scales with int32 biases would add 2.7 kB to 20 kB of 2-bit weights.

- Raw pixels: one table of 256 bytes per input channel, which normalizes a uint8 pixel onto the first grid. Counted
  for every network: a cost doesn't know the input contract, and a float input only stores less.
- Every priced layer: a header of 16 bytes (layer scale and output scale as float32, zero points, bounds, shifts), its
  n weights in ceil(n b / 8) bytes (32 bits where float), and 4 bytes per output channel: an int16 bias times a
  power of two of the layer, and a float16 scale times the layer's scale. BatchNorm is folded into these. A layer with
  float weights has a float32 bias in the same 4 bytes; one with integer weights that reads floats has a float32 bias
  and a float32 scale, 8 bytes. Steps from integers to floats and back are in its header. What float layers make
  unnecessary is counted all the same: the table of the pixels where the first layer reads numbers, and that of a
  function whose values only a float layer reads.
- Filters that differ in bits are stored by rising bits, each bit-width as a stream of its own. Where that isn't their
  order in the layer (`prune` brings it about where it can) also which filter comes where: a byte per filter, two where
  there are more than 256.
- A priced layer that reads a stream with fewer than 8 activation bits narrows it by a table of 256 bytes. Where maps
  differ in bits, every bit-width has a table, and every map a byte that says which.
- A layer used several times stores its weights once; a narrowing table more where it reads with and without sign.
- `affine`: a header, and per channel 5 bytes: an int8 weight, an int16 bias, a float16 scale.
- `add`, `multiply`, `avg_pool`, `max_pool`, `pad`, `shuffle`, `split`: a header (scales, bounds, geometry).
- `concat`: a header, and a table of 256 bytes for each operand without sign among operands with.
- `relu`, `relu6`: nothing where the clip merges with the operator before it; else a header and a table of 256 bytes.
- Other functions: a header and a table of 256 bytes.
- `flatten` and `dropout` store nothing.
- Where streams are float, numbers take no tables: functions, clips that stand apart, operands of a `concat` and layers
  that read a stream store none, and an `affine` has a float32 weight and bias, 8 bytes per channel.
"""

from __future__ import annotations

from collections.abc import Callable

from bitsmith.blueprint import FLOAT, FUNCTIONS, Bits, GridPlan, LayerSpec, NetworkGraph, Node
from bitsmith.cost.counts import weights_by_bits
from bitsmith.errors import CaptureError

HEADER = 16
TABLE = 256
PER_CHANNEL = 4
PER_AFFINE_CHANNEL = 5
PER_FLOAT_AFFINE_CHANNEL = 8
STREAM_BITS = 8


def _nothing(node: Node, plan: GridPlan) -> int:
    return 0


def _header(node: Node, plan: GridPlan) -> int:
    return HEADER


def _pixel_tables(node: Node, plan: GridPlan) -> int:
    return TABLE * node.shape[0]


def _affine(node: Node, plan: GridPlan) -> int:
    return (
        HEADER + (PER_FLOAT_AFFINE_CHANNEL if _reads_float_stream(node, plan) else PER_AFFINE_CHANNEL) * node.shape[0]
    )


def _clip(node: Node, plan: GridPlan) -> int:
    return 0 if plan.is_merged(node) else _function(node, plan)


def _concat(node: Node, plan: GridPlan) -> int:
    if _reads_float_stream(node, plan):
        return HEADER
    return HEADER + TABLE * sum(plan.signed[read] != plan.signed[node.name] for read in node.inputs)


def _function(node: Node, plan: GridPlan) -> int:
    return HEADER + (0 if _reads_float_stream(node, plan) else TABLE)


def _reads_float_stream(node: Node, plan: GridPlan) -> bool:
    return plan.on_float_stream(plan.carrier[node.inputs[0]])


# operator -> bytes stored whatever the bits are; the free ones are those at `_nothing`.
STORED: dict[str, Callable[[Node, GridPlan], int]] = {
    "input": _pixel_tables,
    "conv": _nothing,  # depends on its bits: `layer_bytes`
    "linear": _nothing,  # likewise
    "affine": _affine,
    "add": _header,
    "concat": _concat,
    "multiply": _header,
    "avg_pool": _header,
    "max_pool": _header,
    "pad": _header,
    "shuffle": _header,
    "split": _header,
    "relu": _clip,
    "relu6": _clip,
    **dict.fromkeys(FUNCTIONS, _function),
    "flatten": _nothing,  # another view of the same bytes
    "dropout": _nothing,  # not there at inference
}


def check_operators(graph: NetworkGraph) -> None:
    """Refuse a graph with an operator that has no price, so that none is ever priced at zero.

    Raises:
        CaptureError: an operator outside the layout.
    """
    for node in graph.nodes:
        if node.op not in STORED:
            where = f" ({node.source})" if node.source else ""
            raise CaptureError(
                f"node {node.name!r}{where}: operator {node.op!r} has no price; priced are {', '.join(STORED)}"
            )


def weight_bytes(layer: LayerSpec, bits: Bits) -> int:
    """Bytes of a layer's packed weights, ceil(n b / 8) for the n weights of each bit-width b.

    Example:
        3 weights at 3 bits are 9 bits and take 2 bytes.
    """
    return sum(-(-count * width // 8) for width, count in weights_by_bits(layer, bits).items())


def order_bytes(layer: LayerSpec, bits: Bits) -> int:
    """Bytes that say which filter is stored where; none where all have equal bits, or rising ones."""
    if isinstance(bits.weight, int) or list(bits.weight) == sorted(bits.weight):
        return 0
    return layer.out_channels * (1 if layer.out_channels <= 256 else 2)


def layer_bytes(layer: LayerSpec, plan: GridPlan, bits: Bits) -> int:
    """Bytes that a priced layer stores: header, weights, channels, and the table that narrows its input."""
    scales = 2 if bits.activation == FLOAT != bits.weight else 1
    channels = scales * PER_CHANNEL * layer.out_channels + order_bytes(layer, bits)
    return HEADER + weight_bytes(layer, bits) + channels + _narrowing_bytes(layer, plan, bits)


def _narrowing_bytes(layer: LayerSpec, plan: GridPlan, bits: Bits) -> int:
    """Bytes of the tables that bring what a layer reads onto its own bits."""
    starts = len({plan.signed[carrier] for carrier in plan.layer_reads[layer.name]})
    if not isinstance(bits.activation, int):
        return starts * TABLE * len(bits.activation_widths) + layer.in_channels
    if not plan.narrows(layer.name) or plan.on_float_stream(plan.reads[layer.name]):
        return 0
    return starts * TABLE if bits.activation < STREAM_BITS else 0


def operators(graph: NetworkGraph, plan: GridPlan) -> int:
    """How many nodes compute something of their own: all but inputs, views, and clips that their producer applies."""
    views = ("input", "flatten", "dropout")
    return sum(
        node.op not in views and not (node.op in ("relu", "relu6") and plan.is_merged(node)) for node in graph.nodes
    )


def fixed_bytes(graph: NetworkGraph, plan: GridPlan) -> int:
    """Bytes stored by everything but the priced layers."""
    return sum(STORED[node.op](node, plan) for node in graph.nodes)
