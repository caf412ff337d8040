"""A captured network rebuilt, and whether it is the module that it came from."""

import copy

import torch
from torch import nn

from bitsmith.blueprint import NetworkGraph
from bitsmith.capture import Captured
from bitsmith.quantize import build, float_blueprint


def rebuild(captured: Captured, dtype: torch.dtype = torch.float32) -> nn.Module:
    network = build(float_blueprint(captured.graph)).to(dtype)
    network.load_state_dict(captured.state, strict=True)
    return network


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics and scales other than 0 and 1, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(seed)
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d | nn.BatchNorm1d):
            tensors = [child.running_var] + ([child.weight] if child.weight is not None else [])
            for tensor in tensors:
                tensor.data.uniform_(0.5, 1.5, generator=generator)
            tensors = [child.running_mean] + ([child.bias] if child.bias is not None else [])
            for tensor in tensors:
                tensor.data.normal_(generator=generator)
    return module


def outputs_agree(module: nn.Module, captured: Captured, dtype: torch.dtype = torch.float32) -> None:
    x = torch.randn(3, *captured.graph.input_shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    network = rebuild(captured, dtype).eval()
    with torch.no_grad():
        wanted = copy.deepcopy(module).eval()(x.clone())
        torch.testing.assert_close(network(x), wanted, rtol=1e-4, atol=1e-5)


def ops(graph: NetworkGraph) -> list[str]:
    return [node.op for node in graph.nodes]
