"""bitsmith: low-precision convolutional networks inside hard budgets, as files that run as integers.

The public names, in the order of a job:

    open_data, from_loaders, Task           data and how it is scored
    capture, precision_space                your network, and the bit-widths it may take
    search                                  find a Blueprint inside every Budget, by one of the methods
        Composite, Sensitivity, GridSearch, Uniform, Random; of filters: Filters, Multinomial,
        Binomial, BlockBinomial; of whole networks: Supernet, Latent
    fronts                                  one set of budgets per network: "size=10,15,20kB"
    prune                                   a Blueprint without the filters that it removes (0 bits)
    build, calibrate, train, TrainPlan      the network of a Blueprint: an ordinary nn.Module
    quantize                                the same from float weights, without training
    export, verify, load                    files that run as integers, and the proof
    verify_all, verify_against              all files of a network; and a file that others made
    explain                                 what each layer of a trained network gains and costs
    price                                   what a blueprint costs
"""

from bitsmith.blueprint import Bits, Blueprint, Budget, fronts, prune
from bitsmith.capture import capture
from bitsmith.cost import price
from bitsmith.data import from_loaders, open_data
from bitsmith.errors import BitsmithError
from bitsmith.pipeline.explain import explain
from bitsmith.pipeline.exported import export, load, verify, verify_against, verify_all
from bitsmith.pipeline.verbs import precision_space, quantize, search, train
from bitsmith.quantize import build
from bitsmith.search import (
    Binomial,
    BlockBinomial,
    Composite,
    Filters,
    GridSearch,
    Latent,
    Multinomial,
    Random,
    Sensitivity,
    Supernet,
    Uniform,
)
from bitsmith.train import Task, TrainPlan, calibrate

__version__ = "0.1.0"

__all__ = [
    "Binomial",
    "Bits",
    "BitsmithError",
    "BlockBinomial",
    "Blueprint",
    "Budget",
    "Composite",
    "Filters",
    "GridSearch",
    "Latent",
    "Multinomial",
    "Random",
    "Sensitivity",
    "Supernet",
    "Task",
    "TrainPlan",
    "Uniform",
    "build",
    "calibrate",
    "capture",
    "explain",
    "export",
    "from_loaders",
    "fronts",
    "load",
    "open_data",
    "precision_space",
    "price",
    "prune",
    "quantize",
    "search",
    "train",
    "verify",
    "verify_against",
    "verify_all",
]
