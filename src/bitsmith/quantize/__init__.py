"""Real numbers to few levels: quantizers, their mixture, quantized layers and the network made of them."""

from bitsmith.quantize.fold import ACCUMULATOR, Folded, FrozenLayer, freeze
from bitsmith.quantize.gaussian import GaussianActivation, GaussianWeight
from bitsmith.quantize.layers import Affine, Priced
from bitsmith.quantize.lsq import LsqActivation, LsqWeight, Stream
from bitsmith.quantize.mixture import Identity, Mixture
from bitsmith.quantize.network import Network, build, float_blueprint
from bitsmith.quantize.pact import PactActivation, SawbWeight
from bitsmith.quantize.pairs import QUANTIZERS, QuantizerPair, find_quantizers
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
    "PactActivation",
    "Priced",
    "Quantizer",
    "QuantizerPair",
    "SawbWeight",
    "Stream",
    "build",
    "find_quantizers",
    "float_blueprint",
    "freeze",
]
