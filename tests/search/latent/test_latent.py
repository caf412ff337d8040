"""The latent space on a small space, against sums over all of its networks."""

import numpy as np
import pytest
import torch
from sequences import sequences, tiny_sequences

from bitsmith.errors import RecipeError, RunError
from bitsmith.search.latent import (
    Autoencoder,
    ConvexPredictor,
    LatentPlan,
    Widths,
    chord_gaps,
    draw_even,
    draw_uniform,
    is_held_out,
    load_autoencoder,
    measure_latent,
    mmd,
    plane,
    save_autoencoder,
    train_autoencoder,
)
from bitsmith.search.latent.training import learned_from, pools

SMALL = Widths(code=8, encoder=24, decoder=48, token=16, predictor=16)
PLAN = LatentPlan(steps=400, batch_size=64, lr=0.01, widths=SMALL)


def small_space(**changes):
    return sequences(tiny_sequences(**({"layers": (1, 3), "skips": (0, 1), "weight_bits": (2, 8)} | changes)))


@pytest.fixture(scope="module")
def trained():
    space = small_space()
    return space, train_autoencoder(space, PLAN, seed=3)[0]


def untrained(space, seed=0):
    torch.manual_seed(seed)
    return Autoencoder(space.automaton, SMALL).eval()


def test_mmd_is_its_formula():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 3, generator=generator), 1 + torch.randn(5, 3, generator=generator)

    def kernel(a, b):
        square = float(((a - b) ** 2).sum())
        scales = [2 * 3 * 1.5**2 * s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10)]
        return sum(c / (c + square) for c in scales)

    among = [np.mean([kernel(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]) for z in (x, y)]
    between = np.mean([kernel(a, b) for a in x for b in y])
    assert float(mmd(x, y, deviation=1.5)) == pytest.approx(sum(among) - 2 * between, rel=1e-5)


def test_mmd_tells_distributions_apart():
    x, y = torch.randn(2, 1000, 16, generator=torch.Generator().manual_seed(0))
    assert abs(float(mmd(x, y))) < 2e-3
    assert float(mmd(x + 0.5, y)) > 20e-3
    assert float(mmd(2 * x, y)) > 20e-3


def test_the_predictor_is_convex_and_the_measure_would_tell():
    torch.manual_seed(0)
    predictor = ConvexPredictor(16, 2).double()
    with torch.no_grad():
        for weight in predictor.inner:
            weight.normal_(0, 0.1)

    def gaps():
        with torch.no_grad():
            return chord_gaps(lambda z: predictor(z.double()), 16, 2000, 0)

    assert float(gaps().max()) > 0.01
    predictor.clamp()
    assert all(bool((weight >= 0).all()) for weight in predictor.inner)
    assert any(bool((weight > 0).any()) for weight in predictor.inner)
    assert float(gaps().max()) < 1e-5  # points in between are rounded to float32
    assert float(gaps().min()) < -0.01


def test_every_code_is_a_network():
    """Of an untrained decoder, near the prior and far from it; whatever the space."""
    for space in (small_space(), small_space(strided=(2, 2), layers=(2, 3)), small_space(operators=("conv",))):
        model = untrained(space)
        for scale in (0, 1, 30, 1e4):
            decoded = model.decode(scale * torch.randn(200, 8, generator=torch.Generator().manual_seed(1))).numpy()
            assert space.automaton.valid(decoded).all()
            assert space.contains(space.decode(decoded[0]))


def test_probabilities_of_all_networks_sum_to_one():
    """The mask leaves out all that is no network and nothing else, at every code."""
    space = small_space(layers=(1, 2), operators=("conv", "max_pool"))
    every = torch.tensor(np.array([space.automaton.at(i) for i in range(space.count())]))
    model = untrained(space)
    for code in torch.randn(4, 8, generator=torch.Generator().manual_seed(0)):
        with torch.no_grad():
            losses = model.loss(code.expand(len(every), 8), every)
        assert float(losses.double().neg().exp().sum()) == pytest.approx(1, abs=1e-5)


def test_networks_are_held_out():
    space, plan = small_space(), LatentPlan(steps=50, batch_size=16)
    learned = np.concatenate([learned_from(space, plan, 0, pool).reshape(-1, 3) for pool in range(pools(plan))])
    assert len(learned) == 50 * 16
    assert not is_held_out(learned).any()
    generator = np.random.default_rng(0)
    for draw in (draw_even, draw_uniform):
        held = draw(space, 100, generator, held_out=True)
        assert is_held_out(held).all()
        assert space.automaton.valid(held).all()
    every = np.array([space.automaton.at(i) for i in range(space.count())])
    assert is_held_out(every).mean() == pytest.approx(1 / 16, abs=3 * np.sqrt(1 / 16 / len(every)))
    one = small_space(operators=("conv",), channels=(4,), layers=(1, 1), strided=(1, 1), weight_bits=(8,))
    never = not is_held_out(one.automaton.at(0)[None])[0]
    with pytest.raises(RecipeError, match="one network of 16 is held out, and of this space's 1 that leaves too few"):
        draw_uniform(one, 5, generator, held_out=never)


def test_a_trained_space(trained):
    space, model = trained
    found = measure_latent(model, space, n=300, trained=(PLAN, 3))
    assert found.reconstructed_even > 0.9
    assert found.reconstructed_uniform > 0.9
    assert found.valid == found.valid_far == 1
    assert 0 < found.unique < 1
    assert found.novel is not None
    assert 0 < found.novel < 1
    assert found.convex == 1
    assert found.worst_chord < 1e-5
    assert found.mmd < 0.1
    assert min(found.cost_scores.values()) > 0.8
    distances = list(found.step_distances.values())
    assert distances == sorted(distances)
    assert found.edit_distance < 1
    assert found.rank_correlation > 0.2
    worse = measure_latent(untrained(space), space, n=100)
    assert worse.reconstructed_even < 0.2
    assert max(worse.cost_scores.values()) < 0.5
    assert worse.novel is None


def test_a_training_goes_on_to_the_bit(tmp_path):
    space, plan, file = small_space(), LatentPlan(steps=60, batch_size=8, widths=SMALL), tmp_path / "some.checkpoint"
    events = []
    whole, history = train_autoencoder(space, plan, seed=1, watch=events.append)
    assert [event.step for event in events] == list(range(1, 61))
    assert set(events[0].values) == {"reconstruction", "mmd", "costs"}

    def stop(event):
        if event.step in (7, 45):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train_autoencoder(space, plan, seed=1, checkpoint=file, watch=stop)
    resumed, continued = train_autoencoder(space, plan, seed=1, checkpoint=file)
    assert continued.curves == history.curves
    assert len(history.curves["mmd"]) == 60
    assert history.seconds > 0
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    other, _ = train_autoencoder(space, plan, seed=2)
    assert not torch.equal(other.to_code.weight, whole.to_code.weight)
    with pytest.raises(RunError, match="another space, plan or seed"):
        train_autoencoder(space, plan, seed=2, checkpoint=file)


def test_saved_and_read(trained, tmp_path):
    space, model = trained
    save_autoencoder(model, space, tmp_path)
    again = load_autoencoder(space, tmp_path)
    rows = torch.from_numpy(space.automaton.draw(50, np.random.default_rng(0)))
    with torch.no_grad():
        assert torch.equal(model.encode(rows), again.encode(rows))
        assert torch.equal(model.predict(model.encode(rows)), again.predict(model.encode(rows)))
    with pytest.raises(RunError, match="is of another space"):
        load_autoencoder(small_space(weight_bits=(4,)), tmp_path)
    with pytest.raises(RunError, match="is missing"):
        load_autoencoder(space, tmp_path / "nowhere")
    (tmp_path / "autoencoder.json").write_text('{"schema": 1}')
    with pytest.raises(RunError, match="is damaged"):
        load_autoencoder(space, tmp_path)


def test_a_plane_of_principal_components():
    generator = np.random.default_rng(0)
    codes = generator.normal(size=(500, 6)) * [9, 1, 1, 4, 1, 1] + 3
    points, share = plane(codes)
    values = np.sort(np.linalg.eigvalsh(np.cov(codes.T, bias=True)))[::-1]
    np.testing.assert_allclose(points.var(0), values[:2])
    assert share == pytest.approx(values[:2].sum() / values.sum())


def test_wrong_plans():
    with pytest.raises(RecipeError, match="batch_size of the latent plan must be at least 4, got 2"):
        LatentPlan(batch_size=2)
