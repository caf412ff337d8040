"""A task and networks that train in seconds."""

import dataclasses

import graphs
import pytest
import torch

from bitsmith.blueprint import NetworkGraph
from bitsmith.data import open_data
from bitsmith.quantize import build
from bitsmith.train import Task, calibrate


def _two_convs(width: int) -> NetworkGraph:
    s = graphs.Sketch((1, 8, 8))
    y = s.same("relu", "relu0", s.conv("conv0", "x", width))
    y = s.same("relu", "relu1", s.conv("conv1", y, 2 * width, stride=2))
    return s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", y)), 10))


@pytest.fixture
def two_convs():
    """Makes the graph of two convolutions and a classifier, of a given width."""
    return _two_convs


@pytest.fixture(scope="session")
def digits():
    return open_data("digits")


@pytest.fixture(scope="session")
def few():
    """Few enough that an epoch takes a moment."""
    return open_data("digits", limit=300)


@pytest.fixture
def task(few) -> Task:
    return Task(data=few)


@pytest.fixture
def fresh(few):
    """Makes one and the same fresh low-precision network."""

    def make(weight: int = 4, activation: int = 4, quantizer: str = "lsq"):
        torch.manual_seed(5)
        network = build(dataclasses.replace(graphs.blueprint(_two_convs(4), weight, activation), quantizer=quantizer))
        calibrate(network, few.train, batches=2, batch_size=64)
        return network

    return make
