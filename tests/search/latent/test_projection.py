"""Projection onto what the convex predictor believes to be inside, against scipy's solver."""

import numpy as np
import torch
from scipy.optimize import minimize

from bitsmith.blueprint import Budget
from bitsmith.search.latent import PREDICTED, draw_codes, project


def predicted(model, codes):
    with torch.no_grad():
        return model.predict(codes).exp().numpy()


def test_nearest_code_inside(model):
    """Two limits at once; what was inside stays."""
    codes = 1.5 * torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    costs = predicted(model, codes)
    limits = np.quantile(costs, 0.4, axis=0)
    budgets = [Budget(cost=name, limit=float(limit)) for name, limit in zip(PREDICTED, limits, strict=True)]
    found = project(model, codes, budgets)
    inside = (costs <= limits).all(1)
    assert 0 < inside.sum() < 40
    assert torch.equal(found[inside], codes[inside])
    assert (predicted(model, found) <= limits * 1.01).all()
    double = model.predictor.double()
    scale, mean = model.deviation.double(), model.mean.double()

    def over(z):
        with torch.no_grad():
            return np.log(limits) - (double(torch.from_numpy(z)[None]) * scale + mean)[0].numpy()

    def slopes(z):
        return torch.autograd.functional.jacobian(
            lambda u: -(double(u[None]) * scale + mean)[0], torch.from_numpy(z)
        ).numpy()

    try:
        for start, ours in list(zip(codes[~inside].double().numpy(), found[~inside].double().numpy(), strict=True))[:8]:
            best = minimize(
                lambda z, start=start: ((z - start) ** 2).sum(),
                start,
                jac=lambda z, start=start: 2 * (z - start),
                constraints={"type": "ineq", "fun": over, "jac": slopes},
                method="SLSQP",
            )
            assert best.success
            assert np.linalg.norm(ours - start) <= 1.02 * np.linalg.norm(best.x - start)
            assert np.linalg.norm(ours - best.x) <= 0.15 * np.linalg.norm(best.x - start)
    finally:
        model.predictor.float()


def test_what_is_not_predicted_moves_nothing(model):
    codes = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(project(model, codes, [Budget.parse("size=1B")]), codes)
    assert torch.equal(project(model, codes, []), codes)
    assert project(model, codes, [Budget.parse("params=1")]).isfinite().all()  # no code is inside


def test_codes_around_the_best():
    centers = torch.tensor([[5.0] * 8, [-5.0] * 8])
    codes = draw_codes(400, centers, 0)
    assert codes.shape == (400, 8)
    apart = (codes[200:, None] - centers).norm(dim=2).amin(1)
    assert {round(float(r), 4) for r in apart} == {0.3, 0.6, 1.0, 1.5, 2.5}
    assert float(codes[:200].std()) < 1.2
    assert torch.equal(codes, draw_codes(400, centers, 0))
    assert not torch.equal(codes, draw_codes(400, centers, 1))
