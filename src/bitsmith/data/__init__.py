"""Data sets, splits and augmentation."""

from bitsmith.data.augment import Augment
from bitsmith.data.dataset import DataSet, default_augment, from_loaders
from bitsmith.data.sources import open_data
from bitsmith.data.split import JoinedSplit, LoaderSplit, Split, TensorSplit

__all__ = [
    "Augment",
    "DataSet",
    "JoinedSplit",
    "LoaderSplit",
    "Split",
    "TensorSplit",
    "default_augment",
    "from_loaders",
    "open_data",
]
