"""How good a latent space is: what it loses, whether all of it is networks, how its costs and distances lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from bitsmith.search.latent.autoencoder import PREDICTED, Autoencoder, predicted_costs
from bitsmith.search.latent.drawing import draw_even, draw_uniform, hashes
from bitsmith.search.latent.mmd import mmd
from bitsmith.search.latent.training import LatentPlan, learned_from, pools
from bitsmith.seeding import numpy_generator, torch_generator
from bitsmith.space import Sequences

RADII = (0.1, 0.2, 0.5, 1.0, 2.0)  # of steps in the latent space
_CHUNK = 1000  # networks at a time
_ROUNDING = 1e-5  # of predictions in units of their deviation, float32


@final
@dataclass(frozen=True, kw_only=True)
class LatentMeasures:
    """What `measure_latent` found.

    Args:
        reconstructed_even, reconstructed_uniform: share of held-out networks that decode(encode(network)) gives back
            exactly, of draws even over log MACs and of uniform ones.
        valid, valid_far: share of codes drawn from N(0, I) and from N(0, 9 I) that decode to networks of the space.
        unique: different networks among those of N(0, I), as a share of the codes.
        novel: share of the different ones that training never saw; None where not asked for.
        mmd, mmd_floor: squared MMD of held-out codes and the prior, and of two draws from the prior, as many.
        mean, deviation: greatest distance of a coordinate's mean from 0, least and greatest deviation of one.
        cost_errors: cost -> root mean squared error of its predicted logarithm, on held-out networks.
        cost_scores: cost -> 1 - squared error / variance of the logarithm, there.
        drawn_cost_errors: as cost_errors, at codes from N(0, I) against the network that each decodes to.
        convex: share of chords on which every predicted cost at a point in between is at most the chord's.
        worst_chord: most by which it is more, in units of the deviation of the log cost; below 0 where never.
        step_distances: length of a step from a held-out code in a random direction -> mean edit distance.
        edit_distance: latent distance of networks one edit apart, as a share of that of networks drawn at random.
        rank_correlation: of edit and latent distance, over pairs of which half are a few edits apart (Spearman).
    """

    reconstructed_even: float
    reconstructed_uniform: float
    valid: float
    valid_far: float
    unique: float
    novel: float | None
    mmd: float
    mmd_floor: float
    mean: float
    deviation: tuple[float, float]
    cost_errors: Mapping[str, float]
    cost_scores: Mapping[str, float]
    drawn_cost_errors: Mapping[str, float]
    convex: float
    worst_chord: float
    step_distances: Mapping[str, float]
    edit_distance: float
    rank_correlation: float

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


@torch.no_grad()
def measure_latent(
    model: Autoencoder, space: Sequences, *, n: int = 2000, seed: int = 0, trained: tuple[LatentPlan, int] | None = None
) -> LatentMeasures:
    """Measure an autoencoder of a space on networks that training never saw and on codes from the prior.

    Args:
        n: networks of each kind, and codes are five times as many; of edits a tenth.
        seed: of all that is drawn.
        trained: plan and seed of the training, to draw its networks once more and find which decoded ones are novel.
    """
    even = draw_even(space, n, numpy_generator(seed, "even"), held_out=True)
    uniform = draw_uniform(space, n, numpy_generator(seed, "uniform"), held_out=True)
    codes = [_codes(model, sequences) for sequences in (even, uniform)]
    back = [_networks(model, z) for z in codes]
    logs = torch.from_numpy(predicted_costs(space.additive.of(np.concatenate([even, uniform]))))
    both = torch.cat(codes)
    both = both[torch.randperm(len(both), generator=torch_generator(seed, "order"))]
    prior = torch.randn(5 * n, both.shape[1], generator=torch_generator(seed, "prior"))
    drawn, far = _networks(model, prior), _networks(model, 3 * prior[:n])
    different = np.unique(drawn, axis=0)
    errors = model.predict(torch.cat(codes)) - logs
    drawn_errors = model.predict(prior) - torch.from_numpy(predicted_costs(space.additive.of(drawn)))
    gaps = chord_gaps(model.predictor, both.shape[1], 5 * n, seed)
    near = _edits(model, space, even[: max(2, n // 10)], seed)
    return LatentMeasures(
        reconstructed_even=float((back[0] == even).all(1).mean()),
        reconstructed_uniform=float((back[1] == uniform).all(1).mean()),
        valid=float(space.automaton.valid(drawn).mean()),
        valid_far=float(space.automaton.valid(far).mean()),
        unique=len(different) / len(drawn),
        novel=None if trained is None else _novel(space, different, *trained),
        mmd=float(mmd(both[:n], prior[:n])),
        mmd_floor=float(mmd(prior[n : 2 * n], prior[:n])),
        mean=float(both.mean(0).abs().max()),
        deviation=(float(both.std(0).min()), float(both.std(0).max())),
        cost_errors=_by_cost(errors.square().mean(0).sqrt()),
        cost_scores=_by_cost(1 - errors.square().mean(0) / logs.var(0)),
        drawn_cost_errors=_by_cost(drawn_errors.square().mean(0).sqrt()),
        convex=float((gaps <= _ROUNDING).all(1).float().mean()),
        worst_chord=float(gaps.max()),
        step_distances=_steps(model, space, codes[0][:500], back[0][:500], seed),
        edit_distance=near[0],
        rank_correlation=near[1],
    )


def chord_gaps(predictor: Callable[[Tensor], Tensor], d: int, n: int, seed: int) -> Tensor:
    """f(t a + (1 - t) b) - t f(a) - (1 - t) f(b) of `n` random chords, [n, outputs]; at most 0 where f is convex.

    Ends a and b are drawn from N(0, 4 I), t uniformly from 0..1.
    """
    generator = torch_generator(seed, "chords")
    a, b = 2 * torch.randn(2, n, d, generator=generator)
    t = torch.rand(n, 1, generator=generator)
    return predictor(t * a + (1 - t) * b) - t * predictor(a) - (1 - t) * predictor(b)


def plane(codes: np.ndarray) -> tuple[np.ndarray, float]:
    """Codes on the plane of their two first principal components, [n, 2], and the share of the variance there."""
    centered = codes - codes.mean(0)
    _, values, axes = np.linalg.svd(centered, full_matrices=False)
    return centered @ axes[:2].T, float((values[:2] ** 2).sum() / (values**2).sum())


def _novel(space: Sequences, different: np.ndarray, plan: LatentPlan, seed: int) -> float:
    numbers, seen = hashes(different), np.zeros(len(different), dtype=bool)
    for pool in range(pools(plan)):
        drawn = learned_from(space, plan, seed, pool)
        seen |= np.isin(numbers, hashes(drawn.reshape(-1, drawn.shape[2])))
    return float(1 - seen.mean())


def _steps(model: Autoencoder, space: Sequences, codes: Tensor, networks: np.ndarray, seed: int) -> dict[str, float]:
    """Mean edit distance between what codes decode to and what steps of several lengths away from them do."""
    directions = torch.randn(codes.shape, generator=torch_generator(seed, "directions"))
    directions = directions / directions.norm(dim=1, keepdim=True)
    return {
        f"{radius:g}": float(
            space.edits.distances(networks, _networks(model, codes + radius * directions)).mean().round(6)
        )
        for radius in RADII
    }


def _edits(model: Autoencoder, space: Sequences, starts: np.ndarray, seed: int) -> tuple[float, float]:
    """Latent distance after one edit over that of random pairs; rank correlation of edit and latent distance."""
    from scipy.stats import rankdata  # takes half a second

    generator = numpy_generator(seed, "edits")
    edited, once = [], []
    for start in starts:
        moved = space.edits.edit(start, generator)
        once.append(moved)
        for _ in range(int(generator.integers(4))):
            moved = space.edits.edit(moved, generator)
        edited.append(moved)
    others = starts[generator.permutation(len(starts))]
    a, b = np.concatenate([starts, starts]), np.concatenate([np.stack(edited), others])
    latent = _apart(model, a, b)
    ranks = np.corrcoef(rankdata(space.edits.distances(a, b).round(6)), rankdata(latent))[0, 1]
    return float(_apart(model, starts, np.stack(once)).mean() / _apart(model, starts, others).mean()), float(ranks)


def _apart(model: Autoencoder, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (_codes(model, a) - _codes(model, b)).norm(dim=1).numpy()


def _by_cost(values: Tensor) -> dict[str, float]:
    return {name: float(value) for name, value in zip(PREDICTED, values, strict=True)}


def _codes(model: Autoencoder, sequences: np.ndarray) -> Tensor:
    return torch.cat([model.encode(part) for part in torch.from_numpy(sequences).split(_CHUNK)])


def _networks(model: Autoencoder, codes: Tensor) -> np.ndarray:
    return torch.cat([model.decode(part) for part in codes.split(_CHUNK)]).numpy()
