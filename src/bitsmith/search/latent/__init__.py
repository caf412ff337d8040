"""Whole networks as points of a learned space: the autoencoder of a sequence space, how good it is, and a search in it.

encode puts a network at a code of 16 numbers, decode gives a network of the space for every code, predict the costs
about there, convex in the code. A search over codes (`Latent`) needs no more than these three; costs of a decoded
network are computed (`SequenceCosts`, `bitsmith.cost`), never predicted.
"""

from bitsmith.search.latent.autoencoder import PREDICTED, Autoencoder, Widths, predicted_costs
from bitsmith.search.latent.convex import ConvexPredictor
from bitsmith.search.latent.drawing import draw_codes, draw_even, draw_uniform, is_held_out
from bitsmith.search.latent.ladder import Evaluator, front_depths, promoted, synflow
from bitsmith.search.latent.measures import LatentMeasures, chord_gaps, measure_latent, plane
from bitsmith.search.latent.method import Latent
from bitsmith.search.latent.mmd import mmd
from bitsmith.search.latent.projection import project
from bitsmith.search.latent.proposals import Proposer, Seen
from bitsmith.search.latent.saved import load_autoencoder, save_autoencoder
from bitsmith.search.latent.training import LatentPlan, train_autoencoder
from bitsmith.search.latent.trials import Trial, Trials

__all__ = [
    "PREDICTED",
    "Autoencoder",
    "ConvexPredictor",
    "Evaluator",
    "Latent",
    "LatentMeasures",
    "LatentPlan",
    "Proposer",
    "Seen",
    "Trial",
    "Trials",
    "Widths",
    "chord_gaps",
    "draw_codes",
    "draw_even",
    "draw_uniform",
    "front_depths",
    "is_held_out",
    "load_autoencoder",
    "measure_latent",
    "mmd",
    "plane",
    "predicted_costs",
    "project",
    "promoted",
    "save_autoencoder",
    "synflow",
    "train_autoencoder",
]
