"""What a search believes of codes it has not tried: Gaussian processes, and how much a candidate promises (BoTorch).

Scores are modeled by a SingleTaskGP with a Matern-5/2 kernel, one length per number of a code, on codes whose unit
deviation is that of the unit cube, which BoTorch's priors are made for (Hvarfner, Hellsten, Nardi, Vanilla Bayesian
optimization performs great in high dimensions, ICML 2024). Evaluations that failed have no score; a second process on
1 (went well) and 0 (failed) says how likely a code is to fail, and only samples above 1/2 count. Costs are computed,
never modeled: a candidate is a row (code, costs) and the model of its costs reads them off.

- One objective: qLogEI over the best mean at what was evaluated.
- Score against costs: qLogNEHVI, hypervolume over the worst score and the greatest costs that count.

Source: unexpected improvements to expected improvement, arXiv 2310.20708 (both in their logarithmic form).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from bitsmith.seeding import derive
from bitsmith.train import on_threads

_CUBE = 12**-0.5  # deviation of a uniform number of the unit interval
_SAMPLES, _FRONT_SAMPLES = 128, 32  # a hypervolume takes a hundred times as long as an improvement
_CHUNK = 512  # candidates at a time
_FITTING = 75  # steps; at 100 evaluations twice as many gain .1 of log likelihood per point at most (measured)
FARTHEST = 4.0  # a number of a code that is proposed, in deviations of the prior


@final
@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was evaluated, as the surrogate sees it.

    Args:
        codes: of the networks evaluated, [n, d].
        costs: logarithms of the costs that the score is traded against, [n, m]; m is 0 for one objective.
        scores: larger is better, [n]; NaN where an evaluation failed.
        pending: rows (code, costs) that are being evaluated, [p, d + m].
        worst: logarithm of the greatest cost that counts, [m].
    """

    codes: Tensor
    costs: Tensor
    scores: Tensor
    pending: Tensor
    worst: Tensor


@final
class Promise:
    """How much candidates promise, given what was evaluated; fitted when it is made, on one thread.

    Args:
        evidence: at least two scores.
        seed: of the samples.
    """

    def __init__(self, evidence: Evidence, seed: int) -> None:
        self._evidence, self._seed = evidence, seed
        self._d = evidence.codes.shape[1]
        with _alone(seed):
            self._model = _fitted(evidence)
        self.pending = evidence.pending.double()

    def of(self, rows: Tensor) -> Tensor:
        """The promise of each candidate beside what is pending, float64 [n].

        Args:
            rows: (code, log costs), [n, d + m].
        """
        with _alone(self._seed), torch.no_grad():
            promise = self._acquisition()
            parts = rows.double()[:, None].split(_CHUNK)
            return torch.cat([promise(_scaled(part, self._d)) for part in parts])

    def climb(self, codes: Tensor, predict: Callable[[Tensor], Tensor], steps: int = 40) -> Tensor:
        """Codes near by that promise more, by L-BFGS-B in the box of FARTHEST, float64 [n, d].

        Args:
            codes: where to start, [n, d].
            predict: codes [n, d] -> log costs [n, m], with a gradient; only leads.
        """
        with _alone(self._seed):
            from botorch.generation import gen_candidates_scipy

            promise = self._acquisition()

            def completed(x: Tensor) -> Tensor:  # [b, 1, d]
                return promise(_scaled(torch.cat([x, predict(x[:, 0])[:, None].double()], 2), self._d))

            start = codes.double().clamp(-FARTHEST, FARTHEST)[:, None]
            found, _ = gen_candidates_scipy(
                start,
                completed,  # pyright: ignore[reportArgumentType] - it is only called
                lower_bounds=-FARTHEST,
                upper_bounds=FARTHEST,
                options={"maxiter": steps},
                use_parallel_mode=False,
            )
        return found[:, 0].detach()

    def _acquisition(self) -> Any:
        from botorch.acquisition.logei import qLogExpectedImprovement
        from botorch.acquisition.multi_objective import logei
        from botorch.acquisition.multi_objective.objective import IdentityMCMultiOutputObjective
        from botorch.acquisition.objective import GenericMCObjective
        from botorch.sampling.get_sampler import get_sampler

        evidence, m = self._evidence, self._evidence.costs.shape[1]
        done = _scaled(torch.cat([evidence.codes, evidence.costs], 1).double(), self._d)[~evidence.scores.isnan()]
        failed = bool(evidence.scores.isnan().any())
        seed = derive(self._seed, "samples") % 2**31
        sampler = get_sampler(
            self._model.posterior(done[:1]), torch.Size([_FRONT_SAMPLES if m else _SAMPLES]), seed=seed
        )
        shared: dict[str, Any] = {
            "constraints": [lambda samples: 0.5 - samples[..., -1]] if failed else None,
            "X_pending": _scaled(self.pending, self._d) if len(self.pending) else None,
        }
        if m == 0:
            with torch.no_grad():
                best = self._model.posterior(done).mean[:, 0].max()
            objective = GenericMCObjective(lambda samples, X=None: samples[..., 0])
            return qLogExpectedImprovement(self._model, best, sampler=sampler, objective=objective, **shared)
        # BoTorch would compile C++ here: half a minute, and other last bits where there is no compiler.
        logei._load_attempted = True
        worst = torch.cat([evidence.scores.nan_to_num(torch.inf).min().double()[None], -evidence.worst.double()])
        return logei.qLogNoisyExpectedHypervolumeImprovement(
            self._model,
            worst,
            done,
            sampler=sampler,
            objective=IdentityMCMultiOutputObjective(outcomes=list(range(1 + m))),
            prune_baseline=True,
            cache_root=False,
            **shared,
        )


def _scaled(rows: Tensor, d: int) -> Tensor:
    return torch.cat([rows[..., :d] * _CUBE, rows[..., d:]], -1)


def _fitted(evidence: Evidence) -> Any:
    """A model of (score, -costs..., whether it goes well): the last only where something failed."""
    from botorch.models import ModelList, SingleTaskGP
    from botorch.models.deterministic import GenericDeterministicModel

    d, m = evidence.codes.shape[1], evidence.costs.shape[1]
    rows = _scaled(torch.cat([evidence.codes, evidence.costs], 1).double(), d)
    well = ~evidence.scores.isnan()
    models: list[Any] = [_process(rows[well], evidence.scores[well].double(), d)]
    if m:
        models.append(GenericDeterministicModel(lambda X: -X[..., d:], num_outputs=m))
    if not bool(well.all()):
        models.append(_process(rows, well.double(), d))
    return models[0] if len(models) == 1 and isinstance(models[0], SingleTaskGP) else ModelList(*models)


def _process(rows: Tensor, values: Tensor, d: int) -> Any:
    from botorch import fit_gpytorch_mll
    from botorch.exceptions import ModelFittingError
    from botorch.models import SingleTaskGP
    from botorch.models.transforms import Standardize
    from botorch.models.transforms.input import FilterFeatures
    from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
    from gpytorch.mlls import ExactMarginalLogLikelihood

    gp = SingleTaskGP(
        rows,
        values[:, None],
        covar_module=get_covar_module_with_dim_scaled_prior(d, use_rbf_kernel=False),
        input_transform=FilterFeatures(torch.arange(d)) if rows.shape[1] > d else None,
        outcome_transform=Standardize(1),
    )
    with suppress(ModelFittingError):  # what the priors say is left then
        likelihood = ExactMarginalLogLikelihood(gp.likelihood, gp)
        fit_gpytorch_mll(likelihood, optimizer_kwargs={"options": {"maxiter": _FITTING}})
    return gp.eval()


@contextmanager
def _alone(seed: int) -> Iterator[None]:
    """One thread, as with more a small process takes twenty times as long (measured); own random numbers; no warnings.

    What BoTorch warns of (inputs outside the unit cube, a fit that is tried again) is not for the user.
    """
    with on_threads(1), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        yield
