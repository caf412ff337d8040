"""The nearest code whose predicted costs are inside limits: projection onto a sublevel set of the convex predictor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bitsmith.blueprint import Budget
from bitsmith.search.latent.autoencoder import PREDICTED, Autoencoder

_STEPS = 60


def project(model: Autoencoder, codes: Tensor, budgets: Sequence[Budget], *, steps: int = _STEPS) -> Tensor:
    """Each code's nearest one with predicted params and MACs inside the budgets, nearly; other costs aren't predicted.

    F(z) = max_k (log cost_k(z) - log limit_k) is convex, so {F <= 0} is, and has one nearest point. Haugazeau's method
    finds it from outside: z_{k+1} is the point nearest to the start in two half-spaces that both hold {F <= 0}, the
    linearization F(z_k) + F'(z_k)(z - z_k) <= 0 and what lies beyond z_k as seen from the start (Bauschke and
    Combettes, Convex Analysis and Monotone Operator Theory in Hilbert Spaces, corollaries 29.25 and 30.11).

    A prediction has errors, and so the network decoded there may be outside: who proposes it computes what it costs.

    Args:
        codes: float32 [n, d].
        steps: most of the method; codes that are inside stay as they are.

    Returns:
        [n, d]; F falls to about 1e-3 there, or as far as `steps` bring it, such as where no code is inside.
    """
    limits = {PREDICTED.index(b.cost): b.limit for b in budgets if b.cost in PREDICTED}
    if not limits:
        return codes
    columns = list(limits)
    logs = torch.tensor([max(limits[k], 1e-9) for k in columns]).log()
    start, z = codes.detach(), codes.detach().clone()
    for _ in range(steps):
        value, slope = _linearized(model, z, columns, logs)
        if bool((value <= 0).all()):
            break
        step = value.clamp_min(0) / slope.square().sum(1).clamp_min(1e-12)
        z = _nearest(start, z, z - step[:, None] * slope)
    return z


def _linearized(model: Autoencoder, z: Tensor, columns: Sequence[int], logs: Tensor) -> tuple[Tensor, Tensor]:
    """F [n] and a subgradient of it [n, d]."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = (model.predict(z)[:, columns] - logs).amax(1)
        (slope,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), slope


def _nearest(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """The point nearest to x in {u: <u - y, x - y> <= 0} and {u: <u - z, y - z> <= 0}, row by row."""
    a, b = x - y, y - z
    chi, mu, nu = (a * b).sum(1), a.square().sum(1), b.square().sum(1)
    rho = mu * nu - chi.square()
    flat, near = rho <= 1e-9 * mu * nu, chi * nu >= rho
    far = x + (1 + chi / nu.clamp_min(1e-12))[:, None] * (z - y)
    both = y + (nu / rho.clamp_min(1e-12))[:, None] * (chi[:, None] * a + mu[:, None] * (z - y))
    found = torch.where(flat[:, None], z, torch.where(near[:, None], far, both))
    return torch.where((nu == 0)[:, None], y, found)  # inside already
