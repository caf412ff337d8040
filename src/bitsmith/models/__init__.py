"""Reference networks in plain PyTorch, and the way from a name to a network."""

from bitsmith.models.edmips import edmips_resnet18
from bitsmith.models.load import FRESH, MODELS, load_model
from bitsmith.models.mobilenet import mobilenet_v2_small
from bitsmith.models.resnet import resnet8, resnet20

__all__ = ["FRESH", "MODELS", "edmips_resnet18", "load_model", "mobilenet_v2_small", "resnet8", "resnet20"]
