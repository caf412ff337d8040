"""capture: the topology and the parameters of any torch module whose operators are in the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from bitsmith.blueprint import NetworkGraph
from bitsmith.capture.assemble import assemble
from bitsmith.capture.check import check
from bitsmith.capture.export import export, forget
from bitsmith.capture.outputs import selected
from bitsmith.capture.read import read
from bitsmith.errors import CaptureError


@dataclass(frozen=True, kw_only=True)
class Captured:
    """A captured network.

    Args:
        graph: its topology.
        state: its parameters and statistics; loads with `strict=True` into `build(float_blueprint(graph))`.
            Keys are "{node}.weight", "{node}.bias" and "{node}.norm.weight", ".bias", ".running_mean",
            ".running_var", ".num_batches_tracked".
        notes: what was left out, changed or could not be compared, one sentence each.
    """

    graph: NetworkGraph
    state: dict[str, Tensor]
    notes: tuple[str, ...]


def capture(module: nn.Module, shape: tuple[int, int, int], *, output: str | None = None, seed: int = 0) -> Captured:
    """Read a module's graph with `torch.export` and accept it only if the rebuilt network computes the same.

    The module is exported in eval mode at a free batch size and comes back as it was. Dropout stays as nodes; a final
    softmax, log_softmax, sigmoid or argmax is removed. Numbers that scale the raw input, as in (x - mean) / std, become
    the input's gain and offset. A layer that is used again shares the parameters of its first use.

    The rebuilt float network must give the module's outputs, input gradients and parameter gradients, in eval mode and
    in train mode, on a random batch of 4: to 1e-6 in float64 copies, relative to the largest value of each tensor.
    Where train mode can't be compared as it is (auxiliary outputs, random numbers), the BatchNorms alone train.

    Args:
        module: takes one float tensor (N, C, H, W); returns a tensor, or several in tuples, lists, mappings,
            dataclasses.
        shape: (C, H, W) of one input.
        output: key, index or name of the returned tensor to capture, with dots into nested ones ("features.0"); None
            where there is only one.
        seed: of the batch of the comparison.

    Raises:
        CaptureError: the module can't be exported, has operators outside the vocabulary (all of them are listed with
            file and line), returns several tensors of which none is chosen, shares parameters otherwise than by using
            a layer again, or its rebuilt network differs.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        >>> captured = capture(net, (3, 8, 8))
        >>> [(node.name, node.op, node.shape) for node in captured.graph.nodes]
        [('input', 'input', (3, 8, 8)), ('0', 'conv', (8, 6, 6)), ('2', 'relu', (8, 6, 6))]
    """
    if len(shape) != 3 or any(not isinstance(size, int) or size < 1 for size in shape):
        raise CaptureError(f"the input shape must be (channels, height, width), three positive integers; got {shape}")
    shape = (shape[0], shape[1], shape[2])
    with selected(module, output) as chosen:
        exported = export(module, shape)
        try:
            reading = read(exported, module, shape)
        finally:
            forget(exported)
        assembled = assemble(reading, module)
        notes = check(module, assembled, seed=seed)
    notes = (*chosen, *reading.notes, *assembled.notes, *notes)
    return Captured(graph=assembled.graph, state=assembled.state, notes=notes)
