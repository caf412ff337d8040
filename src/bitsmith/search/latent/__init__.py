"""Whole networks as points of a learned space: the autoencoder of a sequence space, and how good it is.

encode puts a network at a code of 16 numbers, decode gives a network of the space for every code, predict the costs
about there, convex in the code. A search over codes needs no more than these three; costs of a decoded network are
computed (`SequenceCosts`, `bitsmith.cost`), never predicted.
"""

from bitsmith.search.latent.autoencoder import PREDICTED, Autoencoder, Widths, predicted_costs
from bitsmith.search.latent.convex import ConvexPredictor
from bitsmith.search.latent.drawing import draw_even, draw_uniform, is_held_out
from bitsmith.search.latent.measures import LatentMeasures, chord_gaps, measure_latent, plane
from bitsmith.search.latent.mmd import mmd
from bitsmith.search.latent.saved import load_autoencoder, save_autoencoder
from bitsmith.search.latent.training import LatentPlan, train_autoencoder

__all__ = [
    "PREDICTED",
    "Autoencoder",
    "ConvexPredictor",
    "LatentMeasures",
    "LatentPlan",
    "Widths",
    "chord_gaps",
    "draw_even",
    "draw_uniform",
    "is_held_out",
    "load_autoencoder",
    "measure_latent",
    "mmd",
    "plane",
    "predicted_costs",
    "save_autoencoder",
    "train_autoencoder",
]
