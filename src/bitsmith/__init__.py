"""bitsmith: low-precision convolutional networks inside hard budgets, as files that run as integers.

The public names, in the order of a job:

    open_data, from_loaders, Task           data and how it is scored
    capture, precision_space                your network, and the bit-widths it may take
    search, Composite, Uniform, Random      find a Blueprint inside every Budget
    build, calibrate, train, TrainPlan      the network of a Blueprint: an ordinary nn.Module
    export, verify, load                    files that run as integers, and the proof
    price                                   what a blueprint costs
"""

from bitsmith.blueprint import Bits, Blueprint, Budget
from bitsmith.capture import capture
from bitsmith.cost import price
from bitsmith.data import from_loaders, open_data
from bitsmith.errors import BitsmithError
from bitsmith.pipeline.verbs import export, load, precision_space, search, train, verify
from bitsmith.quantize import build
from bitsmith.search import Composite, Random, Uniform
from bitsmith.train import Task, TrainPlan, calibrate

__version__ = "0.1.0"

__all__ = [
    "Bits",
    "BitsmithError",
    "Blueprint",
    "Budget",
    "Composite",
    "Random",
    "Task",
    "TrainPlan",
    "Uniform",
    "build",
    "calibrate",
    "capture",
    "export",
    "from_loaders",
    "load",
    "open_data",
    "precision_space",
    "price",
    "search",
    "train",
    "verify",
]
