"""Data sets, splits and augmentation."""

from bitsmith.data.augment import Augment
from bitsmith.data.dataset import AUGMENTATIONS, DataSet, choose_augment, default_augment, from_loaders
from bitsmith.data.files import FileSplit
from bitsmith.data.loader import LoaderSplit
from bitsmith.data.sources import SOURCES, absolute, open_data
from bitsmith.data.split import JoinedSplit, PixelSplit, Split, TensorSplit

__all__ = [
    "AUGMENTATIONS",
    "SOURCES",
    "Augment",
    "DataSet",
    "FileSplit",
    "JoinedSplit",
    "LoaderSplit",
    "PixelSplit",
    "Split",
    "TensorSplit",
    "absolute",
    "choose_augment",
    "default_augment",
    "from_loaders",
    "open_data",
]
