"""Real numbers to few levels: quantizers, their mixture, quantized layers and the network made of them."""

from bitsmith.quantize.fold import ACCUMULATOR, Folded, FrozenLayer, freeze
from bitsmith.quantize.gaussian import GaussianActivation, GaussianWeight
from bitsmith.quantize.layers import Affine, Priced
from bitsmith.quantize.lsq import LsqActivation, LsqWeight, Stream
from bitsmith.quantize.mixture import Identity, Mixture
from bitsmith.quantize.network import QUANTIZERS, Network, build, float_blueprint
from bitsmith.quantize.quantizer import ActivationQuantizer, Calibrated, Grid, Quantizer

__all__ = [
    "ACCUMULATOR",
    "QUANTIZERS",
    "ActivationQuantizer",
    "Affine",
    "Calibrated",
    "Folded",
    "FrozenLayer",
    "GaussianActivation",
    "GaussianWeight",
    "Grid",
    "Identity",
    "LsqActivation",
    "LsqWeight",
    "Mixture",
    "Network",
    "Priced",
    "Quantizer",
    "Stream",
    "build",
    "float_blueprint",
    "freeze",
]
