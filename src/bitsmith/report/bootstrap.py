"""The bootstrap of a comparison: how far scores would move with other seeds and other test images.

Every network predicts the same test images, and networks of one seed start from the same float network. So images are
drawn once for all networks and seeds, and seeds once for both sides of a difference. Owen's pigeonhole bootstrap (The
Annals of Applied Statistics 1(2), 2007, 386-411) draws the two crossed factors independently, as here; drawing other
images for each seed would let the chance of the test set average out over seeds, which it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from bitsmith.seeding import numpy_generator

DRAWS = 4000
_LEVELS = 33  # scores at which costs are compared
_AT_ONCE = 20_000_000  # numbers of a block of drawn images

K = TypeVar("K", bound=Hashable)
# (hits, predicted, present), each (..., classes): images of a class that are recognized, called it, of it -> (...).
Counted = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """0 / 0 is 0."""
    return np.divide(top, bottom, out=np.zeros(np.broadcast_shapes(top.shape, bottom.shape)), where=bottom > 0)


def _balanced(hits: np.ndarray, predicted: np.ndarray, present: np.ndarray, positive: int) -> np.ndarray:
    return _ratio(hits, present).sum(-1) / (present > 0).sum(-1)


def _f1(hits: np.ndarray, predicted: np.ndarray, present: np.ndarray, positive: int) -> np.ndarray:
    each = _ratio(2 * hits, predicted + present)
    return each[..., positive] if each.shape[-1] == 2 else each.mean(-1)


# Metrics of `bitsmith.train.METRICS` that need no more than predicted classes. Accuracy needs just one count.
COUNTED: Mapping[str, Counted | None] = {"accuracy": None, "balanced_accuracy": _balanced, "f1": _f1}


def resample(
    predictions: Mapping[K, np.ndarray],
    labels: np.ndarray,
    *,
    metric: str = "accuracy",
    classes: int,
    positive: int = 1,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[K, np.ndarray]:
    """Scores of networks on resampled test images, the same ones for all.

    Args:
        predictions: per network (N,), classes of the same images in the same order.
        labels: (N,)
        metric: a key of `COUNTED`.
        positive: the class of two that f1 is about.

    Returns:
        Per network (1 + draws,): first the score on the images as they are, then on N drawn with replacement.

    Example:
        >>> scores = resample({"a": np.array([0, 1, 1, 1])}, np.array([0, 1, 0, 1]), classes=2, draws=3)["a"]
        >>> float(scores[0]), len(scores)
        (0.75, 4)
    """
    assert metric in COUNTED
    assert all(p.shape == labels.shape for p in predictions.values())
    columns = [_features(predicted, labels, metric, classes) for predicted in predictions.values()]
    features = np.concatenate(columns, axis=1).astype(np.float32)
    # Whole numbers, exact in float32 below 2^24 images.
    sums = np.concatenate([weights @ features for weights in _weights(len(labels), draws, seed)]).astype(np.float64)
    score = COUNTED[metric]
    if score is None:
        values = (sums / len(labels)).T
    else:
        parts = (np.split(part, 3, axis=1) for part in np.split(sums, len(predictions), axis=1))
        values = [score(hits, predicted, present, positive) for hits, predicted, present in parts]
    return dict(zip(predictions, values, strict=True))


def _features(predicted: np.ndarray, labels: np.ndarray, metric: str, classes: int) -> np.ndarray:
    """What is summed over images: (N, 1) hits, or (N, 3 classes) hits, predicted and present per class."""
    right = (predicted == labels)[:, None]
    if COUNTED[metric] is None:
        return right
    eye = np.eye(classes, dtype=bool)
    return np.concatenate([eye[labels] & right, eye[predicted], eye[labels]], axis=1)


def _weights(images: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of (draws, N) float32: how often each image is drawn; the first row has each once."""
    yield np.ones((1, images), np.float32)
    generator = numpy_generator(seed, "test images")
    block = max(1, _AT_ONCE // images)
    for start in range(0, draws, block):
        rows = min(block, draws - start)
        drawn = generator.integers(images, size=(rows, images)) + images * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images).astype(np.float32)


def interval(values: np.ndarray, *, seed: int = 0) -> Interval:
    """Percentile interval of a mean over seeds, over drawn seeds and drawn images.

    With v[b, s] the value of seed s on the images of draw b, and seeds drawn with replacement as s_1..S,

        t_b = mean_s v[b, s] + sqrt(S / (S - 1)) (mean_i v[b, s_i] - mean_s v[b, s]),

    and the interval is the 2.5 and 97.5 % quantiles of t. The factor (1 for one seed) is ours: S drawn seeds alone vary
    by (S - 1) / S of what they should. Of equal methods 5 % should differ beyond the interval; measured
    (tests/report/test_bootstrap.py) are 5 % with one seed; where seeds move accuracy by about 2 points, 10 % with 3 of
    them and 6 % with 5 or 10; where they hardly do, under 1 %, since noise of seed and image together counts twice.

    Args:
        values: (1 + draws, seeds) as `resample` has them, or differences of two such, paired by seed.
    """
    means = seed_means(values, seed=seed)
    low, high = np.quantile(means[1:], [0.025, 0.975])
    return Interval(value=float(means[0]), low=float(low), high=float(high))


def seed_means(values: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """The mean over the seeds as they are, then t of `interval` for every draw, (1 + draws,).

    Of as many draws and seeds the same seeds are drawn each time, so that figures made of several means are paired.
    """
    drawn, S = values[1:], values.shape[1]
    mean = drawn.mean(1)
    which = numpy_generator(seed, "seeds", S).integers(S, size=drawn.shape)
    factor = np.sqrt(S / (S - 1)) if S > 1 else 1.0
    t = mean + factor * (np.take_along_axis(drawn, which, 1).mean(1) - mean)
    return np.concatenate([values[:1].mean(1), t])


def saving(
    ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How much less one method takes than another at equal scores, over the scores that both reach.

        mean over scores a of 1 - cost_ours(a) / cost_theirs(a)

    Of each method the scores over the logarithm of costs, made monotone (a network that costs no less and scores
    less counts as its predecessor) and joined by straight lines; cost(a) is the least at which that line reaches a. The
    mean is over `_LEVELS` equally spaced scores from the higher of the two lowest to the lower of the two highest. The
    idea is video coding's, where rates are compared at equal quality (Bjøntegaard, VCEG-M33, 2001); lines in place of
    its polynomials, and the mean of ratios in place of that of logarithms, are ours.

    Args:
        ours, theirs: (costs, scores) of a method's networks, each (..., networks).

    Returns:
        (...) savings, nan where no score is reached by both; (...) lowest and (...) highest score that both reach.

    Example:
        >>> lines = np.array([1.0, 4.0]), np.array([0.5, 0.7])
        >>> cheaper = np.array([0.8, 3.2]), np.array([0.5, 0.7])
        >>> saved, low, high = saving(cheaper, lines)
        >>> round(float(saved), 6), float(low), float(high)
        (0.2, 0.5, 0.7)
    """
    fronts = [_front(*ours), _front(*theirs)]
    low = np.maximum(*(scores[..., 0] for _, scores in fronts))
    high = np.minimum(*(scores[..., -1] for _, scores in fronts))
    levels = low[..., None] + (high - low)[..., None] * np.linspace(0, 1, _LEVELS)
    mine, others = (_cost_at(levels, *front) for front in fronts)
    saved = (1 - np.exp(mine - others)).mean(-1)
    return np.where(high >= low, saved, np.nan), low, high


def _front(costs: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of costs, rising, and scores that don't fall, both (..., networks)."""
    scores = np.broadcast_to(scores, costs.shape)
    order = np.lexsort((-scores, costs), axis=-1)  # of equal costs the best score first, however they are given
    rising = np.take_along_axis(scores, order, -1)
    return np.log(np.take_along_axis(costs, order, -1)), np.maximum.accumulate(rising, axis=-1)


def _cost_at(levels: np.ndarray, costs: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The least cost at which a rising line of (..., networks) points reaches each of (..., levels) scores."""
    found = np.broadcast_to(costs[..., :1], levels.shape).copy()
    for k in range(1, costs.shape[-1]):
        before, after = scores[..., k - 1, None], scores[..., k, None]
        step = after - before
        share = np.divide(levels - before, step, out=np.zeros(levels.shape), where=step > 0).clip(0, 1)
        at = costs[..., k - 1, None] + share * (costs[..., k, None] - costs[..., k - 1, None])
        found = np.where(levels > before, at, found)
    return found


def hypervolume(costs: np.ndarray, scores: np.ndarray, *, cost: float, score: float) -> np.ndarray:
    """The area of cost and score that a method's networks dominate, up to a reference point.

        sum_i (c_{i+1} - c_i) max(0, max_{j <= i} s_j - score),  c_1 <= .. <= c_n,  c_{n+1} = cost

    Source: Zitzler, Thiele, PPSN V 1998 (the size of the dominated space), for two objectives.

    Args:
        costs: (n,), less is better; beyond the reference they count nothing.
        scores: (..., n), more is better.
        cost, score: the reference point.

    Returns:
        (...), in units of cost times score.

    Example:
        >>> float(hypervolume(np.array([1.0, 3.0]), np.array([0.5, 0.75]), cost=4.0, score=0.25))
        1.0
    """
    order = np.argsort(costs, kind="stable")
    widths = np.diff(np.append(costs[order].clip(max=cost), cost))
    best = np.maximum.accumulate(scores[..., order], axis=-1)
    return (widths * (best - score).clip(min=0)).sum(-1)
