"""The program in this process, and a small network trained on digits."""

import os
import signal
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bitsmith as bs
from bitsmith.cli import main

NET = """
from torch import nn

def make(classes=10):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes),
    )
"""


@pytest.fixture
def bitsmith(monkeypatch, capsys):
    """A function that runs a command in this process and asserts its exit code."""

    def run(*arguments, cwd=None, check=0):
        monkeypatch.setattr(sys, "argv", ["bitsmith", *map(str, arguments)])
        old, before = signal.getsignal(signal.SIGINT), os.getcwd()
        os.chdir(cwd or before)
        try:
            with warnings.catch_warnings(), pytest.raises(SystemExit) as stopped:
                main()
        finally:
            os.chdir(before)
            signal.signal(signal.SIGINT, old)
        stdout, stderr = capsys.readouterr()
        assert (stopped.value.code or 0) == check, stderr
        return SimpleNamespace(stdout=stdout, stderr=stderr)

    return run


@pytest.fixture
def own(tmp_path):
    """A folder with the user's own module, `ownnet:make`."""
    (tmp_path / "ownnet.py").write_text(NET)
    return tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Weights of `ownnet:make` after a short float training by plain torch: right on most digits."""
    names: dict = {}
    exec(NET, names)
    torch.manual_seed(0)
    net: nn.Module = names["make"]()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    data = bs.open_data("digits")
    for epoch in range(6):
        for x, y in data.training.batches(batch_size=64, seed=epoch):
            loss = F.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    path = tmp_path_factory.mktemp("weights") / "trained.pt"
    torch.save(net.state_dict(), path)
    return path
