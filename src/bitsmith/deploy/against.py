"""`compare_with`: a file that others made beside a network of ours, on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bitsmith.deploy.exposed import same
from bitsmith.deploy.matching import exposed, matched
from bitsmith.deploy.nearness import accuracy_of, predictions_of
from bitsmith.deploy.program import IntegerProgram
from bitsmith.deploy.reference import trace
from bitsmith.deploy.theirs import Theirs
from bitsmith.errors import VerifyError

_TRACED = 8  # images whose layers are compared
_FLOAT_EQUAL = 1e-5  # of the range of a float tensor; less is the order of adding


@dataclass(frozen=True, kw_only=True)
class MatchedLayer:
    """One layer of ours beside the one of theirs that it was matched with.

    Args:
        layer: ours.
        theirs: the tensor of theirs that is nearest to ours.
        size: numbers that were compared.
        differing: those that are other integers on our grid; of a float tensor, those further apart than 0.001 % of its
            range.
        largest: the largest difference, in steps of our grid; of a float tensor, as a part of its range.
        error: root mean square of the differences, as a part of that of our numbers.
    """

    layer: str
    theirs: str
    size: int
    differing: int
    largest: float
    error: float


@dataclass(frozen=True, kw_only=True)
class Against:
    """What `compare_with` found. Nothing here is a failure: another network may well compute other numbers.

    Args:
        file: theirs.
        reads: what it was fed, in words.
        images: compared.
        agreement: fraction of the predictions in which both are of the same class.
        accuracy, accuracy_ours: fractions of the labels.
        differing_predictions: how many.
        equal_images: images whose outputs are equal bit for bit; None where theirs are of another kind (labels,
            integers).
        differing_outputs: single numbers that differ; None likewise.
        largest_difference: as a part of the range of our outputs; None likewise.
        layers: those that were matched, in order of execution.
        unmatched: those of ours that have no counterpart of the same shape, kernel, strides and groups.
        not_shown: why none of theirs could be looked at, or None.
        predictions: (N,) their classes.
    """

    file: str
    reads: str
    images: int
    agreement: float
    accuracy: float
    accuracy_ours: float
    differing_predictions: int
    equal_images: int | None
    differing_outputs: int | None
    largest_difference: float | None
    layers: tuple[MatchedLayer, ...]
    unmatched: tuple[str, ...]
    not_shown: str | None
    predictions: np.ndarray = field(repr=False, compare=False)

    @property
    def first_difference(self) -> str | None:
        """The first matched layer with a number that differs; None where all are equal or none was matched."""
        return next((layer.layer for layer in self.layers if layer.differing), None)


def compare_with(
    theirs: Theirs,
    given: np.ndarray,
    program: IntegerProgram,
    outputs: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray | Sequence[int],
) -> Against:
    """Compare what a file of others gives for images with ours: predictions, outputs and, where these match, layers.

    Layers are compared on the eight images that differ most, as the file writes them, without onnxruntime's optimizer.

    Args:
        given: their output, as `theirs.run(images)[0]`.
        outputs: (N, classes) of ours.
        images: (N, C, H, W), as ours takes them.
        labels: (N,).

    Raises:
        VerifyError: the file doesn't give a class, or a number for each class, of each image; no images.
    """
    labels = np.asarray(labels)
    if len(images) == 0 or not len(labels) == len(outputs) == len(images):
        raise VerifyError(f"a comparison needs images and as many labels, got {len(images)} and {len(labels)}")
    scores, classes = _classified(theirs, given, outputs)
    differing = classes != predictions_of(outputs)
    equal = None if scores is None or scores.dtype != outputs.dtype else same(scores, outputs)
    far = np.zeros(len(images)) if scores is None else _largest(scores, outputs)
    suspects = np.lexsort((-far, ~differing.any(1)))[:_TRACED]
    not_shown = None
    try:
        layers, unmatched = _layers(theirs, program, images[suspects])
    except VerifyError as error:  # the file itself ran; its outputs are compared
        layers, unmatched, not_shown = (), tuple(program.bits), str(error)
    right = classes == labels.reshape(len(labels), -1)
    return Against(
        file=str(theirs.path),
        reads=theirs.reads,
        images=len(images),
        agreement=float(1 - differing.mean()),
        accuracy=float(right.mean()),
        accuracy_ours=accuracy_of(outputs, labels),
        differing_predictions=int(differing.sum()),
        equal_images=None if equal is None else int(equal.reshape(len(images), -1).all(1).sum()),
        differing_outputs=None if equal is None else int((~equal).sum()),
        largest_difference=None if equal is None else float(far.max() / (float(np.ptp(outputs)) or 1.0)),
        layers=layers,
        unmatched=unmatched,
        not_shown=not_shown,
        predictions=classes[:, 0] if classes.shape[1] == 1 else classes,
    )


def _classified(theirs: Theirs, given: np.ndarray, ours: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Their outputs in the shape of ours, or None where they give labels, and their classes (N, positions)."""
    if given.size == ours.size:
        scores = given.reshape(ours.shape)
        # argmax would take NaN for the largest number; -1 is no class.
        undefined = np.isnan(scores).reshape(*scores.shape[:2], -1).any(1) if scores.dtype.kind == "f" else False
        return scores, np.where(undefined, -1, predictions_of(scores))
    count = ours.size // (len(ours) * ours.shape[1])
    if given.dtype.kind in "iu" and given.size == len(ours) * count:
        return None, given.reshape(len(ours), count).astype(np.int64)
    per_image, classes = list(given.shape[1:]), list(ours.shape[1:])
    raise VerifyError(
        f"output {theirs.output!r} of {theirs.path} holds {given.dtype}{per_image} per image; "
        f"a classifier like the run's gives {classes}, or integers that are classes"
    )


def _largest(given: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """(N,): the largest difference of each image's outputs; what is no number is as far as can be."""
    away = np.abs(given.astype(np.float64) - outputs)
    return np.where(np.isfinite(away), away, np.finfo(np.float64).max).reshape(len(outputs), -1).max(1)


def _layers(
    theirs: Theirs, program: IntegerProgram, images: np.ndarray
) -> tuple[tuple[MatchedLayer, ...], tuple[str, ...]]:
    model, sites = exposed(theirs.model)
    names = list(dict.fromkeys(name for site in sites for name in site.tensors))
    if not names:
        return (), tuple(program.bits)
    values = dict(zip(names, theirs.run(images, names, model=model, level="disabled"), strict=True))
    ours = trace(program, images)
    found, missed = matched(program, sites, values)
    layers = []
    for layer, (tensors, site) in found.items():
        pairs = [
            _pair(program, layer, ours, tensor, name, values[name])
            for tensor in tensors
            for name in site.tensors
            if values[name].size == ours[tensor].size
        ]
        layers.append(min(pairs, key=lambda pair: (pair.error, pair.differing)))
    return tuple(layers), missed


def _pair(
    program: IntegerProgram, layer: str, ours: dict[str, np.ndarray], tensor: str, name: str, given: np.ndarray
) -> MatchedLayer:
    grid, stored = program.grids.get(tensor), ours[tensor]
    given = given.reshape(stored.shape).astype(np.float32)
    numbers = stored if grid is None else grid.load(stored)
    away = np.abs(given.astype(np.float64) - numbers)
    away[~np.isfinite(away)] = np.finfo(np.float32).max
    unit = float(np.ptp(numbers)) or 1.0 if grid is None else float(grid.step)
    wrong = (
        away > _FLOAT_EQUAL * unit
        if grid is None
        else ~np.isfinite(given) | (grid.store(np.nan_to_num(given)) != stored)
    )
    size = float(np.sqrt((numbers.astype(np.float64) ** 2).mean())) or 1.0
    return MatchedLayer(
        layer=layer,
        theirs=name.removesuffix(".real"),
        size=stored.size,
        differing=int(wrong.sum()),
        largest=float(away.max()) / unit,
        error=float(np.sqrt((away**2).mean())) / size,
    )
