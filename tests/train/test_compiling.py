"""Compiling whole networks: each is, however many there were before."""

from functools import partial

import torch
from torch import nn

from bitsmith.train.compiling import compiled


class Chain(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 2) for _ in range(n)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_the_ninth_network_is_compiled_too(monkeypatch):
    """torch keeps eight forms of a function, and all networks have the same `forward`."""
    seen = []

    def backend(module, inputs):
        seen.append(module)
        return module.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    for n in range(1, 11):
        forward = compiled(Chain(n), "network")
        for _ in range(2):
            forward(torch.zeros(3, 2))
        assert len(seen) == n
    assert compiled(chain := Chain(1), "quantizers") is chain
