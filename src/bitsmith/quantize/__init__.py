"""Real numbers to few levels: quantizers, their mixture, quantized layers and the network made of them."""

from bitsmith.quantize.filterwise import FilterWise
from bitsmith.quantize.fold import ACCUMULATOR, Folded, FrozenLayer, freeze
from bitsmith.quantize.fold_float import Codes, FloatFolded
from bitsmith.quantize.gaussian import GaussianActivation, GaussianWeight
from bitsmith.quantize.layers import Affine, Priced, apply_weight
from bitsmith.quantize.lsq import LearnedStep, LsqActivation, LsqWeight, Stream
from bitsmith.quantize.mixture import Identity, Mixture, mix
from bitsmith.quantize.network import Network, Stepped, build, float_blueprint
from bitsmith.quantize.nice import NiceWeight
from bitsmith.quantize.pact import PactActivation, SawbWeight
from bitsmith.quantize.pairs import QUANTIZERS, QuantizerPair, find_quantizers
from bitsmith.quantize.parts import Own, Part, computing, present
from bitsmith.quantize.quantizer import ActivationQuantizer, Calibrated, Grid, Quantizer, scale_gradient

__all__ = [
    "ACCUMULATOR",
    "QUANTIZERS",
    "ActivationQuantizer",
    "Affine",
    "Calibrated",
    "Codes",
    "FilterWise",
    "FloatFolded",
    "Folded",
    "FrozenLayer",
    "GaussianActivation",
    "GaussianWeight",
    "Grid",
    "Identity",
    "LearnedStep",
    "LsqActivation",
    "LsqWeight",
    "Mixture",
    "Network",
    "NiceWeight",
    "Own",
    "PactActivation",
    "Part",
    "Priced",
    "Quantizer",
    "QuantizerPair",
    "SawbWeight",
    "Stepped",
    "Stream",
    "apply_weight",
    "build",
    "computing",
    "find_quantizers",
    "float_blueprint",
    "freeze",
    "mix",
    "present",
    "scale_gradient",
]
