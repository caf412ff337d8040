"""How near the outputs of one computation are to those of another: predictions, distances, and what is too far."""

from __future__ import annotations

import numpy as np

from bitsmith.deploy.simulation import apart

# Of predictions, one may differ always. In ties the reference's outputs are nearer than this part of the image's range:
# roundings to the other side of a half decide them. In a 4-bit network of 20,000 weights such fell in half of 10,000
# images; 11 had another class, none by more than 0.0016 of the range of all outputs.
LEAST_AGREEMENT = 0.999  # ties count as the same
LEAST_SAME = 0.99  # only those do that float32 can't tell apart
ROUNDED_TIE = 0.01
# Outputs further apart than this part of the range of the reference's outputs are others. Roundings to the other side
# of a half, carried on, moved none in that network by 0.004, but one image in 100 of a 1-bit network by 0.25.
OUTPUT_APART = 0.05
APART_IMAGES = 0.01  # that may be so far apart; one may always
# Trained against frozen: 98 % of the predictions and a median of 0.036 of the range were the worst that was measured.
TRAINED_AGREEMENT = 0.95
TRAINED_APART = 0.2
# Outputs of float sums that are nearer than this part of the range are a tie, which the order of adding decides. Where
# no rounding fell to another side, test networks' outputs were at most so far from the reference's.
FLOAT_TIE = 1e-5


def predictions_of(outputs: np.ndarray) -> np.ndarray:
    """(N, positions): the largest of (N, classes), or at each place of (N, classes, H, W)."""
    return outputs.reshape(*outputs.shape[:2], -1).argmax(1)


def _right(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return predictions_of(outputs) == labels.reshape(len(labels), -1)


def accuracy_of(outputs: np.ndarray, labels: np.ndarray) -> float:
    """The fraction of predictions that are the labels."""
    return float(_right(outputs, labels).mean())


def is_best(outputs: np.ndarray, predictions: np.ndarray, tie: float | np.ndarray = 0.0) -> np.ndarray:
    """Where a prediction is one of the largest outputs: few-bit classifiers tie exactly, which float sums don't.

    Args:
        tie: by how much the largest one may be larger; one number, or (N, 1) for each image.
    """
    classes = outputs.reshape(*outputs.shape[:2], -1)
    return np.take_along_axis(classes, predictions[:, None], 1)[:, 0] >= classes.max(1) - tie


def rounded_ties(reference: np.ndarray) -> np.ndarray:
    """(N, 1): how near outputs of an image have to be for roundings to decide between them."""
    return ROUNDED_TIE * np.ptp(reference.reshape(len(reference), -1), axis=1, keepdims=True)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The median over the images of the largest difference, as a part of the smaller of the two ranges."""
    return float(max(np.median(apart(a, b)), np.median(apart(b, a))))


def apart_problems(outputs: np.ndarray, reference: np.ndarray, who: str, *, rounded: bool = False) -> list[str]:
    """Outputs that roundings alone can't have moved so far.

    Args:
        rounded: whether images whose classes differ were looked at, and every layer computed the same from the same
            input. Then other classes beyond near ties are roundings, too: in a network of 2 and 4 bits they were .5 %.
    """
    problems, images = [], len(reference)
    predictions, far = predictions_of(outputs), ~(apart(outputs, reference) <= OUTPUT_APART)
    rules = (
        (LEAST_SAME, FLOAT_TIE * np.ptp(reference), ""),
        (LEAST_AGREEMENT, rounded_ties(reference), f", ties within {ROUNDED_TIE:.0%} of their range left out"),
    )
    for least, tie, beside in rules[:1] if rounded else rules:
        differing = int((~is_best(reference, predictions, tie)).sum())
        if differing > max(1, (1 - least) * predictions.size):
            problems.append(
                f"{who} predict different classes on {differing} of {predictions.size} images, more than "
                f"{1 - least:.1%}{beside}"
            )
            break
    if far.sum() > max(1, APART_IMAGES * images) or far.all():
        problems.append(
            f"outputs of {who} are more than {OUTPUT_APART:.0%} of their range apart on {far.sum()} of {images} images"
        )
    return problems


def freezing_problems(trained: np.ndarray, frozen: np.ndarray, labels: np.ndarray) -> list[str]:
    """Gross gaps between the outputs of the trained and the frozen network.

    One is a problem where it costs accuracy: fewer than 95 % of the predictions agree and the accuracy falls by more
    than three standard errors of the paired difference. One in the outputs is where their median is 20 % of the range:
    that sees what no class shows.
    """
    problems = []
    agreement = (predictions_of(trained) == predictions_of(frozen)).mean()
    fall = (_right(trained, labels).astype(float) - _right(frozen, labels)).mean(1)
    if agreement < TRAINED_AGREEMENT and fall.mean() > 3 * fall.std() / np.sqrt(len(fall)):
        problems.append(
            f"freezing changed the network: trained and frozen predict the same class on {agreement:.1%} of the "
            f"images, and the accuracy falls by {100 * fall.mean():.2f} points"
        )
    moved = distance(trained, frozen)
    if moved > TRAINED_APART:
        problems.append(
            f"freezing changed the network: its outputs differ from the trained ones by {moved:.0%} of their range"
        )
    return problems
